-- rl4vlm.core: the model as a node on the tape, its parameters, its refusals.
local core = require "rl4vlm.core"
local rng = require "rl4vlm.rng"
local slice = require "rl4vlm.slice"
local tensor = require "rl4vlm.tensor"

local IMAGE, ROWS = 30, 4

local function arch()
  return {
    vision = { image_size = 8, patch = 4, positions = 2, width = 12, layers = 2, heads = 2, mlp = 20, act = "quick_gelu",
      eps = 1e-5, class_token = true, pre_norm = true, drop_class = true },
    connector = { ["in"] = 12, hidden = 18, out = 16, act = "gelu", bias = true },
    text = { vocab = 37, width = 16, layers = 2, heads = 4, kv_heads = 2, head_dim = 6, mlp = 24, act = "silu",
      eps = 1e-5, rope_theta = 10000, max_positions = 512 },
    image_token = IMAGE, max_view_patches = ROWS, max_view_rows = ROWS,
  }
end

local function noise(shape, seed, scale)
  local r, n, out = rng.new(seed), 1, {}
  for _, d in ipairs(shape) do
    n = n * d
  end
  for i = 1, n do
    out[i] = string.pack("<f", scale * r:normal())
  end
  return slice.new { dtype = "F32", shape = shape, data = table.concat(out) }
end

local function view(seed)
  return { patches = noise({ 4, 48 }, seed, 1), tiles = 1, h = 2, w = 2, rows = ROWS }
end

local function model(options, prepare)
  options = options or {}
  options.train = options.train or { vision = true, connector = true, language = true, head = true, value = true }
  options.value_head = true
  options.max_rows = options.max_rows or 128
  options.kv_blocks = 4
  options.threads = 1
  local m = core.new(arch(), options)
  if prepare then
    prepare(m)
  end
  for i, p in ipairs(m:params()) do
    m:set(p.role, noise(p.shape, i, 0.3))
  end
  return m
end

local function samples()
  return {
    { ids = { 1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3 }, answer = { 4, 5, 6 }, images = { view(7) } },
    { ids = { 9, 8 }, answer = { 7, 1 } },
    { ids = { 5, 6, 7, 8 }, answer = {} },
  }
end

local function close(a, b, tolerance)
  assert.is_true(math.abs(a - b) <= tolerance, ("%.9g is not %.9g"):format(a, b))
end

describe("score", function()
  it("gives log-probabilities of answers, values and offsets", function()
    local m = model()
    local out = m:score(samples(), { values = true, entropy = true, hidden = true })
    assert.same({ 0, 3, 5, 5 }, out.offsets)
    assert.same({ 5 }, out.logprobs:shape())
    assert.same({ 5 }, out.entropies:shape())
    assert.same({ 3 }, out.values:shape())
    assert.same({ 3, 16 }, out.hidden:shape())
    local s = samples()[2]
    local logits = m:logits({ s.ids[1], s.ids[2], s.answer[1] })
    assert.same({ 3, 37 }, logits:shape())
    local data, sum = logits:data(), 0
    for i = 0, 36 do
      sum = sum + math.exp(string.unpack("<f", data, (37 + i) * 4 + 1))
    end
    local want = string.unpack("<f", data, (37 + s.answer[1]) * 4 + 1) - math.log(sum)
    close(out.logprobs:to_table()[4], want, 1e-5)
    assert.same({ 5 }, m:score(samples(), { every_value = true }).values:shape())
  end)

  it("asks for any positions", function()
    local m = model()
    local answer = m:score { { ids = { 1, 2 }, answer = { 3, 4 } } }
    local asked = m:score { { ids = { 1, 2, 3 }, positions = { 2, 3 }, targets = { 3, 4 } } }
    assert.same(answer.logprobs:to_table(), asked.logprobs:to_table())
  end)

  it("carries a loss's gradient to the parameters", function()
    local m, w = model(), "text.layers.0.q.weight"
    local function loss()
      local out = m:score(samples(), { grad = true, values = true, temperature = 0.8 })
      return (out.logprobs * 0.5):sum() + (out.values * out.values):sum()
    end
    loss():backward()
    local before, grad = m:get(w):data(), m:get(w, "grad"):data()
    local step, dot, out = 1e-2, 0, { {}, {} }
    local r = rng.new(3)
    for i = 1, #before, 4 do
      local x, g, d = string.unpack("<f", before, i), string.unpack("<f", grad, i), r:normal() / 10
      dot = dot + g * d
      table.insert(out[1], string.pack("<f", x + step * d))
      table.insert(out[2], string.pack("<f", x - step * d))
    end
    local sides = {}
    for k = 1, 2 do
      m:set(w, { dtype = "F32", shape = { 24, 16 }, data = table.concat(out[k]) })
      sides[k] = tensor.no_grad(function()
        return loss():item()
      end)
    end
    assert.is_true(math.abs(dot) > 1e-3)
    close((sides[1] - sides[2]) / (2 * step), dot, 1e-3 * math.abs(dot) + 1e-4)
  end)

  it("gives no gradient to what softmax takes out again: the tower's key biases", function()
    local m = model()
    m:score(samples(), { grad = true }).logprobs:sum():backward()
    assert.equal(("\0"):rep(4 * 12), m:get("vision.layers.0.k.bias", "grad"):data())
    assert.not_equal(("\0"):rep(4 * 12), m:get("vision.layers.0.q.bias", "grad"):data())
  end)

  it("frees a score that nothing holds any more", function()
    local m = model()
    for _ = 1, 3 do
      m:score(samples(), { grad = true })
    end
    local held = m:score(samples(), { grad = true })
    assert.has_error(function()
      m:score(samples(), { grad = true })
    end, "a differentiable score is live: run its backward pass or forget it first")
    held.logprobs:sum():backward()
    assert.is_true(m:grad_norm() > 0)
    m:zero_grad()
    assert.equal(0, m:grad_norm())
  end)

  it("refuses a backward pass over changed weights and a closed model", function()
    local m = model()
    local out = m:score(samples(), { grad = true })
    m:adamw { lr = 1e-3, step = 1 }
    assert.has_error(function()
      out.logprobs:sum():backward()
    end, "the model's weights have changed since this score was made")
    out = m:score(samples(), { grad = true })
    m:close()
    assert.has_error(function()
      out.logprobs:sum():backward()
    end, "the model has been closed since this score was made")
    m:close()
  end)

  it("names wrong samples", function()
    local m = model()
    local function refused(s, message, options)
      assert.has_error(function()
        m:score(s, options)
      end, message)
    end
    local function refused_view(change, message)
      local v = view(1)
      for key, value in pairs(change) do
        v[key] = value
      end
      refused({ { ids = { 1, IMAGE, IMAGE, IMAGE, IMAGE }, images = { v } } }, message)
    end
    local function order(list)
      return { dtype = "I32", shape = { #list }, data = ("<" .. ("i4"):rep(#list)):pack(table.unpack(list)) }
    end
    refused({ { ids = { 1 } }, { ids = {} } }, "sample 2: ids is empty")
    refused({ { ids = { 1, "x" } } }, "sample 1: ids[2]: wanted an integer of 0 or more, came x")
    refused({ 5 }, "sample 1: wanted a table, came number")
    refused({ { ids = 5 } }, "sample 1: ids: wanted a list, came number")
    refused({ { ids = { 1 }, positions = { 1 }, targets = {} } }, "sample 1: 1 positions, but 0 targets")
    refused({ { ids = { 1 }, positions = { 2 }, targets = { 3 } } }, "sample 1: positions[1] is 2: it has 1 tokens")
    refused({ { ids = { 1, IMAGE } } },
      "sequence 1 has 1 image tokens, but the remaining 0 images have 0 rows")
    refused({ { ids = { 1, IMAGE }, images = { view(1) } } },
      "sequence 1 has 1 image tokens, but its next 1 images have 4 rows")
    refused({ { ids = { 1 }, images = { view(1) } } }, "1 images came, but the sequences have tokens for 0")
    refused({ { ids = { 1 }, images = { 5 } } }, "sample 1: images[1]: wanted a view, came number")
    refused_view({ patches = noise({ 4, 47 }, 1, 1) }, "sample 1: images[1]: patches: wanted F32 (4, 48)")
    refused_view({ tiles = 0 }, "sample 1: images[1]: tiles: wanted a number from 1 to 1048576, came 0")
    refused_view({ key = "abc" }, "sample 1: images[1]: key: wanted 16 bytes, came 3")
    refused_view({ key = {} }, "sample 1: images[1]: key: wanted 16 bytes, came table")
    refused_view({ rows = 3 }, "image 1: 3 tokens without an order, but 4 feature rows")
    refused_view({ h = 4, w = 1 }, "image 1: a grid of 4 x 1 patches: the tower takes 2 x 2 only")
    refused_view({ order = order { 0, 1, 2, -1 } }, "image 1: order[4] is -1: wanted 0 to 3")
    refused({ { ids = { 1 }, answer = { 2 } } }, "temperature is 0: wanted a positive number", { temperature = 0 })
    assert.error_matches(function()
      m:score({ { ids = { 1 } } }, { value = true })
    end, "unknown option 'value' %(did you mean 'values'%?%)")
  end)
end)

describe("parameters", function()
  it("are set and read by role", function()
    local m = model()
    local x = noise({ 37, 16 }, 99, 1)
    local epoch = m:epoch()
    m:set("text.embed.weight", x)
    assert.not_equal(epoch, m:epoch())
    assert.equal(x:data(), m:get("text.embed.weight"):data())
    assert.has_error(function()
      m:set("text.embed.weight", noise({ 16, 37 }, 1, 1))
    end, "text.embed.weight: wanted shape (37, 16), came (16, 37)")
    assert.error_matches(function()
      m:set("text.embed", x)
    end, "the model has no parameter 'text.embed'")
  end)

  it("learn by AdamW, the value head at its own rate", function()
    local m = model()
    m:score(samples(), { grad = true, values = true }).values:sum():backward()
    local head, body = m:get("value.4.weight"):data(), m:get("text.norm.weight"):data()
    local norm = m:adamw { lr = 0, value_lr = 1e-2, step = 1, max_norm = 1e-3 }
    assert.is_true(norm > 1e-3)
    assert.not_equal(head, m:get("value.4.weight"):data())
    assert.equal(body, m:get("text.norm.weight"):data())
  end)

  it("take adapters before anything is set", function()
    local role = "text.layers.0.q.weight"
    local m = model({ train = {} }, function(m)
      m:lora_add(1, role, { r = 3, scale = 2, train = true })
    end)
    local base = m:plan().gradients
    assert.is_true(base > 0 and base < 8192)
    m:lora_use(0)
    local off = m:score(samples()).logprobs:to_table()
    m:lora_use(1)
    assert.not_same(off, m:score(samples()).logprobs:to_table())
    assert.has_error(function()
      m:lora_add(1, "text.layers.0.k.weight", { r = 3, scale = 2 })
    end, "text.layers.0.k.weight: adapters are added before parameters are set")
    assert.has_error(function()
      model({}, function(x)
        x:lora_add(1, "text.norm.weight", { r = 3, scale = 2 })
      end)
    end, "no adapter goes beside text.norm.weight: it is no linear layer's weight")
  end)
end)

describe("a description", function()
  it("is refused by field", function()
    local function refused(change, message)
      local a = arch()
      change(a)
      assert.error_matches(function()
        core.new(a, { max_rows = 64 })
      end, message)
    end
    refused(function(a) a.text.kv_heads = 3 end, "text%.kv_heads %(3%) does not divide text%.heads %(4%)")
    refused(function(a) a.vision.heads = 5 end, "vision%.heads %(5%) does not divide vision%.width %(12%)")
    refused(function(a) a.text.width = nil end, "text%.width is 0: wanted a number from 1")
    refused(function(a) a.text.width = 17 end, "connector%.out is 16, but text%.width is 17")
    refused(function(a) a.max_view_rows = nil end, "max_view_rows is 0: wanted a number from 1")
    refused(function(a) a.vision.full = { 2 } end, "vision%.full names layers, but vision%.window is 0")
    refused(function(a) a.vision.full = { 64 } end, "vision%.full%[1%]: wanted a layer from 0 to 63, came 64")
    refused(function(a) a.connector.norm = "batch" end, "connector%.norm: no such choice: 'batch'")
    refused(function(a) a.text.mrope = { 1, 2 } end, "text%.mrope: wanted three integers, came table")
    refused(function(a) a.text.vocab = "x" end, "text%.vocab: wanted an integer, came string")
    refused(function(a) a.text.wdith = 1 end, "unknown option 'wdith' %(did you mean 'width'%?%)")
    refused(function(a) a.vision.act = "tanh" end, "vision%.act: no such choice: 'tanh'")
    refused(function(a) a.text = nil end, "text: wanted a table, came nil")
  end)

  it("gives a plan that the model keeps to", function()
    local options = { max_rows = 200, kv_blocks = 3, threads = 1, train = { language = true }, value_head = true }
    local m = core.new(arch(), options)
    local plan = m:plan()
    m:score(samples(), {})
    local device = plan.total - plan.host
    assert.is_true(math.abs(m:peak_bytes() - device) <= 0.05 * device)
  end)
end)
