-- llava7m.lua - the model of the figures: a LLaVA of 7 M parameters with random weights, 49 image tokens.
--
--   rl4vlm tests/bench/llava7m.lua FOLDER
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local vlm = require "rl4vlm.vlm"

local SIDE, PATCH = 98, 14

local config = {
  architectures = { "LlavaForConditionalGeneration" }, model_type = "llava", dtype = "float32",
  image_token_index = 4095, image_seq_length = (SIDE // PATCH) * (SIDE // PATCH), projector_hidden_act = "gelu",
  tie_word_embeddings = false, vision_feature_layer = -1, vision_feature_select_strategy = "default",
  text_config = {
    model_type = "llama", vocab_size = 4096, hidden_size = 256, intermediate_size = 688,
    num_hidden_layers = 6, num_attention_heads = 4, num_key_value_heads = 4, rms_norm_eps = 1e-5,
    rope_theta = 10000, max_position_embeddings = 1024,
  },
  vision_config = {
    model_type = "clip_vision_model", hidden_size = 128, intermediate_size = 512, num_hidden_layers = 3,
    num_attention_heads = 4, image_size = SIDE, patch_size = PATCH, projection_dim = 512,
  },
}

-- Tokenizer and preprocessing are the built-in model's, for images of this size.
local function files()
  local folder = assert(fs.tempdir("llava7m"))
  for _, name in ipairs(assert(fs.list("models/cardling"))) do
    if name ~= "config.json" and not name:match("%.safetensors$") then
      assert(fs.copy_file("models/cardling/" .. name, folder .. "/" .. name))
    end
  end
  local path = folder .. "/preprocessor_config.json"
  local processor = json.decode(assert(fs.read_file(path)))
  processor.size = { height = SIDE, width = SIDE }
  processor.crop_size = { height = SIDE, width = SIDE }
  assert(fs.write_atomic(path, json.encode(processor)))
  return folder
end

local folder = files()
local model = vlm.new { config = config, files = folder, seed = 1, max_tokens = 512 }
model:save(arg[1])
fs.remove_tree(folder)
print(arg[1])
