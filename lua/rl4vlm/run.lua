-- run.lua - a run's folder: written so that a process killed at any moment loses no more than the
-- work since the last checkpoint.
--
--     manifest.json        what was run: written first
--     metrics.jsonl        one object an update
--     evaluations.jsonl    one object a held-out evaluation, the first before training (update 0)
--     episodes.jsonl       some episodes, their frames in images/
--     checkpoints/N/       after update N: model/, optimizer.safetensors, state.json; all or nothing
--     best                 which checkpoint was best on held-out episodes
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"

local M = {}

local Run = {}
Run.__index = Run

local function must(value, err)
  if value == nil then
    error(err, 0)
  end
  return value
end

local function read_json(path)
  local value, err = json.decode(must(fs.read_file(path)))
  if value == nil then
    error(("%s: wanted JSON: %s"):format(path, err), 0)
  end
  return value
end

---True when the folder holds a run.
---@param dir string
---@return boolean
function M.is_run(dir)
  return fs.exists(dir .. "/manifest.json")
end

---The first of runs/NAME-1, runs/NAME-2, ... that is free.
---@param name string
---@return string
function M.next_free(name)
  local n = 1
  while fs.exists(("runs/%s-%d"):format(name, n)) do
    n = n + 1
  end
  return ("runs/%s-%d"):format(name, n)
end

---Raises where a folder holds a run already.
---@param dir string|nil
function M.refuse_old(dir)
  if dir and M.is_run(dir) then
    error(("%s: holds a run already (go on with it: --resume %s)"):format(dir, dir), 0)
  end
end

---Makes a run's folder and writes its manifest. A folder that holds a run is refused.
---@param dir string
---@param manifest table
---@return rl4vlm.Run
function M.create(dir, manifest)
  M.refuse_old(dir)
  must(fs.mkdirs(dir .. "/checkpoints"))
  local self = setmetatable({ dir = dir, manifest = manifest }, Run)
  self:write_manifest()
  return self
end

---Opens a run's folder.
---@param dir string
---@return rl4vlm.Run
function M.open(dir)
  if not M.is_run(dir) then
    error(("%s: no run here (wanted %s/manifest.json)"):format(dir, dir), 0)
  end
  return setmetatable({ dir = dir, manifest = read_json(dir .. "/manifest.json") }, Run)
end

function Run:path(name)
  return self.dir .. "/" .. name
end

---Writes the manifest again, whole.
function Run:write_manifest()
  must(fs.write_atomic(self:path("manifest.json"), json.pretty(self.manifest)))
end

---Adds one object to a file of lines ("metrics.jsonl", ...).
function Run:add(name, object)
  must(fs.append(self:path(name), json.encode(object) .. "\n"))
end

---All objects of a file of lines; none where there is no file.
---@param name string
---@return table[]
function Run:lines(name)
  local list = {}
  for line in (fs.read_file(self:path(name)) or ""):gmatch("[^\n]+") do
    list[#list + 1] = must(json.decode(line))
  end
  return list
end

---What curves are made of: the metrics, with the evaluation before training in front.
---@return table[]
function Run:figures()
  local list, start = self:lines("metrics.jsonl"), self:lines("evaluations.jsonl")[1]
  if start and start.update == 0 then
    table.insert(list, 1, start)
  end
  return list
end

---Keeps a frame under the digest of its pixels; returns its name in the folder.
---@param image table
---@return string
function Run:keep_image(image)
  local name = ("images/%s.png"):format(image:hash():gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end))
  if not fs.exists(self:path(name)) then
    must(fs.mkdirs(self:path("images")))
    must(fs.write_atomic(self:path(name), image:png()))
  end
  return name
end

local LINES = { "metrics.jsonl", "evaluations.jsonl", "episodes.jsonl" }

---Writes checkpoint `n`: `save(dir)` fills an empty folder, which gets its name only when all of it
---is on the disk.
---@param n integer
---@param state table plain data, kept as state.json
---@param save fun(dir: string)
function Run:checkpoint(n, state, save)
  local temporary, final = self:path(".writing"), self:path("checkpoints/" .. n)
  must(fs.remove_tree(temporary))
  must(fs.mkdirs(temporary))
  local _ <close> = setmetatable({}, { __close = function() -- a full disk needs the room
    fs.remove_tree(temporary)
  end })
  save(temporary)
  state.sizes = {}
  for _, name in ipairs(LINES) do
    local stat = fs.stat(self:path(name))
    state.sizes[name] = stat and stat.size or 0
  end
  must(fs.write_atomic(temporary .. "/state.json", json.encode(state)))
  must(fs.sync_dir(temporary))
  self:drop(n)
  must(fs.rename(temporary, final))
  must(fs.sync_dir(self:path("checkpoints")))
end

---Removes a checkpoint: first its name, then its files.
function Run:drop(n)
  local path, old = self:path("checkpoints/" .. n), self:path(".dropped")
  if fs.exists(path) then
    must(fs.remove_tree(old))
    must(fs.rename(path, old))
    must(fs.remove_tree(old))
  end
end

---Numbers of the complete checkpoints, ascending.
---@return integer[]
function Run:checkpoints()
  local list = {}
  for _, name in ipairs(fs.list(self:path("checkpoints")) or {}) do
    local n = name:match("^%d+$") and math.tointeger(tonumber(name))
    if n and fs.exists(self:path("checkpoints/" .. name .. "/state.json")) then
      list[#list + 1] = n
    end
  end
  table.sort(list)
  return list
end

-- The state of a checkpoint whose files are whole: their headers tell how long they must be.
local function whole_state(dir)
  local state = read_json(dir .. "/state.json")
  if not fs.exists(dir .. "/optimizer.safetensors") then
    error(dir .. "/optimizer.safetensors: wanted a file, found none", 0)
  end
  for _, folder in ipairs { dir, dir .. "/model" } do
    for _, name in ipairs(fs.list(folder) or {}) do
      if name:find("%.safetensors$") then
        safetensors.open(folder .. "/" .. name)
      end
    end
  end
  return state
end

---The newest checkpoint that can be read: its number and state; nil when there is none.
---@param unreadable fun(n: integer, err: string)|nil told of newer ones that are torn
---@return integer|nil n, table|nil state
function Run:latest(unreadable)
  local list = self:checkpoints()
  for i = #list, 1, -1 do
    local ok, state = pcall(whole_state, self:path("checkpoints/" .. list[i]))
    if ok then
      return list[i], state
    elseif unreadable then
      unreadable(list[i], (tostring(state):gsub("^[^\n]-%.lua:%d+: ", "")))
    end
  end
end

---Says which checkpoint is the best so far: the file `best` holds its place in the run.
function Run:mark_best(n)
  must(fs.write_atomic(self:path("best"), ("checkpoints/%d\n"):format(n)))
end

---Keeps the newest `keep` checkpoints and the best.
---@param keep integer
---@param best integer|nil
function Run:prune(keep, best)
  local list = self:checkpoints()
  for i = 1, #list - keep do
    if list[i] ~= best then
      self:drop(list[i])
    end
  end
end

---Cuts metrics and episodes back to what they were at a checkpoint; with nil, to nothing.
---@param state table|nil
function Run:cut_back(state)
  for _, name in ipairs(LINES) do
    local size, path = state and state.sizes[name] or 0, self:path(name)
    if fs.exists(path) and fs.stat(path).size > size then
      must(fs.truncate(path, size))
    end
  end
  must(fs.remove_tree(self:path(".writing")))
  must(fs.remove_tree(self:path(".dropped")))
end

-- The run that a model's path lies in, if it does.
local function run_of(path)
  path = path:gsub("/+$", "")
  return (path:gsub("/best$", ""):gsub("/checkpoints/%d+/model$", ""):gsub("/checkpoints/%d+$", ""))
end

---The model whose settings a recipe's `by_model` holds: of a run, the one that it began with.
---@param name string
---@return string
function M.model_name(name)
  local run = run_of(name)
  return M.is_run(run) and M.open(run).manifest.model_name or run:match("[^/]*$")
end

return M
