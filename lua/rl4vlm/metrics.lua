-- metrics.lua - the figures of an update, under the names of the field (verl's and verl-agent's).
--
-- What does not exist is null. Only keys under timing_s/ and perf/ depend on the clock.
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local stats = require "rl4vlm.stats"

local M = {}

local function spread(line, name, list)
  line[name .. "/mean"], line[name .. "/max"], line[name .. "/min"] = stats.spread(list)
end

-- Every key that a line has, so that each update has the same ones.
local KEYS = {
  "actor/entropy", "actor/grad_norm", "actor/kl_coef", "actor/kl_loss", "actor/lr",
  "actor/pg_clipfrac", "actor/pg_loss", "actor/ppo_kl", "actor/thought_logprob", "actor/action_logprob",
  "critic/lr", "critic/vf_explained_var", "critic/vf_loss", "critic/vpred_mean",
  "episode/count", "episode/illegal_rate", "episode/invalid_rate", "episode/read_right_rate",
  "episode/success_rate", "episode/unparsable_rate", "episode/valid_action_ratio",
  "response_length/clip_ratio", "training/dropped_episodes", "training/early_stop",
  "training/optimizer_steps", "training/ratio_max", "training/rollout_probs_diff_max",
  "training/rollout_probs_diff_mean", "val/episodes", "val/invalid_rate", "val/read_right_rate",
  "val/return_mean", "val/steps_mean", "val/success_rate", "timing_s/gen", "timing_s/adv",
  "timing_s/ref", "timing_s/update_actor", "timing_s/testing", "timing_s/save_checkpoint",
  "timing_s/step", "perf/max_memory_allocated_gb", "perf/peak_bytes", "perf/throughput",
  "perf/total_num_tokens", "perf/time_per_step",
}
local SPREADS = {
  "critic/advantages", "critic/returns", "critic/rewards", "critic/values", "episode/length",
  "episode/reward", "prompt_length", "response_length",
}

---A line with every key, all null.
---@param update integer
---@param env_steps integer
---@return table<string, any>
function M.line(update, env_steps)
  local line = { update = update, env_steps = env_steps, ["training/global_step"] = update }
  for _, key in ipairs(KEYS) do
    line[key] = json.null
  end
  for _, name in ipairs(SPREADS) do
    for _, part in ipairs { "/mean", "/max", "/min" } do
      line[name .. part] = json.null
    end
  end
  return line
end

local function share(part, whole)
  return whole > 0 and part / whole or nil
end

---How answers came out.
---@param steps rl4vlm.Step[]
---@return table counts n, unparsable, illegal, right, asked
function M.count(steps)
  local c = { n = #steps, unparsable = 0, illegal = 0, right = 0, asked = 0 }
  for _, step in ipairs(steps) do
    local status = step.parsed.status
    if status ~= "ok" then
      c[status] = c[status] + 1
    end
    c.right, c.asked = c.right + step.right, c.asked + step.asked
  end
  return c
end

-- Mean over samples of the summed log-probabilities of the thought and of the action.
local function split_logprobs(steps)
  local thought, action = 0.0, 0.0
  for _, step in ipairs(steps) do
    for i, x in ipairs(step.logprobs) do
      if i < step.first then
        thought = thought + x
      else
        action = action + x
      end
    end
  end
  return share(thought, #steps), share(action, #steps)
end

---Adds what a rollout's samples say.
---@param line table
---@param steps rl4vlm.Step[] with advantage and ret
function M.rollout(line, steps)
  local c = M.count(steps)
  local prompts, answers, cut, tokens = {}, {}, 0, 0
  local rewards, values, advantages, returns = {}, {}, {}, {}
  local totals, lengths, wins = {}, {}, 0
  for i, step in ipairs(steps) do
    prompts[i], answers[i] = #step.ids, #step.answer
    tokens = tokens + #step.ids + #step.answer
    cut = cut + (step.finish == "length" and 1 or 0)
    rewards[i], values[i] = step.reward, step.value
    advantages[i], returns[i] = step.advantage, step.ret
    if step.done then
      totals[#totals + 1], lengths[#lengths + 1] = step.total, step.number
      wins = wins + (step.success and 1 or 0)
    end
  end
  spread(line, "prompt_length", prompts)
  spread(line, "response_length", answers)
  spread(line, "critic/rewards", rewards)
  spread(line, "critic/values", values)
  spread(line, "critic/advantages", advantages)
  spread(line, "critic/returns", returns)
  spread(line, "episode/reward", totals)
  spread(line, "episode/length", lengths)
  line["response_length/clip_ratio"] = share(cut, c.n)
  line["critic/vf_explained_var"] = stats.explained_variance(returns, values)
  line["critic/vpred_mean"] = stats.mean(values)
  line["episode/count"] = #totals
  line["episode/success_rate"] = share(wins, #totals)
  line["episode/unparsable_rate"] = share(c.unparsable, c.n)
  line["episode/illegal_rate"] = share(c.illegal, c.n)
  line["episode/invalid_rate"] = share(c.unparsable + c.illegal, c.n)
  line["episode/valid_action_ratio"] = share(c.n - c.unparsable - c.illegal, c.n)
  line["episode/read_right_rate"] = share(c.right, c.asked)
  line["actor/thought_logprob"], line["actor/action_logprob"] = split_logprobs(steps)
  line["perf/total_num_tokens"] = tokens
end

---Adds what the update's minibatches came to.
---@param line table
---@param sums table of update.lua
---@param lr number
---@param value_lr number
---@param kl_coef number
function M.learned(line, sums, lr, value_lr, kl_coef)
  line["actor/lr"], line["critic/lr"] = lr, value_lr
  line["actor/pg_loss"] = sums:mean("pg_loss")
  line["actor/pg_clipfrac"] = sums:mean("clipfrac")
  line["actor/ppo_kl"] = sums:mean("kl")
  line["actor/entropy"] = sums:mean("entropy")
  line["actor/kl_loss"] = sums:mean("kl_loss")
  line["actor/kl_coef"] = kl_coef
  line["actor/grad_norm"] = sums:mean("grad_norm")
  line["critic/vf_loss"] = sums:mean("vf_loss")
  line["training/ratio_max"] = sums.ratio_max
  line["training/rollout_probs_diff_max"] = sums.diff_max
  line["training/rollout_probs_diff_mean"] = sums.diff_mean
  line["training/optimizer_steps"] = sums.count
  line["training/early_stop"] = sums.early and 1 or 0
end

---Adds time and memory.
---@param line table
---@param times table<string, number> seconds by what they went to
---@param seconds number all of them
function M.cost(line, times, seconds)
  for name, x in pairs(times) do
    line["timing_s/" .. name] = x
  end
  line["timing_s/step"], line["perf/time_per_step"] = seconds, seconds
  local tokens, bytes = line["perf/total_num_tokens"], host.peak_rss()
  line["perf/throughput"] = type(tokens) == "number" and tokens / seconds or nil
  line["perf/peak_bytes"] = bytes
  line["perf/max_memory_allocated_gb"] = bytes / 2 ^ 30
end

---The figures of a held-out evaluation.
---@param update integer
---@param env_steps integer
---@param summary table of eval.lua
---@return table
function M.held_out(update, env_steps, summary)
  return {
    update = update,
    env_steps = env_steps,
    ["val/episodes"] = summary.episodes,
    ["val/success_rate"] = summary.success_rate,
    ["val/return_mean"] = summary.return_mean,
    ["val/steps_mean"] = summary.steps_mean,
    ["val/invalid_rate"] = summary.invalid_rate,
    ["val/read_right_rate"] = summary.read_right_rate,
  }
end

---Puts null where a figure is missing or is no finite number.
---@param line table
---@return table line
function M.close(line)
  for _, key in ipairs(KEYS) do
    local x = line[key]
    if x == nil or type(x) == "number" and (x ~= x or x == math.huge or x == -math.huge) then
      line[key] = json.null
    end
  end
  for _, name in ipairs(SPREADS) do
    for _, part in ipairs { "/mean", "/max", "/min" } do
      if line[name .. part] == nil then
        line[name .. part] = json.null
      end
    end
  end
  return line
end

return M
