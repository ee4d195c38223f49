-- plain.lua - settings as data: what a manifest holds, and where two manifests differ.
local hash = require "rl4vlm.hash"
local json = require "rl4vlm.json"

local M = {}

-- A function has no data of its own: where it stands, and a digest of its code.
local function plain_function(f)
  local info = debug.getinfo(f, "S")
  return ("function %s:%d %s"):format(info.short_src:match("[^/]*$"), info.linedefined,
    hash.sha256(string.dump(f, true)):sub(1, 16))
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
