-- tiny.lua - a real model with random weights, small enough to train in a test: LLaVA's layout, its
-- own tokenizer, a folder in Hugging Face's layout.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local tokenizer_trainer = require "rl4vlm.tokenizer_trainer"
local vlm = require "rl4vlm.vlm"

local M = {}

local CHAT = "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() "
  .. "+ ': ' }}{% endif %}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
  .. "{{ '<image>\\n' }}{% endfor %}{% for part in message['content'] | selectattr('type', 'equalto', "
  .. "'text') %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}"
  .. "{{ 'ASSISTANT:' }}{% endif %}"

local function write_processor(dir, size)
  assert(fs.write_atomic(dir .. "/preprocessor_config.json", json.encode {
    crop_size = { height = size, width = size },
    do_center_crop = true,
    do_convert_rgb = true,
    do_normalize = true,
    do_rescale = true,
    do_resize = true,
    image_mean = { 0.5, 0.5, 0.5 },
    image_std = { 0.25, 0.25, 0.25 },
    image_processor_type = "CLIPImageProcessor",
    resample = 3,
    rescale_factor = 1 / 255,
    size = { shortest_edge = size },
  }))
end

local function config(vocabulary)
  return {
    architectures = { "LlavaForConditionalGeneration" },
    model_type = "llava",
    image_token_index = 3,
    projector_hidden_act = "gelu",
    tie_word_embeddings = false,
    text_config = {
      model_type = "llama",
      hidden_size = 32,
      intermediate_size = 48,
      num_attention_heads = 4,
      num_hidden_layers = 2,
      max_position_embeddings = 512,
      rms_norm_eps = 1e-5,
      vocab_size = vocabulary,
    },
    vision_config = {
      model_type = "clip_vision_model",
      hidden_size = 24,
      image_size = 32,
      intermediate_size = 32,
      num_attention_heads = 2,
      num_hidden_layers = 2,
      patch_size = 16,
    },
    vision_feature_layer = -1,
    vision_feature_select_strategy = "default",
    bos_token_id = 1,
    eos_token_id = 2,
  }
end

---Makes the model's folder. `phrases` become single tokens, so that prompts stay short.
---@param dir string
---@param phrases string[]
function M.make(dir, phrases)
  assert(fs.mkdirs(dir .. "/parts"))
  local _, files = tokenizer_trainer.train {
    texts = { table.concat(phrases, " ") },
    size = 400,
    special = { "<unk>", "<s>", "</s>", "<image>" },
    whole = phrases,
    bos = "<s>",
    eos = "</s>",
    image = "<image>",
    chat_template = CHAT,
    out = dir .. "/parts",
  }
  write_processor(dir .. "/parts", 32)
  local count = 0
  for _ in pairs(json.decode(files["tokenizer.json"]).model.vocab) do
    count = count + 1
  end
  local model = vlm.new { config = config(count + 8), files = dir .. "/parts", seed = 3, value_head = true }
  model:save(dir .. "/model")
  return dir .. "/model"
end

return M
