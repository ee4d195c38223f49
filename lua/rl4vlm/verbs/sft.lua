-- verbs/sft.lua - `sft`: learns from an expert's demonstrations, or from a file of them.
local conversations = require "rl4vlm.conversations"
local demos = require "rl4vlm.demos"
local evaluation = require "rl4vlm.eval"
local explain = require "rl4vlm.explain"
local host = require "rl4vlm.host"
local load = require "rl4vlm.load"
local metrics = require "rl4vlm.metrics"
local progress = require "rl4vlm.progress"
local report = require "rl4vlm.report"
local run = require "rl4vlm.run"
local sft = require "rl4vlm.sft"
local tensorboard = require "rl4vlm.tensorboard"
local train_verb = require "rl4vlm.verbs.train"

local M = {}

local function source_of(settings)
  if settings.sft.data then
    return conversations.open(settings.sft.data, settings.seed)
  end
  return demos.expert(settings)
end

-- The settings of a new run: demonstrations of a file are gone through once, where the command line says no number.
local function new_settings(call)
  local settings = train_verb.settings(call, "sft")
  local asked = false
  for _, change in ipairs(call.changes) do
    asked = asked or change[1] == "sft.samples"
  end
  if settings.sft.data and not asked then
    settings.sft.samples = #source_of(settings).items
    table.insert(call.changes, { "sft.samples", ("%d"):format(settings.sft.samples) })
  end
  return settings
end

local function save(folder, settings, model, optimizer, state)
  folder:checkpoint(state.update, state, function(dir)
    load.save(model, dir .. "/model")
    optimizer:save(dir .. "/optimizer.safetensors")
  end)
  folder:prune(settings.schedule.keep, nil)
end

-- The last checkpoint's held-out figures, as its best.
local function evaluate(folder, settings, model, state)
  local figures = metrics.held_out(state.update, 0, (evaluation.run(settings, model, {
    episodes = settings.schedule.eval_episodes,
    temperature = settings.eval.temperature,
    slots = math.min(16, settings.schedule.eval_episodes),
  })))
  folder:add("evaluations.jsonl", figures)
  folder:mark_best(state.update)
  return figures
end

local function learn(call, folder, settings, model, state, source)
  local optimizer = model:optimizer(settings.optimizer)
  if state.source then
    optimizer:load(("%s/checkpoints/%d/optimizer.safetensors"):format(folder.dir, state.update))
    source:restore(state.source)
  end
  local writer = tensorboard.open(folder.dir, folder:figures())
  local every, total, saved = settings.sft.checkpoint_every, settings.sft.samples, state.update
  local function keep()
    call.progress:say("step %d  %d/%d samples  loss %.4f", state.update, state.samples, total, state.loss)
    save(folder, settings, model, optimizer, state)
    saved = state.update
  end
  local ok, err = xpcall(sft.run, explain, {
    model = model,
    optimizer = optimizer,
    source = source,
    samples = total,
    batch = settings.sft.batch,
    lr = settings.sft.lr,
    warmup = settings.sft.warmup,
    max_grad_norm = settings.sft.max_grad_norm,
    from = state.samples,
    on_step = function(line)
      state.update, state.samples, state.source, state.loss = line.update, line.samples, source:save(), line["sft/loss"]
      folder:add("metrics.jsonl", line)
      writer:add(line)
      call.progress:show("step %d: %d/%d samples, loss %.4f", line.update, line.samples, total,
        line["sft/loss"])
      if line.samples >= total or every > 0 and line.update % every == 0 then
        keep()
      end
    end,
  })
  if not ok then
    if tostring(err):find("interrupted!", 1, true) and saved ~= state.update then
      host.clear_interrupt() -- a step that was broken off has touched no weights
      keep()
    end
    error(err, 0)
  end
end

-- What a run came to, with the figures of its last evaluation.
local function conclude(call, folder, state, line)
  local result = { verb = "sft", run = folder.dir, samples = state.samples }
  for key, value in pairs(line) do
    result[key:match("^val/(.*)$") or key] = value
  end
  call:result(result, function()
    return ("%s: %d samples; held-out success %s, read right %s, invalid %s\n"):format(folder.dir,
      state.samples, progress.figure(result.success_rate), progress.figure(result.read_right_rate),
      progress.figure(result.invalid_rate))
  end)
end

---@param call rl4vlm.Call
function M.run(call)
  local folder, settings, n, state
  if call.values.resume then
    folder, settings = train_verb.reopen(call, "sft")
    call.folder = folder.dir
    n, state = train_verb.newest(call, folder)
  else
    settings = new_settings(call)
    call.checked(run.refuse_old, call.values.out)
  end
  local last = n and folder:lines("evaluations.jsonl")
  if last and state.samples >= settings.sft.samples and #last > 0 and last[#last].update == n then
    call.progress:say("%s is finished: %d samples", folder.dir, state.samples)
    return conclude(call, folder, state, last[#last])
  end
  local checkpoint = n and ("%s/checkpoints/%d"):format(folder.dir, n)
  local model = load.model(settings, checkpoint or settings.model,
    { train = true, supervised = true, resumed = n ~= nil, slots = 16, batch = settings.sft.batch })
  local source = source_of(settings)
  folder = train_verb.begin(call, "sft", settings, folder)
  call.folder = folder.dir
  folder:cut_back(state)
  state = state or { update = 0, samples = 0 }
  learn(call, folder, settings, model, state, source)
  local line = evaluate(folder, settings, model, state)
  report.write(folder)
  conclude(call, folder, state, line)
end

return M
