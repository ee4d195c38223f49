-- llava_llama.lua - LLaVA on Llama in its authors' layout (liuhaotian/llava-v1.5-7b, -v1.6-vicuna-7b).
local authors = require "rl4vlm.families.llava_authors"
local next_ = require "models.llava_next"

local M = { name = "llava_llama", names = authors.names, module = authors.module, patch_shape = authors.patch_shape,
  unused = authors.unused, processor = authors.processor, tower_prefix = authors.tower_prefix,
  sentinel = authors.sentinel, order = next_.order,
  settings = next_.settings }

---Reads the numbers of the model from its config.json; see families/llava_authors.lua.
function M.arch(config, where, has, tower)
  return authors.arch(config, where, has, tower, "llama")
end

---The conversation that the authors call vicuna_v1.
M.chat_template = "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
  .. "helpful, detailed, and polite answers to the user's questions. {% for message in messages %}"
  .. "{% if message.role == 'user' %}USER: {% for part in message.content %}"
  .. "{% if part.type == 'image' %}{{ '<image>\n' }}{% else %}{{ part.text }}{% endif %}{% endfor %}{{ ' ' }}"
  .. "{% else %}{{ 'ASSISTANT: ' }}{% for part in message.content %}{{ part.text }}{% endfor %}{{ '</s>' }}{% endif %}"
  .. "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"

return M
