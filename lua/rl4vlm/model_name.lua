-- model_name.lua - what a model's name stands for: a folder, a run, a run's checkpoint, a built-in model.
local families = require "rl4vlm.families"
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"

local M = {}

local function holds(dir, file)
  return fs.exists(dir .. "/" .. file)
end

local function is_model(dir)
  return holds(dir, "config.json") or holds(dir, "adapter_config.json")
end

-- The folder that a run's "best" names: a folder, a link, or a file with a path in it.
local function follow(path)
  local stat = fs.stat(path)
  if stat and stat.type == "file" then
    local target = (fs.read_file(path) or ""):match("^%s*(.-)%s*$")
    return target:match("^/") and target or path:match("^(.*)/") .. "/" .. target
  end
  return path
end

local function latest_checkpoint(run)
  local best
  for _, name in ipairs(fs.list(run .. "/checkpoints") or {}) do
    local n = tonumber(name:match("^%d+$"))
    if n and (not best or n > best) and (is_model(run .. "/checkpoints/" .. name)
      or is_model(run .. "/checkpoints/" .. name .. "/model")) then
      best = n
    end
  end
  if best then
    for _, name in ipairs(fs.list(run .. "/checkpoints")) do
      if tonumber(name) == best then
        return run .. "/checkpoints/" .. name
      end
    end
  end
end

-- The folder with the model's files that `path` leads to, or nil.
local function find(path)
  path = follow(path)
  if is_model(path) then
    return path
  elseif is_model(path .. "/model") then
    return path .. "/model"
  elseif holds(path, "manifest.json") or holds(path, "checkpoints") then
    if fs.exists(path .. "/best") then
      return find(path .. "/best")
    end
    local checkpoint = latest_checkpoint(path)
    return checkpoint and find(checkpoint)
  end
end

---The folder of a model.
---
---A folder stands for itself; a run for its best checkpoint (else its last); `RUN/best` and
---`RUN/checkpoints/N` for what they hold; any other name for a built-in model.
---@param name string
---@return string dir
function M.resolve(name)
  if type(name) ~= "string" then
    error(("model: wanted a folder or a name, came %s"):format(tostring(name)), 0)
  end
  local dir = find((name:gsub("(.)/+$", "%1")))
  if not dir and name:match("^[%w_.-]+$") then
    dir = find(host.root .. "/models/" .. name)
  end
  if not dir then
    local built_in = M.built_in()
    local near = host.nearest(name, built_in)
    error(fs.exists(name)
      and ("%s: wanted a model's folder with config.json in it, or a run with a checkpoint"):format(name)
      or ("no model '%s'%s: wanted a folder, a run, or a built-in model (%s)"):format(name,
        near and (" (did you mean '%s'?)"):format(near) or "", table.concat(built_in, ", ")), 0)
  end
  return dir
end

---The folder of an adapter: a folder, or a run whose checkpoints are adapters.
---@param name string
---@return string dir
function M.resolve_adapter(name)
  local dir = find((name:gsub("(.)/+$", "%1")))
  if not dir or not holds(dir, "adapter_config.json") then
    error(("%s '%s': wanted a folder with adapter_config.json in it, or a run that learned an adapter"):format(
      fs.exists(name) and "no adapter in" or "no adapter", name), 0)
  end
  return dir
end

---The names of the models that come with the program.
---@return string[]
function M.built_in()
  local names = {}
  for _, name in ipairs(fs.list(host.root .. "/models") or {}) do
    if is_model(host.root .. "/models/" .. name) then
      names[#names + 1] = name
    end
  end
  return names
end

---The model that an adapter was trained on: beside it in a run, else as its config names it.
---@param dir string   the adapter's folder
---@param base string? base_model_name_or_path
---@return string
function M.base_of(dir, base)
  if type(base) ~= "string" or base == "" then
    error(("%s/adapter_config.json: base_model_name_or_path: wanted the base model's folder, came %s"):format(dir,
      base == nil and "none" or tostring(base)), 0)
  end
  local beside = not base:match("^/") and find(dir .. "/" .. base)
  return beside or M.resolve(base)
end

local function read(path)
  return json.decode(fs.read_file(path))
end

---The descriptor of a model's family; an adapter's is that of its base.
---@param name string
---@return table? family  nil where it can't be told: loading the model says why
function M.family(name)
  local ok, family = pcall(function()
    local dir = M.resolve(name)
    if not holds(dir, "config.json") then
      dir = M.base_of(dir, read(dir .. "/adapter_config.json").base_model_name_or_path)
    end
    return families.of(read(dir .. "/config.json"), dir)
  end)
  return ok and family or nil
end

return M
