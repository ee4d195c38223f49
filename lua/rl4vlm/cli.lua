-- cli.lua - `rl4vlm RECIPE.lua VERB OPTIONS`: words in, exit status out.
--
-- 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. Progress goes to stderr, results to stdout.
local explain = require "rl4vlm.explain"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local kinds = require "rl4vlm.kinds"
local model_name = require "rl4vlm.model_name"
local options = require "rl4vlm.options"
local progress = require "rl4vlm.progress"
local rollout = require "rl4vlm.rollout"
local run = require "rl4vlm.run"
local settings_of = require "rl4vlm.settings"
local suggest = require "rl4vlm.suggest"

local M = {}

local VERBS = { "train", "sft", "eval", "play", "report", "describe" }

-- Options: name, kind, value's name, help; `sets` is the field of the recipe that it stands for.
local ROWS = {
  { "model", "text", "NAME|DIR", "model to start from, or to evaluate", sets = "model" },
  { "adapter", "text", "DIR", "LoRA adapter beside the model", sets = "adapter" },
  { "out", "text", "DIR", "folder of the run (default: the next free runs/NAME-N)" },
  { "resume", "text", "DIR", "go on with a run" },
  { "seed", "integer", "N", "seed of all random streams", sets = "seed" },
  { "env-steps", "integer", "N", "environment steps to train for", sets = "schedule.env_steps" },
  { "episodes", "integer", "N", "held-out episodes; episodes to watch", sets = "eval.episodes" },
  { "slots", "integer", "N", "environments at a time", sets = "slots" },
  { "threads", "integer", "N", "threads (0: all cores)", sets = "threads" },
  { "device", "text", "auto|cpu", "where to compute", sets = "device" },
  { "temperature", "number", "T", "of sampling (0: greedy)", sets = "sampling.temperature" },
  { "dtype", "text", "fp32|bf16|fp16", "numbers of the weights", sets = "dtype" },
  { "base", "text", "none|int8|nf4", "quantise the frozen linear layers", sets = "base" },
  { "data", "text", "FILE.jsonl", "sft: demonstrations in the LLaVA form", sets = "sft.data" },
  { "samples", "integer", "N", "sft: demonstrations to learn from", sets = "sft.samples" },
  { "compare", "text", "DIR...", "report: runs to show beside", rest = true },
  { "set", "text", "KEY=VALUE", "any field of the recipe, by its dotted name", many = true },
  { "json", "flag", nil, "the result as one JSON object on the last line" },
  { "force", "flag", nil, "go on although the recipe has changed" },
  { "help", "flag", nil, "this text" },
}

-- What an option means instead, where a verb has its own field for it; false: the verb reads it.
local ELSEWHERE = {
  eval = { temperature = "eval.temperature", slots = false },
  play = { temperature = "eval.temperature", slots = false },
  train = { episodes = "schedule.eval_episodes" },
}

-- Who plays in a model's place.
local STAND_INS = { human = true, expert = true }

local function usage(message)
  error({ usage = message }, 0)
end

-- Runs f; what it raises is the user's doing.
local function checked(f, ...)
  local ok, result = pcall(f, ...)
  if not ok then
    usage((tostring(result):gsub("^[^\n]-rl4vlm/[%w_/]+%.lua:%d+: ", ""))) -- a line of ours helps nobody
  end
  return result
end

-- The recipe's changes that the options ask for: { name, text } in order.
local function changes_of(verb, values)
  local changes = {}
  for _, row in ipairs(ROWS) do
    local value = values[row[1]]
    local elsewhere = (ELSEWHERE[verb] or {})[row[1]]
    local name = elsewhere == nil and row.sets or elsewhere
    if value ~= nil and name then
      changes[#changes + 1] = { name, math.type(value) == "float" and ("%.17g"):format(value) or tostring(value) }
    end
  end
  for _, pair in ipairs(values.set or {}) do
    local name, text = pair:match("^([^=]+)=(.*)$")
    if not name then
      usage(("--set wants KEY=VALUE, got '%s'"):format(pair))
    end
    changes[#changes + 1] = { name, text }
  end
  return changes
end

---The verbs, in the order of a person's work.
M.verbs = VERBS

---The options of verbs, a line each.
---@return string
function M.options_help()
  return options.help(ROWS)
end

local function help(recipe)
  return ("usage: rl4vlm %s [%s] [options]\n%s\n"):format(arg and arg[0] or recipe.name,
    table.concat(VERBS, "|"), M.options_help())
end

---@class rl4vlm.Call What a verb gets.
---@field recipe rl4vlm.Recipe with the options' changes made
---@field base rl4vlm.Recipe as the file gives it
---@field changes string[][] { name, text } in order
---@field values table the options
---@field verb string
---@field progress rl4vlm.Progress
---@field one_slot boolean|nil an episode depends on the one before it in its slot
---@field folder string|nil the run's folder, once there is one
local Call = {}
Call.__index = Call

---The recipe with changes made in order.
---@param changes string[][]
---@return rl4vlm.Recipe
function Call:changed(changes)
  local recipe = self.base
  for _, change in ipairs(changes) do
    recipe = checked(recipe.set, recipe, change[1], change[2])
  end
  return recipe
end

-- By what name, and of which family, a recipe's model has settings. A run that goes on knows it: the folder that it
-- began with may be out of sight.
local function known_as(model, folder)
  local m = folder and folder.manifest
  local name = m and m.recipe.model == model and m.model_name or run.model_name(model)
  return name, model_name.family(model) or m and model_name.family(folder.dir) or nil
end

---The settings of a recipe for the model that it names; its environment takes its options.
---@param recipe rl4vlm.Recipe
---@param folder rl4vlm.Run|nil a run that goes on
---@return rl4vlm.Settings
function Call:settings(recipe, folder)
  local model = recipe.changes.model or recipe.model or "cardling"
  local settings = checked(recipe.resolve, recipe, known_as(model, folder))
  self.one_slot = checked(rollout.one_slot, settings)
  if self.one_slot and not (recipe.changes.slots or recipe.slots) then
    settings.slots = 1
  end
  return settings
end

---Refuses no slots, and more than one where episodes hang on one another.
---@param slots integer
function Call:check_slots(slots)
  local _, err = kinds.check(settings_of.by_name.slots, slots)
  if err then
    usage("slots: " .. err)
  elseif self.one_slot and slots ~= 1 then
    usage(("slots: with these rules an episode depends on the one before it in its slot: wanted --slots 1, got %d")
      :format(slots))
  end
end

---Refuses options that the verb has no use for.
---@param allowed string[]
function Call:only(allowed)
  local set = { json = true, help = true }
  for _, name in ipairs(allowed) do
    set[name] = true
  end
  for name in pairs(self.values) do
    if type(name) == "string" and not set[name] then
      local resumed = self.values.resume and name ~= "resume"
      usage(("--%s does not go with %s"):format(name, resumed and "--resume" or self.verb))
    end
  end
end

---A wrong usage found by a verb; the same for what a function raises.
Call.usage = function(message)
  usage(message)
end
Call.checked = checked

---Prints the result: one JSON object with --json, else what `text` gives.
---@param result table
---@param text fun(): string
function Call:result(result, text)
  io.stdout:write(self.values.json and json.encode(result) .. "\n" or text())
  io.stdout:flush()
end

local function call_of(recipe, args)
  local values, err = options.parse(args, ROWS)
  if not values then
    usage(err)
  end
  local verb = values[1] or "train"
  local known = {}
  for _, name in ipairs(VERBS) do
    known[name] = true
  end
  if not known[verb] then
    usage(suggest.unknown("verb", verb, VERBS))
  elseif values[2] and verb ~= "report" or values[3] then
    usage(("unknown word '%s' after %s"):format(values[verb == "report" and 3 or 2], verb))
  end
  if values.model and not (verb == "play" and STAND_INS[values.model]) then
    checked(model_name.resolve, values.model)
  end
  if values.adapter then
    checked(model_name.resolve_adapter, values.adapter)
  end
  local self = setmetatable({ base = recipe, values = values, verb = verb }, Call)
  self.changes = changes_of(verb, values)
  self.recipe = self:changed(self.changes)
  self.progress = progress.new()
  return self
end

local function fail(status, message)
  io.stderr:write("rl4vlm: ", tostring(message), "\n")
  return status
end

---Runs the verb that the words ask for.
---@param recipe rl4vlm.Recipe
---@param args string[] the words after the recipe's file
---@return integer status
function M.run(recipe, args)
  for _, word in ipairs(args) do
    if word == "-h" or word == "--help" then
      io.stdout:write(help(recipe))
      return 0
    end
  end
  collectgarbage("setpause", 125) -- frames and pixels are large: a heap that doubles is memory that a model lacks
  local deferred = host.defer_interrupt(true)
  local call
  local ok, err = xpcall(function()
    call = call_of(recipe, args)
    require("rl4vlm.verbs." .. call.verb).run(call)
  end, explain)
  host.defer_interrupt(deferred)
  if ok then
    return 0
  elseif type(err) == "table" and err.usage then
    return fail(2, err.usage)
  elseif type(err) == "string" and err:find("interrupted!", 1, true) then
    local hint = call.folder and ("; go on with --resume %s"):format(call.folder) or ""
    return fail(130, "stopped by Ctrl-C" .. hint)
  end
  return fail(1, err)
end

return M
