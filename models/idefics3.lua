-- idefics3.lua - Idefics3 and SmolVLM: a SigLIP tower, pixel shuffle and one linear layer, a Llama decoder.
--
-- An image is cut into tiles, each a row of text with its place, and the whole image behind them. Sources:
-- transformers' Idefics3Config (defaults), modeling_idefics3, processing_idefics3.
local decoder = require "rl4vlm.families.decoder"
local fields = require "rl4vlm.config_fields"
local names = require "rl4vlm.families.names"
local vit = require "rl4vlm.families.vit"

local M = { name = "idefics3" }

---What recipes begin with for this family: an image is one view. In tiles, a frame of a game would take 17 times as
---many tokens.
M.settings = { ["image.splitting"] = false }

---Reads the numbers of the model from its config.json.
---@param config table  the decoded file; JSON null is rl4vlm.json's null
---@param where string  the file's name, for messages
---@param has? fun(tensor: string): boolean  what the files hold: they settle whether the head is the embedding
---@return table arch  the fields of src/vlm/arch.h
function M.arch(config, where, has)
  local c = fields.new(config, where)
  decoder.check_plain(c)
  local vision = vit.siglip(c)
  local tied = nil
  if has then
    tied = not has("lm_head.weight")
  end
  local text = decoder.nested(c, tied)
  vision.merge = c:count("scale_factor", 2)
  return {
    vision = vision, text = text,
    connector = { ["in"] = vision.width * vision.merge * vision.merge, hidden = 0, out = text.width, act = "none",
      bias = false },
    image_token = c:index("image_token_id", 128257),
  }
end

-- ---- tensor names ----

local shuffle = { ["0"] = "modality_projection.proj" }

M.patch_shape = vit.patch_shape
M.names, M.module = names.new({
  vision = { { "model.vision_model.", vit.words } },
  connector = { { "model.connector.", shuffle } },
  text = { { "model.text_model.", decoder.words } },
  head = { { "lm_", {} } },
}, { vision = 1, connector = 1, text = 1, head = 1 })

---True for tensors that files hold and the model does not use.
function M.unused(name)
  return name:match("%.position_ids$") ~= nil or name:match("%.inv_freq$") ~= nil
end

-- ---- prompts ----

local fence = "<fake_token_around_image>"

---The text that stands for an image: its tiles by row and column, then the whole of it. Each `mark` in it
---stands for the rows of one tile.
---@param layout table  the processor's layout of the image
---@param mark string   the image token
---@return string
function M.spell(layout, mark)
  local out = {}
  for row = 1, layout.grid_rows or 0 do
    for column = 1, layout.grid_cols do
      out[#out + 1] = ("%s<row_%d_col_%d>%s"):format(fence, row, column, mark)
    end
    out[#out + 1] = "\n"
  end
  out[#out + 1] = ("%s%s<global-img>%s%s"):format(#out > 0 and "\n" or "", fence, mark, fence)
  return table.concat(out)
end

---The prompt of messages where the checkpoint has no template of its own.
M.chat_template = "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
  .. "{% if message['content'] is not string and message['content'][0]['type'] == 'image' %}{{ ':' }}"
  .. "{% else %}{{ ': ' }}{% endif %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
  .. "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
  .. "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n"
  .. "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"

return M
