---@meta rl4vlm.hash
---Digests of bytes.
local M = {}

---SHA-256 as 64 lower-case hexadecimal digits.
---@param bytes string
---@return string
function M.sha256(bytes) end

return M
