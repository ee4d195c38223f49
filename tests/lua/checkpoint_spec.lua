-- Model folders and adapters: what is wrong is named, what is written is whole.
local checkpoint = require "rl4vlm.checkpoint"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local llava = require "models.llava"
local model_name = require "rl4vlm.model_name"
local regex = require "rl4vlm.regex"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"
local vlm = require "rl4vlm.vlm"

local golden = "tests/golden/mistral"
local dir

local function message_of(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return (err:gsub(dir:gsub("%p", "%%%0"), "DIR"))
end

-- A copy of the golden folder whose config and tensors a function may change.
local function copy(change)
  local config = json.decode(fs.read_file(golden .. "/config.json"))
  local file, tensors = safetensors.open(golden .. "/model.safetensors"), {}
  for _, name in ipairs(file:names()) do
    tensors[name] = file:get(name)
  end
  if change then
    change(config, tensors)
  end
  assert(fs.write_atomic(dir .. "/config.json", json.pretty(config)))
  safetensors.write(dir .. "/model.safetensors", tensors)
end

local function load_copy(change)
  copy(change)
  return vlm.load(dir, { threads = 1 })
end

local function zeros(shape)
  return slice.random(shape, "constant", 0, 0, "zero")
end

describe("a model's folder", function()
  before_each(function() dir = assert(fs.tempdir()) end)
  after_each(function() fs.remove_tree(dir) end)

  it("names what is not there", function()
    assert.equal("DIR: wanted a model's folder with config.json in it, or a run with a checkpoint",
      message_of(vlm.load, dir))
    assert.matches("^no model 'cardlin' %(did you mean 'cardling'%?%): wanted a folder, a run, or a built%-in model",
      message_of(vlm.load, "cardlin"))
    copy()
    fs.remove(dir .. "/model.safetensors")
    assert.equal("DIR: wanted model.safetensors or model.safetensors.index.json, found neither",
      message_of(vlm.load, dir))
    assert(fs.write_atomic(dir .. "/pytorch_model.bin", "x"))
    assert.matches("^DIR holds pytorch_model.bin, a pickle, which is not read", message_of(vlm.load, dir))
  end)

  it("refuses a config that is no JSON object", function()
    for _, text in ipairs { "", "[1", "7", '{"model_type":' } do
      assert(fs.write_atomic(dir .. "/config.json", text))
      assert.matches("^DIR/config.json: wanted a JSON object", message_of(vlm.load, dir))
    end
  end)

  it("names the field that is wrong", function()
    local known = "DIR/config.json: model_type: wanted a family with a descriptor in models/ (idefics3, llava, "
      .. "llava_llama, llava_mistral, llava_next, qwen2_5_vl, qwen2_vl, smolvlm), came "
    local cases = {
      { function(c) c.model_type = "bert" end,
        known .. "bert" },
      { function(c) c.model_type = "qwen2vl" end, known .. "qwen2vl (did you mean qwen2_vl?)" },
      { function(c) c.model_type = nil end, known .. "nothing" },
      { function(c) c.model_type = json.null end, known .. "null" },
      { function(c) c.text_config.hidden_size = 1 << 40 end,
        "DIR/config.json: text_config: hidden_size: wanted at most 2147483647, came 1099511627776" },
      { function(c) c.text_config.rms_norm_eps = json.null end,
        "DIR/config.json: text_config: rms_norm_eps: wanted a positive number, came null" },
      { function(c) c.model_type = "../llava" end,
        known .. '"../llava"' },
      { function(c) c.vision_feature_layer = { -2, -3 } end,
        "DIR/config.json: vision_feature_layer: wanted one layer (several are not supported), came a list" },
      { function(c) c.vision_feature_layer = -9 end,
        "DIR/config.json: vision_feature_layer: wanted a layer of a tower with 3, came -9" },
      { function(c) c.vision_feature_select_strategy = "cls" end,
        'DIR/config.json: vision_feature_select_strategy: wanted one of default, full, came "cls"' },
      { function(c) c.text_config.hidden_size = 24.5 end,
        "DIR/config.json: text_config: hidden_size: wanted a positive whole number, came 24.5" },
      { function(c) c.text_config.hidden_size = "24" end,
        'DIR/config.json: text_config: hidden_size: wanted a positive whole number, came "24"' },
      { function(c) c.text_config.num_key_value_heads = 4 end,
        "DIR/config.json: text_config: num_key_value_heads: wanted a divisor of num_attention_heads 6, came 4" },
      { function(c) c.text_config.rms_norm_eps = -1 end,
        "DIR/config.json: text_config: rms_norm_eps: wanted a positive number, came -1" },
      { function(c) c.text_config.model_type = "gpt2" end,
        'DIR/config.json: text_config: model_type: wanted one of llama, mistral, came "gpt2"' },
      { function(c) c.text_config.rope_parameters.rope_type = "longrope" end,
        'DIR/config.json: text_config: rope_parameters: rope_type: wanted default, linear, llama3 or yarn, came "longrope"' },
      { function(c) c.vision_config = 3 end, "DIR/config.json: vision_config: wanted an object, came 3" },
      { function(c) c.vision_config.model_type = "siglip" end,
        'DIR/config.json: vision_config: model_type: wanted "clip_vision_model", came "siglip"' },
      { function(c) c.projector_hidden_act = "tanh" end, "DIR/config.json: projector_hidden_act: wanted one of "
        .. 'gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu, swish, came "tanh"' },
      { function(c) c.quantization_config = { bits = 4 } end,
        "DIR/config.json: quantization_config: wanted none (the weights as floats), came an object" },
    }
    for _, case in ipairs(cases) do
      copy(case[1])
      assert.equal(case[2], message_of(vlm.load, dir))
    end
  end)

  it("lists all tensors that do not fit at once", function()
    assert.equal("DIR: the tensors are not those of its config.json; missing (1): language_model.model.norm.weight; "
      .. "wrong shape (1): multi_modal_projector.linear_1.weight (wanted (24, 20), came (20, 24)); wrong type (1): "
      .. "vision_tower.pre_layrnorm.bias (wanted F32, F16 or BF16, came I32); unknown (1): language_model.extra",
      message_of(load_copy, function(_, t)
        t["language_model.model.norm.weight"] = nil
        t["multi_modal_projector.linear_1.weight"] = zeros { 20, 24 }
        t["vision_tower.pre_layrnorm.bias"] = slice.new { dtype = "I32", shape = { 20 }, data = ("\0"):rep(80) }
        t["language_model.extra"] = zeros { 1 }
      end))
  end)

  it("keeps tensors that the model does not use", function()
    local extra = "vision_tower.embeddings.position_ids"
    local model = load_copy(function(_, t)
      t[extra] = slice.new { dtype = "I64", shape = { 1, 2 }, data = string.pack("<i8i8", 0, 1) }
    end)
    model:save(dir .. "/saved")
    local old, new = safetensors.open(dir .. "/model.safetensors"), safetensors.open(dir .. "/saved/model.safetensors")
    assert.same(old:names(), new:names())
    for _, name in ipairs(old:names()) do
      assert.equal(old:get(name):dtype(), new:get(name):dtype())
      assert.equal(old:get(name):data(), new:get(name):data())
    end
    model:close()
  end)

  it("is written in shards when it is large", function()
    local model, before = load_copy(), checkpoint.shard_bytes
    checkpoint.shard_bytes = 30000
    model:save(dir .. "/saved")
    checkpoint.shard_bytes = before
    assert.same({ "config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors", "model.safetensors.index.json" }, fs.list(dir .. "/saved"))
    local index = json.decode(fs.read_file(dir .. "/saved/model.safetensors.index.json"))
    assert.equal(model.source:size().bytes, index.metadata.total_size)
    local again = vlm.load(dir .. "/saved", { threads = 1 })
    assert.equal(model.core:logits({ 1, 5, 9 }):data(), again.core:logits({ 1, 5, 9 }):data())
    again:save(dir .. "/twice") -- in the shards that it came in
    assert.same(fs.list(dir .. "/saved"), fs.list(dir .. "/twice"))
  end)

  it("reads null and absent fields as transformers does", function()
    local function arch(change)
      local config = { model_type = "llava", text_config = { model_type = "mistral" } }
      change(config)
      return llava.arch(config, "config")
    end
    assert.equal(4096, arch(function() end).text.window)
    assert.equal(0, arch(function(c) c.text_config.sliding_window = json.null end).text.window)
    assert.equal(8, arch(function() end).text.kv_heads)
    assert.equal(32, arch(function(c) c.text_config.num_key_value_heads = json.null end).text.kv_heads)
    assert.equal(24 - 1, arch(function() end).vision.layers) -- LLaVA-1.5's tower
    assert.equal(12, arch(function(c) c.vision_config = {}; c.vision_feature_layer = -1 end).vision.layers)
    local old = arch(function(c)
      c.text_config = { rope_theta = 5000, rope_scaling = { type = "linear", factor = 2.0 } }
    end).text
    assert.same({ 5000, "linear", 2, 32 }, { old.rope_theta, old.rope, old.rope_factor, old.kv_heads })
    assert.is_false(arch(function(c) c.vision_feature_select_strategy = "full" end).vision.drop_class)
  end)

  it("is replaced whole or not at all", function()
    assert(fs.mkdirs(dir .. "/out"))
    assert(fs.write_atomic(dir .. "/out/old", "x"))
    assert.has_error(function()
      checkpoint.write_folder(dir .. "/out", function(temporary)
        assert(fs.write_atomic(temporary .. "/new", "y"))
        error("no more", 0)
      end)
    end, "no more")
    assert.same({ "out" }, fs.list(dir))
    assert.same({ "old" }, fs.list(dir .. "/out"))
    checkpoint.write_folder(dir .. "/out", function(temporary)
      assert(fs.write_atomic(temporary .. "/new", "y"))
    end)
    assert.same({ "out" }, fs.list(dir))
    assert.same({ "new" }, fs.list(dir .. "/out"))
  end)

  it("refuses options that do not exist", function()
    assert.has_error(function() vlm.load(golden, { slot = 2 }) end, "unknown option 'slot' (did you mean 'slots'?)")
    assert.has_error(function() vlm.load(golden, { dtype = "fp8" }) end, "dtype: wanted fp32, bf16 or fp16, came fp8")
  end)
end)

describe("a model's name", function()
  before_each(function() dir = assert(fs.tempdir()) end)
  after_each(function() fs.remove_tree(dir) end)

  it("is a folder, a run, or a run's checkpoint", function()
    local run = dir .. "/run"
    for _, path in ipairs { "/checkpoints/3/model", "/checkpoints/12/model" } do
      assert(fs.mkdirs(run .. path))
      assert(fs.write_atomic(run .. path .. "/config.json", "{}"))
    end
    assert(fs.write_atomic(run .. "/manifest.json", "{}"))
    assert.equal(run .. "/checkpoints/12/model", model_name.resolve(run))
    assert.equal(run .. "/checkpoints/3/model", model_name.resolve(run .. "/checkpoints/3/"))
    assert(fs.write_atomic(run .. "/best", "checkpoints/3\n"))
    assert.equal(run .. "/checkpoints/3/model", model_name.resolve(run))
    assert.equal(run .. "/checkpoints/3/model", model_name.resolve(run .. "/best"))
    assert.equal(golden, model_name.resolve(golden))
    assert.equal(golden .. "/adapter/..", model_name.base_of(golden .. "/adapter", ".."))
  end)
end)

describe("regular expressions", function()
  it("match the whole text", function()
    assert.is_true(regex.full_match("a|ab", "ab"))
    assert.is_true(regex.full_match([[(.*\.)?(q_proj)]], "x.q_proj"))
    assert.is_false(regex.full_match("q", "q_proj"))
    assert.has_error(function() regex.full_match("(", "") end,
      "regular expression '(': missing closing parenthesis at byte 1")
    assert.has_error(function() regex.full_match("(a+)+[bc]d", ("a"):rep(60) .. "d") end,
      "regular expression '(a+)+[bc]d': matching took too long")
  end)
end)
