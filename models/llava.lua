-- llava.lua - LLaVA-1.5 (llava-hf/llava-1.5-7b-hf): one picture of a fixed size for an image.
--
-- A descriptor says what is a family's own: how config.json becomes the numbers of src/vlm/arch.h,
-- what each role's tensor is called in the files, which tensors of the files are not needed, how an
-- image is written in a prompt. Everything else is shared.
local fields = require "rl4vlm.config_fields"
local llava = require "rl4vlm.families.llava"

local M = { name = "llava", names = llava.names, module = llava.module, patch_shape = llava.patch_shape,
  unused = llava.unused }

---Reads the numbers of the model from its config.json.
---@param config table  the decoded file; JSON null is rl4vlm.json's null
---@param where string  the file's name, for messages
---@return table arch  the fields of src/vlm/arch.h
function M.arch(config, where)
  return llava.arch(fields.new(config, where))
end

-- ---- messages ----

---The template of a folder that brings none: Vicuna's roles, images before the text.
M.chat_template = "{% for message in messages %}{% if message.role != 'system' %}{{ message.role | upper }}: "
  .. "{% endif %}{% for part in message.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
  .. "{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}{% endfor %}"
  .. "{% if add_generation_prompt %}ASSISTANT:{% endif %}"

---A template that leaves text and images of a message where they stand: what never changes can go before
---the image, where the key/value cache shares it.
M.in_order_template = "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
  .. "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>' }}{% else %}"
  .. "{{ item['text'] }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}"
  .. "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"

return M
