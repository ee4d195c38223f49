-- train.lua - the loop: roll out, estimate, update, evaluate, keep.
--
-- All that matters is at hand between two updates: weights, Adam's moments, the slots' episodes, the
-- counters. A checkpoint holds just that (random streams are named, not stored), so a run that was
-- killed and resumed goes on bit for bit.
local episodes = require "rl4vlm.episodes"
local evaluation = require "rl4vlm.eval"
local explain = require "rl4vlm.explain"
local gae = require "rl4vlm.gae"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local load = require "rl4vlm.load"
local metrics = require "rl4vlm.metrics"
local progress = require "rl4vlm.progress"
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"
local tensorboard = require "rl4vlm.tensorboard"
local update = require "rl4vlm.update"

local M = {}

local EPISODES_KEPT = 2 -- of each rollout and of each evaluation

---@class rl4vlm.Trainer
---@field settings rl4vlm.Settings
---@field run rl4vlm.Run
---@field model table
---@field reference table|nil the frozen model of the KL penalty; nil where an adapter, or none, is it
---@field state table update, env_steps, best, slots: what a checkpoint keeps
local Trainer = {}
Trainer.__index = Trainer

---How many updates a run has.
---@param settings rl4vlm.Settings
---@return integer
function M.updates(settings)
  return settings.schedule.env_steps // settings.schedule.rollout
end

---@class rl4vlm.TrainOptions
---@field settings rl4vlm.Settings
---@field run rl4vlm.Run
---@field model table
---@field reference table|nil
---@field state table|nil of the checkpoint to go on from
---@field checkpoint string|nil its folder
---@field progress rl4vlm.Progress

---Makes a trainer, at the start or at a checkpoint.
---@param o rl4vlm.TrainOptions
---@return rl4vlm.Trainer
function M.new(o)
  local settings = o.settings
  local self = setmetatable({
    settings = settings,
    run = o.run,
    model = o.model,
    reference = o.reference,
    progress = o.progress,
    loss = require("rl4vlm." .. settings.algorithm.name),
    optimizer = o.model:optimizer(settings.optimizer),
    generator = o.model:generator { slots = settings.slots },
    total = M.updates(settings),
    state = o.state or { update = 0, env_steps = 0, dropped = 0 },
    resumed = o.state ~= nil,
  }, Trainer)
  self.shared = rollout.shared(settings, o.model, "train", settings.sampling.temperature)
  self.slots = rollout.slots(self.shared, settings.slots)
  o.run:cut_back(o.state)
  if o.state then
    self.optimizer:load(o.checkpoint .. "/optimizer.safetensors")
    self:restore_slots()
  end
  self.saved = o.state and self.state.update
  self.writer = tensorboard.open(o.run.dir, o.run:figures())
  self:mark()
  return self
end

-- Slots go back to where the checkpoint saw them; an episode that does not replay is dropped.
function Trainer:restore_slots()
  for i, saved in ipairs(self.state.slots) do
    if not self.slots[i]:restore(saved) then
      self.slots[i] = slot.new(self.shared)
      self.slots[i].episode = saved.episode
      self.state.dropped = self.state.dropped + 1
    end
  end
end

-- Notes the slots as they are between two updates.
function Trainer:mark()
  local slots = {}
  for i, s in ipairs(self.slots) do
    slots[i] = s:save()
  end
  self.state.slots = json.list(slots)
  self.clean = true
end

---Writes a checkpoint of the state between two updates.
function Trainer:save()
  local settings, start = self.settings, host.clock()
  self.run:checkpoint(self.state.update, self.state, function(dir)
    load.save(self.model, dir .. "/model")
    self.optimizer:save(dir .. "/optimizer.safetensors")
  end)
  self.saved = self.state.update
  local best = self.state.best
  if best and best.update == self.state.update then
    self.run:mark_best(best.update)
  end
  self.run:prune(settings.schedule.keep, best and best.update)
  self.save_seconds = host.clock() - start
end

-- Plays the held-out episodes; gives their figures, which also go to evaluations.jsonl.
function Trainer:evaluate()
  local settings, at = self.settings, self.state.update
  local kept = {}
  local summary = evaluation.run(settings, self.model, {
    episodes = settings.schedule.eval_episodes,
    temperature = settings.eval.temperature,
    slots = settings.slots,
    generator = self.generator,
    on_episode = function(result, steps, count)
      if result.episode <= EPISODES_KEPT then
        kept[result.episode] = steps
      end
      self.progress:show("update %d: held-out episodes %d/%d", at, count,
        settings.schedule.eval_episodes)
    end,
  })
  for _, steps in ipairs(kept) do
    episodes.add(self.run, "eval", at, steps)
  end
  local best = self.state.best
  if not best or summary.success_rate > best.success_rate then
    self.state.best = { update = at, success_rate = summary.success_rate }
  end
  local figures = metrics.held_out(at, self.state.env_steps, summary)
  self.run:add("evaluations.jsonl", figures)
  return figures
end

-- Advantages and returns of all samples; slots one behind the other.
local function estimate(trajectories, bootstraps, o)
  local steps = {}
  for i, trajectory in ipairs(trajectories) do
    local t = { rewards = {}, values = {}, done = {}, bootstrap = bootstraps[i] }
    for j, step in ipairs(trajectory) do
      t.rewards[j], t.values[j], t.done[j] = step.reward, step.value, step.done
    end
    local advantages, returns = gae(t, o.gamma, o.gae_lambda)
    for j, step in ipairs(trajectory) do
      step.advantage, step.ret = advantages[j], returns[j]
      steps[#steps + 1] = step
      step.index = #steps
    end
  end
  return steps
end

-- The reference's log-probabilities of all samples, before the weights move.
function Trainer:score_reference(steps)
  local settings = self.settings
  if settings.algorithm.kl_coef == 0 then
    return
  end
  local model, beside = self.reference or self.model, not self.reference
  if beside then -- the start's adapter, or the base alone
    model:use(model.adapters.reference and "reference" or nil)
  end
  update.record_reference(steps, model, settings.algorithm.minibatch, settings.sampling.temperature)
  if beside then
    model:use("adapter")
  end
end

function Trainer:roll_out(times)
  local settings, start = self.settings, host.clock()
  local number, rollout_steps = self.state.update + 1, settings.schedule.rollout
  local trajectories = rollout.collect(self.generator, self.slots, rollout_steps // #self.slots,
    function(played)
      self.progress:show("update %d/%d: %d/%d steps played", number, self.total, played, rollout_steps)
    end)
  times.gen = host.clock() - start
  start = host.clock()
  local bootstraps = rollout.bootstraps(self.model, self.slots)
  local steps = estimate(trajectories, bootstraps, settings.algorithm)
  update.record_log_pi(steps, self.loss, settings.thought_weight)
  times.adv = host.clock() - start
  start = host.clock()
  self:score_reference(steps)
  times.ref = host.clock() - start
  return steps, trajectories
end

local function rates(settings, number, total)
  local x, warmup = (number - 1) / total, settings.schedule.warmup
  local lr = settings.schedule.lr:at(x, warmup)
  local value_lr = settings.schedule.value_lr
  return lr, value_lr and value_lr:at(x, warmup) or lr
end

function Trainer:due(every)
  return every > 0 and (self.state.update % every == 0 or self.state.update == self.total)
end

-- One update, from the first sampled token to the line of metrics.
function Trainer:one()
  local settings, start, times = self.settings, host.clock(), {}
  local steps, trajectories = self:roll_out(times)
  self.clean = false
  local number = self.state.update + 1
  local lr, value_lr = rates(settings, number, self.total)
  local before = host.clock()
  self.progress:show("update %d/%d: %d samples, %d epochs", number, self.total, #steps,
    settings.algorithm.epochs)
  local sums = update.run({
    model = self.model,
    optimizer = self.optimizer,
    loss = self.loss,
    settings = settings,
    update = number,
    lr = lr,
    value_lr = value_lr,
  }, steps)
  times.update_actor = host.clock() - before
  self.state.update, self.state.env_steps = number, self.state.env_steps + #steps
  local line = metrics.line(number, self.state.env_steps)
  metrics.rollout(line, steps)
  metrics.learned(line, sums, lr, value_lr, settings.algorithm.kl_coef)
  line["training/dropped_episodes"] = self.state.dropped
  for _, episode in ipairs(episodes.whole(trajectories, EPISODES_KEPT)) do
    episodes.add(self.run, "train", number, episode)
  end
  self:close(line, start, times)
end

-- Evaluation and checkpoint where they are due, then the line.
function Trainer:close(line, start, times)
  local schedule, before = self.settings.schedule, host.clock()
  if self:due(schedule.eval_every) then
    for key, value in pairs(self:evaluate()) do
      line[key] = value
    end
    times.testing = host.clock() - before
  end
  times.save_checkpoint = self.save_seconds -- of the checkpoint before: this one comes after the line
  metrics.cost(line, times, host.clock() - start)
  self.run:add("metrics.jsonl", metrics.close(line))
  self.writer:add(line)
  self:mark()
  self:tell(line)
  local best = self.state.best
  if self:due(schedule.checkpoint_every) or best and best.update == self.state.update then
    self:save()
  end
  collectgarbage()
end

function Trainer:tell(line)
  local f = progress.figure
  local val = type(line["val/success_rate"]) == "number"
    and ("  held-out success %s"):format(f(line["val/success_rate"])) or ""
  self.progress:say("update %d/%d  %d steps  success %s  return %s  read %s  invalid %s  kl %s  "
    .. "clipped %s  %.1f s%s", line.update, self.total, line.env_steps, f(line["episode/success_rate"]),
    f(line["episode/reward/mean"]), f(line["episode/read_right_rate"]), f(line["episode/invalid_rate"]),
    f(line["actor/ppo_kl"]), f(line["actor/pg_clipfrac"]), line["timing_s/step"], val)
end

-- Before the first update: the start's held-out figures and checkpoint 0.
function Trainer:first()
  local schedule, f = self.settings.schedule, progress.figure
  if schedule.eval_every > 0 then
    self.clean = false
    local figures = self:evaluate()
    self.writer:add(figures)
    self.clean = true
    self.progress:say("before training: held-out success %s, return %s, read right %s, invalid %s",
      f(figures["val/success_rate"]), f(figures["val/return_mean"]), f(figures["val/read_right_rate"]),
      f(figures["val/invalid_rate"]))
  end
  if schedule.eval_every > 0 or schedule.checkpoint_every > 0 then
    self:save()
  end
end

---Trains to the end. An error leaves the last checkpoint; one that says "interrupted!" after saving
---what can be saved.
function Trainer:train()
  local ok, err = xpcall(function()
    if not self.resumed then
      self:first()
    end
    while self.state.update < self.total do
      self:one()
    end
    if self.saved ~= self.state.update then
      self:save()
    end
  end, explain)
  if ok then
    return
  end
  local interrupted = tostring(err):find("interrupted!", 1, true)
  if interrupted and self.clean and self.saved ~= self.state.update then
    host.clear_interrupt()
    self:save()
  end
  local kept = self.saved and ("; checkpoint %d holds"):format(self.saved) or ""
  error(interrupted and err or tostring(err) .. kept, 0)
end

return M
