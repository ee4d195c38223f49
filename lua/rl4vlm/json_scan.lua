-- json_scan.lua - JSON objects inside any text, in one pass.
--
-- A language model writes prose around its JSON, stops in the middle of it or forgets a comma. The
-- scanner reads every byte a bounded number of times, keeps its own stack and never raises: it
-- reports members of objects that are well-formed up to their end or to the end of the text. When
-- an object breaks the grammar, it and the objects around it count for nothing, those closed inside
-- it still do, and the search goes on behind the place (or inside the last string: an unescaped
-- quote may have hidden an object).
local M = {}

-- What may come next inside a container.
local KEY_OR_END, KEY, COLON, VALUE, VALUE_OR_END, COMMA_OR_END = 1, 2, 3, 4, 5, 6

local MAX_DEPTH = 200 -- deeper nesting counts as malformed

-- The position of the quote that closes the string opened at `at`; nil: the text ends first.
local function string_end(text, at)
  local i = at + 1
  while true do
    i = text:find('["\\]', i)
    if not i then
      return nil
    elseif text:byte(i) == 34 then
      return i
    end
    i = i + 2
  end
end

local simple = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- Two UTF-16 surrogates that were written as separate escapes become one character.
local function pair(a, b, c, d)
  local high = (a:byte() & 0x0F) << 6 | (b:byte() & 0x3F)
  local low = (c:byte() & 0x0F) << 6 | (d:byte() & 0x3F)
  return utf8.char(0x10000 + (high << 10) + low)
end

---The bytes of a string's inside with its escapes undone; bad escapes stand for themselves.
---@param raw string
---@return string
function M.unescape(raw)
  if not raw:find("\\", 1, true) then
    return raw
  end
  raw = raw:gsub("\\(.)(%x?%x?%x?%x?)", function(c, hex)
    if c == "u" and #hex == 4 then
      return utf8.char(tonumber(hex, 16))
    end
    return (simple[c] or c) .. hex
  end)
  return (raw:gsub("\xED([\xA0-\xAF])([\x80-\xBF])\xED([\xB0-\xBF])([\x80-\xBF])", function(a, b, c, d)
    return pair(a, b, string.char(c:byte() - 0x10), d)
  end))
end

local function is_number(word)
  return not word:find("^%-?0%d") and (word:find("^%-?%d+$") or word:find("^%-?%d+%.%d+$")
    or word:find("^%-?%d+[eE][+-]?%d+$") or word:find("^%-?%d+%.%d+[eE][+-]?%d+$"))
end

local literals = { "true", "false", "null" }
local function literal(word, cut)
  for _, name in ipairs(literals) do
    if word == name or cut and name:sub(1, #word) == word then
      return name
    end
  end
end

-- One value without members: number, true, false, null. Returns its last position and whether it is
-- whole (a number at the end of the text may have more digits to come); nil: no value starts here.
local function scalar_end(text, at)
  local _, last = text:find("^[%w.+-]+", at)
  if not last then
    return nil
  end
  local word, ends = text:sub(at, math.min(last, at + 63)), last == #text
  if literal(word, ends) then
    return last, literal(word) ~= nil
  elseif is_number(word) then
    return last, not ends
  elseif ends and word:find("^%-?%d*%.?%d*[eE]?[+-]?$") then
    return last, false
  end
  return nil
end

---@class rl4vlm.JsonMember
---@field object integer position of the `{` it belongs to
---@field at integer position of the key's opening quote
---@field key string
---@field first integer first byte of the value
---@field last integer last byte of the value; with a value cut off, the end of the text
---@field whole boolean false when the text ends inside the value

local Scan = {}
Scan.__index = Scan

-- Enters a container whose bracket stands at `at`.
function Scan:push(at, is_object)
  local depth = self.depth + 1
  if depth > MAX_DEPTH then
    return self:fail()
  end
  self.depth = depth
  self.stack[depth] = { at = at, object = is_object }
  self.state = is_object and KEY_OR_END or VALUE_OR_END
  self.at = at + 1
end

-- Keeps a member of the innermost open object until that object closes.
function Scan:keep(top, member, last, whole)
  member.last, member.whole = last, whole
  if self.wanted[member.key] then
    top.members = top.members or {}
    table.insert(top.members, member)
  end
end

function Scan:accept(top)
  for _, member in ipairs(top.members or {}) do
    self.found[#self.found + 1] = member
  end
end

-- A value ended at `last`: what follows is a comma or the container's end.
function Scan:value_done(last, whole)
  local top = self.stack[self.depth]
  if top.object then
    self:keep(top, top.member, last, whole)
  end
  self.state = COMMA_OR_END
  self.at = last + 1
end

-- Leaves the innermost container, whose closing bracket stands here.
function Scan:pop()
  local top = table.remove(self.stack)
  self.depth = self.depth - 1
  self:accept(top)
  if self.depth > 0 then
    self:value_done(self.at, true)
  else
    self.at = self.at + 1
  end
end

function Scan:fail()
  self.stack, self.depth = {}, 0
  local inside = self.last_string
  self.last_string = nil
  -- Only a string that ended just here can have swallowed an object.
  self.at = inside and inside + 1 or self.at
end

-- A key, up to and including its closing quote.
function Scan:key(c)
  if c ~= 34 then
    return self:fail()
  end
  local close = string_end(self.text, self.at)
  if not close then
    self.at = #self.text + 1
    return
  end
  self.stack[self.depth].member = {
    object = self.stack[self.depth].at,
    at = self.at,
    key = M.unescape(self.text:sub(self.at + 1, math.min(close - 1, self.at + 256))),
  }
  self.last_string = self.at
  self.state = COLON
  self.at = close + 1
end

function Scan:value(c)
  local text, at = self.text, self.at
  local top = self.stack[self.depth]
  if top.object then
    top.member.first = at
  end
  if c == 123 or c == 91 then
    self.last_string = nil
    return self:push(at, c == 123)
  elseif c == 34 then
    local close = string_end(text, at)
    self:value_done(close or #text, close ~= nil)
    self.last_string = close and at
    return
  end
  local last, whole = scalar_end(text, at)
  if not last then
    return self:fail()
  end
  self.last_string = nil
  self:value_done(last, whole)
end

-- Reads the next token inside a container.
function Scan:step()
  local at = self.text:find("[^ \t\r\n]", self.at)
  if not at then
    self.at = #self.text + 1
    return
  end
  self.at = at
  local c, state = self.text:byte(at), self.state
  local top = self.stack[self.depth]
  local close = top.object and 125 or 93
  if c == close and (state == KEY_OR_END or state == VALUE_OR_END or state == COMMA_OR_END) then
    self.last_string = nil
    self:pop()
  elseif state == COMMA_OR_END and c == 44 then
    self.state = top.object and KEY or VALUE
    self.at = at + 1
  elseif state == COLON and c == 58 then
    self.state = VALUE
    self.at = at + 1
  elseif state == KEY_OR_END or state == KEY then
    self:key(c)
  elseif state == VALUE or state == VALUE_OR_END then
    self:value(c)
  else
    self:fail()
  end
end

-- The text ended inside containers: what they hold so far counts.
function Scan:cut_off()
  for depth = self.depth, 1, -1 do
    local top = self.stack[depth]
    local member = top.member
    if member and member.first and not member.last then
      self:keep(top, member, #self.text, false)
    end
    self:accept(top)
  end
end

---Finds the members with wanted keys of all objects in a text, in the order of their keys.
---@param text string any bytes
---@param wanted table<string, boolean> keys
---@return rl4vlm.JsonMember[]
function M.members(text, wanted)
  local self = setmetatable({ text = text, wanted = wanted, found = {}, stack = {}, depth = 0, at = 1 },
    Scan)
  while self.at <= #text do
    if self.depth > 0 then
      self:step()
    else
      local open = text:find("{", self.at, true)
      if not open then
        break
      end
      self:push(open, true)
    end
  end
  self:cut_off()
  table.sort(self.found, function(a, b)
    return a.at < b.at
  end)
  return self.found
end

return M
