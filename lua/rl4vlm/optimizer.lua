-- optimizer.lua - model:optimizer: AdamW on everything that learns, and its state in files.
local safetensors = require "rl4vlm.safetensors"
local suggest = require "rl4vlm.suggest"
local tensor_file = require "rl4vlm.tensor_file"

local M = {}

---@class rl4vlm.Optimizer  AdamW on everything that learns
local Optimizer = { __name = "rl4vlm.Optimizer" }
Optimizer.__index = Optimizer

local known = { beta1 = true, beta2 = true, eps = true, weight_decay = true }

---@param model rl4vlm.Model
---@param options? table  beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0
---@return rl4vlm.Optimizer
function M.new(model, options)
  options = options or {}
  for name in pairs(options) do
    if not known[name] then
      error(suggest.unknown("option", name, suggest.keys(known)), 3)
    end
  end
  return setmetatable({ model = model, options = options, steps = 0 }, Optimizer)
end

---One step, and the gradients are dropped.
---@param how table  lr, value_lr (default: lr), max_norm (default: no clipping)
---@return number grad_norm  before clipping
function Optimizer:step(how)
  local o = self.options
  local norm = self.model.core:adamw { lr = how.lr, value_lr = how.value_lr, max_norm = how.max_norm,
    step = self.steps + 1, beta1 = o.beta1, beta2 = o.beta2, eps = o.eps, weight_decay = o.weight_decay }
  self.steps = self.steps + 1
  self.model:zero_grad()
  return norm
end

---Writes the state: moments of every trained parameter and the count of steps.
---@param path string
function Optimizer:save(path)
  local specs = {}
  for _, param in ipairs(self.model.core:params()) do
    if param.trained then
      specs["m." .. param.role] = { dtype = "F32", shape = param.shape }
      specs["v." .. param.role] = { dtype = "F32", shape = param.shape }
    end
  end
  tensor_file.write(path, specs, { steps = tostring(self.steps) }, function(name)
    local of, role = name:match("^([mv])%.(.*)$")
    return self.model.core:get(role, of)
  end)
end

---Reads a state that save wrote for the same trained parameters.
---@param path string
function Optimizer:load(path)
  local file = safetensors.open(path)
  for _, param in ipairs(self.model.core:params()) do
    if param.trained then
      for _, of in ipairs { "m", "v" } do
        local slice = file:get(of .. "." .. param.role)
        if not slice then
          error(("%s: wanted the state of %s, found none"):format(path, param.role), 0)
        end
        self.model.core:set(param.role, slice, of)
      end
    end
  end
  self.steps = math.tointeger(tonumber(file:metadata("steps"))) or 0
end

return M
