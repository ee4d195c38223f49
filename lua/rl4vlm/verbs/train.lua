-- verbs/train.lua - `train`: a new run, or one that goes on.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local load = require "rl4vlm.load"
local manifest = require "rl4vlm.manifest"
local model_name = require "rl4vlm.model_name"
local progress = require "rl4vlm.progress"
local report = require "rl4vlm.report"
local run = require "rl4vlm.run"
local train = require "rl4vlm.train"

local M = {}

-- What a new run and one that goes on take, beside what is its kind's alone.
local OPTIONS = {
  "model", "adapter", "out", "seed", "episodes", "slots", "threads", "device", "temperature", "dtype", "base",
  "set",
}
local RESUME = { "resume", "threads", "force" }
local OWN = { train = { "env-steps" }, sft = { "samples" } }
local OWN_NEW = { train = { "env-steps", "force" }, sft = { "samples", "data", "force" } }

local function only(call, shared, own)
  call:only(table.move(own, 1, #own, #shared + 1, { table.unpack(shared) }))
end

-- Settings that no recipe can mean.
local function check(call, settings)
  if settings.sampling.temperature == 0 then
    call.usage("sampling.temperature: wanted a number above 0 for training, got 0")
  elseif not settings.algorithm.name then
    call.usage(("recipe %s: algorithm: wanted one to train with, such as rl.ppo { ... }")
      :format(settings.name))
  end
  call:check_slots(settings.slots)
end

---Opens a run to go on with; its settings are the manifest's.
---@param call rl4vlm.Call
---@param kind "train"|"sft"
---@return rl4vlm.Run, rl4vlm.Settings
function M.reopen(call, kind)
  only(call, RESUME, OWN[kind])
  local folder = run.open(call.values.resume)
  local m = folder.manifest
  if type(m.recipe) ~= "table" or type(m.changes) ~= "table" or type(m.kind) ~= "string" then
    error(("%s/manifest.json: wanted a run's manifest with kind, recipe and changes"):format(folder.dir), 0)
  elseif m.kind ~= kind then
    call.usage(("%s: is a run of %s: go on with it by `%s --resume`"):format(folder.dir, m.kind, m.kind))
  end
  local changes = table.move(m.changes, 1, #m.changes, 1, json.list {})
  local old = m.recipe.schedule
  if call.values["env-steps"] and old.rollout == old.env_steps then
    -- a rollout that was cut to a short run's length stays what it was
    changes[#changes + 1] = { "schedule.rollout", ("%d"):format(old.rollout) }
  end
  table.move(call.changes, 1, #call.changes, #changes + 1, changes)
  local settings = call:settings(call:changed(changes), folder)
  local different = manifest.differences(m.recipe, settings)
  if #different > 0 and not call.values.force then
    error(("%s: the recipe has changed since this run began: %s (--force goes on with the recipe of now)")
      :format(folder.dir, table.concat(different, ", ")), 0)
  end
  local fresh = manifest.new(kind, settings, changes)
  if #call.changes > 0 or #different > 0 then
    if m.recipe.model == settings.model then -- what it began with: its folder may have changed, or be gone
      fresh.hashes.model, fresh.model_name = m.hashes.model, m.model_name
    end
    m.recipe, m.changes, m.hashes, m.model_name = fresh.recipe, fresh.changes, fresh.hashes, fresh.model_name
  end
  return folder, settings
end

---The newest checkpoint that can be read; says which could not.
---@param call rl4vlm.Call
---@param folder rl4vlm.Run
---@return integer|nil n, table|nil state
function M.newest(call, folder)
  return folder:latest(function(n, err)
    call.progress:say("%s: checkpoint %d cannot be read, going back: %s", folder.dir, n, err)
  end)
end

-- What leads somewhere: the fields that hold paths, and what finds theirs.
local PATHS = { model = model_name.resolve, adapter = model_name.resolve_adapter, ["sft.data"] = fs.stat }

-- Paths of the command line as they hold from any folder: a run may be resumed from another one.
local function from_anywhere(changes)
  local list = json.list {}
  for i, change in ipairs(changes) do
    local name, text = table.unpack(change)
    if PATHS[name] and not text:match("^/") then
      local path = fs.realpath(".") .. "/" .. text
      local ok, found = pcall(PATHS[name], path)
      text = ok and found and path or text -- else a built-in model's name
    end
    list[i] = { name, text }
  end
  return list
end

---The settings of a new run.
---@param call rl4vlm.Call
---@param kind "train"|"sft"
---@return rl4vlm.Settings
function M.settings(call, kind)
  only(call, OPTIONS, OWN_NEW[kind])
  call.changes = from_anywhere(call.changes)
  return call:settings(call:changed(call.changes))
end

---Makes the folder of a new run, or writes what has changed into that of an old one: when its model
---has loaded, so that nothing is left of a false start.
---@param call rl4vlm.Call
---@param kind "train"|"sft"
---@param settings rl4vlm.Settings
---@param old rl4vlm.Run|nil
---@return rl4vlm.Run
function M.begin(call, kind, settings, old)
  if old then
    old:write_manifest()
    return old
  end
  local dir = call.values.out or run.next_free(kind == "train" and settings.name
    or settings.name .. "-" .. kind)
  return run.create(dir, manifest.new(kind, settings, call.changes))
end

local SHOWN = {
  { "success", "val/success_rate" }, { "return", "val/return_mean" },
  { "read right", "val/read_right_rate" }, { "invalid", "val/invalid_rate" },
}

local function held_out(line)
  local t = {}
  for _, row in ipairs(SHOWN) do
    t[row[2]:match("[^/]+$")] = line and line[row[2]] or json.null
  end
  return t
end

local function table_text(folder, first, last, settings)
  local where = ("the run is in %s (report.html, checkpoints/)\n"):format(folder.dir)
  if not first then
    return where
  end
  local parts = { ("\nheld-out episodes 1 to %d%s    before   after\n"):format(
    settings.schedule.eval_episodes, settings.eval.temperature == 0 and ", greedy" or "") }
  local indent = #parts[1] - #"    before   after\n" - 1
  for _, row in ipairs(SHOWN) do
    parts[#parts + 1] = ("%-" .. indent .. "s   %7s %7s\n"):format(row[1],
      progress.figure(first[row[2]]), progress.figure(last[row[2]]))
  end
  return table.concat(parts) .. where
end

-- What a run came to, as its folder says.
local function conclude(call, folder, settings, start)
  local evaluations = folder:lines("evaluations.jsonl")
  local first, last = evaluations[1], evaluations[#evaluations]
  local n, state = folder:latest()
  call:result({
    verb = "train",
    run = folder.dir,
    update = n,
    env_steps = state.env_steps,
    before = held_out(first),
    after = held_out(last),
    seconds = host.clock() - start,
  }, function()
    return table_text(folder, first, last, settings)
  end)
end

---@param call rl4vlm.Call
function M.run(call)
  local start = host.clock()
  local folder, settings, n, state
  if call.values.resume then
    folder, settings = M.reopen(call, "train")
    call.folder = folder.dir
    n, state = M.newest(call, folder)
  else
    settings = M.settings(call, "train")
    check(call, settings)
    call.checked(run.refuse_old, call.values.out)
  end
  if n and n >= train.updates(settings) then
    call.progress:say("%s is finished: %d updates, %d steps", folder.dir, n, state.env_steps)
    return conclude(call, folder, settings, start)
  end
  local checkpoint = n and ("%s/checkpoints/%d"):format(folder.dir, n)
  local model = load.model(settings, checkpoint or settings.model, { train = true, resumed = n ~= nil })
  local reference = load.reference(settings)
  folder = M.begin(call, "train", settings, folder)
  call.folder = folder.dir
  call.progress:say("%s: %s on %s, %d updates of %d steps%s", folder.dir, settings.name, settings.model,
    train.updates(settings), settings.schedule.rollout, n and (", from update %d"):format(n) or "")
  train.new {
    settings = settings,
    run = folder,
    model = model,
    reference = reference,
    state = state,
    checkpoint = checkpoint,
    progress = call.progress,
  }:train()
  report.write(folder)
  conclude(call, folder, settings, start)
end

return M
