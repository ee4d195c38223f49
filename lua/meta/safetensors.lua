---@meta rl4vlm.safetensors
---Checkpoint files.
local M = {}

---@class rl4vlm.SafetensorsFile
local File = {}

---@class rl4vlm.SafetensorsWriter
local Writer = {}

---Opens a file, or the index (.json) of a sharded checkpoint. Raises when a header is wrong.
---@param path string
---@return rl4vlm.SafetensorsFile
function M.open(path) end

---Begins a file whose tensors are given one by one, in the order that `next` names.
---@param path string
---@param specs table<string, {dtype: string, shape: integer[]}>
---@param metadata? table<string, string>
---@return rl4vlm.SafetensorsWriter
function M.create(path, specs, metadata) end

---Writes a whole file, or nothing.
---@param path string
---@param tensors table<string, rl4vlm.Slice|rl4vlm.Tensor|{dtype: string, shape: integer[], data: string}>
---@param metadata? table<string, string>
function M.write(path, tensors, metadata) end

---Names of all tensors, sorted.
---@return string[]
function File:names() end

---@param name string
---@return {dtype: string, shape: integer[], bytes: integer, file: string}?
function File:info(name) end

---A tensor of the mapped file; nothing is copied.
---@param name string
---@return rl4vlm.Slice?
function File:get(name) end

---Lets a tensor's pages leave the process; they come back from the file when it is read again.
---@param name string
function File:drop(name) end

---@param key string
---@return string?
function File:metadata(key) end

---The tensor whose data is wanted next, or nil.
---@return string?
function Writer:next() end

---The data of that tensor.
---@param data rl4vlm.Slice|string
function Writer:put(data) end

---Syncs and gives the file its name.
function Writer:commit() end

---Drops what was written.
function Writer:abort() end

return M
