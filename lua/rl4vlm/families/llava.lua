-- llava.lua - what the LLaVA families share: a CLIP tower, two linear layers, a Llama or Mistral decoder.
--
-- Sources: transformers' LlavaConfig and LlavaNextConfig (defaults), modeling_llava (what is used),
-- convert_llava_next_weights_to_hf (the authors' names).
local decoder = require "rl4vlm.families.decoder"
local names = require "rl4vlm.families.names"
local vit = require "rl4vlm.families.vit"

local M = { patch_shape = vit.patch_shape }

---The numbers of a LLaVA model.
---@param c rl4vlm.ConfigFields
---@return table arch
function M.arch(c)
  decoder.check_plain(c)
  local strategy = c:one_of("vision_feature_select_strategy", { "default", "full" }, "default")
  local vision = vit.clip(c, c:sub("vision_config", nil, vit.clip_large), "vision_feature_layer", strategy == "default")
  local text = decoder.nested(c)
  return {
    vision = vision, text = text,
    connector = { ["in"] = vision.width, hidden = text.width, out = text.width,
      act = c:map("projector_hidden_act", vit.acts, "gelu"), bias = c:flag("multimodal_projector_bias", true) },
    image_token = c:get("image_token_index") and c:index("image_token_index")
      or c:index("image_token_id", 32000),
  }
end

-- As published, as transformers 5 writes it, as the model is in memory (with and without vision_model), as
-- the authors wrote it.
local linear = { ["0"] = "linear_1", ["1"] = "linear_2" }
local newline = { newline = "image_newline" }
local namings = {
  vision = { { "vision_tower.vision_model.", vit.words }, { "vision_tower.", vit.words },
    { "model.vision_tower.vision_model.", vit.words }, { "model.vision_tower.", vit.words },
    { "model.vision_tower.vision_tower.vision_model.", vit.words } },
  connector = { { "multi_modal_projector.", linear }, { "model.multi_modal_projector.", linear },
    { "model.mm_projector.", { ["0"] = "0", ["1"] = "2" } } },
  newline = { { "", newline }, { "model.", newline } },
  text = { { "language_model.model.", decoder.words }, { "model.language_model.", decoder.words },
    { "model.", decoder.words } },
  head = { { "language_model.lm_", {} }, { "lm_", {} } },
}

M.names, M.module = names.new(namings, { vision = 4, connector = 2, newline = 2, text = 2, head = 2 })

---True for tensors that files hold and the model does not use: layers behind the feature layer, the
---tower's last norm, buffers, the head of a tied model, a newline row where views need none.
function M.unused(name, arch)
  local layer = name:match("vision_tower%..*encoder%.layers%.(%d+)%.")
  return layer ~= nil and tonumber(layer) >= arch.vision.layers
    or name:match("vision_tower%..*post_layernorm%.%w+$") ~= nil
    or name:match("%.position_ids$") ~= nil or name:match("%.inv_freq$") ~= nil
    or arch.text.tied and name:match("lm_head%.weight$") ~= nil
    or not arch.connector.newline and name:match("image_newline$") ~= nil
end

return M
