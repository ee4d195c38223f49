-- plain.lua - settings as data: what a manifest holds, and where two manifests differ.
local hash = require "rl4vlm.hash"
local json = require "rl4vlm.json"

local M = {}

-- Keys of a table in an order that every run has; others than texts and numbers are left out.
local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    if type(key) == "string" or type(key) == "number" then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  return keys
end

-- Adds to `parts` what a value is made of: of a function its code, and the values that it sees from outside.
local function add_made_of(parts, value, seen)
  if seen[value] then
    return
  elseif type(value) == "function" and debug.getinfo(value, "S").what ~= "C" then
    seen[value] = true
    parts[#parts + 1] = string.dump(value, true)
    for i = 1, debug.getinfo(value, "u").nups do
      add_made_of(parts, select(2, debug.getupvalue(value, i)), seen)
    end
  elseif type(value) == "table" then
    seen[value] = true
    for _, key in ipairs(sorted_keys(value)) do
      parts[#parts + 1] = tostring(key)
      add_made_of(parts, value[key], seen)
    end
  elseif type(value) == "string" or type(value) == "number" or type(value) == "boolean" then
    parts[#parts + 1] = json.encode(value)
  end
end

-- A function has no data of its own: where it stands, and a digest of what it is made of, but for our own modules.
local function plain_function(f)
  local info, parts, seen = debug.getinfo(f, "S"), {}, { [_G] = true, [package] = true }
  for name, module in pairs(package.loaded) do
    if name:find("^rl4vlm") then
      seen[module] = true
    end
  end
  add_made_of(parts, f, seen)
  return ("function %s:%d %s"):format(info.short_src:match("[^/]*$"), info.linedefined,
    hash.sha256(table.concat(parts, "\n")):sub(1, 16))
end

---Settings as data: texts, numbers, lists; what a manifest holds and a resumed run compares.
---@param value any
---@return any
function M.of(value)
  local mt = getmetatable(value)
  if type(value) == "function" then
    return plain_function(value)
  elseif type(value) ~= "table" then
    return value
  elseif mt and mt.__name == "rl4vlm.prompt" and value.template then
    return { text = tostring(value), template = value.template }
  elseif mt and (mt.__name == "rl4vlm.prompt" or mt.__name == "rl4vlm.schedule") then
    return tostring(value)
  end
  local copy = {}
  for key, item in pairs(value) do
    copy[key] = M.of(item)
  end
  if #value == 0 and next(value) == nil then
    return json.list(copy)
  end
  return copy
end

---The dotted names at which two plain values differ, sorted.
---@param a any
---@param b any
---@return string[]
function M.differences(a, b, prefix, list)
  list = list or {}
  if type(a) == "table" and type(b) == "table" then
    local keys = {}
    for key in pairs(a) do
      keys[key] = true
    end
    for key in pairs(b) do
      keys[key] = true
    end
    for key in pairs(keys) do
      M.differences(a[key], b[key], (prefix and prefix .. "." or "") .. tostring(key), list)
    end
  elseif a ~= b then
    list[#list + 1] = prefix
  end
  table.sort(list)
  return list
end

return M
