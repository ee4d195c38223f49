-- llava_authors.lua - LLaVA as its authors publish it (liuhaotian/llava-v1.6-mistral-7b and others): a decoder's
-- config.json with mm_* fields, no image token in the vocabulary, no processor file.
--
-- The id behind the vocabulary stands for images in prompts (32000, as transformers' conversion has it). The authors'
-- own code writes -200, which requests in ids may too. Where the files lack the vision tower, its folder must lie at
-- vision_tower. Source: llava/model/llava_arch.py, multimodal_encoder/clip_encoder.py and mm_utils.py of
-- github.com/haotian-liu/LLaVA.
local decoder = require "rl4vlm.families.decoder"
local fields = require "rl4vlm.config_fields"
local json = require "rl4vlm.json"
local llava = require "rl4vlm.families.llava"
local vit = require "rl4vlm.families.vit"

local M = { names = llava.names, module = llava.module, patch_shape = vit.patch_shape, unused = llava.unused }

---What the authors' code writes once for an image.
M.sentinel = -200

---Where the tower's tensors stand in the files.
M.tower_prefix = "model.vision_tower.vision_tower."

-- The numbers of the tower: of its folder, else by its name.
local function tower_config(c, tower)
  local name = c:get("mm_vision_tower")
  local known = type(name) == "string" and name:match("clip%-vit%-large%-patch14(.*)$")
  if tower then
    return fields.new(tower.vision_config or tower, c.where .. ": mm_vision_tower")
  elseif known == "-336" or known == "" then
    local large = { image_size = known == "" and 224 or nil }
    return fields.new(setmetatable(large, { __index = vit.clip_large }), c.where)
  end
  c:fail("mm_vision_tower", "openai/clip-vit-large-patch14-336, or the tower's folder at vision_tower", name)
end

local function is_anyres(c)
  return c:get("image_aspect_ratio") == "anyres"
end

---The numbers of the model from its config.json.
---@param config table
---@param where string
---@param has? fun(tensor: string): boolean  what the files hold
---@param tower? table  config.json of the folder vision_tower, where there is one
---@param kind "llama"|"mistral"
---@return table arch
function M.arch(config, where, has, tower, kind)
  local c = fields.new(config, where)
  decoder.check_plain(c)
  c:expect("mm_projector_type", "mlp2x_gelu")
  c:expect("mm_use_im_start_end", false, false)
  if has and not has(M.tower_prefix .. "vision_model.embeddings.class_embedding") then
    c:fail("mm_vision_tower", "its tensors in the files, or its folder (with config.json) as vision_tower beside them",
      c:get("mm_vision_tower"))
  end
  local select = c:one_of("mm_vision_select_feature", { "patch", "cls_patch" }, "patch")
  local vision = vit.clip(c, tower_config(c, tower), "mm_vision_select_layer", select == "patch")
  local t = c:with(decoder.defaults[kind])
  local text = decoder.arch(t, kind, decoder.tied(c, t))
  if is_anyres(c) then
    c:expect("mm_patch_merge_type", "spatial_unpad")
    c:expect("mm_vision_select_feature", "patch", "patch")
  end
  return {
    vision = vision, text = text, image_token = text.vocab,
    connector = { ["in"] = vision.width, hidden = text.width, out = text.width, act = "gelu", bias = true,
      newline = is_anyres(c) or nil },
  }
end

-- The authors give resolutions as width and height, transformers as height and width; the first of equals is taken.
local function turned(pinpoints)
  local list = {}
  for i, pair in ipairs(type(pinpoints) == "table" and pinpoints or {}) do
    list[i] = { pair[2], pair[1] }
  end
  return list
end

---What stands in for a preprocessor_config.json.
---@param config table
---@param arch table
---@return string json
function M.processor(config, arch)
  local size, aspect = arch.vision.image_size, config.image_aspect_ratio
  local file = { image_processor_type = "LlavaImageProcessor", do_pad = aspect == "pad", resample = 3,
    size = { shortest_edge = size }, crop_size = { height = size, width = size } }
  if aspect == "anyres" then
    file.image_processor_type, file.do_pad = "LlavaNextImageProcessor", true
    file.image_grid_pinpoints = turned(config.image_grid_pinpoints)
  end
  return json.encode(file)
end

return M
