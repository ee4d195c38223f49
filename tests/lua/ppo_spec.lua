local gae = require "rl4vlm.gae"
local ppo = require "rl4vlm.ppo"
local rng = require "rl4vlm.rng"
local tensor = require "rl4vlm.tensor"

-- A_t by its definition: the sum over k of (gamma lambda)^k delta_{t+k}, up to the episode's end.
local function by_definition(t, gamma, lambda)
  local n, advantages = #t.rewards, {}
  local function delta(i)
    local after = t.done[i] and 0 or (t.values[i + 1] or t.bootstrap)
    return t.rewards[i] + gamma * after - t.values[i]
  end
  for i = 1, n do
    local sum = 0
    for k = i, n do
      sum = sum + (gamma * lambda) ^ (k - i) * delta(k)
      if t.done[k] then
        break
      end
    end
    advantages[i] = sum
  end
  return advantages
end

describe("gae", function()
  it("is its definition", function()
    for seed = 1, 40 do
      local r = rng.new(seed)
      local t = { rewards = {}, values = {}, done = {}, bootstrap = r:normal() }
      for i = 1, r:int(1, 20) do
        t.rewards[i], t.values[i], t.done[i] = r:normal(), r:normal(), r:below(4) == 0
      end
      local advantages, returns = gae(t, 0.9, 0.95)
      for i, want in ipairs(by_definition(t, 0.9, 0.95)) do
        assert.near(want, advantages[i], 1e-12)
        assert.near(want + t.values[i], returns[i], 1e-12)
      end
    end
  end)
  it("with lambda 1 gives discounted returns, with 0 one step", function()
    local t = { rewards = { 1, 2, 3 }, values = { 5, 5, 5 }, done = { false, false, true } }
    local _, returns = gae(t, 0.5, 1)
    assert.same({ 1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3 }, returns)
    local advantages = gae(t, 0.5, 0)
    assert.same({ 1 + 2.5 - 5, 2 + 2.5 - 5, 3 - 5 }, advantages)
  end)
  it("takes and gives tensors", function()
    local advantages, returns = gae({ rewards = tensor.new({ 1, 1 }, "f32"), values = tensor.new({ 0, 0 }, "f32"),
      done = { false, false }, bootstrap = 2 }, 1, 1)
    assert.same({ 4, 3 }, advantages:tolist())
    assert.same({ 4, 3 }, returns:tolist())
  end)
  it("refuses what does not fit", function()
    assert.has_error(function()
      gae({ rewards = { 1 }, values = { 1, 2 }, done = { true } }, 1, 1)
    end, "gae: 1 rewards, 2 values, 1 done flags: wanted equal counts")
    assert.has_error(function()
      gae({}, 1, 1)
    end, "gae: wanted `rewards`, a list or a tensor, got a nil")
    assert.has_error(function()
      gae({ rewards = { 1 }, values = { 1 }, done = { true } }, 1)
    end, "gae: lambda: wanted a number, got a nil")
    assert.has_error(function()
      gae({ rewards = { 1 }, values = { 1 }, done = { false } }, 1, 1)
    end, "gae: the last step did not end its episode: wanted `bootstrap`, the next state's value")
  end)
end)

-- Three samples of 2, 3 and 1 tokens.
local offsets = { 0, 2, 5, 6 }
local weights = { 0.5, 1, 0.5, 0.5, 1, 1 }
local recorded = { -1, -0.5, -2, -0.25, -0.75, -0.1 }

local function setting(o)
  local settings = {}
  for name, field in pairs(ppo.fields) do
    settings[name] = field.default
  end
  for name, value in pairs(o or {}) do
    settings[name] = value
  end
  return settings
end

-- Outputs of a model that moved its log-probabilities by `shift`, and the batch.
local function case(shift, values)
  local moved = {}
  for i, x in ipairs(recorded) do
    moved[i] = x + (shift[i] or 0)
  end
  local out = {
    logprobs = tensor.new(moved, "f32"):requires_grad_(true),
    values = tensor.new(values or { 0.5, -1, 2 }, "f32"):requires_grad_(true),
    entropies = tensor.new({ 1, 2, 3, 4, 5, 6 }, "f32"):requires_grad_(true),
    offsets = offsets,
  }
  local batch = {
    weights = tensor.new(weights),
    old_log_pi = ppo.log_pi(tensor.new(recorded), tensor.new(weights), offsets),
    old_values = tensor.new({ 0, 0, 0 }, "f32"),
    advantages = tensor.new({ 1, -2, 0.5 }, "f32"),
    returns = tensor.new({ 1, 1, 1 }, "f32"),
  }
  return out, batch
end

describe("ppo", function()
  it("weighs the thought", function()
    local log_pi = ppo.log_pi(tensor.new(recorded), tensor.new(weights), offsets)
    assert.same({ -1, -1.875 }, { log_pi:tolist()[1], log_pi:tolist()[2] })
    assert.near(-0.1, log_pi:tolist()[3], 1e-7)
  end)

  it("has ratio exactly 1 and the plain policy gradient where nothing has moved", function()
    local out, batch = case({})
    local loss, parts = ppo.loss(out, batch, setting { value_coef = 0 })
    assert.same({ 1, 1, 1 }, parts.ratio:tolist())
    loss:backward()
    local want = { -0.5 / 3, -1 / 3, 1 / 3, 1 / 3, 2 / 3, -0.5 / 3 }
    for i, g in ipairs(out.logprobs.grad:tolist()) do
      assert.near(want[i], g, 1e-6)
    end
    assert.near(-(1 - 2 + 0.5) / 3, parts.policy:item(), 1e-6)
  end)

  it("stops the gradient outside the clip range on the side that profits", function()
    -- A = 1 and ratio e^0.5: clipped; A = -2 and ratio e^-0.5: clipped; A = 0.5, ratio e^-0.5: not
    local out, batch = case { [2] = 0.5, [5] = -0.5, [6] = -0.5 }
    local loss = ppo.loss(out, batch, setting { value_coef = 0, clip = 0.2 })
    loss:backward()
    local g = out.logprobs.grad:tolist()
    for i = 1, 5 do
      assert.equal(0, g[i])
    end
    assert.near(-0.5 / 3 * math.exp(-0.5), g[6], 1e-6)
    assert.near(-(1.2 - 2 * 0.8 + 0.5 * math.exp(-0.5)) / 3, loss:item(), 1e-6)
  end)

  it("keeps the gradient that corrects a move in the wrong direction", function()
    local out, batch = case { [5] = 3 } -- A = -2 and ratio e^3
    local loss = ppo.loss(out, batch, setting { value_coef = 0, clip = 0.2 })
    loss:backward()
    assert.near(2 / 3 * math.exp(3), out.logprobs.grad:tolist()[5], 1e-4)
  end)

  it("fits values, clipped where asked", function()
    local out, batch = case({})
    local loss, parts = ppo.loss(out, batch, setting { value_coef = 0.5 })
    assert.near(0.5 * (0.25 + 4 + 1) / 3, parts.value:item(), 1e-6)
    loss:backward()
    local g = out.values.grad:tolist()
    assert.near(0.5 * -0.5 / 3, g[1], 1e-6)
    assert.near(0.5 * -2 / 3, g[2], 1e-6)
    -- 0.5 clipped to 0.1: (0.1 - 1)^2 > 0.25; 2 clipped to 0.1: (0.1 - 1)^2 < 1
    local clipped = ppo.value_loss(out.values:detach(), batch.old_values, batch.returns, 0.1)
    assert.near(0.5 * (0.81 + 4 + 1) / 3, clipped:item(), 1e-6)
  end)

  it("adds entropy and KL where asked", function()
    local out, batch = case({})
    batch.reference = tensor.new({ -1, -0.5, -2, -0.25, -0.75, -1.1 }, "f32")
    local _, parts = ppo.loss(out, batch, setting { entropy_coef = 0.1, kl_coef = 0.2 })
    assert.near(3.5, parts.entropy:item(), 1e-6)
    assert.near((math.exp(-1) + 1 - 1) / 3, parts.kl:item(), 1e-6)
  end)

  it("normalises over the whole rollout", function()
    local list = ppo.normalize(tensor.new({ 1, 2, 3, 6 }, "f32")):tolist()
    local deviation = math.sqrt((4 + 1 + 0 + 9) / 4)
    for i, x in ipairs { -2, -1, 0, 3 } do
      assert.near(x / (deviation + 1e-5), list[i], 1e-6)
    end
  end)
end)
