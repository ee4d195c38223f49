-- llava_next.lua - LLaVA-1.6 (llava-hf/llava-v1.6-mistral-7b-hf): an image whole and in tiles, lines ended by
-- a learned row. Without tiles it sees images as LLaVA-1.5 does.
local anyres = require "rl4vlm.families.anyres"
local fields = require "rl4vlm.config_fields"
local llava = require "rl4vlm.families.llava"

local M = { name = "llava_next", names = llava.names, module = llava.module, patch_shape = llava.patch_shape,
  unused = llava.unused }

---What recipes begin with for this family: an image is one view, as RL4VLM had it.
M.settings = { ["image.anyres"] = false }

---Reads the numbers of the model from its config.json.
---@param config table  the decoded file; JSON null is rl4vlm.json's null
---@param where string  the file's name, for messages
---@return table arch  the fields of src/vlm/arch.h
function M.arch(config, where)
  local c = fields.new(config, where)
  local arch = llava.arch(c)
  c:expect("vision_feature_select_strategy", "default", "default") -- tiles with class rows make no grid
  arch.connector.newline = true
  return arch
end

---Which feature row each image token takes; nil: the rows as they come.
---@param layout table  the processor's layout of the image
---@return integer[]?
function M.order(layout)
  return layout.grid_rows and anyres.order(layout) or nil
end

---The prompt of messages where the checkpoint has no template of its own.
M.chat_template = "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
  .. "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
  .. "{% for item in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
  .. "{% for item in message['content'] | selectattr('type', 'equalto', 'text') %}{{ item['text'] }}{% endfor %}"
  .. "{% endif %}{{ ' [/INST]' }}{% else %}"
  .. "{% if message['content'] is string %}{{ ' ' + message['content'] + '</s> ' }}{% else %}"
  .. "{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endif %}{% endfor %}"

return M
