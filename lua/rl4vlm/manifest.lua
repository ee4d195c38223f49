-- manifest.lua - what a run writes down before it begins, and what a resumed one compares.
local fs = require "rl4vlm.fs"
local hash = require "rl4vlm.hash"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local model_name = require "rl4vlm.model_name"
local plain = require "rl4vlm.plain"
local run = require "rl4vlm.run"

local M = {}

local HEAD = 1 << 20 -- of a weight file, this much and its size name it

-- A digest of a model's files: small ones whole, weights by their beginning and size.
local function model_hash(name)
  local found, path = pcall(model_name.resolve, name)
  if not found then
    return json.null
  end
  local parts = {}
  for _, file in ipairs(fs.list(path) or {}) do
    local full = path .. "/" .. file
    local stat = fs.stat(full)
    if stat.type == "file" and (file:find("%.safetensors$") or file == "config.json"
      or file == "tokenizer.json") then
      local f = assert(io.open(full, "rb"))
      local head = f:read(HEAD) or ""
      f:close()
      parts[#parts + 1] = ("%s %d %s"):format(file, stat.size, hash.sha256(head))
    end
  end
  return #parts > 0 and hash.sha256(table.concat(parts, "\n")) or json.null
end

local function file_hash(path)
  local bytes = path and fs.read_file(path)
  return bytes and hash.sha256(bytes) or json.null
end

---A run's manifest.
---@param kind "train"|"sft"
---@param settings rl4vlm.Settings
---@param changes string[][] what the command line changed: { name, text }
---@return table
function M.new(kind, settings, changes)
  local file = arg and arg[0]
  return {
    format = 1,
    kind = kind,
    recipe = plain.of(settings),
    recipe_file = file or json.null,
    model_name = run.model_name(settings.model),
    changes = json.list(changes),
    versions = { rl4vlm = host.version, lua = _VERSION },
    machine = { host = host.hostname(), cpus = host.cpus() },
    hashes = {
      recipe = file_hash(file),
      model = model_hash(settings.model),
      data = file_hash(settings.sft.data),
    },
    seed = settings.seed,
  }
end

-- What may differ: a run can go on longer, and with other threads.
local FREE = { ["schedule.env_steps"] = true, ["sft.samples"] = true, threads = true }

---Where the recipe of now differs from the run's in what may not.
---@param old table the manifest's recipe
---@param settings rl4vlm.Settings
---@return string[] dotted names
function M.differences(old, settings)
  local now = json.decode(json.encode(plain.of(settings)))
  local list = {}
  for _, name in ipairs(plain.differences(old, now)) do
    if not FREE[name] then
      list[#list + 1] = name
    end
  end
  return list
end

return M
