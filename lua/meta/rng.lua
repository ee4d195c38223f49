---@meta rl4vlm.rng
---Counter-based random streams (Philox). A stream is named by seed, purpose and two numbers; nothing
---hangs on the clock.
local M = {}

---@class rl4vlm.Rng
local Rng = {}

---Opens the stream of that name, at its beginning.
---@param seed integer
---@param purpose? "user"|"env"|"sample"|"fallback"|"init"|"shuffle"|"data"
---@param a? integer  for rollouts the episode's number
---@param b? integer  and the step's
---@return rl4vlm.Rng
function M.new(seed, purpose, a, b) end

---An integer in [0, n).
---@param n integer
---@return integer
function Rng:below(n) end

---An integer in [lo, hi].
---@param lo integer
---@param hi integer
---@return integer
function Rng:int(lo, hi) end

---A number in [0, 1).
---@return number
function Rng:uniform() end

---A standard normal number.
---@return number
function Rng:normal() end

---One element of a list.
---@param list any[]
---@return any
function Rng:choice(list) end

---Shuffles a list in place.
---@param list any[]
---@return any[] list
function Rng:shuffle(list) end

---Words drawn so far; with an argument, goes there.
---@param words? integer
---@return integer
function Rng:position(words) end

return M
