-- merge.lua - a model with its adapter merged: W + scale B A in the base's own layout and types.
--
-- Tensors are read, merged and written one by one: no model is built, and no more memory is taken than for
-- the largest of them.
local adapter = require "rl4vlm.adapter"
local checkpoint = require "rl4vlm.checkpoint"
local core = require "rl4vlm.core"
local lora = require "rl4vlm.lora"
local tensor = require "rl4vlm.tensor"
local value_head = require "rl4vlm.value_head"

local M = {}

local function as_f32(slice)
  return slice:dtype() == "F32" and slice or slice:convert("F32")
end

-- The base's bias with the adapter's on top.
local function merged_bias(base, extra, scale)
  local shape = base:shape()
  local sum = tensor.from_bytes(as_f32(base):data(), shape) + tensor.from_bytes(as_f32(extra):data(), shape) * scale
  return require("rl4vlm.slice").new { dtype = "F32", shape = shape, data = sum:to_bytes() }
end

-- What write_weights asks for values: merged ones by role.
local function values_of(source, opened, specs, whole, biases)
  return { get = function(_, role)
    local weights = opened.weights
    if whole[role] then
      return as_f32(weights:get(whole[role]))
    elseif biases[role] then
      local spec = specs[biases[role]]
      return merged_bias(source.weights:get(source.name_of[role]), weights:get(spec.names.bias), spec.scale)
    end
    local spec, base = specs[role], source.weights:get(source.name_of[role])
    return lora.merge(as_f32(base), as_f32(weights:get(spec.names.a)), as_f32(weights:get(spec.names.b)), spec.scale)
  end }
end

-- The base's bias of each layer whose adapter has one: role of the bias -> role of the weight.
local function biases_of(source, specs)
  local biases = {}
  for role, spec in pairs(specs) do
    local bias = role:gsub("%.weight$", ".bias")
    if spec.bias and not source.name_of[bias] then
      error(("%s: the adapter has a bias where the base has none: it cannot be merged"):format(spec.names.a), 0)
    end
    biases[bias] = spec.bias and role or nil
  end
  return biases
end

---Writes a model with its adapter merged as a folder in Hugging Face's layout, with the value head that lay
---beside the adapter.
---@param model rl4vlm.Model  opened with an adapter, not started
---@param dir string
---@param dtype? "F32"|"BF16"|"F16"  of the tensors; default: each as it came
function M.write(model, dir, dtype)
  local source, opened = model.source, model.opened_adapter
  local probe <close> = core.new(model:arch_for(1024), {})
  local params = probe:params()
  source:match(params)
  source:hold_companions()
  local specs, whole = adapter.match(opened, source, params)
  local biases = biases_of(source, specs)
  for _, roles in ipairs { specs, whole, biases } do
    for role in pairs(roles) do
      source.changed[role] = true
    end
  end
  checkpoint.write_folder(dir, function(temporary)
    source:write_companions(temporary)
    source:write_weights(temporary, values_of(source, opened, specs, whole, biases), dtype)
    value_head.copy(opened.dir, temporary)
  end)
end

return M
