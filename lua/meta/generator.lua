---@meta rl4vlm.generator
---Continuous batching under the model's own generator: slots start, finish and join at any token.
local M = {}

---@class rl4vlm.Generator
local Generator = {}

---@param core rl4vlm.Core
---@param options {slots: integer, max_tokens: integer, chunk?: integer, blocks?: integer, share?: boolean, banned?: integer[]}
---@return rl4vlm.Generator
function M.new(core, options) end

---Bytes that such a generator takes beside the model; nothing is taken.
---@param core rl4vlm.Core
---@param options {slots: integer, max_tokens: integer, chunk?: integer, blocks?: integer}
---@return integer
function M.bytes(core, options) end

---Puts a request into a vacant slot.
---@param request table
---@return integer slot
function Generator:submit(request) end

---Draws a token in every busy slot.
function Generator:step() end

---@param slot integer
---@return integer tokens  so far
---@return string? finish
function Generator:poll(slot) end

---The answer's id at a place.
---@param slot integer
---@param index integer
---@return integer
function Generator:id(slot, index) end

---The finished reply; the slot is vacant then.
---@param slot integer
---@return table
function Generator:take(slot) end

---Number of vacant slots.
---@return integer
function Generator:vacant() end

---What was computed and what the cache spared.
---@return table<string, integer>
function Generator:stats() end

---Frees the cache now.
function Generator:close() end

---Bytes that such a generator takes.
---@param core userdata
---@param options {slots: integer, max_tokens: integer, chunk?: integer, blocks?: integer}
---@return integer
function M.bytes(core, options) end

return M
