---@meta rl4vlm.canvas
---Pictures for environments: shapes with smooth edges, text, sprites.
---
---Coordinates are pixels from 0 at the top left, fractions allowed; what lies outside is clipped.
---A colour is `{r, g, b [, a]}`, integers from 0 to 255, or "#rrggbb" or "#rrggbbaa".
local M = {}

---@alias rl4vlm.Color integer[]|string

---@class rl4vlm.TextStyle
---@field size? number  the em in pixels, 1 to 1024 (default 16)
---@field bold? boolean
---@field color? rl4vlm.Color  (default black)

---@class rl4vlm.Canvas
local Canvas = {}

---Makes a canvas, transparent unless a colour is given.
---@param w integer
---@param h integer
---@param color? rl4vlm.Color
---@return rl4vlm.Canvas
function M.new(w, h, color) end

---Makes a canvas that holds an image.
---@param image rl4vlm.Image
---@return rl4vlm.Canvas
function M.from(image) end

---Size of a text: its widest line's advance, and the height of its lines.
---@param text string
---@param style? rl4vlm.TextStyle
---@return integer width, integer height
function M.measure(text, style) end

---The picture; what is transparent shows black.
---@return rl4vlm.Image
function Canvas:image() end

---@return integer width, integer height
function Canvas:size() end

---Fills a rectangle.
---@param x number
---@param y number
---@param w number
---@param h number
---@param color rl4vlm.Color
---@param radius? number  of its corners
---@return rl4vlm.Canvas self
function Canvas:rect(x, y, w, h, color, radius) end

---Fills an ellipse around (x, y).
---@param x number
---@param y number
---@param rx number
---@param ry number
---@param color rl4vlm.Color
---@return rl4vlm.Canvas self
function Canvas:ellipse(x, y, rx, ry, color) end

---Fills a circle around (x, y).
---@param x number
---@param y number
---@param r number
---@param color rl4vlm.Color
---@return rl4vlm.Canvas self
function Canvas:circle(x, y, r, color) end

---Draws a straight line with flat ends.
---@param x0 number
---@param y0 number
---@param x1 number
---@param y1 number
---@param width number
---@param color rl4vlm.Color
---@return rl4vlm.Canvas self
function Canvas:line(x0, y0, x1, y1, width, color) end

---Fills a polygon.
---@param points number[]  x0, y0, x1, y1, ...
---@param color rl4vlm.Color
---@return rl4vlm.Canvas self
function Canvas:polygon(points, color) end

---Draws text; (x, y) is the left end of the ascender line. UTF-8, "\n" begins a new line; the first
---64 KiB count.
---@param x number
---@param y number
---@param text string
---@param style? rl4vlm.TextStyle
---@return rl4vlm.Canvas self
function Canvas:text(x, y, text, style) end

---Composites a canvas or an image with its top left at (x, y).
---@param source rl4vlm.Canvas|rl4vlm.Image
---@param x integer
---@param y integer
---@param opacity? number  0 to 1 (default 1)
---@return rl4vlm.Canvas self
function Canvas:blit(source, x, y, opacity) end

---Frees the pixels now.
function Canvas:close() end

return M
