-- LoRA adapters: which layers, files in PEFT's layout, several side by side, merging.
local adapter_targets = require "rl4vlm.adapter_targets"
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local llava = require "models.llava"
local merge = require "rl4vlm.merge"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local golden = "tests/golden/mistral"
local dir

local function message_of(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return (err:gsub(dir:gsub("%p", "%%%0"), "DIR"))
end

describe("an adapter", function()
  local params = vlm.open(golden):start({ threads = 1 }).core:params()

  before_each(function() dir = assert(fs.tempdir()) end)
  after_each(function() fs.remove_tree(dir) end)

  it("stands where PEFT's rules say", function()
    local cases = {
      { { target_modules = { "q_proj", "v_proj" } }, 3 * 2 - 2 + 2 * 2 }, -- the tower's as well
      { { target_modules = { "q_proj", "v_proj" }, exclude_modules = [[.*vision_tower.*]] }, 4 },
      { { target_modules = [[.*language_model.*\.(q_proj|v_proj)]] }, 4 },
      { { target_modules = { "q_proj" }, layers_to_transform = { 1 } }, 2 },
      { { target_modules = { "q_proj" }, layers_to_transform = 0, layers_pattern = "layers" }, 2 },
      { { target_modules = { "model.language_model.layers.0.self_attn.q_proj" } }, 1 },
      { { target_modules = { "language_model.model.layers.0.self_attn.q_proj" } }, 1 },
      { { target_modules = { "linear_1" } }, 1 },
      { { target_modules = { "proj" } }, 0 },
      { { target_modules = "all-linear" }, 2 * 6 + 2 + 2 * 7 },
    }
    for i, case in ipairs(cases) do
      assert.equal(case[2], #adapter_targets.pick(llava, params, case[1]), "case " .. i)
    end
  end)

  local function write(change)
    local config = json.decode(fs.read_file(golden .. "/adapter/adapter_config.json"))
    local file, tensors = safetensors.open(golden .. "/adapter/adapter_model.safetensors"), {}
    for _, name in ipairs(file:names()) do
      tensors[name] = file:get(name)
    end
    config.base_model_name_or_path = fs.realpath(golden)
    change(config, tensors)
    assert(fs.write_atomic(dir .. "/adapter_config.json", json.pretty(config)))
    safetensors.write(dir .. "/adapter_model.safetensors", tensors)
  end

  it("names what it can't be", function()
    local a = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    local unfit = ("the adapter does not fit the model (it was made for %s); "):format(fs.realpath(golden))
    local cases = {
      { function(c) c.peft_type = "LOHA" end, 'DIR/adapter_config.json: peft_type: wanted "LORA", came "LOHA"' },
      { function(c) c.use_dora = true end,
        "DIR/adapter_config.json: use_dora: wanted nothing (it is not supported), came true" },
      { function(c) c.bias = "all" end, 'DIR/adapter_config.json: bias: wanted none, came "all"' },
      { function(c) c.target_parameters = { "x" } end,
        "DIR/adapter_config.json: target_parameters: wanted nothing (it is not supported), came a list" },
      { function(c) c.r = 0 end, "DIR/adapter_config.json: r: wanted a positive whole number, came 0" },
      { function(c) c.rank_pattern.linear_1 = 5 end, "DIR/adapter_model.safetensors: " .. unfit
        .. "wrong shape (1): base_model.model.model.multi_modal_projector.linear_1.lora_A.weight "
        .. "(wanted A (5, 20) and B (24, 5), came A (3, 20) and B (24, 3))" },
      { function(c) c.rank_pattern = { q_proj = 3, [".*q_proj"] = 4 } end, nil, "both .* match it, with other values" },
      { function(_, t) t[a] = nil end, "DIR/adapter_model.safetensors: " .. unfit .. "wanted lora_A and lora_B (1): "
        .. a:gsub("_A", "_B") },
      { function(c) c.lora_bias = true end, nil, "wanted lora_A and lora_B with a bias %(5%): " },
      { function(_, t)
          t["base_model.model.x.lora_A.weight"], t["base_model.model.y"] = t[a], t[a]
          t["base_model.model.model.language_model.norm.weight"] = t[a]
        end, "DIR/adapter_model.safetensors: " .. unfit .. "no such layer (2): base_model.model.x.lora_A.weight, "
        .. "base_model.model.y; wrong shape (1): base_model.model.model.language_model.norm.weight "
        .. "(wanted (24), came (3, 24))" },
      { function(c) c.base_model_name_or_path = json.null end, "DIR/adapter_config.json: base_model_name_or_path: "
        .. "wanted the base model's folder, came none" },
    }
    for _, case in ipairs(cases) do
      write(case[1])
      local message = message_of(vlm.load, dir, { threads = 1 })
      if case[3] then
        assert.matches(case[3], message)
      else
        assert.equal(case[2], message)
      end
    end
    fs.remove(dir .. "/adapter_model.safetensors")
    assert.equal("DIR: wanted adapter_model.safetensors, found none", message_of(vlm.load, dir))
  end)

  it("is read under the names that modules had before", function()
    local ids = { 1, 5, 9, 12 }
    local new = vlm.load(golden .. "/adapter", { threads = 1 })
    write(function(_, t)
      local names = {}
      for name in pairs(t) do
        names[#names + 1] = name
      end
      for _, name in ipairs(names) do
        local value = t[name]
        t[name] = nil
        t[name:gsub("model%.language_model%.", "language_model.model.", 1)] = value
      end
    end)
    local old = vlm.load(dir, { threads = 1 })
    assert.equal(new.core:logits(ids):data(), old.core:logits(ids):data())
    new:use(nil)
    local base = vlm.load(golden, { threads = 1 })
    assert.equal(base.core:logits(ids):data(), new.core:logits(ids):data())
    assert.are_not.equal(base.core:logits(ids):data(), old.core:logits(ids):data())
  end)

  it("goes on from where it was saved", function()
    local ids, answer = { 1, 5, 9, 12 }, { 7, 3 }
    local function train(model, optimizer)
      local loss = -model.core:score({ { ids = ids, answer = answer } }, { grad = true }).logprobs:sum()
      loss:backward()
      optimizer:step { lr = 1e-2, max_norm = 1 }
    end
    local first = vlm.load(golden, { threads = 1, lora = { r = 2, alpha = 4, seed = 5 }, value_head = true, seed = 6 })
    local optimizer = first:optimizer { weight_decay = 0.1 }
    train(first, optimizer)
    first:save_adapter(dir .. "/adapter")
    optimizer:save(dir .. "/optimizer.safetensors")
    train(first, optimizer)
    local second = vlm.load(dir .. "/adapter", { threads = 1, train_adapter = true, value_head = true })
    local resumed = second:optimizer { weight_decay = 0.1 }
    resumed:load(dir .. "/optimizer.safetensors")
    train(second, resumed)
    assert.equal(2, resumed.steps)
    assert.equal(first.core:logits(ids):data(), second.core:logits(ids):data())
    for _, role in ipairs { "text.layers.1.down.weight.lora_a", "value.0.weight" } do
      assert.equal(first.core:get(role):data(), second.core:get(role):data())
    end
  end)

  local ids, answer = { 1, 5, 9, 12 }, { 7, 3, 20 }

  local function step(model, optimizer)
    local loss = -model.core:score({ { ids = ids, answer = answer } }, { grad = true }).logprobs:sum()
    loss:backward()
    optimizer:step { lr = 1e-2, max_norm = 1 }
    model:zero_grad()
  end

  local function logits(model, name)
    model:use(name)
    local data = model.core:logits(ids):data()
    model:use("adapter")
    return data
  end

  it("learns beside a frozen one, which stays what it was", function()
    local model <close> = vlm.load(golden .. "/adapter", { threads = 1, train_adapter = true,
      reference = golden .. "/adapter", seed = 1 })
    local start, base = logits(model, "reference"), logits(model, nil)
    assert.equal(start, logits(model, "adapter"))
    assert.are_not.equal(start, base)
    local optimizer, reference = model:optimizer(), {}
    for _, param in ipairs(model.core:params()) do
      assert.equal(param.role:match("%.lora_[ab]$") ~= nil, param.trained)
      if param.role:match("%.lora_[ab]%.1$") then
        reference[param.role] = model.core:get(param.role):data()
      end
    end
    step(model, optimizer)
    step(model, optimizer)
    assert.equal(start, logits(model, "reference"))
    assert.equal(base, logits(model, nil))
    assert.are_not.equal(start, logits(model, "adapter"))
    for role, data in pairs(reference) do
      assert.equal(data, model.core:get(role):data())
    end
    assert.has_error(function() model:use("other") end, "the model has no adapter 'other'")
  end)

  it("scored with and learned without, gives its gradients to the one in use", function()
    local function gradients(between)
      local model <close> = vlm.load(golden .. "/adapter", { threads = 1, train_adapter = true,
        reference = golden .. "/adapter" })
      local out = model.core:score({ { ids = ids, answer = answer } }, { grad = true }).logprobs:sum()
      if between then
        model:use("reference")
        model.core:score({ { ids = answer, answer = ids } })
        model:use("adapter")
      end
      out:backward()
      local list = {}
      for _, param in ipairs(model.core:params()) do
        list[#list + 1] = param.trained and model.core:get(param.role, "grad"):data() or nil
      end
      return list
    end
    assert.same(gradients(false), gradients(true))
  end)

  it("takes ranks, biases and whole modules by pattern, and goes through a file", function()
    local made <close> = vlm.load(golden, { threads = 1, lora = { r = 2, alpha = 6, targets = { "q_proj", "down_proj",
      "linear_1" }, exclude = [[.*vision_tower.*]], rank_pattern = { down_proj = 4 },
      alpha_pattern = { ["layers\\.1\\..*"] = 3 }, rslora = true, bias = true, save = { "linear_2", "norm" },
      seed = 7 } })
    local shapes = {}
    for _, param in ipairs(made.core:params()) do
      if param.trained then
        shapes[param.role] = param.shape
      end
    end
    assert.same({ 4, 40 }, shapes["text.layers.0.down.weight.lora_a"])
    assert.same({ 2, 24 }, shapes["text.layers.1.q.weight.lora_a"])
    assert.same({ 60 }, shapes["text.layers.1.q.weight.lora_bias"])
    assert.same({ 24, 24 }, shapes["connector.1.weight"])
    assert.same({ 24 }, shapes["text.norm.weight"])
    assert.is_nil(shapes["vision.layers.0.q.weight.lora_a"])
    local optimizer = made:optimizer()
    for _ = 1, 3 do
      step(made, optimizer)
    end
    made:save_adapter(dir .. "/a")
    local config = json.decode(fs.read_file(dir .. "/a/adapter_config.json"))
    assert.same({ true, true, 2, 6, "linear_2" }, { config.lora_bias, config.use_rslora, config.r, config.lora_alpha,
      config.modules_to_save[1] })
    local read <close> = vlm.load(dir .. "/a", { threads = 1 })
    assert.equal(made.core:logits(ids):data(), read.core:logits(ids):data())
    assert.matches("%.lora_A.weight: the adapter has a bias where the base has none: it cannot be merged$",
      message_of(merge.write, vlm.open(dir .. "/a"), dir .. "/refused"))
    assert.is_false(fs.exists(dir .. "/refused"))
  end)

  it("is written under the names of now, which its config then names", function()
    local a <close> = vlm.load(golden .. "/adapter", { threads = 1 })
    write(function(c, t)
      local names = {}
      for name in pairs(t) do
        names[#names + 1] = name
      end
      for _, name in ipairs(names) do
        local value = t[name]
        t[name] = nil
        t[name:gsub("model%.language_model%.", "language_model.model.", 1)] = value
      end
      c.target_modules = [[language_model\.model\..*(q_proj|down_proj)|multi_modal_projector.linear_1]]
    end)
    local old <close> = vlm.load(dir, { threads = 1 })
    old:save_adapter(dir .. "/new")
    local config = json.decode(fs.read_file(dir .. "/new/adapter_config.json"))
    assert.same({ "model.language_model.layers.0.mlp.down_proj", "model.language_model.layers.0.self_attn.q_proj",
      "model.language_model.layers.1.mlp.down_proj", "model.language_model.layers.1.self_attn.q_proj",
      "model.multi_modal_projector.linear_1" }, config.target_modules)
    assert.same(safetensors.open(golden .. "/adapter/adapter_model.safetensors"):names(),
      safetensors.open(dir .. "/new/adapter_model.safetensors"):names())
    local new <close> = vlm.load(dir .. "/new", { threads = 1 })
    assert.equal(a.core:logits(ids):data(), new.core:logits(ids):data())
  end)

  it("is merged into its base", function()
    local adapted <close> = vlm.load(golden .. "/adapter", { threads = 1 })
    merge.write(vlm.open(golden .. "/adapter"), dir .. "/merged", "F32")
    local merged <close> = vlm.load(dir .. "/merged", { threads = 1 })
    local want, got = adapted.core:logits(ids):list(), merged.core:logits(ids):list()
    for i = 1, #want do
      assert.is_true(math.abs(want[i] - got[i]) < 1e-4)
    end
    merge.write(vlm.open(golden .. "/adapter"), dir .. "/half")
    local base, half = safetensors.open(golden .. "/model.safetensors"), safetensors.open(dir .. "/half/model.safetensors")
    assert.same(base:names(), half:names())
    for _, name in ipairs(base:names()) do
      assert.equal(base:get(name):dtype(), half:get(name):dtype())
    end
  end)

  it("is merged with the value head that lies beside it", function()
    local made <close> = vlm.load(golden, { threads = 1, lora = { r = 2 }, value_head = true, seed = 4 })
    made:save_adapter(dir .. "/a")
    merge.write(vlm.open(dir .. "/a"), dir .. "/merged")
    local merged <close> = vlm.load(dir .. "/merged", { threads = 1, value_head = true, seed = 5 })
    assert.equal(made.core:get("value.2.weight"):data(), merged.core:get("value.2.weight"):data())
  end)

  it("of Qwen's models under their old names is that under the new ones", function()
    for _, name in ipairs { "qwen2", "qwen2.5" } do
      local base = "tests/golden/families/" .. name
      local new <close> = vlm.load(base .. "/adapter", { threads = 1 })
      local file, tensors, renamed = safetensors.open(base .. "/adapter/adapter_model.safetensors"), {}, 0
      for _, tensor in ipairs(file:names()) do
        local old, n = tensor:gsub("^base_model%.model%.model%.language_model%.", "base_model.model.model.")
        old = n == 0 and old:gsub("^base_model%.model%.model%.visual%.", "base_model.model.visual.") or old
        tensors[old], renamed = file:get(tensor), renamed + (old ~= tensor and 1 or 0)
      end
      assert.equal(#file:names(), renamed)
      local config = json.decode(fs.read_file(base .. "/adapter/adapter_config.json"))
      config.base_model_name_or_path = fs.realpath(base)
      assert(fs.write_atomic(dir .. "/adapter_config.json", json.pretty(config)))
      safetensors.write(dir .. "/adapter_model.safetensors", tensors)
      local old <close> = vlm.load(dir, { threads = 1 })
      assert.equal(new.core:logits({ 1, 5, 9 }):data(), old.core:logits({ 1, 5, 9 }):data())
      new:use(nil)
      assert.are_not.equal(new.core:logits({ 1, 5, 9 }):data(), old.core:logits({ 1, 5, 9 }):data())
      old:save_adapter(dir .. "/again")
      assert.same(file:names(), safetensors.open(dir .. "/again/adapter_model.safetensors"):names())
    end
  end)

  it("is planned for by the tools", function()
    local pipe = assert(io.popen(("%s -m inspect %s --adapter %s/adapter --json"):format(host.exe, golden, golden)))
    assert.is_true(json.decode(pipe:read("a")).bytes.lora.gradients > 0)
    assert.is_true(pipe:close())
  end)

  it("does not begin on top of another", function()
    assert.equal(("lora: a fresh adapter cannot begin on top of %s: merge that into its base first (rl4vlm -m merge)")
      :format(golden .. "/adapter"),
      message_of(vlm.load, golden .. "/adapter", { lora = { r = 2 } }))
  end)
end)
