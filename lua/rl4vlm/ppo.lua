-- ppo.lua - proximal policy optimisation over environment steps, with a weighted chain of thought.
--
-- The policy of a step is the whole answer's (RL4VLM, Eq. 4.3):
--
--     log pi(a | s) = lambda * sum of log p(thought tokens) + sum of log p(action tokens)
--
-- and with r = pi / pi_old over the samples of a minibatch, A the advantages, R the returns:
--
--     L = - mean min(r A, clip(r, 1 - c, 1 + c) A)          the policy
--         + value_coef * mean (V - R)^2 / 2                 the critic
--         - entropy_coef * mean entropy of the tokens       (optional)
--         + kl_coef * mean over samples of sum k3           k3 = e^d - d - 1, d = log p_ref - log p
--
-- All means are sums over a number of samples or tokens that the caller may give: the losses of a minibatch's parts,
-- each divided by the minibatch's number, add up to the minibatch's.
--
-- No dropout, no padding, no token left out, no rounding of sums: before the first optimiser step of
-- an update r is exactly 1.
local tensor = require "rl4vlm.tensor"

local M = {}

---What `rl.ppo { ... }` takes, with the paper's values as defaults.
M.fields = {
  gamma = { kind = "share", default = 0.9 },
  gae_lambda = { kind = "share", default = 0.95 },
  clip = { kind = "positive", default = 0.1 },
  epochs = { kind = "count", default = 4 },
  minibatch = { kind = "count", default = 128 },
  value_coef = { kind = "not_negative", default = 0.5 },
  -- how far V may move from its old value before its loss is clipped; 0: no clipping
  value_clip = { kind = "not_negative", default = 0.0 },
  -- how much of the critic's gradient goes on into the backbone
  value_grad = { kind = "not_negative", default = 1.0 },
  entropy_coef = { kind = "not_negative", default = 0.0 },
  kl_coef = { kind = "not_negative", default = 0.0 },
  -- the update ends early once the mean KL to the old policy passes this; 0: never
  target_kl = { kind = "not_negative", default = 0.0 },
  max_grad_norm = { kind = "positive", default = 1.0 },
  normalize_advantages = { kind = "boolean", default = true },
  -- a log-ratio beyond this stops the run
  max_log_ratio = { kind = "positive", default = 20.0 },
  -- how far token probabilities may differ between sampling and first scoring: nothing on the CPU
  max_probs_diff = { kind = "not_negative", default = 0.0 },
  -- a loss of the recipe's own instead of M.loss, with what that takes and gives
  loss = { kind = "callable", optional = true },
}

---log pi of each sample: the weighted sum of its answer's token log-probabilities (fp64 sums).
---@param logprobs rl4vlm.Tensor (A) tokens of all answers behind one another
---@param weights rl4vlm.Tensor (A) lambda in the thought, 1 in the action
---@param offsets integer[] (N + 1) sample i owns offsets[i] + 1 .. offsets[i + 1]
---@return rl4vlm.Tensor (N)
function M.log_pi(logprobs, weights, offsets)
  return (logprobs * weights):segment_sum(offsets)
end

---The clipped surrogate.
---@param log_ratio rl4vlm.Tensor (N) log pi - log pi_old
---@param advantages rl4vlm.Tensor (N)
---@param clip number
---@param samples? integer what the sum is divided by (default N)
---@return rl4vlm.Tensor loss scalar
---@return rl4vlm.Tensor ratio (N)
function M.policy_loss(log_ratio, advantages, clip, samples)
  local ratio = log_ratio:exp()
  local plain = ratio * advantages
  local clipped = ratio:clamp(1 - clip, 1 + clip) * advantages
  return -tensor.minimum(plain, clipped):sum() / (samples or ratio:numel()), ratio
end

---The critic's loss; with `clip` > 0 the larger of the plain and the clipped one.
---@param values rl4vlm.Tensor (N)
---@param old rl4vlm.Tensor (N) values while sampling
---@param returns rl4vlm.Tensor (N)
---@param clip number
---@param samples? integer what the sum is divided by (default N)
---@return rl4vlm.Tensor scalar
function M.value_loss(values, old, returns, clip, samples)
  local loss = (values - returns):square()
  if clip > 0 then
    local near = old + (values - old):clamp(-clip, clip)
    loss = tensor.maximum(loss, (near - returns):square())
  end
  return 0.5 * loss:sum() / (samples or loss:numel())
end

---KL to a reference by its k3 estimate: per sample the sum over its tokens, then the mean.
---@param logprobs rl4vlm.Tensor (A)
---@param reference rl4vlm.Tensor (A)
---@param samples integer what the sum is divided by
---@return rl4vlm.Tensor scalar
function M.kl_loss(logprobs, reference, samples)
  local d = reference - logprobs
  return (d:exp() - d - 1):sum() / samples
end

---@class rl4vlm.PpoBatch
---@field weights rl4vlm.Tensor (A)
---@field old_log_pi rl4vlm.Tensor (N)
---@field old_values rl4vlm.Tensor (N)
---@field advantages rl4vlm.Tensor (N)
---@field returns rl4vlm.Tensor (N)
---@field reference rl4vlm.Tensor|nil (A) log-probabilities of the reference model
---@field samples? integer of the whole minibatch, where this is a part of one (default N)
---@field tokens? integer likewise (default A)

---The loss of a minibatch, or what a part of one adds to it, and its parts.
---@param out table what model:score gave: logprobs, values, entropies, offsets
---@param batch rl4vlm.PpoBatch
---@param o table the algorithm's settings
---@return rl4vlm.Tensor loss scalar
---@return table parts tensors: policy, value, entropy, ratio, log_ratio, and kl where it has a weight
function M.loss(out, batch, o)
  local samples, tokens = batch.samples or #out.offsets - 1, batch.tokens or out.offsets[#out.offsets]
  local log_pi = M.log_pi(out.logprobs, batch.weights, out.offsets)
  local log_ratio = log_pi - batch.old_log_pi
  local parts = { log_ratio = log_ratio }
  parts.policy, parts.ratio = M.policy_loss(log_ratio, batch.advantages, o.clip, samples)
  parts.value = M.value_loss(out.values, batch.old_values, batch.returns, o.value_clip, samples)
  local loss = parts.policy + o.value_coef * parts.value
  parts.entropy = out.entropies:sum() / math.max(tokens, 1)
  if o.entropy_coef > 0 then
    loss = loss - o.entropy_coef * parts.entropy
  end
  if o.kl_coef > 0 then
    parts.kl = M.kl_loss(out.logprobs, batch.reference, samples)
    loss = loss + o.kl_coef * parts.kl
  end
  return loss, parts
end

---Advantages shifted to mean 0 and scaled to deviation 1 over the whole rollout.
---@param advantages rl4vlm.Tensor (N)
---@return rl4vlm.Tensor (N)
function M.normalize(advantages)
  local centred = advantages - advantages:mean()
  return centred / (centred:square():mean():sqrt() + 1e-5)
end

return M
