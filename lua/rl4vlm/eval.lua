-- eval.lua - held-out evaluation: exactly the episodes 1..N of the eval split, each once.
local json = require "rl4vlm.json"
local metrics = require "rl4vlm.metrics"
local rollout = require "rl4vlm.rollout"
local stats = require "rl4vlm.stats"

local M = {}

---What is kept of an episode: enough to sum up, and to go on with a stopped evaluation.
---@param episode integer
---@param steps rl4vlm.Step[]
---@return table
local function result_of(episode, steps)
  local c, last = metrics.count(steps), steps[#steps]
  return {
    episode = episode,
    steps = #steps,
    ["return"] = last.total,
    success = last.success,
    unparsable = c.unparsable,
    illegal = c.illegal,
    right = c.right,
    asked = c.asked,
  }
end

local function share(part, whole)
  return whole > 0 and part / whole or json.null
end

---Sums up episodes. Success is an undiscounted return above 0; its interval is Wilson's at 95 %.
---@param results table[] of `result_of`
---@return table
function M.sum_up(results)
  local returns, hits, steps = {}, 0, 0
  local sum = { unparsable = 0, illegal = 0, right = 0, asked = 0 }
  for i, r in ipairs(results) do
    returns[i] = r["return"]
    hits = hits + (r.success and 1 or 0)
    steps = steps + r.steps
    for key in pairs(sum) do
      sum[key] = sum[key] + r[key]
    end
  end
  local low, high = stats.wilson(hits, #results)
  return {
    episodes = #results,
    env_steps = steps,
    success_rate = share(hits, #results),
    success_ci95 = { low, high },
    return_mean = stats.mean(returns) or json.null,
    return_sem = stats.sem(returns) or json.null,
    steps_mean = share(steps, #results),
    invalid_rate = share(sum.unparsable + sum.illegal, steps),
    unparsable_rate = share(sum.unparsable, steps),
    illegal_rate = share(sum.illegal, steps),
    read_right_rate = share(sum.right, sum.asked),
  }
end

---@class rl4vlm.EvalOptions
---@field episodes integer how many: 1..N
---@field temperature number 0 is greedy
---@field slots integer
---@field generator table|nil one that is idle
---@field known table<integer, table>|nil results of episodes played before
---@field on_episode fun(result: table, steps: rl4vlm.Step[], count: integer)|nil

---Plays the episodes and sums them up.
---@param settings rl4vlm.Settings
---@param model table
---@param o rl4vlm.EvalOptions
---@return table summary
---@return table[] results by episode
function M.run(settings, model, o)
  local shared = rollout.shared(settings, model, "eval", o.temperature)
  local results, missing, count = {}, {}, 0
  for episode = 1, o.episodes do
    results[episode] = o.known and o.known[episode]
    if results[episode] then
      count = count + 1
    else
      missing[#missing + 1] = episode
    end
  end
  local slots = rollout.slots(shared, math.min(o.slots, math.max(#missing, 1)))
  local generator = o.generator or model:generator { slots = #slots }
  rollout.play(generator, slots, missing, function(episode, steps)
    results[episode] = result_of(episode, steps)
    count = count + 1
    if o.on_episode then
      o.on_episode(results[episode], steps, count)
    end
  end)
  return M.sum_up(results), results
end

return M
