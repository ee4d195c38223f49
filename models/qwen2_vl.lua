-- qwen2_vl.lua - Qwen2-VL (Qwen/Qwen2-VL-2B-Instruct, -7B-Instruct): LayerNorm, two-layer MLP, whole images.
local fields = require "rl4vlm.config_fields"
local qwen_vl = require "rl4vlm.families.qwen_vl"

local M = { name = "qwen2_vl", names = qwen_vl.names, module = qwen_vl.module, patch_shape = qwen_vl.patch_shape,
  unused = qwen_vl.unused, chat_template = qwen_vl.chat_template }

-- In vision_config, embed_dim is the tower's width and hidden_size the decoder's.
local vision = {
  defaults = { depth = 32, embed_dim = 1280, hidden_size = 3584, hidden_act = "quick_gelu", mlp_ratio = 4,
    num_heads = 16, patch_size = 14, spatial_merge_size = 2, temporal_patch_size = 2 },
  width = "embed_dim", out = "hidden_size", norm = "layer",
  more = function(v, arch)
    arch.mlp = math.tointeger(arch.width * v:number("mlp_ratio"))
    if not arch.mlp or arch.mlp < 1 or arch.mlp > 0x7fffffff then
      v:fail("mlp_ratio", "a number that makes a width of embed_dim " .. arch.width, v:get("mlp_ratio"))
    end
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
