-- qwen_vl.lua - what Qwen2-VL and Qwen2.5-VL share: a tower for images of any size, a merger, Qwen2 with M-RoPE.
--
-- Sources: transformers' Qwen2VLConfig and Qwen2_5_VLConfig (defaults), modeling_qwen2_vl.
local decoder = require "rl4vlm.families.decoder"
local names = require "rl4vlm.families.names"
local vit = require "rl4vlm.families.vit"

local M = {}

-- One number, or transformers' pair of two equal ones.
local function side(v, key)
  local value = v:get(key)
  if type(value) == "table" and #value == 2 and value[1] == value[2] then
    return value[1]
  end
  return v:count(key)
end

-- What both towers have; `out` is the field with the width behind the merger.
local function vision_arch(v, width, out)
  v:expect(v:has("in_chans") and "in_chans" or "in_channels", 3, 3)
  local rope = v:sub("rope_parameters", { rope_theta = 10000.0 })
  local arch = {
    patch = side(v, "patch_size"), temporal = v:count("temporal_patch_size"), merge = v:count("spatial_merge_size"),
    width = v:count(width), layers = v:count("depth"), heads = v:count("num_heads"),
    act = v:map("hidden_act", vit.acts), eps = 1e-6, fused_qkv = true, rope_theta = rope:number("rope_theta"),
  }
  if arch.temporal > 2 then
    v:fail("temporal_patch_size", "1 or 2", arch.temporal)
  elseif arch.width % (4 * arch.heads) ~= 0 then
    v:fail("num_heads", ("a number of heads whose width is a multiple of 4, %s being %d"):format(width, arch.width),
      arch.heads)
  end
  return arch, v:count(out)
end

---The numbers of a Qwen-VL model.
---@param c rl4vlm.ConfigFields
---@param vision {defaults: table, width: string, out: string, norm: "layer"|"rms", more: fun(v, arch)}
---@return table arch
function M.arch(c, vision)
  decoder.check_plain(c)
  local v = c:sub("vision_config", vision.defaults)
  local tower, out = vision_arch(v, vision.width, vision.out)
  vision.more(v, tower)
  -- released files hold the decoder's fields flat, newer ones under text_config
  local nested = c:has("text_config")
  local t = nested and c:sub("text_config", decoder.defaults.qwen2) or c:with(decoder.defaults.qwen2)
  local text = decoder.arch(t, "qwen2", decoder.tied(c, t))
  if out ~= text.width then
    v:fail(vision.out, ("%d, the decoder's hidden_size"):format(text.width), out)
  end
  local merged = tower.width * tower.merge * tower.merge
  return {
    vision = tower, text = text,
    connector = { norm = vision.norm, eps = 1e-6, ["in"] = merged, hidden = merged, out = out, act = "gelu",
      bias = true },
    image_token = c:index("image_token_id", 151655),
  }
end

---The shape of the patch embedding in the files: that of a convolution over two frames.
---@param v table  arch.vision
---@return integer[]
function M.patch_shape(v)
  return { v.width, 3, v.temporal, v.patch, v.patch }
end

local vision_words = { layers = "blocks.", qkv = "attn.qkv", o = "attn.proj", fc1 = "mlp.fc1", fc2 = "mlp.fc2",
  gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj", patch = "patch_embed.proj" }
local merger_words = { norm = "ln_q", ["0"] = "mlp.0", ["1"] = "mlp.2" }

M.names, M.module = names.new({
  vision = { { "visual.", vision_words }, { "model.visual.", vision_words } },
  connector = { { "visual.merger.", merger_words }, { "model.visual.merger.", merger_words } },
  text = { { "model.", decoder.words }, { "model.language_model.", decoder.words } },
  head = { { "lm_", {} } },
}, { vision = 2, connector = 2, text = 2, head = 1 })

---True for tensors that files hold and the model does not use: buffers, the head of a tied model.
function M.unused(name, arch)
  return name:match("%.inv_freq$") ~= nil or arch.text.tied and name == "lm_head.weight"
end

---The prompt of messages where the checkpoint has no template of its own.
M.chat_template = "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
  .. "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
  .. "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
  .. "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
  .. "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
  .. "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

return M
