--- env.lua - what every environment shares: options, seeding, the order of calls, saved states.
---
--- An environment says how to start, step and draw; `env.define` makes of it a module whose `new`
--- checks options and whose instances follow Gymnasium's meaning (docs/ENVIRONMENTS.md).

local place = require("rl4vlm.place")
local rng = require("rl4vlm.rng")
local suggest = require("rl4vlm.suggest")

local M = {}

--- What held-out evaluation, training and demonstrations draw from: streams that never meet.
local SPLITS = { train = 0, eval = 1, demo = 2, user = 3 }
local EPISODES = 1 << 40

local PLAIN = { ["nil"] = true, boolean = true, number = true, string = true }
local DEEPEST = 100

---Copies plain data: tables of tables, numbers, strings and booleans; anything else is an error.
---Integral floats (numbers that went through JSON) become integers.
---@param value any
---@param depth? integer
---@return any
function M.copy(value, depth)
  depth = depth or 1
  if type(value) ~= "table" then
    if not PLAIN[type(value)] then
      error(("a %s in it"):format(type(value)), 0)
    end
    return math.type(value) == "float" and math.tointeger(value) or value
  elseif depth > DEEPEST then
    error("a table within itself", 0)
  end
  local t = {}
  for k, v in pairs(value) do
    t[M.copy(k, depth + 1)] = M.copy(v, depth + 1)
  end
  return t
end

-- What is wrong with a limit of steps, or nil: a negative one would be none.
local function cap_fault(steps)
  local n = steps == nil and 0 or math.tointeger(steps)
  return not (n and n >= 0) and ("option 'max_steps' wants a whole number of 0 or more, got %s"):format(tostring(steps))
    or nil
end

-- Raises when `given` has a key that `known` lacks, or a value of another type than its default.
local function check_options(name, given, known, level)
  for key, value in pairs(given) do
    if known[key] == nil then
      error(name .. ": " .. suggest.unknown("option", key, suggest.keys(known)), level + 1)
    end
    if type(value) ~= type(known[key]) then
      error(("%s: option '%s' wants a %s, got %s (%s)"):format(name, key, type(known[key]),
        type(value), tostring(value)), level + 1)
    end
  end
  local err = cap_fault(given.max_steps)
  if err then
    error(name .. ": " .. err, level + 1)
  end
end

local function check_integer(name, field, value, low, high, level)
  local n = math.tointeger(value)
  if not n or n < low or n > high then
    error(("%s: %s wants an integer from %d to %d, got %s"):format(name, field, low, high,
      tostring(value)), level + 1)
  end
  return n
end

---@class rl4vlm.Env
---@field name string
---@field rules string
---@field options table  every switch with its value
---@field one_slot boolean  true when an episode depends on the one played before it
---@field answer_fields string[]  the expert's fields, in the order of an answer
local Env = {}
Env.__index = Env

-- The stream of one step of one episode: nothing else decides what is drawn.
local function stream(self, step)
  local split = SPLITS[self.place.split]
  return rng.new(self.place.seed, "env", split * EPISODES + self.place.episode, step)
end

-- What a definition's own function gave is not what it must give.
local function refuse(self, what, wanted, came)
  error(("%s: %s: wanted %s, got %s"):format(self.name, place.named(what, self.def[what]), wanted, came), 0)
end

-- How what came looks in a message.
local function show(value)
  return (type(value) == "number" or type(value) == "boolean") and tostring(value) or type(value)
end

-- What the game has become by one of its functions.
local function info_of(self, what)
  local game = self.game
  local ok, state = pcall(M.copy, game)
  if not ok then
    refuse(self, what or "step", "a game of plain data (tables, numbers, strings, booleans)", state)
  end
  return {
    state = state,
    steps = game.steps,
    total_reward = game.total_reward,
    success = game.total_reward > 0,
  }
end

local function observe(self)
  local obs = self.def.observe and self.def.observe(self, self.game) or {}
  if type(obs) ~= "table" then
    refuse(self, "observe", "a table of fields", show(obs))
  end
  obs.image = self.def.draw(self, self.game)
  if type(obs.image) ~= "userdata" or getmetatable(obs.image).__name ~= "rl4vlm.Image" then
    refuse(self, "draw", "an image", show(obs.image))
  end
  return obs
end

---Begins an episode. A seed alone means episode 0 of the split "train", so that the call always
---gives the same; with neither seed nor episode it is the one after the last, in the same split.
---@param args? { seed?: integer, episode?: integer, split?: string, start?: table }
---@return table obs, table info
function Env:reset(args)
  args = args or {}
  check_options(self.name .. ".reset", args, { seed = 0, episode = 0, split = "", start = {} }, 2)
  local split = args.split or (args.seed and "train") or self.place.split
  if SPLITS[split] == nil then
    error(self.name .. ": " .. suggest.unknown("split", split, suggest.keys(SPLITS)), 2)
  end
  self.place = {
    seed = check_integer(self.name, "seed", args.seed or self.place.seed, math.mininteger,
      math.maxinteger, 2),
    episode = check_integer(self.name, "episode", args.episode or (args.seed and 0)
      or self.place.episode + 1, 0, EPISODES - 1, 2),
    split = split,
  }
  local before = self.game
  local start = M.copy(args.start or {})
  local game = self.def.reset(self, stream(self, 0), start)
  if type(game) ~= "table" then
    refuse(self, "reset", "a game, a plain table", show(game))
  end
  game.steps = check_integer(self.name, "start.steps", start.steps or game.steps or 0, 0, 1 << 30,
    2)
  game.total_reward = tonumber(start.total_reward) or 0
  self.game, self.live = game, true
  self.def.begin(self, before)
  return observe(self), info_of(self, "reset")
end

---Takes one action out of `all_actions()`.
---@param action string
---@return table obs, number reward, boolean terminated, boolean truncated, table info
function Env:step(action)
  if not self.live then
    error(("%s: step %s; call reset first"):format(self.name,
      self.game and "after the episode's end" or "before the first reset"), 2)
  end
  if not self.action_set[action] then
    error(("%s: unknown action '%s'; the actions are %s"):format(self.name, tostring(action),
      table.concat(self.action_list, " ")), 2)
  end
  local game = self.game
  self.def.leave(self)
  local reward, terminated, truncated =
    self.def.step(self, game, action, stream(self, game.steps + 1))
  if type(reward) ~= "number" or reward ~= reward or math.abs(reward) == math.huge then
    refuse(self, "step", "a reward, a finite number", show(reward))
  end
  for _, over in ipairs { terminated or false, truncated or false } do
    if type(over) ~= "boolean" then -- 0 is true in Lua: it would end every episode
      refuse(self, "step", "true or false for terminated and truncated", show(over))
    end
  end
  game.steps = game.steps + 1
  game.total_reward = game.total_reward + reward
  local cap = self.options.max_steps
  truncated = truncated or not terminated and cap > 0 and game.steps >= cap
  if truncated and self.options.limit_terminates then
    terminated, truncated = true, false
  end
  self.live = not (terminated or truncated)
  return observe(self), reward, terminated or false, truncated or false, info_of(self)
end

---The actions that are legal now, in the order of `all_actions()`.
---@return string[]
function Env:actions()
  if not self.game then
    error(self.name .. ": actions before the first reset", 2)
  end
  local list = {}
  for _, action in ipairs(self.action_list) do
    if not self.def.legal or self.def.legal(self, self.game, action) then
      list[#list + 1] = action
    end
  end
  if #list == 0 and self.live then
    refuse(self, "legal", "an action at least while the episode goes on", "none")
  end
  return list
end

---Every action that `step` takes.
---@return string[]
function Env:all_actions()
  return M.copy(self.action_list)
end

---What an optimal player answers now: the fields of its chain of thought, and its action.
---@return table fields
function Env:expert()
  if not self.game then
    error(self.name .. ": expert before the first reset", 2)
  end
  if not self.def.expert then
    error(self.name .. ": this environment has no expert", 2)
  end
  local fields = self.def.expert(self, self.game)
  if type(fields) ~= "table" or not self.action_set[fields.action] then
    refuse(self, "expert", "a table of fields with an action of the list",
      type(fields) == "table" and ("the action %s"):format(tostring(fields.action)) or show(fields))
  end
  return fields
end

---The present observation and info again.
---@return table obs, table info
function Env:observe()
  if not self.game then
    error(self.name .. ": observe before the first reset", 2)
  end
  return observe(self), info_of(self)
end

---Everything that decides how the instance goes on, as plain data (it may go through JSON).
---@return table
function Env:state()
  return M.copy({ place = self.place, game = self.game, live = self.live, memory = self.memory })
end

---Goes back to a state that `state()` gave.
---@param state table
---@return table? obs, table? info  nothing when no episode had begun
function Env:restore(state)
  if type(state) ~= "table" or type(state.place) ~= "table" then
    error(self.name .. ": restore wants what state() gave", 2)
  end
  state = M.copy(state)
  self.place, self.game = state.place, state.game
  self.live, self.memory = state.live or false, state.memory or {}
  if self.game then
    return self:observe()
  end
end

local function nothing() end

-- What a definition holds: the type of each field; the first five it cannot do without.
local NEEDED = { "name", "actions", "reset", "step", "draw" }
local DEFINITION = {
  name = "string", actions = "table", reset = "function", step = "function", draw = "function",
  options = "table", choices = "table", rules = "table", observe = "function", legal = "function",
  expert = "function", answer_fields = "table", begin = "function", leave = "function", one_slot = "function",
}

-- What is wrong with the list of actions, or nil. Answers are read without blanks around them.
local function actions_fault(actions)
  local seen = {}
  for i = 1, math.max(#actions, 1) do
    local action = actions[i]
    if type(action) ~= "string" or seen[action] then
      return ("'actions' wants texts that differ, got %s as number %d"):format(tostring(action), i)
    elseif not action:find("^%S") or action:find("%s$") then
      return ("'actions' wants texts without blanks around them, got '%s' as number %d"):format(action, i)
    end
    seen[action] = true
  end
  for key in pairs(actions) do
    if math.type(key) ~= "integer" or key < 1 or key > #actions then
      return ("'actions' wants a list, got the key '%s'"):format(tostring(key))
    end
  end
end

-- What is wrong with the switches' defaults, or nil.
local function options_fault(options)
  for key, value in pairs(options) do
    local ok, what = pcall(M.copy, value)
    if not ok then
      return ("option '%s' wants plain data (a table, number, text or boolean), got %s"):format(tostring(key), what)
    end
  end
  return cap_fault(options.max_steps)
end

-- What is wrong with a definition, or nil.
local function fault(def)
  for field, value in pairs(def) do
    if not DEFINITION[field] then
      return suggest.unknown("field", field, suggest.keys(DEFINITION))
    elseif type(value) ~= DEFINITION[field] then
      return ("'%s' wants a %s, got a %s"):format(field, DEFINITION[field], type(value))
    end
  end
  for _, field in ipairs(NEEDED) do
    if def[field] == nil then
      return ("the definition lacks '%s'"):format(field)
    end
  end
  return actions_fault(def.actions) or options_fault(def.options or {})
end

-- `return env.define { ... }` is a tail call: the file is that of its functions.
local function check_definition(def)
  local err = fault(def)
  if err then
    local file = place.of_function(def.reset or def.step or def.draw)
    error(("%senv.define: %s"):format(file and file .. ": " or "", err), 0)
  end
end

---Makes an environment module.
---
---`def` holds: `name`; `actions` (list); `reset(self, rng, start)` -> game, a plain table (`start`
---holds the fields that the caller asked for); `step(self, game, action, rng)` -> reward,
---terminated, truncated (it changes `game`); `draw(self, game)` -> image; and optionally
---* `options`: switches and their defaults (`limit_terminates`, and `max_steps`, after which an episode is
---  truncated, are always there); `choices`: for an
---  option that is a word, the set of its values; `rules`: rule set -> the switches that it
---  changes ("intended" is the default set);
---* `observe(self, game)` -> what the prompt may say; `legal(self, game, action)`;
---  `expert(self, game)` -> fields, and `answer_fields`, their order;
---* `begin(self, game_before)` and `leave(self)`, called after a reset and before a step, and
---  `one_slot(self)` -> true, for what reaches from one episode into the next (`self.memory`).
---@param def table
---@return { name: string, new: fun(options?: table): rl4vlm.Env }
function M.define(def)
  check_definition(def)
  local rules = def.rules or {}
  rules.intended = rules.intended or {}
  local defaults = M.copy(def.options or {})
  defaults.limit_terminates = false
  defaults.max_steps = defaults.max_steps or 1000
  local known = M.copy(defaults)
  known.rules = "intended"
  def.begin, def.leave = def.begin or nothing, def.leave or nothing

  local function new(options)
    options = options or {}
    check_options(def.name, options, known, 2)
    local set = options.rules or "intended"
    if not rules[set] then
      error(def.name .. ": " .. suggest.unknown("rules", set, suggest.keys(rules)), 2)
    end
    for key, choices in pairs(def.choices or {}) do
      if options[key] ~= nil and not choices[options[key]] then
        error(def.name .. ": " .. suggest.unknown(key, options[key], suggest.keys(choices)), 2)
      end
    end
    local self = setmetatable({
      name = def.name, rules = set, def = def, live = false, memory = {},
      options = M.copy(defaults), answer_fields = M.copy(def.answer_fields or {}),
      action_list = M.copy(def.actions), action_set = {},
      place = { seed = 0, episode = 0, split = "train" },
    }, Env)
    for _, source in ipairs({ rules[set], options }) do
      for key, value in pairs(source) do
        if key ~= "rules" then
          self.options[key] = value
        end
      end
    end
    for _, action in ipairs(self.action_list) do
      self.action_set[action] = true
    end
    self.one_slot = def.one_slot ~= nil and def.one_slot(self)
    return self
  end

  return { name = def.name, new = new, options = M.copy(known), rules = M.copy(rules) }
end

return M
