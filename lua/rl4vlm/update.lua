-- update.lua - one PPO update: epochs of minibatches over a rollout, and the guards around them.
local kinds = require "rl4vlm.kinds"
local micro_batch = require "rl4vlm.micro_batch"
local place = require "rl4vlm.place"
local rng = require "rl4vlm.rng"
local split = require "rl4vlm.split"
local stats = require "rl4vlm.stats"
local tensor = require "rl4vlm.tensor"

local M = {}

-- What scoring wants of some samples.
local function batch_of(steps)
  local samples = {}
  for i, step in ipairs(steps) do
    samples[i] = { ids = step.ids, images = step.images, answer = step.answer }
  end
  return samples
end

local function append(list, more)
  table.move(more, 1, #more, #list + 1, list)
end

-- The tokens' weights, recorded log-probabilities and offsets of some samples behind one another.
local function packed(steps, thought_weight)
  local weights, logprobs, offsets = {}, {}, { 0 }
  for i, step in ipairs(steps) do
    append(weights, split.weights(#step.answer, step.first, thought_weight))
    append(logprobs, step.logprobs)
    offsets[i + 1] = #weights
  end
  return tensor.new(weights, "f32"), tensor.new(logprobs, "f32"), offsets
end

local function column(steps, key)
  local list = {}
  for i, step in ipairs(steps) do
    list[i] = step[key]
  end
  return tensor.new(list, "f32")
end

---Puts log pi under the sampling policy into each step (`log_pi`), from its recorded tokens.
---@param steps rl4vlm.Step[]
---@param loss table the algorithm's module
---@param thought_weight number
function M.record_log_pi(steps, loss, thought_weight)
  local weights, logprobs, offsets = packed(steps, thought_weight)
  for i, x in ipairs(loss.log_pi(logprobs, weights, offsets):tolist()) do
    steps[i].log_pi = x
  end
end

---Puts the reference model's token log-probabilities into each step (`reference`).
---@param steps rl4vlm.Step[]
---@param model table
---@param size integer samples scored at a time
---@param temperature number
function M.record_reference(steps, model, size, temperature)
  for from = 1, #steps, size do
    local part = table.move(steps, from, math.min(from + size - 1, #steps), 1, {})
    local out = model:score(batch_of(part), { temperature = temperature })
    local logprobs = out.logprobs:tolist()
    for i, step in ipairs(part) do
      step.reference = table.move(logprobs, out.offsets[i] + 1, out.offsets[i + 1], 1, {})
    end
  end
end

-- What the loss is told of some steps, where the minibatch has so many samples and tokens.
local function loss_batch(steps, settings, advantages, samples, tokens)
  local weights, logprobs = packed(steps, settings.thought_weight)
  local reference
  if settings.algorithm.kl_coef > 0 then
    reference = {}
    for _, step in ipairs(steps) do
      append(reference, step.reference)
    end
    reference = tensor.new(reference, "f32")
  end
  local mine = {}
  for i, step in ipairs(steps) do
    mine[i] = advantages[step.index]
  end
  return {
    weights = weights,
    recorded = logprobs,
    old_log_pi = column(steps, "log_pi"),
    old_values = column(steps, "value"),
    advantages = tensor.new(mine, "f32"),
    returns = column(steps, "ret"),
    reference = reference,
    samples = samples,
    tokens = tokens,
  }
end

-- Stops the run with the cause named, before a bad step reaches the weights; log-ratios behind `first` are new.
local function guard(where, loss, log_ratios, first, o)
  if not kinds.finite(loss) then
    error(("%s: the loss is %s"):format(where, tostring(loss)), 0)
  end
  for i = first + 1, #log_ratios do
    local x = log_ratios[i]
    if x ~= x or math.abs(x) > o.max_log_ratio then
      error(("%s: sample %d: log(pi / pi_old) is %.6g, the bound (algorithm.max_log_ratio) is %.6g")
        :format(where, i, x, o.max_log_ratio), 0)
    end
  end
end

-- How far token probabilities of a scoring pass are from those of sampling, a number a token.
local function probs_diff(out, batch)
  return (out.logprobs:detach():exp() - batch.recorded:exp()):abs():tolist()
end

local function check_first(where, max, o)
  if max ~= max or max > o.max_probs_diff then
    error(("%s: token probabilities of sampling and scoring differ by %.3g, the bound "
      .. "(algorithm.max_probs_diff) is %.3g"):format(where, max, o.max_probs_diff), 0)
  end
end

local Sums = {}
Sums.__index = Sums

function Sums:add(name, x)
  self[name] = self[name] or {}
  table.insert(self[name], x)
end

function Sums:mean(name)
  return self[name] and stats.mean(self[name])
end

-- Share of samples outside the clip range, mean k3 of the policy's move, largest ratio, the loss's parts.
local function measure(sums, seen, o)
  local clipped, kl, largest, n = 0, 0.0, 0.0, #seen.log_ratios
  for _, x in ipairs(seen.log_ratios) do
    local ratio = math.exp(x)
    clipped = clipped + (math.abs(ratio - 1) > o.clip and 1 or 0)
    kl = kl + ratio - 1 - x
    largest = math.max(largest, ratio)
  end
  sums:add("clipfrac", clipped / n)
  sums:add("kl", kl / n)
  sums:add("pg_loss", seen.policy)
  sums:add("vf_loss", seen.value)
  sums:add("entropy", seen.entropy)
  if seen.kl then
    sums:add("kl_loss", seen.kl)
  end
  sums.ratio_max = math.max(sums.ratio_max or 0.0, largest)
  return kl / n
end

---@class rl4vlm.Update
---@field model table
---@field optimizer table
---@field loss table the algorithm's module (ppo.lua)
---@field settings rl4vlm.Settings
---@field lr number
---@field value_lr number
---@field update integer number of the update
---@field stop fun(): boolean|nil asked between minibatches

-- Elements of a tensor that a loss gave, else nil.
local function elements(x)
  return tensor.is_tensor(x) and x:numel() or nil
end

local function shown(x)
  if not tensor.is_tensor(x) then
    return kinds.show(x)
  end
  return ("a tensor of %d elements%s"):format(x:numel(), x:requires_grad() and "" or " that needs no gradient")
end

-- A loss of the recipe's own may leave something out, or give what is none.
local function check_loss(f, loss, parts, samples)
  local function refuse(wanted, x)
    error(("%s: wanted %s, got %s"):format(place.named("algorithm.loss", f), wanted, shown(x)), 0)
  end
  if elements(loss) ~= 1 then
    refuse("the loss first, a tensor of one element", loss)
  elseif not loss:requires_grad() then
    refuse("a loss that hangs on what the model says (its first argument)", loss)
  elseif type(parts) ~= "table" then
    refuse("the loss and a table of its parts, as ppo.loss gives them", parts)
  end
  for _, name in ipairs { "policy", "value", "entropy", "kl" } do
    if elements(parts[name]) ~= 1 and not (name == "kl" and parts.kl == nil) then
      refuse(("parts.%s, a tensor of one element"):format(name), parts[name])
    end
  end
  if elements(parts.log_ratio) ~= samples then
    refuse(("parts.log_ratio, a tensor of %d elements, one a sample"):format(samples), parts.log_ratio)
  end
end

---Whether minibatches are cut into micro-batches. A loss of the recipe's own sees its minibatch whole: it may look
---at all samples together.
---@param algorithm table|nil
---@return boolean
function M.splits(algorithm)
  return algorithm ~= nil and algorithm.loss == nil
end

-- One part of a minibatch: score, loss, guards, backward. `seen` gathers what all parts came to: the loss's parts by
-- name, log-ratios of samples, differences of tokens.
local function learn(u, steps, batch, where, seen)
  local o, first = u.settings.algorithm, #seen.log_ratios
  local out = u.model:score(batch_of(steps), {
    temperature = u.settings.sampling.temperature,
    grad = true,
    values = true,
    value_grad = o.value_grad,
    entropy = true,
  })
  append(seen.diffs, probs_diff(out, batch))
  local loss, parts = (o.loss or u.loss.loss)(out, batch, o)
  check_loss(o.loss or u.loss.loss, loss, parts, #steps)
  append(seen.log_ratios, parts.log_ratio:detach():tolist())
  guard(where, loss:item(), seen.log_ratios, first, o)
  for _, name in ipairs { "policy", "value", "entropy", "kl" } do
    seen[name] = parts[name] and (seen[name] or 0.0) + parts[name]:item()
  end
  loss:backward()
end

-- One minibatch: its parts' gradients, and a step. Returns the mean KL to the old policy.
local function minibatch(u, steps, advantages, where, sums)
  local o, settings, tokens = u.settings.algorithm, u.settings, micro_batch.tokens(steps)
  local seen = { log_ratios = {}, diffs = {} }
  u.model:zero_grad()
  for _, part in ipairs(M.splits(o) and u.model:micro_batches(steps) or { steps }) do
    learn(u, part, loss_batch(part, settings, advantages, #steps, tokens), where, seen)
  end
  if not sums.diff_max then
    local mean, max = stats.spread(seen.diffs)
    sums.diff_max, sums.diff_mean = max or 0.0, mean or 0.0
    check_first(where, sums.diff_max, o)
  end
  local kl = measure(sums, seen, o)
  local norm = u.optimizer:step { lr = u.lr, value_lr = u.value_lr, max_norm = o.max_grad_norm }
  if not kinds.finite(norm) then
    error(("%s: the gradient's norm is %s"):format(where, tostring(norm)), 0)
  end
  sums:add("grad_norm", norm)
  return kl
end

---Updates the model on a rollout's samples (each with advantage, ret, log_pi, index).
---@param u rl4vlm.Update
---@param steps rl4vlm.Step[]
---@return table sums means by name: pg_loss, vf_loss, clipfrac, kl, grad_norm, ...
function M.run(u, steps)
  local o = u.settings.algorithm
  local advantages = column(steps, "advantage")
  if o.normalize_advantages then
    advantages = u.loss.normalize(advantages)
  end
  advantages = advantages:tolist()
  local sums = setmetatable({ early = false, count = 0 }, Sums)
  for epoch = 1, o.epochs do
    local order = {}
    for i = 1, #steps do
      order[i] = i
    end
    rng.new(u.settings.seed, "shuffle", u.update, epoch):shuffle(order)
    for from = 1, #order, o.minibatch do
      local part = {}
      for i = from, math.min(from + o.minibatch - 1, #order) do
        part[#part + 1] = steps[order[i]]
      end
      local where = ("update %d, epoch %d, minibatch %d"):format(u.update, epoch,
        (from - 1) // o.minibatch + 1)
      local kl = minibatch(u, part, advantages, where, sums)
      sums.count = sums.count + 1
      if o.target_kl > 0 and kl > o.target_kl then
        sums.early = true
        return sums
      end
    end
  end
  return sums
end

return M
