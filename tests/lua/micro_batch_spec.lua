-- A minibatch in parts learns what the whole one does.
package.path = "tests/lua/?.lua;" .. package.path
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local micro_batch = require "rl4vlm.micro_batch"
local ppo = require "rl4vlm.ppo"
local rng = require "rl4vlm.rng"
local sft = require "rl4vlm.sft"
local sizes = require "rl4vlm.sizes"
local tensor = require "rl4vlm.tensor"
local tiny = require "support.tiny"
local update = require "rl4vlm.update"
local vlm = require "rl4vlm.vlm"

local SAMPLES, IMAGE = 7, 3

local function sizes_of(parts)
  local list = {}
  for i, part in ipairs(parts) do
    list[i] = #part
  end
  return list
end

local function sample(rows, images)
  local ids = {}
  for i = 1, rows do
    ids[i] = i <= images and IMAGE or 9
  end
  return { ids = ids, answer = {} }
end

describe("micro-batches", function()
  it("keep to the rows and the image rows, in the samples' order", function()
    local model = { max_rows = 10, image_rows = 4, image_token = IMAGE }
    local samples = { sample(4, 0), sample(6, 4), sample(1, 0), sample(12, 0), sample(3, 3), sample(2, 2), sample(9, 0) }
    local parts = micro_batch.cut(model, samples)
    assert.same({ 2, 1, 1, 1, 1, 1 }, sizes_of(parts))
    local order = {}
    for _, part in ipairs(parts) do
      table.move(part, 1, #part, #order + 1, order)
    end
    assert.same(samples, order)
    assert.same({}, micro_batch.cut(model, {}))
  end)

  it("take about 1024 rows of memory, of whole sequences, and no more than the minibatch has", function()
    local function rows(longest, samples, tokens)
      return sizes.rows({}, { max_rows = longest }, { samples = samples, tokens = tokens, split = true })
    end
    assert.equal(819, rows(273, 16, 273))
    assert.equal(819, rows(273, nil, 273))
    assert.equal(546, rows(273, 2, 273))
    assert.equal(2000, rows(2000, 16, 1500))
  end)
end)

local function random_ids(stream, n)
  local ids = {}
  for i = 1, n do
    ids[i] = stream:int(4, 30)
  end
  return ids
end

-- Steps of a rollout as the update sees them, of unequal lengths, with and without an image.
local function steps_for(model)
  local stream, steps = rng.new(5, "user"), {}
  for i = 1, SAMPLES do
    local ids, images = random_ids(stream, 5 + 3 * i), {}
    if i % 3 ~= 0 then
      images[1] = image.from_bytes(8, 8, string.char(30 * i):rep(192))
      table.move({ IMAGE, IMAGE, IMAGE, IMAGE }, 1, model:rows(images[1]), 3, ids)
    end
    steps[i] = { ids = ids, images = images, answer = random_ids(stream, 2 + i % 4), first = 2, index = i,
      advantage = i - 4, ret = 0.5 * i - 1 }
  end
  local out = model:score(steps, { temperature = 0.7, values = true })
  local logprobs, values = out.logprobs:tolist(), out.values:tolist()
  for i, step in ipairs(steps) do
    step.logprobs = table.move(logprobs, out.offsets[i] + 1, out.offsets[i + 1], 1, {})
    step.value, step.reference = values[i], {}
    for k, x in ipairs(step.logprobs) do
      step.reference[k] = x - 0.1 * k
    end
  end
  update.record_log_pi(steps, ppo, 0.5)
  return steps
end

local function settings_with(algorithm)
  local o = {}
  for name, field in pairs(ppo.fields) do
    o[name] = field.default
  end
  for name, value in pairs(algorithm) do
    o[name] = value
  end
  return { algorithm = o, thought_weight = 0.5, sampling = { temperature = 0.7 }, seed = 1 }
end

describe("an update in micro-batches", function()
  local dir, folder
  lazy_setup(function()
    dir = assert(fs.tempdir("micro_batch_spec"))
    folder = tiny.make(dir .. "/tiny", { "abcdefghijklmnopqrstuvwxyz" })
  end)
  lazy_teardown(function()
    fs.remove_tree(dir)
  end)

  local function load(rows)
    return vlm.load(folder, { dtype = "fp32", value_head = true, train = { "vision", "connector", "language", "head" },
      max_tokens = 64, max_rows = rows })
  end

  local function numbers(model)
    local all = {}
    for _, param in ipairs(model.core:params()) do
      local slice = model.core:get(param.role, "grad")
      all[param.role] = tensor.from_bytes(slice:data(), { #slice:data() // 4 }):tolist()
    end
    return all
  end

  -- Gradients of a step that changes nothing, and what the update measured.
  local function learned(rows, learn)
    local model <close> = load(rows)
    local result = learn(model)
    return numbers(model), result
  end

  local function near(want, got)
    for role, list in pairs(want) do
      local most, apart = 0, 0
      for i, x in ipairs(list) do
        most = math.max(most, math.abs(x))
        apart = math.max(apart, math.abs(x - got[role][i]))
      end
      assert.near(0, apart, 1e-5 * most + 1e-9, role)
    end
  end

  it("has the gradients and figures of the whole minibatch", function()
    local function learn(model)
      local steps = steps_for(model)
      return update.run({ model = model, optimizer = model:optimizer {}, loss = ppo, update = 1, lr = 0, value_lr = 0,
        settings = settings_with { epochs = 1, entropy_coef = 0.3, kl_coef = 0.2, max_grad_norm = 1e9 } }, steps)
    end
    local whole, want = learned(1024, learn)
    local parts, got = learned(64, learn)
    near(whole, parts)
    for _, name in ipairs { "pg_loss", "vf_loss", "entropy", "kl_loss", "grad_norm", "kl", "clipfrac" } do
      assert.near(want:mean(name), got:mean(name), 1e-5 * math.abs(want:mean(name)) + 1e-9, name)
    end
    assert.equal(0, got.diff_max)
  end)

  it("learns demonstrations by the mean over all their tokens", function()
    local function learn(model)
      model:zero_grad()
      return { sft.learn(model, steps_for(model)) }
    end
    local whole, want = learned(1024, learn)
    local parts, got = learned(64, learn)
    near(whole, parts)
    assert.near(want[1], got[1], 1e-5)
    assert.equal(want[2], got[2])
  end)

  it("gives a loss of the recipe's own the whole minibatch", function()
    local seen = {}
    local model <close> = load(64)
    update.run({ model = model, optimizer = model:optimizer {}, loss = ppo, update = 1, lr = 0, value_lr = 0,
      settings = settings_with { epochs = 1, loss = function(out, batch, o)
        seen[#seen + 1] = #out.offsets - 1
        return ppo.loss(out, batch, o)
      end } }, steps_for(model))
    assert.same({ SAMPLES }, seen)
  end)
end)
