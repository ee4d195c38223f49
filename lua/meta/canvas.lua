---@meta rl4vlm.canvas
---Drawing. Coordinates are pixels from 0 at the top left, fractions allowed; a colour is
---{r, g, b [, a]}, 0..255, or "#rrggbb" or "#rrggbbaa". Drawing methods return the canvas.
local M = {}

---@class rl4vlm.Canvas
local Canvas = {}

---An empty canvas, transparent unless a colour is given.
---@param width integer
---@param height integer
---@param color? string|integer[]
---@return rl4vlm.Canvas
function M.new(width, height, color) end

---A canvas that holds the picture.
---@param image rl4vlm.Image
---@return rl4vlm.Canvas
function M.from(image) end

---How much room a text takes.
---@param text string
---@param options? {size?: number, bold?: boolean}
---@return number width
---@return number height
function M.measure(text, options) end

---The picture drawn so far.
---@return rl4vlm.Image
function Canvas:image() end

---@return integer width
---@return integer height
function Canvas:size() end

---@param x number
---@param y number
---@param width number
---@param height number
---@param color string|integer[]
---@param radius? number  of the corners
---@return rl4vlm.Canvas
function Canvas:rect(x, y, width, height, color, radius) end

---@param x number
---@param y number
---@param rx number
---@param ry number
---@param color string|integer[]
---@return rl4vlm.Canvas
function Canvas:ellipse(x, y, rx, ry, color) end

---@param x number
---@param y number
---@param r number
---@param color string|integer[]
---@return rl4vlm.Canvas
function Canvas:circle(x, y, r, color) end

---@param x0 number
---@param y0 number
---@param x1 number
---@param y1 number
---@param width number
---@param color string|integer[]
---@return rl4vlm.Canvas
function Canvas:line(x0, y0, x1, y1, width, color) end

---@param points number[]  {x0, y0, x1, y1, ...}
---@param color string|integer[]
---@return rl4vlm.Canvas
function Canvas:polygon(points, color) end

---@param x number
---@param y number
---@param text string
---@param options? {size?: number, bold?: boolean, color?: string|integer[]}
---@return rl4vlm.Canvas
function Canvas:text(x, y, text, options) end

---Lays another canvas or picture on this one.
---@param source rl4vlm.Canvas|rl4vlm.Image
---@param x number
---@param y number
---@param opacity? number  0..1
---@return rl4vlm.Canvas
function Canvas:blit(source, x, y, opacity) end

---Frees the pixels now.
function Canvas:close() end

return M
