-- export.lua MODEL OUT - trains MODEL for a step, saves it and a trained adapter under OUT with the logits that
-- each gives: what check_export.py opens in transformers and peft.
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local name, out = arg[1], arg[2]
local golden = safetensors.open(name .. "/golden.safetensors")
local prompts = json.decode(fs.read_file(name .. "/golden.json")).prompts
local which = prompts and "p1" or "p2" -- with images where they come as files
local ids, images = golden:get(which .. ".ids"):list(), {}
for i, file in ipairs(prompts and prompts[2].images or {}) do
  images[i] = image.load(name:match("^(.*)/") .. "/images/" .. file .. ".png")
end

local function load(folder, options)
  options.threads, options.max_tokens = 1, 400
  return vlm.load(folder, options)
end

local function train(model)
  local answer = golden:get(which .. ".answer"):list()
  local loss = -model:score({ { ids = ids, answer = answer, images = images } }, { grad = true }).logprobs:sum()
  loss:backward()
  model:optimizer():step { lr = 1e-2 }
end

local full = load(name, { train = { "vision", "connector", "language", "head" }, value_head = true })
train(full)
full:save(out .. "/full", { dtype = "F32" })
full:save(out .. "/half")
safetensors.write(out .. "/full.logits", { logits = full:logits(ids, images) })

local targets = { "q_proj", "o_proj", "down_proj", "qkv", "fc1", "linear_1", "mlp.2", "modality_projection.proj" }
local function adapt(file, options)
  local lora <close> = load(name, { lora = options })
  for _ = 1, 3 do
    train(lora)
  end
  lora:save_adapter(out .. "/" .. file)
  safetensors.write(out .. "/" .. file .. ".logits", { logits = lora:logits(ids, images) })
end
local patches = name:match("qwen") and "patch_embed" or "patch_embedding" -- a convolution
adapt("adapter", { r = 4, alpha = 8, targets = targets })
adapt("rich", { r = 3, alpha = 6, targets = targets, rank_pattern = { down_proj = 5 }, alpha_pattern = { o_proj = 9 },
  rslora = true, bias = true, save = { "input_layernorm", patches } })

-- what we saved, we open
local again = load(out .. "/full", { value_head = true })
assert(again:logits(ids, images):data() == full:logits(ids, images):data())
assert(again.core:get("value.4.weight"):data() == full.core:get("value.4.weight"):data())
