-- views.lua - images of prompts: how many rows each takes, and the patches that the vision tower sees.
--
-- The processor says what becomes of an image (a layout), the family which feature rows its tokens take and
-- how it is written in a prompt. A view is a layout with patches, as rl4vlm.core wants it.
local pixel_cache = require "rl4vlm.pixel_cache"
local processor = require "rl4vlm.processor"
local slice = require "rl4vlm.slice"

---@class rl4vlm.Views
---@field processor rl4vlm.Processor  opened when it is first needed
local Views = {}

local M = {}

---@class rl4vlm.views.Options
---What the processor's file is changed by; which of them a processor takes hangs on its kind.
---@field anyres? boolean        LLaVA-NeXT: false: one view of an image
---@field splitting? boolean     Idefics3, SmolVLM: cut images into tiles
---@field longest_edge? integer  Idefics3, SmolVLM: size to which images are enlarged first
---@field min_pixels? integer    Qwen-VL
---@field max_pixels? integer    Qwen-VL
---@field pad? boolean           LLaVA: images are padded to squares

---The images of a model.
---@param source rl4vlm.Checkpoint
---@param options? rl4vlm.views.Options
---@return rl4vlm.Views
function M.new(source, options)
  local self = setmetatable({ dir = source.dir, family = source.family, arch = source.arch, config = source.config,
    options = options }, Views)
  self.cached = pixel_cache.new(function(image)
    return self:make(image)
  end)
  return self
end

-- The processor with the tower's numbers.
local function open(self)
  local v, options = self.arch.vision, {}
  for key, value in pairs(self.options or {}) do
    options[key] = value
  end
  options.patch, options.temporal, options.merge = v.patch, v.temporal, v.merge
  local written = self.family.processor and self.family.processor(self.config, self.arch)
  return written and processor.parse(written, options) or processor.load(self.dir, options)
end

function Views.__index(self, key)
  if key == "processor" then
    local value = open(self)
    rawset(self, key, value)
    return value
  end
  return Views[key]
end

-- Rows that the tower and the connector give for a layout.
local function features(arch, layout)
  local v = arch.vision
  local class = v.class_token and not v.drop_class and 1 or 0
  return layout.tiles * ((layout.h // v.merge) * (layout.w // v.merge) + class)
end

-- Which feature rows the image's tokens take, and how many they are.
local function finish(self, layout)
  local size, patch = self.arch.vision.image_size or 0, self.arch.vision.patch
  if size > 0 and (layout.h ~= size // patch or layout.w ~= size // patch) then
    error(("%s: the processor makes images of %dx%d patches, the vision tower wants %dx%d"):format(self.dir, layout.w,
      layout.h, size // patch, size // patch), 0)
  end
  local order = self.family.order and self.family.order(layout)
  layout.rows = order and #order or features(self.arch, layout)
  return layout, order
end

local function check_image(image)
  if type(image) ~= "userdata" then
    error(("images: wanted an image (rl4vlm.image.load), came %s"):format(
      type(image) == "string" and ("'%s'"):format(image) or "a " .. type(image)), 0)
  end
end

---What becomes of an image: its layout, with `rows`, the tokens that it takes.
---@param image rl4vlm.Image
---@return rl4vlm.processor.Layout
function Views:layout(image)
  check_image(image)
  return (finish(self, self.processor:layout(image:size())))
end

---The text that stands for an image in a prompt, and what each `mark` in it stands for.
---@param image rl4vlm.Image
---@param mark string  the image token
---@return string text
---@return integer marks  in the text
---@return integer rows   of each
function Views:spell(image, mark)
  local layout = self:layout(image)
  if not self.family.spell then
    return mark, 1, layout.rows
  end
  return self.family.spell(layout, mark), layout.tiles, layout.rows // layout.tiles
end

function Views:make(image)
  local packed_image = image:is_packed()
  local view, order = finish(self, self.processor:view(image))
  if packed_image then
    image:pack()
  end
  local packed = order and string.pack("<" .. ("i4"):rep(#order), table.unpack(order))
  view.order = order and slice.new { dtype = "I32", shape = { #order }, data = packed }
  local bytes = #view.patches
  return { patches = view.patches, tiles = view.tiles, h = view.h, w = view.w, order = view.order, rows = view.rows,
    key = image:hash() }, bytes
end

---What the model sees of an image; kept by the image's hash.
---@param image rl4vlm.Image
---@return table  {patches =, tiles =, h =, w =, order =, rows =}
function Views:view(image)
  check_image(image)
  return self.cached(image)
end

---The largest view to be expected in sequences of `tokens`, for the memory plan.
---@param tokens integer
---@return integer patches
---@return integer rows
function Views:most(tokens)
  local v, newline = self.arch.vision, self.arch.connector.newline
  local ok, patches = pcall(function()
    return self.processor:most_patches()
  end)
  if not ok or not patches then -- no processor's file, or one without bounds
    local side = v.image_size and v.image_size // v.patch
    patches = side and side * side or tokens * v.merge * v.merge
  end
  -- without newline rows every feature row is a token
  if newline then
    return patches, math.min(tokens, patches + patches // (v.image_size // v.patch))
  end
  local rows = math.min(tokens, patches // (v.merge * v.merge) + (v.class_token and not v.drop_class and 1 or 0))
  return math.min(patches, tokens * v.merge * v.merge), rows
end

return M
