-- llava.lua - the LLaVA family: a CLIP tower, a two-layer projector, a Llama or Mistral decoder.
--
-- A descriptor says what is a family's own: how config.json becomes the numbers of src/vlm/arch.h,
-- what each role's tensor is called in the files, which tensors of the files are not needed, and how
-- messages become a prompt. Everything else is shared. Sources: transformers' LlavaConfig,
-- CLIPVisionConfig, LlamaConfig and MistralConfig (defaults), modeling_llava (what is used).
local fields = require "rl4vlm.config_fields"

local M = { name = "llava" }

-- ---- config.json ----

local vision_acts = { quick_gelu = "quick_gelu", gelu = "gelu", gelu_new = "gelu_tanh",
  gelu_pytorch_tanh = "gelu_tanh", silu = "silu", swish = "silu", relu = "relu" }

-- What config.json leaves out because it is the class's default.
local clip = { hidden_size = 768, intermediate_size = 3072, num_hidden_layers = 12,
  num_attention_heads = 12, image_size = 224, patch_size = 32, num_channels = 3,
  hidden_act = "quick_gelu", layer_norm_eps = 1e-5 }
-- A config without any vision_config means the tower of LLaVA-1.5.
local clip_large = { hidden_size = 1024, intermediate_size = 4096, num_hidden_layers = 24,
  num_attention_heads = 16, image_size = 336, patch_size = 14 }
local llama = { vocab_size = 32000, hidden_size = 4096, intermediate_size = 11008,
  num_hidden_layers = 32, num_attention_heads = 32, hidden_act = "silu", rms_norm_eps = 1e-6,
  max_position_embeddings = 2048, rope_theta = 10000.0 }
local mistral = { vocab_size = 32000, hidden_size = 4096, intermediate_size = 14336,
  num_hidden_layers = 32, num_attention_heads = 32, num_key_value_heads = 8, hidden_act = "silu",
  rms_norm_eps = 1e-6, max_position_embeddings = 131072, rope_theta = 10000.0,
  sliding_window = 4096 }
local decoders = { llama = llama, mistral = mistral }

-- Layers that are run for `vision_feature_layer`: hidden state k is the output of k layers.
local function feature_layers(config, layers)
  local index = config:get("vision_feature_layer", -2)
  if type(index) == "table" and #index == 1 then
    index = index[1]
  end
  if math.type(index) ~= "integer" then
    config:fail("vision_feature_layer", "one layer (several are not supported)", index)
  end
  local run = index < 0 and layers + 1 + index or index
  if run < 1 or run > layers then
    config:fail("vision_feature_layer", ("a layer of a tower with %d"):format(layers), index)
  end
  return run
end

local function vision_arch(config)
  local v = config:sub("vision_config", clip, clip_large)
  v:expect("model_type", "clip_vision_model", "clip_vision_model")
  v:expect("num_channels", 3, 3)
  local layers = v:count("num_hidden_layers")
  local select = config:one_of("vision_feature_select_strategy", { "default", "full" }, "default")
  local arch = {
    image_size = v:count("image_size"), patch = v:count("patch_size"),
    width = v:count("hidden_size"), heads = v:count("num_attention_heads"),
    mlp = v:count("intermediate_size"), layers = feature_layers(config, layers),
    act = v:map("hidden_act", vision_acts), eps = v:number("layer_norm_eps"),
    class_token = true, pre_norm = true, post_norm = false, patch_bias = false,
    drop_class = select == "default",
  }
  if arch.width % arch.heads ~= 0 then
    v:fail("num_attention_heads", "a divisor of hidden_size " .. arch.width, arch.heads)
  end
  return arch
end

-- Rotary angles: `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5).
local function rope_arch(text, arch)
  local both = text:sub("rope_parameters", { rope_theta = text:number("rope_theta") })
  local scaling = text:has("rope_parameters") and both or text:sub("rope_scaling", {})
  arch.rope_theta = both:number("rope_theta")
  local kind = scaling:get("rope_type") or scaling:get("type") or "default"
  if scaling:get("partial_rotary_factor", 1) ~= 1 then
    scaling:fail("partial_rotary_factor", "1", scaling:get("partial_rotary_factor"))
  end
  if kind == "default" then
    arch.rope = "plain"
  elseif kind == "linear" then
    arch.rope, arch.rope_factor = "linear", scaling:number("factor")
  elseif kind == "llama3" then
    arch.rope = "llama3"
    arch.rope_factor = scaling:number("factor")
    arch.rope_low_freq = scaling:number("low_freq_factor")
    arch.rope_high_freq = scaling:number("high_freq_factor")
    arch.rope_original_positions = scaling:count("original_max_position_embeddings")
  else
    scaling:fail("rope_type", "default, linear or llama3", kind)
  end
end

local function text_arch(config)
  local raw = config:sub("text_config", {})
  local family = raw:one_of("model_type", { "llama", "mistral" }, "llama")
  local t = config:sub("text_config", decoders[family])
  local heads, width = t:count("num_attention_heads"), t:count("hidden_size")
  local arch = {
    vocab = t:count("vocab_size"), width = width, layers = t:count("num_hidden_layers"),
    heads = heads, kv_heads = t:get("num_key_value_heads") and t:count("num_key_value_heads") or heads,
    head_dim = t:get("head_dim") and t:count("head_dim") or width // heads,
    mlp = t:count("intermediate_size"), act = t:map("hidden_act", { silu = "silu", swish = "silu" }),
    eps = t:number("rms_norm_eps"),
    qkv_bias = family == "llama" and t:flag("attention_bias", false),
    o_bias = family == "llama" and t:flag("attention_bias", false),
    mlp_bias = family == "llama" and t:flag("mlp_bias", false), head_bias = false,
    tied = config:flag("tie_word_embeddings", false) or t:flag("tie_word_embeddings", false),
    window = family == "mistral" and t:get("sliding_window") and t:count("sliding_window") or 0,
    max_positions = t:count("max_position_embeddings"),
  }
  if heads % arch.kv_heads ~= 0 then
    t:fail("num_key_value_heads", "a divisor of num_attention_heads " .. heads, arch.kv_heads)
  elseif not t:get("head_dim") and width % heads ~= 0 then
    t:fail("num_attention_heads", "a divisor of hidden_size " .. width, heads)
  elseif arch.head_dim % 2 ~= 0 then
    t:fail("head_dim", "an even number", arch.head_dim)
  end
  rope_arch(t, arch)
  return arch
end

---Reads the numbers of the model from its config.json.
---@param config table  the decoded file; JSON null is rl4vlm.json's null
---@param where string  the file's name, for messages
---@return table arch  the fields of src/vlm/arch.h
function M.arch(config, where)
  local c = fields.new(config, where)
  c:expect("model_type", "llava", "llava")
  if c:has("quantization_config") then
    c:fail("quantization_config", "none (the weights as floats)", c:get("quantization_config"))
  end
  local vision, text = vision_arch(c), text_arch(c)
  local side = vision.image_size // vision.patch
  return {
    vision = vision, text = text,
    connector = { ["in"] = vision.width, hidden = text.width, out = text.width,
      act = c:map("projector_hidden_act", vision_acts, "gelu"),
      bias = c:flag("multimodal_projector_bias", true) },
    image_token = c:get("image_token_index") and c:index("image_token_index")
      or c:index("image_token_id", 32000),
    image_tokens = side * side + (vision.drop_class and 0 or 1),
  }
end

-- ---- tensor names ----

local vision_words = { norm1 = "layer_norm1", norm2 = "layer_norm2", q = "self_attn.q_proj",
  k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.out_proj", fc1 = "mlp.fc1",
  fc2 = "mlp.fc2" }
local text_words = { norm1 = "input_layernorm", norm2 = "post_attention_layernorm",
  q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj",
  gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj" }

-- In which orders of names a part may lie: as published, as transformers 5 writes it, as the model is
-- in memory (with and without vision_model), as the original LLaVA wrote it.
local prefixes = {
  vision = { "vision_tower.vision_model.", "vision_tower.", "model.vision_tower.vision_model.",
    "model.vision_tower.", "model.vision_tower.vision_tower.vision_model." },
  text = { "language_model.model.", "model.language_model.", "model." },
  head = { "language_model.lm_head.", "lm_head." },
}
local connectors = { { "multi_modal_projector.linear_1.", "multi_modal_projector.linear_2." },
  { "model.multi_modal_projector.linear_1.", "model.multi_modal_projector.linear_2." },
  { "model.mm_projector.0.", "model.mm_projector.2." } }

local function vision_name(rest)
  local layer, word, kind = rest:match("^layers%.(%d+)%.(%w+)%.(%w+)$")
  if layer then
    return ("encoder.layers.%s.%s.%s"):format(layer, vision_words[word], kind)
  end
  return ({ class = "embeddings.class_embedding", position = "embeddings.position_embedding.weight",
    ["patch.weight"] = "embeddings.patch_embedding.weight" })[rest]
    or rest:gsub("^pre_norm", "pre_layrnorm")
end

local function text_name(rest)
  local layer, word, kind = rest:match("^layers%.(%d+)%.(%w+)%.(%w+)$")
  if layer then
    return ("layers.%s.%s.%s"):format(layer, text_words[word], kind)
  end
  return (rest:gsub("^embed", "embed_tokens"))
end

---The names that a role's tensor may have in the files, the published one first. Roles of one part
---have their names in the same order.
---@param role string
---@return string part  "vision", "connector", "text" or "head": what is named in one way
---@return string[] names
function M.names(role)
  local part, rest = role:match("^(%w+)%.(.+)$")
  if role:match("^text%.head%.") then
    part, rest = "head", role:match("^text%.head%.(.+)$")
  end
  local names = {}
  if part == "connector" then
    local i, kind = rest:match("^(%d)%.(%w+)$")
    for k, pair in ipairs(connectors) do
      names[k] = pair[i + 1] .. kind
    end
    return part, names
  end
  local name = part == "vision" and vision_name(rest) or part == "text" and text_name(rest) or rest
  for k, prefix in ipairs(prefixes[part]) do
    names[k] = prefix .. name
  end
  return part, names
end

-- Which of the names is the module's path in the model in memory (transformers 5), as peft writes it.
local in_memory = { vision = 4, connector = 2, text = 2, head = 2 }

---The path of a weight's module as peft names it in new files.
---@param role string  a role that ends in ".weight"
---@return string
function M.module(role)
  local part, names = M.names(role)
  return (names[in_memory[part]]:gsub("%.weight$", ""))
end

---True for tensors that files hold and the model does not use: layers behind the feature layer, the
---tower's last norm, buffers, the head of a tied model.
---@param name string
---@param arch table
---@return boolean
function M.unused(name, arch)
  local layer = name:match("vision_tower%..*encoder%.layers%.(%d+)%.")
  return layer ~= nil and tonumber(layer) >= arch.vision.layers
    or name:match("vision_tower%..*post_layernorm%.%w+$") ~= nil
    or name:match("%.position_ids$") ~= nil or name:match("%.inv_freq$") ~= nil
    or arch.text.tied and name:match("lm_head%.weight$") ~= nil or name:match("image_newline$") ~= nil
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

-- ---- a fresh model ----

---How a role's tensor begins in a model made from nothing.
---@param role string
---@param shape integer[]
---@return "normal"|"constant" kind
---@return number scale  the standard deviation, or the value
function M.init(role, shape)
  if role:match("norm%d?%.weight$") then
    return "constant", 1
  elseif role:match("%.bias$") then
    return "constant", 0
  elseif role:match("^vision%.class$") or role:match("^vision%.position$") then
    return "normal", shape[#shape] ^ -0.5
  end
  return "normal", 0.02
end

return M
