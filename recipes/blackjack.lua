-- Blackjack: read the dealer's card and your own, then hit or stand.
local rl = require "rl4vlm"

return rl.recipe {
  name = "blackjack",
  env = { "blackjack", rules = "intended" },
  model = "cardling",

  -- What never changes stands before the image: the cache shares it between steps.
  prompt = rl.prompt [[
You are playing a hand of blackjack against a dealer. The picture shows the dealer's open card in the
upper row and all of your own cards in the lower row. An ace counts as 11 as long as the total stays at
21 or below, else as 1; jack, queen and king count as 10. With "hit" you draw another card and lose when
the total passes 21; with "stand" you stop, and the dealer draws until the total is 17 or more. The
higher total wins. Legal actions: {actions}. First read the cards and add yours up, then act. Your answer
should be a valid JSON object in the following format: {format}
{image}]],

  answer = rl.json_answer {
    "thoughts", "action",
    reads = { thoughts = "^dealer %d+, player [%d+]+" }, -- as the expert states the cards
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
      sft = { samples = 50000, batch = 32, lr = rl.cosine(7e-4, 1e-6) },
    },
  },
}
