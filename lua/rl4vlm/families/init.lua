-- families - which descriptor in models/ a config.json asks for; shapes in files.
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local slice = require "rl4vlm.slice"

local M = {}

---The descriptors that come with the program, as files of models/.
M.known = { "idefics3", "llava", "llava_llama", "llava_mistral", "llava_next", "qwen2_5_vl", "qwen2_vl" }

-- Other names for what a descriptor describes.
local others = { smolvlm = "idefics3" }

-- Every model_type that is known, for messages.
local function model_types()
  local list = table.move(M.known, 1, #M.known, 1, {})
  for name in pairs(others) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

---The descriptor of a checkpoint: models/NAME.lua, NAME being its model_type or what that is another name of.
---@param config table  config.json, decoded
---@param where string  its name, for messages
---@return table family
function M.of(config, where)
  local model_type = config.model_type
  local name = type(model_type) == "string" and model_type:match("^[%w_]+$")
  -- LLaVA's authors wrote model_type "llava" too
  local file = name == "llava" and config.mm_vision_tower and "llava_llama" or others[name] or name
  local module = file and "models." .. file
  local found = module and (package.loaded[module] or package.searchpath(module, package.path))
  local family = found and require(module)
  if type(family) ~= "table" or not family.arch then
    local near = name and host.nearest(name, model_types())
    error(("%s: model_type: wanted a family with a descriptor in models/ (%s), came %s%s"):format(where,
      table.concat(model_types(), ", "), name or model_type == nil and "nothing" or json.encode(model_type),
      near and (" (did you mean %s?)"):format(near) or ""), 0)
  end
  return family
end

---The shape that a role's tensor has in files: the model's own, but for convolutions, which are matrices to it.
---@param model {family: table, arch: table}
---@param param {role: string, shape: integer[]}
---@return integer[]
function M.file_shape(model, param)
  return param.role == "vision.patch.weight" and model.family.patch_shape(model.arch.vision) or param.shape
end

---The same numbers in another shape.
---@param x rl4vlm.Slice
---@param shape integer[]
---@return rl4vlm.Slice
function M.shaped(x, shape)
  return table.concat(x:shape(), ",") == table.concat(shape, ",") and x
    or slice.new { dtype = x:dtype(), shape = shape, data = x:data() }
end

return M
