-- subscript.lua - `object.name`, `object[key]` and `object[a:b:c]`, as Jinja looks them up.
local limits = require "rl4vlm.jinja.limits"
local loop = require "rl4vlm.jinja.loop"
local methods = require "rl4vlm.jinja.methods"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local fail = limits.fail

-- What Python finds as an attribute; nil where there is none.
local function attribute(object, name)
  local kind = value.kind(object)
  if name:find("^__") then
    fail("access to attribute '%s' of '%s' object is unsafe", name, value.type(object))
  elseif kind == "namespace" then
    return value.dict_get(object.fields, name)
  elseif kind == "loop" then
    return loop.field(object, name)
  end
  return methods.find(object, name)
end

-- What Python finds by []; nil where there is none.
local function element(object, key)
  local kind = value.kind(object)
  if kind == "dict" then
    return value.dict_get(object, key)
  elseif math.type(value.number(key)) ~= "integer" then
    return nil
  end
  key = value.number(key)
  if type(object) == "string" then
    local n = text.len(object)
    key = key < 0 and key + n or key
    return key >= 0 and key < n and text.sub(object, key + 1, key + 1) or nil
  elseif kind == "list" or kind == "tuple" or kind == "range" then
    return object[(key < 0 and key + #object or key) + 1]
  end
end

local function check(object)
  if value.kind(object) == "undefined" then
    value.fail_undefined(object)
  end
end

---`object.name`: an attribute, else an element, else undefined.
function M.attribute(object, name)
  check(object)
  local v = attribute(object, name)
  if v == nil then
    v = element(object, name)
  end
  return v == nil and value.undefined(name, object) or v
end

---`object[key]`: an element, else an attribute, else undefined.
function M.element(object, key)
  check(object)
  local v = element(object, key)
  if v == nil and type(key) == "string" then
    v = attribute(object, key)
  end
  return v == nil and value.undefined(key, object) or v
end

---What map(attribute=...), selectattr and sort look at: "a.b.0", names and numbers by dots.
---@param object any
---@param path string|integer
---@return any
function M.path(object, path)
  if type(path) ~= "string" then
    return M.element(object, path)
  end
  for name in (path .. "."):gmatch("([^.]*)%.") do
    object = M.element(object, name:find("^%d+$") and math.tointeger(tonumber(name)) or name)
  end
  return object
end

local function bound(v, what)
  if v == value.none then
    return nil
  elseif math.type(v) ~= "integer" then
    fail("slice %s: wanted an integer or None, got a %s", what, value.type(v))
  end
  return v
end

-- Python's slice.indices.
local function indices(n, start, stop, step)
  local least, most = step > 0 and 0 or -1, step > 0 and n or n - 1
  local function place(v, default)
    if v == nil then
      return default
    end
    return math.max(least, math.min(most, v < 0 and v + n or v))
  end
  return place(start, step > 0 and least or most), place(stop, step > 0 and most or least)
end

---`object[start:stop:step]`.
function M.slice(object, start, stop, step)
  check(object)
  local kind = value.kind(object)
  if type(object) ~= "string" and kind ~= "list" and kind ~= "tuple" and kind ~= "range" then
    return value.undefined("slice", object)
  end
  start, stop, step = bound(start, "start"), bound(stop, "stop"), bound(step, "step") or 1
  if step == 0 then
    fail("slice step cannot be zero")
  end
  local n = value.len(object)
  local first, last = indices(n, start, stop, step)
  if type(object) == "string" and step == 1 then
    return text.sub(object, first + 1, last)
  end
  local items, list = type(object) == "string" and text.characters(object) or object, {}
  for i = first, last + (step > 0 and -1 or 1), step do
    list[#list + 1] = items[i + 1]
  end
  limits.spend(#list)
  return type(object) == "string" and table.concat(list) or kind == "tuple" and value.tuple(list) or value.list(list)
end

return M
