-- value.lua - Python's values as templates see them: kinds, truth, equality, order, printing.
--
-- Text, integers, floats and booleans are Lua's own; None is json.null; every other value is a table with a
-- `kind`: list, tuple, dict, undefined, generator, range, view, namespace, function, loop, slice.
local json = require "rl4vlm.json"
local limits = require "rl4vlm.jinja.limits"
local text = require "rl4vlm.jinja.text"

local M = {}

local fail, spend = limits.fail, limits.spend

---None.
M.none = json.null

-- ---- making values ----

local Value = {}

---True where a name is among some: a list of Lua's, no value of a template.
---@param names string[]
---@param name string
---@return boolean
function M.among(names, name)
  for _, one in ipairs(names) do
    if one == name then
      return true
    end
  end
  return false
end

---A value of a kind around the fields given.
---@param kind string
---@param fields table
---@return table fields
function M.new(kind, fields)
  fields.kind = kind
  return setmetatable(fields, Value)
end

---@param items table  becomes the list
function M.list(items)
  return M.new("list", items)
end

---@param items table
function M.tuple(items)
  return M.new("tuple", items)
end

---What a lazy filter gives: true whatever it holds, without a length, read once.
---@param items table
function M.generator(items)
  return M.new("generator", items)
end

---A value that is not there. `object` is what it was looked for in.
---@param name any
---@param object? any
function M.undefined(name, object)
  return M.new("undefined", { name = name, object = object })
end

---An empty dict; its keys keep their order.
function M.dict()
  return M.new("dict", { keys = {}, map = {} })
end

local function is_number(v)
  return type(v) == "number" or type(v) == "boolean"
end

local function number(v)
  if type(v) == "boolean" then
    return v and 1 or 0
  end
  return v
end

M.number = number

-- Python's 1, 1.0 and True are one key.
local function hash(key)
  if type(key) == "table" and key.kind ~= "undefined" then
    fail("a dict key that is a %s is not supported", M.type(key))
  end
  return is_number(key) and "\0" .. tostring(math.tointeger(number(key)) or key) or key
end

function M.dict_set(d, key, value)
  local h = hash(key)
  if d.map[h] == nil then
    d.keys[#d.keys + 1] = key
  end
  d.map[h] = value
end

---@return any value  nil where the dict has no such key
function M.dict_get(d, key)
  return d.map[hash(key)]
end

---The value of what Lua (or JSON) has: lists are tables with a length or marked by rl4vlm.json, others are
---dicts in the order of their keys' names. Functions and userdata show as their kind, like transformers'.
---@param v any
---@return any
function M.from_lua(v, depth)
  depth = depth or 0
  if depth > limits.depth then
    fail("values nested deeper than %d", limits.depth)
  elseif v == nil then
    return M.none
  elseif type(v) == "string" and not utf8.len(v) then
    fail("a text that is not UTF-8")
  elseif type(v) == "function" or type(v) == "userdata" and v ~= json.null or type(v) == "thread" then
    return "<" .. type(v) .. ">"
  elseif type(v) ~= "table" or getmetatable(v) == Value then
    return v
  elseif #v > 0 or getmetatable(v) == getmetatable(json.list {}) then
    local list = {}
    for i, item in ipairs(v) do
      list[i] = M.from_lua(item, depth + 1)
    end
    return M.list(list)
  end
  local keys, d = {}, M.dict()
  for key in pairs(v) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, key in ipairs(keys) do
    M.dict_set(d, key, M.from_lua(v[key], depth + 1))
  end
  return d
end

-- ---- kinds ----

local names = { string = "str", boolean = "bool", list = "list", tuple = "tuple", dict = "dict",
  undefined = "Undefined", generator = "generator", range = "range", namespace = "Namespace",
  ["function"] = "function", loop = "LoopContext", slice = "slice" }

---The name of a value's type in Python.
---@param v any
---@return string
function M.type(v)
  if v == M.none then
    return "NoneType"
  elseif type(v) == "number" then
    return math.type(v) == "integer" and "int" or "float"
  elseif type(v) == "table" then
    return v.kind == "view" and "dict_" .. v.of or names[v.kind]
  end
  return names[type(v)]
end

---The kind of a table value; nil for others.
function M.kind(v)
  return type(v) == "table" and v.kind or nil
end

local sequences = { list = true, tuple = true, range = true, view = true, generator = true }

---True for values that hold their items at 1, 2, 3...
function M.is_sequence(v)
  return type(v) == "table" and sequences[v.kind] or false
end

---Raises the error of using what is not there.
---@param v table  an undefined value
function M.fail_undefined(v)
  if v.object == nil then
    fail("'%s' is undefined", v.name)
  elseif type(v.name) ~= "string" then
    fail("%s object has no element %s", M.type(v.object), M.repr(v.name))
  end
  fail("'%s object' has no attribute '%s'", M.type(v.object), v.name)
end

---Python's bool().
---@param v any
---@return boolean
function M.truth(v)
  if type(v) == "boolean" then
    return v
  elseif type(v) == "string" then
    return v ~= ""
  elseif type(v) == "number" then
    return v ~= 0
  elseif v == M.none then
    return false
  elseif v.kind == "dict" then
    return #v.keys > 0
  elseif v.kind == "undefined" then
    return false
  end
  return v.kind == "generator" or not sequences[v.kind] or #v > 0
end

---Python's len().
---@param v any
---@return integer
function M.len(v)
  local kind = M.kind(v)
  if type(v) == "string" then
    return text.len(v)
  elseif kind == "undefined" then
    return 0
  elseif kind == "dict" then
    return #v.keys
  elseif kind == "loop" then
    return #v.items
  elseif not sequences[kind] or kind == "generator" then
    fail("object of type '%s' has no len()", M.type(v))
  end
  return #v
end

---The items that a for loop or a filter sees, as a Lua list. A generator is empty afterwards.
---@param v any
---@return table
function M.items(v)
  local kind = M.kind(v)
  if type(v) == "string" then
    return text.characters(v)
  elseif kind == "dict" then
    return table.move(v.keys, 1, #v.keys, 1, {})
  elseif kind == "undefined" then
    return {}
  elseif not sequences[kind] then
    fail("'%s' object is not iterable", M.type(v))
  end
  spend(#v)
  local list = table.move(v, 1, #v, 1, {})
  if kind == "generator" then
    for i = #v, 1, -1 do
      v[i] = nil
    end
  end
  return list
end

-- ---- equality and order ----

local equals

local function same_items(a, b)
  if #a ~= #b then
    return false
  end
  for i = 1, #a do
    if not equals(a[i], b[i]) then
      return false
    end
  end
  return true
end

local function same_dict(a, b)
  if #a.keys ~= #b.keys then
    return false
  end
  for _, key in ipairs(a.keys) do
    local other = M.dict_get(b, key)
    if other == nil or not equals(M.dict_get(a, key), other) then
      return false
    end
  end
  return true
end

function equals(a, b)
  spend(1)
  if is_number(a) and is_number(b) then
    return number(a) == number(b)
  end
  local kind = M.kind(a)
  if a == b or not kind or kind ~= M.kind(b) then
    return a == b
  elseif kind == "dict" then
    return same_dict(a, b)
  end
  return kind == "undefined" or (kind == "list" or kind == "tuple" or kind == "range") and same_items(a, b)
end

---Python's ==.
M.equals = equals

---Python's <; `sign` names the operator in the error.
---@return boolean
function M.less(a, b, sign)
  spend(1)
  if is_number(a) and is_number(b) then
    return number(a) < number(b)
  elseif type(a) == "string" and type(b) == "string" then
    return a < b
  end
  local kind = M.kind(a)
  if kind == "undefined" or M.kind(b) == "undefined" then
    M.fail_undefined(kind == "undefined" and a or b)
  elseif kind ~= M.kind(b) or kind ~= "list" and kind ~= "tuple" then
    fail("'%s' not supported between instances of '%s' and '%s'", sign or "<", M.type(a), M.type(b))
  end
  for i = 1, math.min(#a, #b) do
    if not equals(a[i], b[i]) then
      return M.less(a[i], b[i], sign)
    end
  end
  return #a < #b
end

---Python's `item in object`.
---@return boolean
function M.contains(object, item)
  if type(object) == "string" then
    if type(item) ~= "string" then
      fail("'in <string>' requires string as left operand, not %s", M.type(item))
    end
    spend(#object >> 4)
    return object:find(item, 1, true) ~= nil
  elseif M.kind(object) == "dict" then
    return M.dict_get(object, item) ~= nil
  elseif M.kind(object) ~= "undefined" and not M.is_sequence(object) then
    fail("argument of type '%s' is not iterable", M.type(object))
  end
  for _, other in ipairs(M.items(object)) do
    if equals(item, other) then
      return true
    end
  end
  return false
end

-- ---- printing ----

local function repr_items(items, open, close, depth)
  local parts = {}
  for i, item in ipairs(items) do
    parts[i] = M.repr(item, depth + 1)
  end
  return open .. table.concat(parts, ", ") .. close
end

local function repr_dict(d, depth)
  local parts = {}
  for i, key in ipairs(d.keys) do
    parts[i] = M.repr(key, depth + 1) .. ": " .. M.repr(M.dict_get(d, key), depth + 1)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local writers = {
  list = function(v, depth) return repr_items(v, "[", "]", depth) end,
  tuple = function(v, depth) return repr_items(v, "(", #v == 1 and ",)" or ")", depth) end,
  dict = repr_dict,
  view = function(v, depth) return repr_items(v, "dict_" .. v.of .. "([", "])", depth) end,
  undefined = function() return "Undefined" end,
  range = function(v) return v.text end,
  namespace = function(v, depth) return "<Namespace " .. repr_dict(v.fields, depth) .. ">" end,
}

---Python's repr().
---@param v any
---@return string
function M.repr(v, depth)
  depth = depth or 0
  spend(1)
  if depth > limits.depth then
    fail("values nested deeper than %d", limits.depth)
  elseif type(v) == "string" then
    return text.repr(v)
  elseif type(v) == "boolean" then
    return v and "True" or "False"
  elseif math.type(v) == "float" then
    return text.float(v)
  elseif type(v) == "number" then
    return tostring(v)
  elseif v == M.none then
    return "None"
  elseif not writers[v.kind] then
    fail("printing a %s is not supported", M.type(v)) -- its address in Python
  end
  local s = writers[v.kind](v, depth)
  limits.spend_text(#s)
  return s
end

---Python's str(): what `{{ }}` prints.
---@param v any
---@return string
function M.str(v)
  if type(v) == "string" then
    return v
  elseif M.kind(v) == "undefined" then
    return ""
  end
  return M.repr(v)
end

return M
