---@meta rl4vlm.processor
---What the vision tower sees of an image: the pipeline of a checkpoint's preprocessor_config.json, equal to
---transformers' Pillow-based image processors (CLIP, Siglip, Llava, LlavaNext, Qwen2VL, Idefics3, SmolVLM).
local M = {}

---@class rl4vlm.Processor
local Processor = {}

---@class rl4vlm.processor.Options
---@field patch integer?  sides of the tower's patches; Qwen2-VL's file says it, others need it for patches
---@field temporal integer?  how often a patch holds a still image (Qwen2-VL's file says it; else 1)
---@field merge integer?  sides of the squares of patches that follow one another (Qwen2-VL's file says it; else 1)
---@field max_patches integer?  an image that becomes more is an error
---@field pad boolean?  CLIP pipeline: first padded to a square with the mean colour, as the original LLaVA does
---@field anyres boolean?  false: LLaVA-NeXT sees one view, resized and cropped as by the CLIP pipeline
---@field min_pixels integer?  Qwen2-VL, in place of the file's
---@field max_pixels integer?  Qwen2-VL, in place of the file's
---@field splitting boolean?  Idefics3, SmolVLM: in place of the file's do_image_splitting
---@field longest_edge integer?  Idefics3, SmolVLM: in place of the file's size

---@class rl4vlm.processor.Layout
---@field width integer  of the image
---@field height integer
---@field tiles integer  pictures that the tower sees
---@field h integer  patches of a tile, down and across
---@field w integer
---@field grid_rows integer?  tiles that the image was cut into (nil: not cut). LLaVA-NeXT: the whole picture comes
---before them; Idefics3, SmolVLM: behind them
---@field grid_cols integer?
---@field best_width integer?  pixels of that grid; LLaVA-NeXT: the chosen resolution
---@field best_height integer?

---@class rl4vlm.processor.View : rl4vlm.processor.Layout
---@field patches rl4vlm.Slice  F32 (tiles * h * w, 3 * temporal * patch * patch): tile by tile; in a tile squares of
---merge x merge patches in raster order, in a square row by row; a patch's numbers by channel, time, row, column

---Reads preprocessor_config.json (or processor_config.json) in a checkpoint's folder.
---@param dir string
---@param options rl4vlm.processor.Options?
---@return rl4vlm.Processor
function M.load(dir, options) end

---The processor of a preprocessor_config.json's content.
---@param json string
---@param options rl4vlm.processor.Options?
---@return rl4vlm.Processor
function M.parse(json, options) end

---What becomes of an image of this size, without making it.
---@param width integer
---@param height integer
---@return rl4vlm.processor.Layout
function Processor:layout(width, height) end

---Most patches that any image can become; nil where nothing bounds them.
---@return integer?
function Processor:most_patches() end

---The patches that the tower takes, and their layout.
---@param image rl4vlm.Image
---@return rl4vlm.processor.View
function Processor:view(image) end

---The same numbers as transformers lays out `pixel_values`: (3, H, W); (tiles, 3, H, W) of LLaVA-NeXT, Idefics3 and
---SmolVLM; (patches, numbers) of Qwen2-VL.
---@param image rl4vlm.Image
---@return rl4vlm.Slice
function Processor:pixels(image) end

return M
