---@meta rl4vlm.lora
---Adapters added into weights.
local M = {}

---The weight w (out, in) with an adapter added: w + scale b a, for a (r, in) and b (out, r), all F32.
---@param w rl4vlm.Slice
---@param a rl4vlm.Slice
---@param b rl4vlm.Slice
---@param scale number
---@return rl4vlm.Slice
function M.merge(w, a, b, scale) end

return M
