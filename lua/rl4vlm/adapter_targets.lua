-- adapter_targets.lua - which modules an adapter stands beside: PEFT's rules for lists, regular
-- expressions, layers and patterns. Source: peft, tuners/tuners_utils.py.
local regex = require "rl4vlm.regex"

local M = {}

---Linear layers of the decoder: what an adapter stands beside when nothing else is asked for.
M.default = [[.*(language_model|text_model).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)]]

---@param param table  of core's m:params()
---@return boolean
function M.is_linear(param)
  return param.linear and param.role:match("%.weight$") ~= nil
end

---The paths that a weight's module has had, the newest layouts of its family among them.
---@param family table
---@param role string
---@return string[]
function M.paths(family, role)
  local _, names = family.names(role)
  local paths = {}
  for i, name in ipairs(names) do
    paths[i] = name:gsub("%.weight$", "")
  end
  return paths
end

-- One entry of a list, or a regular expression, against one path of a module.
local function path_matches(rule, path)
  if type(rule) == "string" then
    return regex.full_match(rule, path)
  end
  for _, entry in ipairs(rule) do
    if path == entry or path:sub(-#entry - 1) == "." .. entry then
      return true
    end
  end
  return false
end

local function any_path(paths, rule)
  for _, path in ipairs(paths) do
    if path_matches(rule, path) then
      return true
    end
  end
  return false
end

-- The layer that a path lies in: the number behind one of `names`, or behind any name.
local function layer_of(path, names)
  if #names == 0 then
    return tonumber(path:match(".*%.[^.]*%.(%d+)%."))
  end
  for _, name in ipairs(names) do
    local index = path:match(".*%." .. name:gsub("%p", "%%%0") .. "%.(%d+)%.")
    if index then
      return tonumber(index)
    end
  end
end

local function list(value)
  return type(value) == "table" and value or { value }
end

local function layer_allowed(rules, paths)
  if rules.layers_to_transform == nil then
    return true
  end
  for _, path in ipairs(paths) do
    local index = layer_of(path, list(rules.layers_pattern))
    for _, layer in ipairs(index and list(rules.layers_to_transform) or {}) do
      if index == layer then
        return true
      end
    end
  end
  return false
end

local function wanted(rules, role, paths)
  if rules.target_modules == "all-linear" then
    return not role:match("^text%.head%.")
  end
  return any_path(paths, rules.target_modules)
end

---The linear layers that PEFT's rules pick. A list entry is a module's path or its end after a dot; a
---string is a regular expression for the whole path, "all-linear" every linear but the head. A module
---may match under any of the names that its family has had, unless `paths_of` gives others.
---@param family table
---@param params table[]
---@param rules table  target_modules, exclude_modules, layers_to_transform, layers_pattern
---@param paths_of? fun(family: table, role: string): string[]
---@return string[] roles
function M.pick(family, params, rules, paths_of)
  local roles = {}
  for _, param in ipairs(params) do
    if M.is_linear(param) then
      local paths = (paths_of or M.paths)(family, param.role)
      if wanted(rules, param.role, paths) and layer_allowed(rules, paths)
        and not (rules.exclude_modules and any_path(paths, rules.exclude_modules)) then
        roles[#roles + 1] = param.role
      end
    end
  end
  return roles
end

---The value that rank_pattern or alpha_pattern gives a module, or the general one. PEFT takes the first
---key of the file that matches; keys that match and differ are refused, for JSON has no order.
---@param pattern table<string, number>?
---@param paths string[]
---@param general number
---@return number
function M.pattern_value(pattern, paths, general)
  local found, by
  for key, value in pairs(pattern or {}) do
    for _, path in ipairs(paths) do
      if regex.full_match("(.*\\.)?(" .. key .. ")", path) then
        if found and found ~= value then
          error(("%s: both %s and %s match it, with other values"):format(path, by, key), 0)
        end
        found, by = value, key
      end
    end
  end
  return found or general
end

---The parameters of whole modules that the entries of modules_to_save name: of every module whose path
---ends so, and of what lies inside.
---@param family table
---@param params table[]
---@param entries string[]
---@return table[] params
function M.whole(family, params, entries)
  local inside, used = {}, {}
  for _, param in ipairs(params) do
    local found
    for _, name in ipairs(param.part ~= "value" and select(2, family.names(param.role)) or {}) do
      for dot in name:gmatch("()%.") do
        for _, entry in ipairs(entries) do
          if name:sub(1, dot - 1):sub(-#entry) == entry then
            found, used[entry] = true, true
          end
        end
      end
    end
    inside[#inside + 1] = found and param or nil
  end
  for _, entry in ipairs(entries) do
    if not used[entry] then
      error(("lora: save: no module of the model ends with %s"):format(entry), 0)
    end
  end
  return inside
end

return M
