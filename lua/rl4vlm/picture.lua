-- picture.lua - an image as terminal text: kitty's graphics, sixel, or half blocks in 24-bit colour.

local M = {}

-- One text cell is about half as wide as it is high; graphics protocols get this many pixels a cell.
local CELL_WIDTH, CELL_HEIGHT = 10, 20

---What the environment says that the terminal can draw. RL4VLM_PICTURES overrides it.
---@param getenv? fun(name: string): string?  default os.getenv
---@return "kitty"|"sixel"|"blocks"|"none"|nil kind  nil: the environment does not say
function M.from_environment(getenv)
  getenv = getenv or os.getenv
  local asked, term = getenv("RL4VLM_PICTURES"), getenv("TERM") or ""
  if asked == "kitty" or asked == "sixel" or asked == "blocks" or asked == "none" then
    return asked
  elseif term == "dumb" or term == "" then
    return "none"
  elseif getenv("TMUX") or term:match("^screen") then
    return "blocks"
  elseif getenv("KITTY_WINDOW_ID") or term:match("kitty") or term:match("ghostty") then
    return "kitty"
  elseif term:match("^foot") or term:match("^mlterm") or term:match("^yaft") then
    return "sixel"
  elseif term == "linux" then
    return "blocks"
  end
end

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local digit = {}
for i = 0, 63 do
  digit[i] = BASE64:sub(i + 1, i + 1)
end

local function base64(s)
  local out = {}
  for i = 1, #s, 3 do
    local a, b, c = s:byte(i, i + 2)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    out[#out + 1] = digit[n >> 18] .. digit[n >> 12 & 63]
      .. (b and digit[n >> 6 & 63] or "=") .. (c and digit[n & 63] or "=")
  end
  return table.concat(out)
end

-- kitty: PNG in base64, in pieces of at most 4096 characters; only the first says what it is.
local function kitty(image, columns, rows)
  local data, out = base64(image:png()), {}
  for at = 1, #data, 4096 do
    local head = at == 1 and ("f=100,a=T,c=%d,r=%d,"):format(columns, rows) or ""
    local more = at + 4096 <= #data and 1 or 0
    out[#out + 1] = ("\27_G%sm=%d;%s\27\\"):format(head, more, data:sub(at, at + 4095))
  end
  return table.concat(out) .. "\n"
end

-- Pixels as numbers of a colour cube of 6 x 6 x 6, row by row.
local function cube(image)
  local pixels, out = image:bytes(), {}
  for at = 1, #pixels, 3 do
    local r, g, b = pixels:byte(at, at + 2)
    out[#out + 1] = (r * 5 + 127) // 255 * 36 + (g * 5 + 127) // 255 * 6 + (b * 5 + 127) // 255
  end
  return out
end

-- One band of six pixel rows: for each colour in it, a line of sixels with runs counted.
local function sixel_band(colours, width, height, top, out)
  local bits = {} -- colour -> column -> six bits
  for y = top, math.min(top + 5, height - 1) do
    for x = 0, width - 1 do
      local colour = colours[y * width + x + 1]
      local line = bits[colour] or {}
      bits[colour] = line
      line[x] = (line[x] or 0) | 1 << (y - top)
    end
  end
  local order = {}
  for colour in pairs(bits) do
    order[#order + 1] = colour
  end
  table.sort(order)
  for _, colour in ipairs(order) do
    local line, x = bits[colour], 0
    out[#out + 1] = "#" .. colour
    while x < width do
      local value, run = line[x] or 0, 1
      while x + run < width and (line[x + run] or 0) == value do
        run = run + 1
      end
      out[#out + 1] = ("!%d%c"):format(run, 63 + value)
      x = x + run
    end
    out[#out + 1] = "$" -- back to the band's left edge
  end
  out[#out + 1] = "-"
end

local function sixel(image, columns, rows)
  local small = image:resize(columns * CELL_WIDTH, rows * CELL_HEIGHT, "bicubic")
  local width, height = small:size()
  local out = { ('\27Pq"1;1;%d;%d'):format(width, height) }
  for colour = 0, 215 do
    local r, g, b = colour // 36, colour // 6 % 6, colour % 6
    out[#out + 1] = ("#%d;2;%d;%d;%d"):format(colour, r * 20, g * 20, b * 20)
  end
  local colours = cube(small)
  for top = 0, height - 1, 6 do
    sixel_band(colours, width, height, top, out)
  end
  return table.concat(out) .. "\27\\\n"
end

-- Half blocks: each character shows two pixels, the upper as its colour, the lower as its ground.
local function blocks(image, columns, rows)
  local small = image:resize(columns, rows * 2, "bicubic")
  local pixels, out = small:bytes(), {}
  for row = 0, rows - 1 do
    for x = 0, columns - 1 do
      local top, low = (2 * row * columns + x) * 3 + 1, ((2 * row + 1) * columns + x) * 3 + 1
      local r, g, b = pixels:byte(top, top + 2)
      out[#out + 1] = ("\27[38;2;%d;%d;%dm"):format(r, g, b)
      r, g, b = pixels:byte(low, low + 2)
      out[#out + 1] = ("\27[48;2;%d;%d;%dm▀"):format(r, g, b)
    end
    out[#out + 1] = "\27[0m\n"
  end
  return table.concat(out)
end

---Cells that an image takes within `columns`, its shape kept.
local function cells(image, columns)
  local width, height = image:size()
  columns = math.max(1, math.min(columns, (width + 1) // 2))
  return columns, math.max(1, math.floor(columns * height / width / 2 + 0.5))
end

---An image as text for the terminal, with a newline at its end.
---@param image rl4vlm.Image
---@param kind "kitty"|"sixel"|"blocks"|"none"
---@param columns? integer  at most so wide (default 40)
---@return string
function M.text(image, kind, columns)
  local width, rows = cells(image, columns or 40)
  if kind == "kitty" then
    return kitty(image, width, rows)
  elseif kind == "sixel" then
    return sixel(image, width, rows)
  elseif kind == "blocks" then
    return blocks(image, width, rows)
  end
  return tostring(image) .. "\n"
end

return M
