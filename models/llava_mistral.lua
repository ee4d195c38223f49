-- llava_mistral.lua - LLaVA-1.6 on Mistral in its authors' layout (liuhaotian/llava-v1.6-mistral-7b).
local authors = require "rl4vlm.families.llava_authors"
local next_ = require "models.llava_next"

local M = { name = "llava_mistral", names = authors.names, module = authors.module, patch_shape = authors.patch_shape,
  unused = authors.unused, processor = authors.processor, tower_prefix = authors.tower_prefix,
  sentinel = authors.sentinel, order = next_.order,
  settings = next_.settings,
  chat_template = next_.chat_template }

---Reads the numbers of the model from its config.json; see families/llava_authors.lua.
function M.arch(config, where, has, tower)
  return authors.arch(config, where, has, tower, "mistral")
end

return M
