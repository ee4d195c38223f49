-- qwen2_5_vl.lua - Qwen2.5-VL (Qwen/Qwen2.5-VL-3B-Instruct, -7B-Instruct): RMSNorm, SwiGLU, windows in the tower.
local fields = require "rl4vlm.config_fields"
local qwen_vl = require "rl4vlm.families.qwen_vl"

local M = { name = "qwen2_5_vl", names = qwen_vl.names, module = qwen_vl.module, patch_shape = qwen_vl.patch_shape,
  unused = qwen_vl.unused, chat_template = qwen_vl.chat_template }

-- Layers that see the whole image; the others see windows of window_size pixels a side.
local function windows(v, arch)
  local unit = arch.patch * arch.merge
  local size = v:count("window_size")
  if size < unit then
    v:fail("window_size", ("at least %d, a merged patch"):format(unit), size)
  end
  arch.window, arch.full = size // unit, {}
  for i, layer in ipairs(v:list("fullatt_block_indexes")) do
    if math.type(layer) ~= "integer" or layer < 0 or layer >= arch.layers then
      v:fail(("fullatt_block_indexes[%d]"):format(i), ("a layer from 0 to %d"):format(arch.layers - 1), layer)
    end
    arch.full[i] = layer
  end
end

-- In vision_config, hidden_size is the tower's width and out_hidden_size the decoder's.
local vision = {
  defaults = { depth = 32, hidden_size = 3584, out_hidden_size = 3584, hidden_act = "silu",
    intermediate_size = 3420, num_heads = 16, patch_size = 14, spatial_merge_size = 2, temporal_patch_size = 2,
    window_size = 112, fullatt_block_indexes = { 7, 15, 23, 31 } },
  width = "hidden_size", out = "out_hidden_size", norm = "rms",
  more = function(v, arch)
    arch.mlp, arch.rms, arch.gated = v:count("intermediate_size"), true, true
    windows(v, arch)
  end,
}

---Reads the numbers of the model from its config.json.
---@param config table  the decoded file; JSON null is rl4vlm.json's null
---@param where string  the file's name, for messages
---@return table arch  the fields of src/vlm/arch.h
function M.arch(config, where)
  return qwen_vl.arch(fields.new(config, where), vision)
end

return M
