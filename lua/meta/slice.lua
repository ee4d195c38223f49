---@meta rl4vlm.slice
---Arrays in host memory as modules pass them to each other: type, shape, bytes.
local M = {}

---@class rl4vlm.Slice
local Slice = {}

---A slice of the given bytes.
---@param t {dtype: string, shape: integer[], data: string}
---@return rl4vlm.Slice
function M.new(t) end

---Random fp32 numbers that hang on seed and name alone.
---@param shape integer[]
---@param kind "normal"|"uniform"|"constant"  of standard deviation scale, in [-scale, scale), all scale
---@param scale number
---@param seed integer
---@param name string
---@return rl4vlm.Slice
function M.random(shape, kind, scale, seed, name) end

---@return string
function Slice:dtype() end

---@return integer[]
function Slice:shape() end

---Its bytes.
---@return string
function Slice:data() end

---The same numbers in another floating type.
---@param dtype string
---@return rl4vlm.Slice
function Slice:convert(dtype) end

---Its elements as a flat list.
---@return number[]
function Slice:list() end

return M
