-- config_fields.lua - reads the fields of a decoded JSON object: defaults, null against absent, clear errors.
local json = require "rl4vlm.json"

---@class rl4vlm.ConfigFields
local Fields = {}
Fields.__index = Fields

local M = {}

---Wraps a decoded object.
---@param object table
---@param where string  file, for messages
---@param defaults? table  what an absent field means (null means null)
---@return rl4vlm.ConfigFields
function M.new(object, where, defaults)
  return setmetatable({ object = object, where = where, defaults = defaults or {} }, Fields)
end

local function show(value)
  if type(value) == "table" then
    return #value > 0 and "a list" or "an object"
  end
  return value == json.null and "null" or type(value) == "string" and ("%q"):format(value) or tostring(value)
end

---Raises: FILE: FIELD: wanted ..., came ...
function Fields:fail(key, wanted, came)
  if came == nil then
    came = self.object[key] -- null, or nothing
  end
  error(("%s: %s: wanted %s, came %s"):format(self.where, key, wanted, came == nil and "nothing" or show(came)), 0)
end

---The field's value, the default where it is absent, nil where it is null or absent without one.
function Fields:get(key, default)
  local value = self.object[key]
  if value == nil then
    value = self.defaults[key]
    if value == nil then
      value = default
    end
  end
  if value == json.null then
    return nil
  end
  return value
end

---The same object with other defaults.
---@param defaults table
---@return rl4vlm.ConfigFields
function Fields:with(defaults)
  return M.new(self.object, self.where, defaults)
end

---True when the field stands in the file and is not null.
function Fields:has(key)
  return self.object[key] ~= nil and self.object[key] ~= json.null
end

---The object under a field. `if_absent` goes over `defaults` where there is none.
function Fields:sub(key, defaults, if_absent)
  local value = self:get(key)
  if value == nil then
    value = if_absent or {}
  elseif type(value) ~= "table" then
    self:fail(key, "an object", value)
  end
  return M.new(value, self.where .. ": " .. key, defaults)
end

function Fields:number(key, default)
  local value = self:get(key, default)
  if type(value) ~= "number" or value ~= value or value <= 0 then
    self:fail(key, "a positive number", value)
  end
  return value
end

local MOST = 0x7fffffff

local function integer(self, key, default, least, wanted)
  local value = self:get(key, default)
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole or whole < least or whole > MOST then
    self:fail(key, whole and whole > MOST and ("at most %d"):format(MOST) or wanted, value)
  end
  return whole
end

---A whole number of at least 1.
function Fields:count(key, default)
  return integer(self, key, default, 1, "a positive whole number")
end

---A whole number of at least 0.
function Fields:index(key, default)
  return integer(self, key, default, 0, "a whole number of at least 0")
end

function Fields:flag(key, default)
  local value = self:get(key, default)
  if value == nil then
    value = default
  end
  if type(value) ~= "boolean" then
    self:fail(key, "true or false", value)
  end
  return value
end

---A list; empty where the field is null or absent.
function Fields:list(key)
  local value = self:get(key, {})
  if value ~= nil and (type(value) ~= "table" or next(value) ~= nil and #value == 0) then
    self:fail(key, "a list", value)
  end
  return value or {}
end

---One of the listed values.
function Fields:one_of(key, choices, default)
  local value = self:get(key, default)
  for _, choice in ipairs(choices) do
    if value == choice then
      return value
    end
  end
  return self:fail(key, "one of " .. table.concat(choices, ", "), value)
end

---What a table gives for the field's value.
function Fields:map(key, values, default)
  local value = self:get(key, default)
  local mapped = type(value) == "string" and values[value]
  if not mapped then
    local names = {}
    for name in pairs(values) do
      names[#names + 1] = name
    end
    table.sort(names)
    self:fail(key, "one of " .. table.concat(names, ", "), value)
  end
  return mapped
end

---Raises unless the field (or its default) is `wanted`.
function Fields:expect(key, wanted, default)
  local value = self:get(key, default)
  if value ~= wanted then
    self:fail(key, show(wanted), value)
  end
end

return M
