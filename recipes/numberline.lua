-- NumberLine: read two numbers from a picture and walk from one to the other.
local rl = require "rl4vlm"

return rl.recipe {
  name = "numberline",
  env = { "numberline", rules = "intended" },
  model = "cardling",

  -- What never changes stands before the image: the cache shares it between steps.
  prompt = rl.prompt [[
You are playing a game on a number line that goes from 0 to 5. The picture shows two numbers in large
black letters: the target number in the upper line and the current number in the lower line. With "+"
the current number grows by one, with "-" it shrinks by one. Choose the action that brings the current
number closer to the target number; a step that does not bring it closer costs a point. Legal actions:
{actions}. First read both numbers, then say which one is greater, then act. Your answer should be a
valid JSON object in the following format: {format}
{image}]],

  answer = rl.json_answer {
    "current number", "target number", "thoughts", "action",
    hints = { ["current number"] = "n", ["target number"] = "n" },
    reads = { "current number", "target number" },
  },
  thought_weight = 0.5, -- lambda in log pi = lambda * thought + action

  lora = { r = 128, alpha = 256.0 }, -- beside the decoder of a checkpoint; its own weights stay
  sampling = { temperature = 0.2 },
  algorithm = rl.ppo { gamma = 0.9, gae_lambda = 0.95, clip = 0.1, epochs = 4, minibatch = 128 },
  schedule = { env_steps = 15000, rollout = 512, lr = rl.cosine(1e-5, 1e-9) },

  by_model = {
    idefics3 = { lora = { r = 16, alpha = 32.0 } }, -- SmolVLM
    cardling = {
      lora = { r = 0 }, -- learns as a whole
      sampling = { temperature = 0.5, max_new_tokens = 64 },
      algorithm = { epochs = 2, minibatch = 64, clip = 0.2, value_grad = 0.1 },
      schedule = { env_steps = 6144, rollout = 512, lr = rl.cosine(5e-5, 1e-6), value_lr = 3e-4 },
      sft = { samples = 20000, batch = 32, lr = rl.cosine(7e-4, 1e-6) },
    },
  },
}
