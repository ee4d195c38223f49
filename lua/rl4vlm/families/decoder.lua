-- decoder.lua - the language models of the families: what config.json says of one, as arch.text.
--
-- Sources: transformers' LlamaConfig, MistralConfig, Qwen2VLTextConfig (defaults; a file holds only what
-- differs from them, and null is not absent), modeling_rope_utils (rotary scalings).
local M = {}

-- What config.json leaves out because it is the class's default.
M.defaults = {
  llama = { vocab_size = 32000, hidden_size = 4096, intermediate_size = 11008,
    num_hidden_layers = 32, num_attention_heads = 32, hidden_act = "silu", rms_norm_eps = 1e-6,
    max_position_embeddings = 2048, rope_theta = 10000.0 },
  mistral = { vocab_size = 32000, hidden_size = 4096, intermediate_size = 14336,
    num_hidden_layers = 32, num_attention_heads = 32, num_key_value_heads = 8, hidden_act = "silu",
    rms_norm_eps = 1e-6, max_position_embeddings = 131072, rope_theta = 10000.0,
    sliding_window = 4096 },
  qwen2 = { vocab_size = 152064, hidden_size = 8192, intermediate_size = 29568,
    num_hidden_layers = 80, num_attention_heads = 64, num_key_value_heads = 8, hidden_act = "silu",
    rms_norm_eps = 1e-5, max_position_embeddings = 32768, rope_theta = 1000000.0,
    sliding_window = 4096, max_window_layers = 80 },
}

local acts = { silu = "silu", swish = "silu" }

-- The sizes of M-RoPE's three sections; together they are the head's frequencies.
local function mrope(scaling, arch)
  local list = scaling:get("mrope_section")
  local sum = 0
  for _, n in ipairs(type(list) == "table" and list or {}) do
    sum = sum + (math.type(n) == "integer" and n > 0 and n or math.mininteger)
  end
  if type(list) ~= "table" or #list ~= 3 or sum ~= arch.head_dim // 2 then
    scaling:fail("mrope_section", ("three sizes that add up to half of head_dim, %d"):format(arch.head_dim // 2), list)
  end
  arch.mrope = { list[1], list[2], list[3] }
end

-- YaRN's length of queries and keys: as given, or as modeling_rope_utils takes it from `factor`.
local function yarn_attention(scaling, factor)
  local function scale(weight)
    return factor <= 1 and 1.0 or 0.1 * weight * math.log(factor) + 1.0
  end
  local some, all = scaling:get("mscale", 0), scaling:get("mscale_all_dim", 0)
  if scaling:get("attention_factor") then
    return scaling:number("attention_factor")
  end
  return some ~= 0 and all ~= 0 and scale(some) / scale(all) or scale(1)
end

local scalings = {
  default = function(_, arch)
    arch.rope = "plain"
  end,
  linear = function(scaling, arch)
    arch.rope, arch.rope_factor = "linear", scaling:number("factor")
  end,
  llama3 = function(scaling, arch)
    arch.rope, arch.rope_factor = "llama3", scaling:number("factor")
    arch.rope_low_freq, arch.rope_high_freq = scaling:number("low_freq_factor"), scaling:number("high_freq_factor")
    arch.rope_original_positions = scaling:count("original_max_position_embeddings")
  end,
  yarn = function(scaling, arch)
    scaling:expect("truncate", true, true)
    arch.rope, arch.rope_factor = "yarn", scaling:number("factor")
    arch.rope_fast, arch.rope_slow = scaling:number("beta_fast", 32), scaling:number("beta_slow", 1)
    arch.rope_attention = yarn_attention(scaling, arch.rope_factor)
    arch.rope_original_positions = scaling:count("original_max_position_embeddings")
  end,
}

-- Rotary angles: `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5).
local function rope(text, arch, sections)
  local both = text:sub("rope_parameters", { rope_theta = text:number("rope_theta") })
  local scaling = text:has("rope_parameters") and both or text:sub("rope_scaling", {})
  arch.rope_theta = both:number("rope_theta")
  local kind = scaling:get("rope_type") or scaling:get("type") or "default"
  if scaling:get("partial_rotary_factor", 1) ~= 1 then
    scaling:fail("partial_rotary_factor", "1", scaling:get("partial_rotary_factor"))
  end
  if sections then
    mrope(scaling, arch)
  end
  local read = scalings[kind == "mrope" and sections and "default" or kind]
  if not read then
    scaling:fail("rope_type", "default, linear, llama3 or yarn", kind)
  end
  read(scaling, arch)
end

-- The window that all of Qwen's layers share; layers of both kinds in one model are not built in.
local function qwen_window(t, layers)
  if not t:flag("use_sliding_window", false) or not t:get("sliding_window") then
    return 0
  end
  local full = t:index("max_window_layers")
  if full > 0 and full < layers then
    t:fail("max_window_layers", ("0 or at least num_hidden_layers %d where use_sliding_window is true"):format(layers),
      full)
  end
  return full == 0 and t:count("sliding_window") or 0
end

local function window(t, kind, layers)
  if kind == "qwen2" then
    return qwen_window(t, layers)
  end
  return kind == "mistral" and t:get("sliding_window") and t:count("sliding_window") or 0
end

-- Transformers 5 writes a layer's kind for each; it must say the same as the window.
local function check_layer_types(t, arch)
  local wanted = arch.window > 0 and "sliding_attention" or "full_attention"
  for i, kind in ipairs(t:list("layer_types")) do
    if kind ~= wanted then
      t:fail(("layer_types[%d]"):format(i), ("%q, as for all layers"):format(wanted), kind)
    end
  end
end

local function check_heads(t, arch)
  if arch.heads % arch.kv_heads ~= 0 then
    t:fail("num_key_value_heads", "a divisor of num_attention_heads " .. arch.heads, arch.kv_heads)
  elseif not t:get("head_dim") and arch.width % arch.heads ~= 0 then
    t:fail("num_attention_heads", "a divisor of hidden_size " .. arch.width, arch.heads)
  elseif arch.head_dim % 2 ~= 0 then
    t:fail("head_dim", "an even number", arch.head_dim)
  end
end

---The numbers of a decoder.
---@param t rl4vlm.ConfigFields  its fields, with M.defaults[kind] behind them
---@param kind "llama"|"mistral"|"qwen2"
---@param tied boolean  the head is the embedding
---@return table arch.text
function M.arch(t, kind, tied)
  local heads, width = t:count("num_attention_heads"), t:count("hidden_size")
  local bias = kind == "llama" and t:flag("attention_bias", false)
  local arch = {
    vocab = t:count("vocab_size"), width = width, layers = t:count("num_hidden_layers"), heads = heads,
    kv_heads = t:get("num_key_value_heads") and t:count("num_key_value_heads") or heads,
    head_dim = t:get("head_dim") and t:count("head_dim") or width // heads,
    mlp = t:count("intermediate_size"), act = t:map("hidden_act", acts), eps = t:number("rms_norm_eps"),
    qkv_bias = bias or kind == "qwen2", o_bias = bias,
    mlp_bias = kind == "llama" and t:flag("mlp_bias", false), head_bias = false, tied = tied,
    max_positions = t:count("max_position_embeddings"),
  }
  arch.window = window(t, kind, arch.layers)
  check_heads(t, arch)
  check_layer_types(t, arch)
  rope(t, arch, kind == "qwen2")
  return arch
end

---The decoder under `text_config`: a Llama or a Mistral.
---@param config rl4vlm.ConfigFields
---@param tied? boolean  nil: as the config says
---@return table arch.text
function M.nested(config, tied)
  local kind = config:sub("text_config", {}):one_of("model_type", { "llama", "mistral" }, "llama")
  local t = config:sub("text_config", M.defaults[kind])
  if tied == nil then
    tied = M.tied(config, t)
  end
  return M.arch(t, kind, tied)
end

---True where the config says that the head is the embedding: at its top, or (as transformers 4 wrote it) with
---the decoder's fields.
function M.tied(config, t)
  return config:flag("tie_word_embeddings", false) or t:flag("tie_word_embeddings", false)
end

---Refuses weights that are no plain floats.
function M.check_plain(config)
  if config:has("quantization_config") then
    config:fail("quantization_config", "none (the weights as floats)", config:get("quantization_config"))
  end
end

---What a decoder's tensors are called below its prefix, in all families.
M.words = { layers = "layers.", norm1 = "input_layernorm", norm2 = "post_attention_layernorm",
  q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj",
  gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj", embed = "embed_tokens" }

return M
