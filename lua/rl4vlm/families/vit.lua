-- vit.lua - the CLIP and SigLIP towers: what config.json says of one, as arch.vision; names of their tensors.
--
-- Sources: transformers' CLIPVisionConfig and Idefics3VisionConfig (defaults), modeling_clip,
-- modeling_idefics3.
local M = {}

---Names of activations in config.json, as src/vlm/arch.h has them.
M.acts = { quick_gelu = "quick_gelu", gelu = "gelu", gelu_new = "gelu_tanh",
  gelu_pytorch_tanh = "gelu_tanh", silu = "silu", swish = "silu", relu = "relu" }

local clip = { hidden_size = 768, intermediate_size = 3072, num_hidden_layers = 12,
  num_attention_heads = 12, image_size = 224, patch_size = 32, num_channels = 3,
  hidden_act = "quick_gelu", layer_norm_eps = 1e-5 }

---The tower of LLaVA: what a config without any vision_config means (openai/clip-vit-large-patch14-336).
M.clip_large = { hidden_size = 1024, intermediate_size = 4096, num_hidden_layers = 24,
  num_attention_heads = 16, image_size = 336, patch_size = 14 }

local siglip = { hidden_size = 1152, intermediate_size = 3072, num_hidden_layers = 12,
  num_attention_heads = 16, image_size = 224, patch_size = 32, num_channels = 3,
  hidden_act = "gelu_pytorch_tanh", layer_norm_eps = 1e-6 }

-- What both towers have in common.
local function plain(v)
  v:expect("num_channels", 3, 3)
  local arch = {
    patch = v:count("patch_size"), temporal = 1, merge = 1, width = v:count("hidden_size"),
    layers = v:count("num_hidden_layers"), heads = v:count("num_attention_heads"),
    mlp = v:count("intermediate_size"), act = v:map("hidden_act", M.acts), eps = v:number("layer_norm_eps"),
  }
  if arch.width % arch.heads ~= 0 then
    v:fail("num_attention_heads", "a divisor of hidden_size " .. arch.width, arch.heads)
  end
  local size = v:count("image_size")
  if size < arch.patch then
    v:fail("image_size", "at least patch_size " .. arch.patch, size)
  end
  arch.positions = size // arch.patch
  return arch, size
end

-- Layers that are run for the feature layer under `key`: hidden state k is the output of k layers.
local function feature_layers(config, key, layers)
  local index = config:get(key, -2)
  if type(index) == "table" and #index == 1 then
    index = index[1]
  end
  if math.type(index) ~= "integer" then
    config:fail(key, "one layer (several are not supported)", index)
  end
  local run = index < 0 and layers + 1 + index or index
  if run < 1 or run > layers then
    config:fail(key, ("a layer of a tower with %d"):format(layers), index)
  end
  return run
end

---A CLIP tower as the LLaVA families use it: up to the feature layer, the class row dropped or kept.
---@param config rl4vlm.ConfigFields
---@param v rl4vlm.ConfigFields  the tower's own
---@param layer string  where the feature layer stands
---@param drop_class boolean
---@return table arch.vision
function M.clip(config, v, layer, drop_class)
  v = v:with(clip)
  v:expect("model_type", "clip_vision_model", "clip_vision_model")
  local arch, size = plain(v)
  arch.image_size, arch.layers = size, feature_layers(config, layer, arch.layers)
  arch.class_token, arch.pre_norm, arch.drop_class = true, true, drop_class
  return arch
end

---A SigLIP tower as Idefics3 and SmolVLM have it: all layers and the norm behind them.
---@param config rl4vlm.ConfigFields
---@return table arch.vision
function M.siglip(config)
  local v = config:sub("vision_config", siglip)
  v:one_of("model_type", { "idefics3", "idefics3_vision", "smolvlm", "smolvlm_vision" }, "idefics3")
  local arch = plain(v)
  arch.patch_bias, arch.post_norm = true, true
  return arch
end

---The shape of the patch embedding in the files: that of a convolution.
---@param v table  arch.vision
---@return integer[]
function M.patch_shape(v)
  return { v.width, 3, v.patch, v.patch }
end

---What both towers' tensors are called below their prefix.
M.words = { layers = "encoder.layers.", norm1 = "layer_norm1", norm2 = "layer_norm2", q = "self_attn.q_proj",
  k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.out_proj", fc1 = "mlp.fc1", fc2 = "mlp.fc2",
  class = "embeddings.class_embedding", position = "embeddings.position_embedding.weight",
  patch = "embeddings.patch_embedding", pre_norm = "pre_layrnorm", post_norm = "post_layernorm" }

return M
