-- tensor_file.lua - writes tensors to a file one after the other, so that no two need be held.
local safetensors = require "rl4vlm.safetensors"

local M = {}

---Bytes of tensors that may wait for the collector: it sees userdata too late for models that fill the memory.
M.garbage = 8 << 20

local width = { F64 = 8, F32 = 4, F16 = 2, BF16 = 2 }

---Bytes of a tensor of numbers; nil for other types.
---@param spec {dtype: string, shape: integer[]}
---@return integer?
function M.bytes(spec)
  local n = width[spec.dtype]
  for _, d in ipairs(n and spec.shape or {}) do
    n = n * d
  end
  return n
end

---Writes a file of tensors: complete or not at all.
---@param path string
---@param specs table<string, {dtype: string, shape: integer[]}>
---@param metadata? table<string, string>
---@param values fun(name: string): userdata  the slice of a tensor, as specs has it
function M.write(path, specs, metadata, values)
  local writer, waiting = safetensors.create(path, specs, metadata), 0
  local name = writer:next()
  while name do
    writer:put(values(name))
    waiting = waiting + (M.bytes(specs[name]) or 0)
    if waiting >= M.garbage then
      waiting = 0
      collectgarbage()
    end
    name = writer:next()
  end
  writer:commit()
end

return M
