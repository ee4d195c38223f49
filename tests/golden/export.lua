-- export.lua MODEL OUT - trains MODEL for a step, saves it and a trained adapter under OUT with the logits that
-- each gives: what check_export.py opens in transformers and peft.
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local name, out = arg[1], arg[2]
local golden = safetensors.open(name .. "/golden.safetensors")
local ids = golden:get("p2.ids"):list()

local function train(model)
  local answer = golden:get("p2.answer"):list()
  local loss = -model.core:score({ { ids = ids, answer = answer } }, { grad = true }).logprobs:sum()
  loss:backward()
  model:optimizer():step { lr = 1e-2 }
end

local full = vlm.load(name, { threads = 1, train = { "vision", "connector", "language", "head" }, value_head = true })
train(full)
full:save(out .. "/full", { dtype = "F32" })
full:save(out .. "/half")
safetensors.write(out .. "/full.logits", { logits = full.core:logits(ids) })

local lora = vlm.load(name, { threads = 1, lora = { r = 4, alpha = 8, targets = { "q_proj", "o_proj", "down_proj" } } })
for _ = 1, 3 do
  train(lora)
end
lora:save_adapter(out .. "/adapter")
safetensors.write(out .. "/adapter.logits", { logits = lora.core:logits(ids) })

-- what we saved, we open
local again = vlm.load(out .. "/full", { threads = 1, value_head = true })
assert(again.core:logits(ids):data() == full.core:logits(ids):data())
assert(again.core:get("value.4.weight"):data() == full.core:get("value.4.weight"):data())
