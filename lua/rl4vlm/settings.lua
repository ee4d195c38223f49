-- settings.lua - every field a recipe can have: its kind and its default, by dotted name.
local kinds = require "rl4vlm.kinds"

local PARTS = { "vision", "connector", "language", "head" }

local M = {}

---Parts of the model that can be trained.
M.parts = PARTS

---Fields in the order in which `describe` prints them. No default and not optional: the recipe must
---give it. A `group` stands for a table whose further keys its owner checks (an environment's options).
M.list = {
  { "name", kind = "name" },
  { "env", kind = "table", group = true },
  { "model", kind = "string", default = "cardling" },
  { "adapter", kind = "string", optional = true },
  { "prompt", kind = "prompt" },
  { "answer", kind = "answer" },
  { "thought_weight", kind = "not_negative", default = 0.5 },
  -- where the random action comes from when an answer gives none: the legal ones, or the whole list
  { "fallback", kind = kinds.choice { "legal", "all" }, default = "legal" },
  { "reward", kind = "callable", optional = true },
  { "seed", kind = "whole", default = 1 },
  { "slots", kind = "count", optional = true },
  -- room for a prompt and its answer; 0: what a first prompt and the longest answer take, and some more
  { "max_tokens", kind = "whole", default = 0 },
  -- rows of one micro-batch, 0: about 1024, at least a sequence; keep only each layer's input for the backward pass
  { "max_rows", kind = "whole", default = 0 },
  { "recompute", kind = "boolean", default = false },
  { "train", kind = "list", default = PARTS },
  { "lora.r", kind = "whole", default = 0 },
  { "lora.alpha", kind = "positive", default = 16.0 },
  { "lora.targets", kind = "modules", optional = true },
  { "lora.exclude", kind = "modules", optional = true },
  { "lora.layers", kind = "integers", optional = true },
  { "lora.rank_pattern", kind = "ranks", optional = true },
  { "lora.alpha_pattern", kind = "alphas", optional = true },
  { "lora.rslora", kind = "boolean", default = false },
  { "lora.bias", kind = "boolean", default = false },
  { "lora.save", kind = "list", optional = true },
  { "lora.dropout", kind = "no_dropout", optional = true },
  -- changes of the checkpoint's image processor; which of them it takes hangs on its family
  { "image.anyres", kind = "boolean", optional = true }, -- LLaVA-NeXT: tiles beside the whole image
  { "image.pad", kind = "boolean", optional = true }, -- LLaVA: to a square, instead of cutting
  { "image.splitting", kind = "boolean", optional = true }, -- SmolVLM: tiles beside the whole image
  { "image.longest_edge", kind = "count", optional = true }, -- SmolVLM: the size that is cut into tiles
  { "image.min_pixels", kind = "count", optional = true }, -- Qwen-VL
  { "image.max_pixels", kind = "count", optional = true }, -- Qwen-VL
  { "sampling.temperature", kind = "not_negative", default = 1.0 },
  { "sampling.top_k", kind = "whole", default = 0 },
  { "sampling.top_p", kind = "share", default = 1.0 },
  { "sampling.min_p", kind = "share", default = 0.0 },
  { "sampling.max_new_tokens", kind = "count", default = 256 },
  { "algorithm", kind = "table", group = true, optional = true }, -- only to train
  { "optimizer.beta1", kind = "share", default = 0.9 },
  { "optimizer.beta2", kind = "share", default = 0.95 },
  { "optimizer.eps", kind = "positive", default = 1e-8 },
  { "optimizer.weight_decay", kind = "not_negative", default = 0.0 },
  { "schedule.env_steps", kind = "count", default = 15000 },
  { "schedule.rollout", kind = "count", default = 512 },
  { "schedule.lr", kind = "schedule", default = 1e-5 },
  { "schedule.value_lr", kind = "schedule", optional = true },
  { "schedule.warmup", kind = "share", default = 0.0 },
  { "schedule.checkpoint_every", kind = "whole", default = 1 },
  { "schedule.keep", kind = "count", default = 2 },
  { "schedule.eval_every", kind = "whole", default = 5 },
  { "schedule.eval_episodes", kind = "count", default = 100 },
  { "eval.episodes", kind = "count", default = 200 },
  { "eval.temperature", kind = "not_negative", default = 0.0 },
  { "sft.samples", kind = "count", default = 20000 },
  { "sft.batch", kind = "count", default = 64 },
  { "sft.lr", kind = "schedule", default = "cosine(2e-5, 0)" },
  { "sft.warmup", kind = "share", default = 0.03 },
  { "sft.max_grad_norm", kind = "positive", default = 1.0 },
  { "sft.random_moves", kind = "share", default = 0.1 },
  { "sft.checkpoint_every", kind = "whole", default = 200 },
  { "sft.data", kind = "string", optional = true },
  { "device", kind = kinds.choice { "auto", "cpu" }, default = "auto" },
  { "dtype", kind = kinds.choice { "auto", "fp32", "bf16", "fp16" }, default = "auto" },
  { "base", kind = kinds.choice { "none", "int8", "nf4" }, default = "none" },
  { "threads", kind = "threads", default = 0 },
  { "by_model", kind = "table", optional = true, group = true },
}

M.by_name = {}
for _, field in ipairs(M.list) do
  field.name = field[1]
  M.by_name[field.name] = field
end

return M
