-- answer.lua - what the model is asked to answer, and f: from any text to an action.
--
-- The rule: the action is the value of the last "action" key of a JSON object that is well-formed or
-- cut off by the end of the text. Whatever came, the result is a table with a status, never an error.
local json = require "rl4vlm.json"
local json_scan = require "rl4vlm.json_scan"
local suggest = require "rl4vlm.suggest"

local M = {}

local Answer = { __name = "rl4vlm.answer" }
Answer.__index = Answer

local OPTIONS = { cot = "boolean", parse = "string", hints = "table", reads = "table" }

-- What is wrong with the text that an option gives for a key, or nil.
local function fault(option, value)
  if option == "reads" and value == true then
    return nil
  elseif type(value) ~= "string" then
    return ("wanted a %s, got %s"):format(option == "reads" and "pattern" or "text", tostring(value))
  end
  local ok, err = pcall(string.find, "", option == "reads" and value or "")
  return not ok and ("wanted a pattern, got %s: %s"):format(json.encode(value), err) or nil
end

-- Raises where the keys are not what an answer can have, or an option names none of them or says nothing of one.
local function check_keys(self)
  local seen = {}
  for i, key in ipairs(self.fields) do
    if seen[key] then
      error(("json_answer: key %d: %s stands twice"):format(i, json.encode(key)), 3)
    end
    seen[key] = true
  end
  if self.fields[#self.fields] ~= "action" then
    error(('json_answer: the last key: wanted "action", got %s')
      :format(json.encode(self.fields[#self.fields])), 3)
  end
  for _, option in ipairs { "hints", "reads" } do
    for _, key in ipairs(suggest.keys(self[option])) do
      if not seen[key] then
        error(("json_answer: %s: %s"):format(option, suggest.unknown("key", key, self.fields)), 3)
      end
      local err = fault(option, self[option][key])
      if err then
        error(("json_answer: %s: %s: %s"):format(option, key, err), 3)
      end
    end
  end
end

---Makes an answer format: a JSON object with these keys in order, "action" last.
---
---Options stand in the same table: `cot = false` leaves only "action"; `parse = "rl4vlm"` reads
---answers as the reference does; `hints = {key = text}` words the template; `reads` names the keys
---whose values the picture decides (the share read right is a metric): `{"cards"}`, or
---`{thoughts = "^dealer %d+"}` where only the part of the value that matches is one.
---@param spec table
---@return rl4vlm.Answer
function M.json(spec)
  if type(spec) ~= "table" then
    error("json_answer: wanted a table of keys, got a " .. type(spec), 2)
  end
  local self = { fields = {}, cot = true, parse = "json", hints = {}, reads = {} }
  for key, value in pairs(spec) do
    if math.type(key) == "integer" then
      if type(value) ~= "string" then
        error(("json_answer: key %d: wanted a string, got a %s"):format(key, type(value)), 2)
      end
      self.fields[key] = value
    elseif not OPTIONS[key] then
      error("json_answer: " .. suggest.unknown("option", key, suggest.keys(OPTIONS)), 2)
    elseif type(value) ~= OPTIONS[key] then
      error(("json_answer: %s: wanted a %s, got a %s"):format(key, OPTIONS[key], type(value)), 2)
    else
      self[key] = value
    end
  end
  local reads = {}
  for key, value in pairs(self.reads) do
    reads[math.type(key) and value or key] = math.type(key) and true or value
  end
  self.reads = reads
  check_keys(self)
  if self.parse ~= "json" and self.parse ~= "rl4vlm" then
    error(('json_answer: parse: wanted "json" or "rl4vlm", got "%s"'):format(self.parse), 2)
  end
  return setmetatable(self, Answer)
end

-- Keys that the answer has with the chain of thought on or off.
function Answer:keys()
  return self.cot and self.fields or { "action" }
end

local function object(keys, text_of)
  local parts = {}
  for i, key in ipairs(keys) do
    parts[i] = json.encode(key) .. ": " .. text_of(key)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

---The format as the prompt shows it (field `{format}`).
---@return string
function Answer:template()
  return object(self:keys(), function(key)
    return self.hints[key] or '"..."'
  end)
end

local function value_text(value)
  if type(value) == "table" then
    local parts = {}
    for i, item in ipairs(value) do
      parts[i] = value_text(item)
    end
    return "[" .. table.concat(parts, ", ") .. "]"
  end
  return json.encode(value)
end

---The answer's text for given values, as demonstrations have it.
---@param values table<string, any> one value for each key
---@return string
function Answer:render(values)
  return object(self:keys(), function(key)
    if values[key] == nil then
      error(("answer: no value for the key \"%s\" (there are: %s)")
        :format(key, table.concat(suggest.keys(values), ", ")), 0)
    end
    return value_text(values[key])
  end)
end

-- The value of a member: strings unescaped, scalars and lists decoded; nil where it is cut off.
local function member_value(text, member)
  local raw = text:sub(member.first, member.last)
  if not member.whole then
    return nil
  elseif raw:byte() == 34 then
    return json_scan.unescape(raw:sub(2, -2))
  end
  local value = json.decode("[" .. raw .. "]")
  return value and value[1]
end

local function result(status, reason, more)
  more = more or {}
  more.status, more.reason = status, reason
  more.fields = more.fields or {}
  return more
end

local function shown(value)
  local text = json.encode(value)
  return #text > 40 and text:sub(1, 37) .. "..." or text
end

local function in_list(list, word)
  for _, item in ipairs(list) do
    if item == word then
      return true
    end
  end
  return false
end

-- The action that a word names: itself, or one that differs only in its case.
local function named(actions, word)
  if in_list(actions, word) then
    return word
  end
  for _, action in ipairs(actions) do
    if action:lower() == word:lower() then
      return action
    end
  end
end

-- The values stated beside the action (or, without one, in the last object that states any).
local function stated(text, members, object_at)
  local fields = {}
  for _, member in ipairs(members) do
    if member.object == object_at and member.key ~= "action" then
      fields[member.key] = member_value(text, member)
    end
  end
  return fields
end

local function parse_json(self, text, actions)
  local wanted = { action = true }
  for _, key in ipairs(self.fields) do
    wanted[key] = true
  end
  local members = json_scan.members(text, wanted)
  local taken
  for i = #members, 1, -1 do
    if members[i].key == "action" then
      taken = members[i]
      break
    end
  end
  local last = taken or members[#members]
  local more = { fields = last and stated(text, members, last.object), key_at = taken and taken.at }
  if not taken then
    local why = text:find("{", 1, true) and 'no "action" key in a JSON object' or "no JSON object"
    return result("unparsable", why, more)
  elseif not taken.whole then
    return result("unparsable", "the text ends inside the action's value", more)
  end
  local value = member_value(text, taken)
  if math.type(value) == "integer" then
    value = tostring(value)
  elseif type(value) ~= "string" then
    local raw = text:sub(taken.first, math.min(taken.last, taken.first + 36))
    return result("unparsable", "the action is not a string: " .. json.utf8(raw), more)
  end
  more.action = named(actions, value:match("^%s*(.-)%s*$"))
  if not more.action then
    return result("illegal", ("%s is not one of the actions"):format(shown(value)), more)
  end
  return result("ok", nil, more)
end

-- The byte where the last `"action":` begins: where the reference means to split.
local function last_plain_key(lower)
  local at, from
  repeat
    from = lower:find('"action":', from and from + 1 or 1, true)
    at = from or at
  until not from
  return at
end

-- The reference's f: from the first `"action":` on (without one, the last character), every action
-- that is a substring; only a single one counts. "10" is taken out first, lest it be a "1".
local function parse_rl4vlm(_, text, actions)
  local lower = text:lower()
  local more = { key_at = last_plain_key(lower) }
  local rest = lower:sub(lower:find('"action":', 1, true) or -1)
  local seen = {}
  if in_list(actions, "10") and rest:find("10", 1, true) then
    seen[1] = "10"
    rest = rest:gsub("10", "")
  end
  for _, action in ipairs(actions) do
    if rest:find(action:lower(), 1, true) and not in_list(seen, action) then
      seen[#seen + 1] = action
    end
  end
  if #seen ~= 1 then
    return result("unparsable", ("%d actions named, wanted 1"):format(#seen), more)
  end
  more.action = seen[1]
  return result("ok", nil, more)
end

local parsers = { json = parse_json, rl4vlm = parse_rl4vlm }

---@class rl4vlm.Parsed
---@field status "ok"|"unparsable"|"illegal"
---@field reason string|nil why it is not ok
---@field action string|nil the action, when ok
---@field key_at integer|nil byte (1-based) of the action key's opening quote: where the action part begins
---@field fields table<string, any> values stated beside the action

---Reads an answer. Never raises on text; linear in its length.
---@param text string any bytes
---@param actions string[] the task's whole list of actions
---@return rl4vlm.Parsed
function Answer:read(text, actions)
  return parsers[self.parse](self, text, actions)
end

local function same(a, b)
  if type(a) == "table" and type(b) == "table" then
    if #a ~= #b then
      return false
    end
    for i = 1, #a do
      if not same(a[i], b[i]) then
        return false
      end
    end
    return true
  end
  return tostring(a) == tostring(b)
end

-- The part of a value that the picture decides.
local function part_of(value, pattern)
  if pattern == true then
    return value
  end
  return type(value) == "string" and value:match(pattern) or nil
end

---How many of the values that the picture decides were stated right.
---@param fields table<string, any> what the answer states
---@param truth table<string, any> what is true
---@return integer right, integer asked
function Answer:readings(fields, truth)
  local right, asked = 0, 0
  for key, pattern in pairs(self.cot and self.reads or {}) do
    local want = part_of(truth[key], pattern)
    if want ~= nil then
      asked = asked + 1
      right = right + (same(part_of(fields[key], pattern), want) and 1 or 0)
    end
  end
  return right, asked
end

return M
