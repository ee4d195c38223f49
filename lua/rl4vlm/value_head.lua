-- value_head.lua - the value head's file beside a model or an adapter: value_head.{0,2,4}.{weight,bias}.
local fs = require "rl4vlm.fs"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"

local M = {}

local function show(shape)
  return "(" .. table.concat(shape, ", ") .. ")"
end

local value_file = "value_head.safetensors"

---Sets the value head from a folder's file; false where there is none.
---@return boolean
function M.load(dir, core, params)
  local path = dir .. "/" .. value_file
  if not fs.exists(path) then
    return false
  end
  local file = safetensors.open(path)
  for _, param in ipairs(params) do
    if param.part == "value" then
      local name = param.role:gsub("^value", "value_head")
      local info = file:info(name)
      if not info or show(info.shape) ~= show(param.shape) then
        error(("%s: %s: wanted shape %s, came %s"):format(path, name, show(param.shape),
          info and show(info.shape) or "none"), 0)
      end
      core:set(param.role, file:get(name))
    end
  end
  return true
end

---Begins the value head as torch's Linear does: uniform in +-1/sqrt(inputs).
function M.begin(core, params, seed)
  local inputs = {}
  for _, param in ipairs(params) do
    if param.part == "value" and #param.shape == 2 then
      inputs[param.role:match("^(.*)%.")] = param.shape[2]
    end
  end
  for _, param in ipairs(params) do
    if param.part == "value" then
      local scale = inputs[param.role:match("^(.*)%.")] ^ -0.5
      core:set(param.role, slice.random(param.shape, "uniform", scale, seed or 0, param.role))
    end
  end
end

---Writes the value head beside a model or an adapter.
function M.save(dir, core, params)
  local tensors = {}
  for _, param in ipairs(params) do
    if param.part == "value" then
      tensors[param.role:gsub("^value", "value_head")] = core:get(param.role)
    end
  end
  if next(tensors) then
    safetensors.write(dir .. "/" .. value_file, tensors, { format = "pt" })
  end
end

---Copies a folder's value head, where it has one, into another.
function M.copy(from, to)
  local bytes = fs.read_file(from .. "/" .. value_file)
  if bytes then
    assert(fs.write_atomic(to .. "/" .. value_file, bytes))
  end
end

return M
