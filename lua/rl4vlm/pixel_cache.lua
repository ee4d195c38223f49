-- pixel_cache.lua - preprocessed images, kept by content within a budget of memory.
local M = {}

local budget = 64 * 1024 * 1024 -- bytes of one generation

---Bytes that a cache holds at the most.
M.most = 2 * budget

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
