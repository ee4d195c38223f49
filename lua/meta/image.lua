---@meta rl4vlm.image
---Pictures: uint8 RGB, rows from the top. Pixels count from 0 at the top left.
local M = {}

---@class rl4vlm.Image
local Image = {}

---A picture of one colour (black).
---@param width integer
---@param height integer
---@param color? integer[]  {r, g, b}, 0..255
---@return rl4vlm.Image
function M.new(width, height, color) end

---Reads a PNG, JPEG or BMP file. Raises when it is not one. `{exif = true}` turns the picture as the file's EXIF
---orientation says, which is ignored otherwise, as transformers ignores it.
---@param path string
---@param options? {exif: boolean}
---@return rl4vlm.Image
function M.load(path, options) end

---Reads a picture from the bytes of a file.
---@param bytes string
---@param name? string  stands in messages
---@param options? {exif: boolean}  see image.load
---@return rl4vlm.Image
function M.decode(bytes, name, options) end

---A picture of raw pixels.
---@param width integer
---@param height integer
---@param bytes string  height * width * 3
---@return rl4vlm.Image
function M.from_bytes(width, height, bytes) end

---Writes a PNG file, whole or not at all.
---@param path string
function Image:save(path) end

---The bytes of a PNG file.
---@return string
function Image:png() end

---@return integer width
---@return integer height
function Image:size() end

---The raw pixels: rows from the top, R G B each.
---@return string
function Image:bytes() end

---16 bytes that name size and pixels.
---@return string
function Image:hash() end

---Keeps the pixels as runs of equal ones until they are asked for again: a drawn frame takes a hundredth
---of its bytes. A picture that would not become half as large stays as it is. Size and hash need no pixels.
function Image:pack() end

---@return boolean
function Image:is_packed() end

---@return rl4vlm.Image
function Image:copy() end

---@param x integer
---@param y integer
---@param width integer
---@param height integer
---@return rl4vlm.Image
function Image:crop(x, y, width, height) end

---Resamples as Pillow does, bit for bit.
---@param width integer
---@param height integer
---@param filter? "bicubic"|"lanczos"|"bilinear"|"box"|"hamming"
---@return rl4vlm.Image
function Image:resize(width, height, filter) end

---One pixel.
---@param x integer
---@param y integer
---@return integer r
---@return integer g
---@return integer b
function Image:get(x, y) end

---Changes one pixel.
---@param x integer
---@param y integer
---@param color integer[]
function Image:set(x, y, color) end

---Frees the pixels now.
function Image:close() end

return M
