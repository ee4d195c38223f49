---@meta rl4vlm.processor
---What the vision tower sees of an image: the pipeline of a checkpoint's preprocessor_config.json.
local M = {}

---@class rl4vlm.Processor
local Processor = {}

---Reads the configuration in a checkpoint's folder.
---@param dir string
---@return rl4vlm.Processor
function M.load(dir) end

---@param image rl4vlm.Image
---@return integer width
---@return integer height
function Processor:size(image) end

---Resized, cropped, scaled and normalised pixels: float32, (3, height, width).
---@param image rl4vlm.Image
---@return string
function Processor:pixels(image) end

return M
