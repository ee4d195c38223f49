-- recipe.lua - a recipe: what a researcher changes, checked field by field.
--
-- A recipe is a plain nested table with defaults left open. `resolve` lays the layers over one
-- another (defaults, the recipe, its settings for this model, changes) and gives the settings of a
-- run; plain.lua turns those into data for the manifest.
local kinds = require "rl4vlm.kinds"
local place = require "rl4vlm.place"
local prompt = require "rl4vlm.prompt"
local settings = require "rl4vlm.settings"
local suggest = require "rl4vlm.suggest"

local M = {}

local Recipe = { __name = "rl4vlm.recipe" }
Recipe.__index = Recipe

local function fail(name, field, message)
  local who = name and ("recipe %s"):format(name) or "recipe"
  error(("%s: %s%s"):format(who, field and field .. ": " or "", message), 0)
end

local function parent_of(name)
  return name:match("^(.*)%.[^.]+$")
end

-- A table that stands for its dotted members ("schedule"), not for itself.
local function is_branch(name)
  for _, field in ipairs(settings.list) do
    if field.name:sub(1, #name + 1) == name .. "." then
      return true
    end
  end
  return false
end

-- The declared field of a dotted name: the recipe's own, or the algorithm's.
local function find_field(name, algorithm)
  local own = settings.by_name[name]
  local rest = name:match("^algorithm%.(.+)$")
  if rest and algorithm then
    return algorithm.fields[rest]
  end
  return own
end

local function known_names(algorithm)
  local names = {}
  for _, field in ipairs(settings.list) do
    names[#names + 1] = field.name
    names[#names + 1] = parent_of(field.name)
  end
  for name in pairs(algorithm and algorithm.fields or {}) do
    names[#names + 1] = "algorithm." .. name
  end
  return names
end

-- Checks the table `given` and adds its leaves to `flat`, by dotted name.
local function flatten(who, given, prefix, algorithm, flat)
  for key, value in pairs(given) do
    local name = prefix .. tostring(key)
    local field = find_field(name, algorithm)
    if name == "algorithm" or not field and is_branch(name) then
      if type(value) ~= "table" then
        fail(who, name, "wanted a table of settings, got " .. kinds.show(value))
      end
      flatten(who, value, name .. ".", algorithm, flat)
    elseif field then
      local kept, err = kinds.check(field, value)
      if kept == nil then
        fail(who, name, err)
      end
      flat[name] = kept
    elseif name ~= "algorithm.name" then
      fail(who, nil, suggest.unknown("field", name, known_names(algorithm)))
    end
  end
  return flat
end

local function algorithm_of(who, given)
  local algorithm = given.algorithm
  if algorithm == nil then
    return nil
  elseif type(algorithm) ~= "table" or type(algorithm.name) ~= "string" then
    fail(who, "algorithm", "wanted an algorithm such as rl.ppo { ... }, got " .. kinds.show(algorithm))
  end
  return require("rl4vlm." .. algorithm.name)
end

local function check(given)
  if type(given) ~= "table" then
    fail(nil, nil, "wanted a table of fields, got " .. kinds.show(given))
  end
  local who = type(given.name) == "string" and given.name or nil
  local algorithm = algorithm_of(who, given)
  flatten(who, given, "", algorithm, {})
  for _, field in ipairs(settings.list) do
    if field.default == nil and not field.optional and not is_branch(field.name)
      and given[field.name] == nil then
      fail(who, field.name, "wanted " .. (kinds.kinds[field.kind] or field.kind).wanted .. ", got nothing")
    end
  end
  if type(given.env[1]) ~= "string" then
    fail(who, "env", "wanted an environment's name first, such as { \"points24\" }, got "
      .. kinds.show(given.env[1]))
  end
  for model, overlay in pairs(given.by_model or {}) do
    if type(overlay) ~= "table" then
      fail(who, "by_model." .. tostring(model), "wanted a table of fields, got " .. kinds.show(overlay))
    end
    flatten(who, overlay, "", algorithm, {})
  end
end

---Makes a recipe. Every field is checked; a wrong one is an error that names its line, the field, what was
---wanted, what came and, for an unknown name, the nearest known one.
---@param given table
---@return rl4vlm.Recipe
function M.new(given)
  local ok, err = pcall(check, given)
  if not ok then
    local field = err:match("unknown field '([%w_.]+)'") or err:match("^recipe[^:]*: ([%w_.]+): ")
    error(place.of(M.new, field) .. err, 0)
  end
  local self = { changes = {} }
  for key, value in pairs(given) do
    self[key] = value
  end
  return setmetatable(self, Recipe)
end

---A copy with some fields changed; they also stand above the settings by model.
---@param changes table the same shape as a recipe
---@return rl4vlm.Recipe
function Recipe:with(changes)
  if type(changes) ~= "table" then
    fail(self.name, "with", "wanted a table of fields, got " .. kinds.show(changes))
  end
  local copy = {}
  for key, value in pairs(self) do
    copy[key] = value
  end
  copy.changes = {}
  for name, value in pairs(self.changes) do
    copy.changes[name] = value
  end
  local algorithm = algorithm_of(self.name, self)
  for name, value in pairs(flatten(self.name, changes, "", algorithm, {})) do
    copy.changes[name] = value
  end
  return setmetatable(copy, Recipe)
end

-- Answer formats are shared values: a change makes a copy.
local function with_answer(answer, key, value)
  local copy = {}
  for k, v in pairs(answer) do
    copy[k] = v
  end
  copy[key] = value
  return setmetatable(copy, getmetatable(answer))
end

local ANSWER = {
  cot = { kind = "boolean" },
  parse = { kind = kinds.choice { "json", "rl4vlm" } },
}

local function with_template(self, name, text)
  local source, err = prompt.template(text)
  if not source then
    fail(self.name, name, err)
  end
  local copy = self:with {}
  copy.changes.prompt = (copy.changes.prompt or self.prompt):with_template(source)
  return copy
end

---A copy with one field set from text ("algorithm.clip", "0.2"), read as the type it replaces.
---@param name string dotted name
---@param text string
---@return rl4vlm.Recipe
function Recipe:set(name, text)
  if name == "prompt.template" then
    return with_template(self, name, text)
  end
  local copy = self:with {}
  local algorithm = algorithm_of(self.name, self)
  local field = find_field(name, algorithm) or ANSWER[name:match("^answer%.(.+)$")]
  local option = name:match("^env%.([%w_]+)$")
  if option then
    local old = (copy.changes.env or self.env)[option]
    local value = kinds.guess(text)
    if old ~= nil and type(old) ~= type(value) then
      fail(self.name, name, ("wanted a %s, got %s"):format(type(old), kinds.show(text)))
    end
    local env = {}
    for k, v in pairs(copy.changes.env or self.env) do
      env[k] = v
    end
    env[option] = value
    copy.changes.env = env
    return copy
  elseif field and field.group then
    fail(self.name, name, ("wanted one of its members, such as %s"):format(
      ({ env = "env.rules", algorithm = "algorithm.clip" })[name] or name .. ".KEY"))
  elseif not field then
    local names = known_names(algorithm)
    table.move({ "answer.cot", "answer.parse", "env.rules", "prompt.template" }, 1, 4, #names + 1, names)
    fail(self.name, nil, suggest.unknown("field", name, names))
  end
  local value, err = kinds.read(field, text)
  if value == nil then
    fail(self.name, name, err)
  end
  if ANSWER[name:match("^answer%.(.+)$")] then
    copy.changes.answer = with_answer(copy.changes.answer or self.answer, name:match("[^.]+$"), value)
  else
    copy.changes[name] = value
  end
  return copy
end

local function put(tree, name, value)
  local branch = parent_of(name)
  local node = tree
  if branch then
    node = tree[branch] or {}
    tree[branch] = node
  end
  node[name:match("[^.]+$")] = value
end

-- The largest number of slots up to 16 that divides the rollout.
local function default_slots(rollout)
  for n = math.min(16, rollout), 1, -1 do
    if rollout % n == 0 then
      return n
    end
  end
end

-- What no single field can know.
local function check_together(who, flat)
  local steps = flat["schedule.env_steps"]
  flat["schedule.rollout"] = math.min(flat["schedule.rollout"], steps)
  local rollout = flat["schedule.rollout"]
  flat.slots = flat.slots and math.min(flat.slots, rollout) or default_slots(rollout)
  if rollout % flat.slots ~= 0 then
    fail(who, "slots", ("wanted a divisor of schedule.rollout (%d), got %d"):format(rollout, flat.slots))
  end
  if flat["algorithm.minibatch"] then
    flat["algorithm.minibatch"] = math.min(flat["algorithm.minibatch"], rollout)
  end
  for _, part in ipairs(flat.train) do
    local known = table.concat(settings.parts, " ")
    if not (" " .. known .. " "):find(" " .. part .. " ", 1, true) then
      fail(who, "train", suggest.unknown("part", part, table.move(settings.parts, 1, 4, 1, {})))
    end
  end
end

-- { "points24", rules = ... } with its name under `name`; rules are "intended" where none are given.
local function environment(env)
  local copy = { name = env[1], rules = "intended" }
  for key, value in pairs(env) do
    if key ~= 1 then
      copy[key] = value
    end
  end
  return copy
end

---@class rl4vlm.Settings
---One field each for the names of settings.lua, nested ("schedule.lr" is settings.schedule.lr).

-- What the recipe's file gives: fields may have been assigned to since it was made.
local function given_by(self)
  local given = {}
  for key, value in pairs(self) do
    given[key] = key ~= "changes" and value or nil
  end
  return given
end

---The settings of a run with a given model: defaults, its family's, the recipe, `by_model` of the family and of the
---model, changes.
---@param model string|nil name of the built-in model, or the last part of a checkpoint's path
---@param family table|nil the descriptor of its family
---@return rl4vlm.Settings
function Recipe:resolve(model, family)
  local algorithm = algorithm_of(self.name, self)
  local flat = {}
  for _, field in ipairs(settings.list) do
    if field.default ~= nil then
      flat[field.name] = kinds.check(field, field.default)
    end
  end
  for name, field in pairs(algorithm and algorithm.fields or {}) do
    flat["algorithm." .. name] = kinds.check(field, field.default)
  end
  local function lay(layer)
    for name, value in pairs(layer) do
      flat[name] = value
    end
  end
  lay(family and family.settings or {})
  lay(flatten(self.name, given_by(self), "", algorithm, {}))
  for _, name in ipairs { family and family.name or model, model } do
    lay(flatten(self.name, (self.by_model or {})[name] or {}, "", algorithm, {}))
  end
  lay(self.changes)
  check_together(self.name, flat)
  local tree = {}
  for name, value in pairs(flat) do
    if name ~= "by_model" and name ~= "algorithm" then
      put(tree, name, value)
    end
  end
  tree.env = environment(tree.env)
  tree.algorithm = tree.algorithm or {}
  tree.algorithm.name = self.algorithm and self.algorithm.name
  return tree
end

return M
