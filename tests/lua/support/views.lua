-- views.lua - pixels as golden files hold them, cut into the patches that rl4vlm.core takes.
local slice = require "rl4vlm.slice"

local M = {}

-- The patches of one image of `size` x `size` pixels, raster order, (channel, row, column) inside.
local function cut(data, size, patch)
  local out, across = {}, size // patch
  for i = 0, across * across - 1 do
    for k = 0, 3 * patch - 1 do
      local row = (k // patch * size + i // across * patch + k % patch) * size + i % across * patch
      out[#out + 1] = data:sub(row * 4 + 1, (row + patch) * 4)
    end
  end
  return table.concat(out), across
end

---The views of pixels (N, 3, S, S), F32.
---@param pixels rl4vlm.Slice
---@param patch integer
---@param class integer  rows of features in front of the patches': 0 or 1
---@return table[]
function M.of_pixels(pixels, patch, class)
  local n, _, size = table.unpack(pixels:shape())
  local data, bytes, views = pixels:data(), 3 * size * size * 4, {}
  for i = 1, n do
    local patches, across = cut(data:sub((i - 1) * bytes + 1, i * bytes), size, patch)
    views[i] = { patches = slice.new { dtype = "F32", shape = { across * across, 3 * patch * patch }, data = patches },
      tiles = 1, h = across, w = across, rows = across * across + class }
  end
  return views
end

return M
