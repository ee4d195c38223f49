-- load.lua - the model of a run: which folder, with which options.
local fs = require "rl4vlm.fs"
local run = require "rl4vlm.run"

local M = {}

local function some(list)
  return list and #list > 0 and list or nil
end

-- A folder that holds an adapter and no model of its own.
local function is_adapter(path)
  return fs.exists(path .. "/adapter_config.json") and not fs.exists(path .. "/config.json")
end

---Loads a model for a run: to train, with the parts that learn, or only to play.
---@param settings rl4vlm.Settings
---@param name string a name, a folder, RUN, RUN/best or RUN/checkpoints/N
---@param o { train: boolean, slots: integer|nil, base: string|nil }
---@return table model
function M.model(settings, name, o)
  local vlm = require "rl4vlm.vlm"
  local path = run.model_path(name)
  local adapter = settings.adapter
  if is_adapter(path) then
    path, adapter = run.model_path(o.base or M.base_of(name)), path
  end
  local lora = settings.lora.r > 0
  return vlm.load(path, {
    device = settings.device ~= "auto" and settings.device or nil,
    dtype = settings.dtype ~= "auto" and settings.dtype or nil,
    threads = settings.threads > 0 and settings.threads or nil,
    adapter = adapter,
    train = o.train and not lora and some(settings.train) or nil,
    lora = o.train and lora and {
      r = settings.lora.r,
      alpha = settings.lora.alpha,
      targets = settings.lora.targets,
    } or nil,
    value_head = o.value_head ~= false,
    slots = o.slots or settings.slots,
    seed = settings.seed,
  })
end

---The model that a run with an adapter began with.
---@param name string RUN, RUN/best or RUN/checkpoints/N
---@return string
function M.base_of(name)
  local dir = name:gsub("/+$", ""):gsub("/best$", ""):gsub("/checkpoints/%d+$", "")
  if run.is_run(dir) then
    return run.open(dir).manifest.recipe.model
  end
  error(("%s: holds an adapter but no model: name its base with --model and this folder with --adapter")
    :format(name), 0)
end

return M
