-- pixel_cache.lua - preprocessed images, kept by content within a budget of memory.
local M = {}

local budget = 64 * 1024 * 1024 -- bytes; twice as much is held at the most

---Makes a function image -> pixels that remembers. Two generations: what has not been asked for since
---the older one was filled is forgotten.
---@param make fun(image: rl4vlm.Image): userdata
---@return fun(image: rl4vlm.Image): userdata
function M.new(make)
  local young, old, bytes = {}, {}, 0
  return function(image)
    local hash = image:hash()
    local pixels = young[hash]
    if not pixels then
      pixels = old[hash] or make(image)
      if bytes + #pixels > budget then
        young, old, bytes = {}, young, 0
      end
      young[hash] = pixels
      bytes = bytes + #pixels
    end
    return pixels
  end
end

return M
