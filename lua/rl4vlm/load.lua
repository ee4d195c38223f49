-- load.lua - the model of a run: which folder, with which options.
local M = {}

local function some(list)
  return list and #list > 0 and list or nil
end

---Loads a model for a run: to train, with the parts that learn, or only to play.
---@param settings rl4vlm.Settings
---@param name string a name, a folder, RUN, RUN/best or RUN/checkpoints/N
---@param o { train: boolean, slots: integer|nil, value_head: boolean|nil, resumed: boolean|nil }
---@return table model
function M.model(settings, name, o)
  local vlm = require "rl4vlm.vlm"
  local lora = o.train and settings.lora.r > 0
  return vlm.load(name, {
    device = settings.device,
    dtype = settings.dtype ~= "auto" and settings.dtype or nil,
    threads = settings.threads > 0 and settings.threads or nil,
    adapter = settings.adapter,
    train = o.train and not lora and some(settings.train) or nil,
    -- a checkpoint of a run with LoRA is an adapter, which brings its base
    train_adapter = lora and (o.resumed or settings.adapter) and true or nil,
    lora = lora and not o.resumed and not settings.adapter and {
      r = settings.lora.r,
      alpha = settings.lora.alpha,
      targets = settings.lora.targets,
    } or nil,
    value_head = o.value_head ~= false or nil,
    slots = o.slots or settings.slots,
    seed = settings.seed,
  })
end

---Writes what a run learned: its adapter, or the whole model, in fp32 so that it goes on bit for bit.
---@param model table
---@param settings rl4vlm.Settings
---@param dir string
function M.save(model, settings, dir)
  if settings.lora.r > 0 then
    model:save_adapter(dir)
  else
    model:save(dir, { dtype = "F32" })
  end
end

return M
