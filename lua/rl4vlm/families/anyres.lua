-- anyres.lua - which feature row each image token of LLaVA-NeXT takes.
--
-- An image is seen whole and as tiles of an enlarged, padded picture. Its tokens are the rows of the
-- whole, then the tiles' rows as one grid, without the rows or columns that only saw padding, with the
-- newline row behind each line. Source: modeling_llava_next (pack_image_features, unpad_image) and
-- processing_llava_next, which agree.
local M = {}

-- Python's int(round(x, 7)) of a number that is not negative.
local function whole(x)
  local floor = math.floor(x)
  return x - floor >= 1 - 5e-8 and floor + 1 or floor
end

---Lines and columns of the grid that an image of width x height was fitted into: what is padding is cut off
---on both sides alike.
---@param width integer   of the image
---@param height integer
---@param lines integer   of the grid
---@param columns integer
---@return integer top     lines cut off above (and below)
---@return integer left    columns cut off on the left (and right)
function M.padding(width, height, lines, columns)
  if width / height > columns / lines then
    return (lines - whole(height * (columns / width))) // 2, 0
  end
  return 0, (columns - whole(width * (lines / height))) // 2
end

---@param layout table  the processor's layout: width, height, h, w of a tile in patches, grid_rows, grid_cols
---@return integer[] order  from 0; -1 is the newline row
function M.order(layout)
  local h, w, order = layout.h, layout.w, {}
  for i = 1, h * w do
    order[i] = i - 1
  end
  local lines, columns = layout.grid_rows * h, layout.grid_cols * w
  local top, left = M.padding(layout.width, layout.height, lines, columns)
  for y = top, lines - top - 1 do
    for x = left, columns - left - 1 do
      local tile = 1 + y // h * layout.grid_cols + x // w
      order[#order + 1] = (tile * h + y % h) * w + x % w
    end
    order[#order + 1] = -1
  end
  return order
end

return M
