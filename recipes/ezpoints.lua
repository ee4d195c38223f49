-- EZPoints: read two cards and write, token by token, a formula of both that equals 12.
local rl = require "rl4vlm"

return rl.recipe {
  name = "ezpoints",
  env = { "ezpoints", rules = "intended" },
  model = "cardling",

  -- What never changes stands before the image: the cache shares it between steps.
  prompt = rl.prompt [[
You are playing a card game in which a formula is written step by step. The picture shows two playing
cards and, below them, the formula so far. An ace counts as 1; jack, queen and king count as 10. Use the
number of each card exactly once, join them by "+" or "*", so that the value of the formula is 12, and
end it with "=". A number that is not on the table, or was used before, costs a point. Choose the next
piece of the formula. Legal actions: {actions}. First read the cards, then copy the formula, then plan
the rest of it, then act. Your answer should be a valid JSON object in the following format: {format}
{image}
Current formula: {formula}]],

  answer = rl.json_answer {
    "cards", "formula", "thoughts", "action",
    hints = { cards = "[a, b]" },
    reads = { "cards" },
  },
  thought_weight = 0.5, -- lambda in log pi = lambda * thought + action

  lora = { r = 128, alpha = 256.0 }, -- beside the decoder of a checkpoint; its own weights stay
  sampling = { temperature = 0.2 },
  algorithm = rl.ppo { gamma = 0.9, gae_lambda = 0.95, clip = 0.1, epochs = 4, minibatch = 128 },
  schedule = { env_steps = 15000, rollout = 1024, lr = rl.cosine(1e-5, 1e-9) },

  by_model = {
    idefics3 = { lora = { r = 16, alpha = 32.0 } }, -- SmolVLM
    cardling = {
      lora = { r = 0 }, -- learns as a whole
      sampling = { temperature = 0.5, max_new_tokens = 64 },
      algorithm = { epochs = 2, minibatch = 64, clip = 0.2, value_grad = 0.1 },
      schedule = { env_steps = 6144, rollout = 512, lr = rl.cosine(5e-5, 1e-6), value_lr = 3e-4 },
      sft = { samples = 50000, batch = 32, lr = rl.cosine(7e-4, 1e-6) },
    },
  },
}
