-- kinds.lua - named, typed settings: the checks and the reading of text, one kind of value each.
--
-- A field is { kind = NAME, default = VALUE [, optional = true] }. Kinds check values that a recipe
-- gives and read the text that --set gives, as the type that it replaces.
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local schedule = require "rl4vlm.schedule"

local M = {}

local kinds = {}
M.kinds = kinds

local function number(text)
  return tonumber(text)
end

---Whether a value is a number that is neither infinite nor NaN.
---@param x any
---@return boolean
function M.finite(x)
  return type(x) == "number" and x == x and x ~= math.huge and x ~= -math.huge
end
local finite = M.finite

local function numbers(wanted, accept)
  return {
    wanted = wanted,
    check = function(x)
      return finite(x) and accept(x) and x + 0.0 or nil
    end,
    read = number,
  }
end

-- Doubles hold every whole number up to here, and so JSON does: a run's manifest gives back what it was given.
local MOST = 1 << 53

local function integers(wanted, least, most)
  return {
    wanted = wanted,
    check = function(x)
      x = type(x) == "number" and math.tointeger(x)
      if x and x > (most or MOST) then
        return nil, ("at most %d"):format(most or MOST)
      end
      return x and x >= least and x or nil
    end,
    read = number,
  }
end

local function of_type(kind, wanted)
  return {
    wanted = wanted or "a " .. kind,
    check = function(x)
      return type(x) == kind and x or nil
    end,
  }
end

local function with_metatable(name, wanted)
  return {
    wanted = wanted,
    check = function(x)
      local mt = getmetatable(x)
      return type(mt) == "table" and mt.__name == name and x or nil
    end,
  }
end

kinds.number = numbers("a number", function()
  return true
end)
kinds.positive = numbers("a number above 0", function(x)
  return x > 0
end)
kinds.not_negative = numbers("a number of 0 or more", function(x)
  return x >= 0
end)
kinds.share = numbers("a number from 0 to 1", function(x)
  return x >= 0 and x <= 1
end)
kinds.count = integers("a whole number of 1 or more", 1)
kinds.whole = integers("a whole number of 0 or more", 0)
kinds.integer = integers("a whole number", -MOST)
kinds.threads = integers("a whole number from 0 to 1024", 0, 1024)
kinds.callable = of_type("function")
kinds.table = of_type("table")
kinds.prompt = with_metatable("rl4vlm.prompt", "a prompt made by rl.prompt")
kinds.answer = with_metatable("rl4vlm.answer", "an answer format made by rl.json_answer")

kinds.string = of_type("string")
kinds.string.read = function(text)
  return text
end

-- A run's folder is named by it.
kinds.name = {
  wanted = "a name that a folder can have",
  check = function(x)
    return type(x) == "string" and x:find("^[^%.%c/][^%c/]*$") and x or nil
  end,
  read = kinds.string.read,
}

kinds.boolean = {
  wanted = "true or false",
  check = function(x)
    if type(x) == "boolean" then
      return x
    end
  end,
  read = function(text)
    if text == "true" or text == "false" then
      return text == "true"
    end
  end,
}

kinds.schedule = {
  wanted = "a rate, or a schedule such as cosine(1e-5, 1e-9)",
  check = function(x)
    if schedule.is(x) then
      return x
    end
    return (type(x) == "number" or type(x) == "string") and schedule.parse(x) or nil
  end,
  read = schedule.parse,
}

kinds.list = {
  wanted = "a list of strings",
  check = function(x)
    if type(x) ~= "table" then
      return nil
    end
    for key, item in pairs(x) do
      if math.type(key) ~= "integer" or type(item) ~= "string" then
        return nil
      end
    end
    return x
  end,
  read = function(text)
    local list = {}
    for word in text:gmatch("[^,%s]+") do
      list[#list + 1] = word
    end
    return list
  end,
}

-- Modules as PEFT names them: one text is a regular expression (or "all-linear"), a list holds ends of paths.
kinds.modules = {
  wanted = "a regular expression, or a list of modules' names",
  check = function(x)
    return type(x) == "string" and x or kinds.list.check(x)
  end,
  read = function(text)
    return text:match("^[%w_.,]+$") and kinds.list.read(text) or text
  end,
}

-- Numbers by module, as in rank_pattern; as text NAME=NUMBER,NAME=NUMBER.
local function by_module(wanted, accept)
  return {
    wanted = wanted .. " by modules' names",
    check = function(x)
      if type(x) ~= "table" then
        return nil
      end
      for key, value in pairs(x) do
        if type(key) ~= "string" or not accept(value) then
          return nil
        end
      end
      return x
    end,
    read = function(text)
      local numbers_of = {}
      for pair in text:gmatch("[^,]+") do
        local key, value = pair:match("^%s*(.-)%s*=%s*(.-)%s*$")
        if not key then
          return nil
        end
        numbers_of[key] = tonumber(value) or value
      end
      return numbers_of
    end,
  }
end
kinds.ranks = by_module("whole numbers of 1 or more", function(x)
  return math.type(x) == "integer" and x >= 1
end)
kinds.alphas = by_module("numbers above 0", function(x)
  return finite(x) and x > 0
end)

kinds.no_dropout = {
  wanted = "0 (with dropout, what is recorded while sampling would not be what is scored)",
  check = function(x)
    return x == 0 and x or nil
  end,
  read = number,
}

kinds.integers = {
  wanted = "a list of whole numbers",
  check = function(x)
    for key, item in pairs(type(x) == "table" and x or { false }) do
      if math.type(key) ~= "integer" or math.type(item) ~= "integer" then
        return nil
      end
    end
    return x
  end,
  read = function(text)
    local list = {}
    for word in text:gmatch("[^,%s]+") do
      list[#list + 1] = math.tointeger(tonumber(word)) or word
    end
    return list
  end,
}

---A kind that takes one of some words.
---@param words string[]
function M.choice(words)
  local set = {}
  for _, word in ipairs(words) do
    set[word] = word
  end
  return {
    words = words,
    wanted = '"' .. table.concat(words, '" or "') .. '"',
    check = function(x)
      return set[x]
    end,
    read = function(text)
      return text
    end,
  }
end

-- ` (did you mean "x"?)` where a text is near one of the words that a kind takes.
local function hint(kind, value)
  local near = kind.words and type(value) == "string" and host.nearest(value, kind.words)
  return near and (" (did you mean %s?)"):format(json.encode(near)) or ""
end

---How a value looks in a message.
---@param value any
---@return string
function M.show(value)
  if type(value) == "string" then
    return json.encode(#value > 60 and value:sub(1, 57) .. "..." or value)
  elseif type(value) == "table" and not schedule.is(value) then
    return "a table"
  elseif type(value) == "number" or type(value) == "boolean" or value == nil then
    return tostring(value)
  end
  return "a " .. type(value)
end

local function kind_of(field)
  return type(field.kind) == "table" and field.kind or kinds[field.kind]
end

---Checks a value; gives what to keep (an integer for 3.0, a schedule for a rate), or nil and a message.
---@param field table
---@param value any
---@return any kept
---@return string|nil err "wanted X, got Y"
function M.check(field, value)
  local kind = kind_of(field)
  local kept, wanted = kind.check(value)
  if kept == nil then
    return nil, ("wanted %s, got %s%s"):format(wanted or kind.wanted, M.show(value), hint(kind, value))
  end
  return kept
end

---Reads text as a value of the field; nil and a message when it is none.
---@param field table
---@param text string
---@return any value
---@return string|nil err
function M.read(field, text)
  local kind = kind_of(field)
  if not kind.read then
    return nil, "cannot be given as text: change it in the recipe"
  end
  local value = kind.read(text)
  if value == nil then
    return nil, ("wanted %s, got %s"):format(kind.wanted, M.show(text))
  end
  return M.check(field, value)
end

---Reads text whose type nobody declared: true, false, a number, else the text.
---@param text string
---@return boolean|number|string
function M.guess(text)
  if text == "true" or text == "false" then
    return text == "true"
  end
  return tonumber(text) or text
end

return M
