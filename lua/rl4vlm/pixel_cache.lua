-- pixel_cache.lua - preprocessed images, kept by content within a budget of memory.
local M = {}

local budget = 4 * 1024 * 1024 -- bytes of one generation: making pixels again costs a fiftieth of learning from them

---Bytes that a cache holds at the most.
---@param all integer      bytes of all that is asked for
---@param largest integer  bytes of the largest image's, which are kept in any case
---@return integer
function M.bytes(all, largest)
  return math.min(all, 2 * math.max(budget, largest))
end

---Makes a function image -> what `make` gives for it, that remembers. Two generations: what has not been
---asked for since the older one was filled is forgotten.
---@param make fun(image: rl4vlm.Image): any, integer  with its bytes
---@return fun(image: rl4vlm.Image): any
function M.new(make)
  local young, old, bytes = {}, {}, 0
  return function(image)
    local hash = image:hash()
    local kept = young[hash]
    if not kept then
      kept = old[hash] or table.pack(make(image))
      if bytes + kept[2] > budget then
        young, old, bytes = {}, young, 0
      end
      young[hash] = kept
      bytes = bytes + kept[2]
    end
    return kept[1]
  end
end

return M
