-- Descriptors: what released config.json files mean, in numbers that are known; what is refused; anyres's order.
local anyres = require "rl4vlm.families.anyres"
local core = require "rl4vlm.core"
local families = require "rl4vlm.families"
local json = require "rl4vlm.json"

local clip = { model_type = "clip_vision_model", hidden_size = 1024, image_size = 336, intermediate_size = 4096,
  num_attention_heads = 16, num_hidden_layers = 24, patch_size = 14, projection_dim = 768, vocab_size = 32000 }

local function qwen2(hidden, mlp, heads, kv, vocab, tied)
  return { model_type = "qwen2_vl", hidden_size = hidden, intermediate_size = mlp, num_hidden_layers = 28,
    num_attention_heads = heads, num_key_value_heads = kv, vocab_size = vocab, tie_word_embeddings = tied,
    rms_norm_eps = 1e-6, rope_theta = 1000000.0, max_position_embeddings = 32768, sliding_window = 32768,
    use_sliding_window = false, max_window_layers = 28, image_token_id = 151655,
    rope_scaling = { type = "mrope", mrope_section = { 16, 24, 24 } },
    vision_config = { depth = 32, embed_dim = 1280, mlp_ratio = 4, num_heads = 16, in_chans = 3, hidden_size = hidden,
      patch_size = 14, spatial_merge_size = 2, spatial_patch_size = 14, temporal_patch_size = 2 } }
end

local function qwen2_5(hidden, mlp, layers, heads, kv, vocab, tied)
  local config = qwen2(hidden, mlp, heads, kv, vocab, tied)
  config.model_type, config.num_hidden_layers, config.max_window_layers = "qwen2_5_vl", layers, layers
  config.vision_config = { depth = 32, hidden_act = "silu", hidden_size = 1280, intermediate_size = 3420, num_heads = 16,
    in_chans = 3, out_hidden_size = hidden, patch_size = 14, spatial_merge_size = 2, window_size = 112,
    fullatt_block_indexes = { 7, 15, 23, 31 }, tokens_per_second = 2, temporal_patch_size = 2 }
  return config
end

local function smolvlm(hidden, mlp, layers, heads, kv)
  return { model_type = "idefics3", image_token_id = 49190, scale_factor = 4, tie_word_embeddings = false,
    vocab_size = 49280, pad_token_id = 128002,
    text_config = { model_type = "llama", hidden_size = hidden, intermediate_size = mlp, num_hidden_layers = layers,
      num_attention_heads = heads, num_key_value_heads = kv, head_dim = 64, vocab_size = 49280, rms_norm_eps = 1e-5,
      rope_theta = 100000, max_position_embeddings = 8192 },
    vision_config = { model_type = "idefics3", hidden_size = 768, image_size = 512, patch_size = 16,
      num_attention_heads = 12, max_image_size = { longest_edge = 512 }, size = { longest_edge = 2048 } } }
end

-- Published configurations with their parameters by part: vision, connector, language, head.
local idle = 12596224 + 2048 -- CLIP's last layer and norm, which LLaVA does not run
local released = {
  { "llava-1.5-7b-hf", { 303507456 - idle, 20979712, 6476267520 + 131334144 + 4096, 131334144 },
    { model_type = "llava", image_token_index = 32000, pad_token_id = 32001, projector_hidden_act = "gelu",
      text_config = { model_type = "llama", max_position_embeddings = 4096, rms_norm_eps = 1e-5, vocab_size = 32064 },
      vision_config = clip, vision_feature_layer = -2, vision_feature_select_strategy = "default" } },
  { "llava-v1.6-mistral-7b-hf", { 303507456 - idle, 20979712 + 4096, 6979584000 + 131334144 + 4096, 131334144 },
    { model_type = "llava_next", image_token_index = 32000, projector_hidden_act = "gelu",
      text_config = { model_type = "mistral", intermediate_size = 14336, max_position_embeddings = 32768,
        num_key_value_heads = 8, rms_norm_eps = 1e-5, rope_theta = 1000000.0, sliding_window = json.null,
        vocab_size = 32064 },
      vision_config = clip, vision_feature_layer = -2, vision_feature_select_strategy = "default" } },
  { "Qwen2-VL-2B", { 631183360, 34087936, 1310339072 + 233373696 + 1536, 0 }, qwen2(1536, 8960, 12, 2, 151936, true) },
  { "Qwen2-VL-7B", { 631183360, 44575744, 6525618176 + 544997376 + 3584, 544997376 },
    qwen2(3584, 18944, 28, 4, 152064, false) },
  { "Qwen2.5-VL-3B", { 631975680, 36708608, 2774771712 + 311164928 + 2048, 0 },
    qwen2_5(2048, 11008, 36, 16, 2, 151936, true) },
  { "Qwen2.5-VL-7B", { 631975680, 44574464, 6525618176 + 544997376 + 3584, 544997376 },
    qwen2_5(3584, 18944, 28, 28, 4, 152064, false) },
  { "SmolVLM-256M", { 86433024, 7077888, 106202880 + 28385280 + 576, 28385280 }, smolvlm(576, 1536, 30, 9, 3) },
  { "SmolVLM-500M", { 86433024, 11796480, 314634240 + 47308800 + 960, 47308800 }, smolvlm(960, 2560, 32, 15, 5) },
}

local function arch_of(config)
  local arch = families.of(config, "config").arch(config, "config")
  arch.max_view_patches, arch.max_view_rows = 4096, 1024
  return arch
end

local function copy(value)
  if type(value) ~= "table" or value == json.null then
    return value
  end
  local new = {}
  for k, v in pairs(value) do
    new[k] = copy(v)
  end
  return new
end

describe("a released configuration", function()
  for _, case in ipairs(released) do
    it("has the parameters of " .. case[1], function()
      local model <close> = core.new(arch_of(case[3]), {})
      local count = { vision = 0, connector = 0, language = 0, head = 0 }
      for _, param in ipairs(model:params()) do
        local n = 1
        for _, d in ipairs(param.shape) do
          n = n * d
        end
        count[param.part] = count[param.part] + n
      end
      assert.same(case[2], { count.vision, count.connector, count.language, count.head })
    end)
  end

  it("means the same under text_config, as transformers 5 writes it", function()
    local flat = released[5][3]
    local nested = copy(flat)
    nested.text_config = {}
    for _, key in ipairs { "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
      "num_key_value_heads", "vocab_size", "rms_norm_eps", "max_position_embeddings" } do
      nested.text_config[key], nested[key] = nested[key], nil
    end
    nested.text_config.rope_parameters = { rope_type = "default", rope_theta = 1000000.0, mrope_section = { 16, 24, 24 } }
    nested.text_config.layer_types = { "full_attention", "full_attention" }
    nested.rope_theta, nested.rope_scaling = nil, nil
    assert.same(arch_of(flat), arch_of(nested))
  end)

  it("of Qwen-VL keeps widths apart, and stretches positions by YaRN", function()
    local two, two_and_half = arch_of(released[3][3]), arch_of(released[5][3])
    assert.same({ 1280, 5120, 1536, 1536 }, { two.vision.width, two.vision.mlp, two.connector.out, two.text.width })
    assert.same({ 1280, 3420, 2048 }, { two_and_half.vision.width, two_and_half.vision.mlp, two_and_half.connector.out })
    assert.same({ 4, { 7, 15, 23, 31 } }, { two_and_half.vision.window, two_and_half.vision.full })
    local long = copy(released[6][3])
    long.rope_scaling = { type = "yarn", mrope_section = { 16, 24, 24 }, factor = 4.0,
      original_max_position_embeddings = 32768 }
    local text = arch_of(long).text
    assert.same({ "yarn", 4.0, 32, 1, 32768 }, { text.rope, text.rope_factor, text.rope_fast, text.rope_slow,
      text.rope_original_positions })
    assert.is_true(math.abs(text.rope_attention - 1.1386294361119891) < 1e-12)
  end)

  it("of SmolVLM may lack the head: the files settle it", function()
    local family = families.of(released[7][3], "config")
    for _, there in ipairs { true, false } do
      local arch = family.arch(released[7][3], "config", function() return there end)
      assert.equal(not there, arch.text.tied)
    end
    assert.equal(family, families.of({ model_type = "smolvlm" }, "config"))
  end)
end)

describe("a descriptor", function()
  local function refused(index, change, message)
    local config = copy(released[index][3])
    change(config)
    local ok, err = pcall(arch_of, config)
    assert.is_false(ok)
    assert.equal("config: " .. message, err)
  end

  it("names the field that it can't take", function()
    refused(2, function(c) c.vision_feature_select_strategy = "full" end,
      'vision_feature_select_strategy: wanted "default", came "full"')
    refused(2, function(c) c.vision_feature_layer = { -2, -5 } end,
      "vision_feature_layer: wanted one layer (several are not supported), came a list")
    refused(3, function(c) c.vision_config.hidden_size = 1280 end,
      "vision_config: hidden_size: wanted 1536, the decoder's hidden_size, came 1280")
    refused(3, function(c) c.rope_scaling.mrope_section = { 16, 24, 23 } end,
      "rope_scaling: mrope_section: wanted three sizes that add up to half of head_dim, 64, came a list")
    refused(3, function(c) c.rope_scaling = nil end,
      "rope_scaling: mrope_section: wanted three sizes that add up to half of head_dim, 64, came nothing")
    refused(3, function(c) c.use_sliding_window, c.max_window_layers = true, 14 end,
      "max_window_layers: wanted 0 or at least num_hidden_layers 28 where use_sliding_window is true, came 14")
    refused(3, function(c) c.layer_types = { "full_attention", "sliding_attention" } end,
      'layer_types[2]: wanted "full_attention", as for all layers, came "sliding_attention"')
    refused(3, function(c) c.vision_config.temporal_patch_size = 3 end,
      "vision_config: temporal_patch_size: wanted 1 or 2, came 3")
    refused(3, function(c) c.vision_config.num_heads = 3 end, "vision_config: num_heads: wanted a number of heads whose "
      .. "width is a multiple of 4, embed_dim being 1280, came 3")
    refused(5, function(c) c.vision_config.window_size = 20 end,
      "vision_config: window_size: wanted at least 28, a merged patch, came 20")
    refused(5, function(c) c.vision_config.fullatt_block_indexes = { 7, 32 } end,
      "vision_config: fullatt_block_indexes[2]: wanted a layer from 0 to 31, came 32")
    refused(5, function(c) c.vision_config.fullatt_block_indexes = 7 end,
      "vision_config: fullatt_block_indexes: wanted a list, came 7")
    refused(3, function(c) c.vision_config.mlp_ratio = 0.3001 end,
      "vision_config: mlp_ratio: wanted a number that makes a width of embed_dim 1280, came 0.3001")
    refused(7, function(c) c.vision_config.model_type = "clip_vision_model" end, "vision_config: model_type: wanted one of "
      .. 'idefics3, idefics3_vision, smolvlm, smolvlm_vision, came "clip_vision_model"')
    refused(7, function(c) c.quantization_config = { bits = 4 } end,
      "quantization_config: wanted none (the weights as floats), came an object")
  end)

  it("stands for every name that is offered", function()
    for _, name in ipairs(families.known) do
      local family = require("models." .. name)
      assert.equal(name, family.name)
      for _, field in ipairs { "arch", "names", "module", "patch_shape", "unused" } do
        assert.equal("function", type(family[field]), name .. "." .. field)
      end
      assert.equal("string", type(family.chat_template))
    end
  end)
end)

-- Sizes with what transformers' processor counts for LLaVA-1.6: height, width, kept lines and columns, tokens.
describe("the order of LLaVA-NeXT's tokens", function()
  local processor = require("rl4vlm.processor").parse(json.encode { image_processor_type = "LlavaNextImageProcessor",
    size = { shortest_edge = 336 }, crop_size = { height = 336, width = 336 }, do_pad = true,
    image_grid_pinpoints = { { 336, 672 }, { 672, 336 }, { 672, 672 }, { 1008, 336 }, { 336, 1008 } } }, { patch = 14 })

  it("has as many as the processor counts", function()
    for _, case in ipairs { { 300, 300, 1176 }, { 899, 1024, 2634 }, { 480, 640, 2340 }, { 640, 480, 2352 },
      { 200, 1000, 1598 }, { 720, 1280, 1948 }, { 618, 309, 1776 }, { 735, 1176, 2046 }, { 1, 2000, 576 },
      { 2000, 1, 600 } } do
      local order = anyres.order(processor:layout(case[2], case[1]))
      assert.equal(case[3], #order, case[1] .. "x" .. case[2])
    end
  end)

  it("goes line by line over the tiles", function()
    local order = anyres.order { width = 4, height = 3, h = 2, w = 2, grid_rows = 2, grid_cols = 2 }
    -- the whole image, then a 4x4 grid of 2x2 tiles without its padding; 3 of 4 lines leave half a line of it
    assert.same({ 0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1, 12, 13, 16, 17, -1, 14, 15, 18, 19, -1 }, order)
    order = anyres.order { width = 8, height = 3, h = 2, w = 2, grid_rows = 2, grid_cols = 2 }
    assert.same({ 0, 1, 2, 3, 6, 7, 10, 11, -1, 12, 13, 16, 17, -1 }, order)
  end)
end)
