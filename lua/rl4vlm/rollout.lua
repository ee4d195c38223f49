-- rollout.lua - asynchronous slots: whichever answer is ready steps its environment and joins again.
--
-- A rollout is the same number of steps of each slot; a slot that has its share waits, so no answer
-- crosses an update. Slot s of S plays the episodes s, s + S, s + 2S, ...: which ones does not depend
-- on who was faster.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local slot = require "rl4vlm.slot"
local suggest = require "rl4vlm.suggest"

local M = {}

local COLLECT = 64 -- answers

-- Lets the generator run until nothing is left to do. `next_request(i)` gives slot i's next request
-- or nil; `take(i, reply)` gets its answer. Frames are large and look small to Lua's collector, so it
-- is called now and then.
local function drive(generator, count, next_request, take)
  local ready, taken = {}, 0
  for i = 1, count do
    ready[i] = i
  end
  while true do
    local waiting = {}
    for _, i in ipairs(ready) do
      if generator:free() > 0 then
        local request = next_request(i)
        if request then
          generator:submit(request)
        end
      else
        waiting[#waiting + 1] = i
      end
    end
    ready = waiting
    if not generator:busy() then
      return
    end
    for _, reply in ipairs(generator:step()) do
      take(reply.key, reply)
      ready[#ready + 1] = reply.key
      taken = taken + 1
      if taken % COLLECT == 0 then
        collectgarbage()
      end
    end
    if host.interrupted() then
      error("interrupted!", 0)
    end
  end
end

-- Names of the environments that `require` can find here.
local function environments()
  local names = {}
  for _, folder in ipairs { "envs", host.root .. "/envs" } do
    for _, file in ipairs(fs.list(folder) or {}) do
      names[#names + 1] = file:match("^(.*)%.lua$")
    end
  end
  return names
end

-- A maker of the environment that the settings name.
local function maker(env)
  local name = "envs." .. env.name
  if not package.loaded[name] and not package.searchpath(name, package.path) then
    error(suggest.unknown("environment", env.name, environments()), 0)
  end
  local module, options = require(name), {}
  for key, value in pairs(env) do
    if key ~= "name" then
      options[key] = value
    end
  end
  if type(module) ~= "table" or type(module.new) ~= "function" then
    error(("%s: wanted what env.define gives, got a %s"):format(package.searchpath(name, package.path) or name,
      type(module)), 0)
  end
  return function()
    return module.new(options)
  end
end

---What slots share in one split.
---@param settings rl4vlm.Settings
---@param model table|nil
---@param name "train"|"eval"|"demo"|"user"
---@param temperature number
---@return rl4vlm.Table
function M.shared(settings, model, name, temperature)
  local silent = {}
  for _, id in ipairs(model and model.eos or {}) do
    silent[id] = true
  end
  return {
    settings = settings,
    model = model,
    split = name,
    temperature = temperature,
    silent = silent,
    new_env = maker(settings.env),
  }
end

---True where an episode depends on the one that its slot played before: then there is one slot.
---@param settings rl4vlm.Settings
---@return boolean
function M.one_slot(settings)
  return maker(settings.env)().one_slot == true
end

---@param shared rl4vlm.Table
---@param count integer
---@return rl4vlm.Slot[]
function M.slots(shared, count)
  local slots = {}
  for i = 1, count do
    slots[i] = slot.new(shared)
  end
  return slots
end

---Plays `share` steps of each slot.
---@param generator table
---@param slots rl4vlm.Slot[]
---@param share integer
---@param progress fun(done: integer)|nil
---@return rl4vlm.Step[][] trajectories one a slot, in order
function M.collect(generator, slots, share, progress)
  local trajectories, played = {}, 0
  for i = 1, #slots do
    trajectories[i] = {}
  end
  drive(generator, #slots, function(i)
    local s = slots[i]
    if #trajectories[i] == share then
      return nil
    elseif s.done then
      s:begin(s.episode == 0 and i or s.episode + #slots)
    end
    return s:request(i)
  end, function(i, reply)
    table.insert(trajectories[i], slots[i]:apply(reply))
    played = played + 1
    if progress then
      progress(played)
    end
  end)
  return trajectories
end

---Values of the states in which trajectories were cut; nil where an episode had ended.
---@param model table
---@param slots rl4vlm.Slot[]
---@return table<integer, number> by slot
function M.bootstraps(model, slots)
  local samples, owner, values = {}, {}, {}
  for i, s in ipairs(slots) do
    if not s.done then
      local ids, images = s:prompt()
      samples[#samples + 1] = { ids = ids, images = images, answer = { model.eos[1] } }
      owner[#samples] = i
    end
  end
  if #samples > 0 then
    for j, value in ipairs(model:score(samples, { values = true }).values:tolist()) do
      values[owner[j]] = value
    end
  end
  return values
end

---Plays the given episodes, each once, whatever the number of slots.
---@param generator table
---@param slots rl4vlm.Slot[]
---@param episodes integer[] their numbers
---@param take fun(episode: integer, steps: rl4vlm.Step[]) called as episodes end, in any order
function M.play(generator, slots, episodes, take)
  local at, steps = 0, {}
  drive(generator, #slots, function(i)
    local s = slots[i]
    if s.done then
      at = at + 1
      if not episodes[at] then
        return nil
      end
      s:begin(episodes[at])
      steps[i] = {}
    end
    return s:request(i)
  end, function(i, reply)
    table.insert(steps[i], slots[i]:apply(reply))
    if slots[i].done then
      take(slots[i].episode, steps[i])
    end
  end)
end

return M
