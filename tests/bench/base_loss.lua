-- base_loss.lua - what a quantised base costs in log-probability, beside bf16.
--
--   rl4vlm tests/bench/base_loss.lua MODEL [RECIPE | NUMBER] [dtype]
--
-- With a recipe: the answers of its expert to 64 of its states. Else: NUMBER (64) prompts of random ids and the
-- answers that the fp32 model draws for them, 32 tokens each. A line for each way of keeping the weights: the mean
-- log-probability of a token, its mean change and largest change against fp32, and the share of tokens whose
-- most likely id stays the same.
local demos = require "rl4vlm.demos"
local rng = require "rl4vlm.rng"
local sft = require "rl4vlm.sft"
local vlm = require "rl4vlm.vlm"

local folder, what = arg[1], arg[2] or "64"
local WAYS = { { "fp32" }, { "bf16" }, { "fp32", "int8" }, { "fp32", "nf4" } }

local function expert_samples(recipe, model)
  local settings = dofile(recipe):resolve("cardling")
  local source, list = demos.expert(settings), {}
  for i = 1, 64 do
    list[i] = sft.encode(model, source:next())
  end
  return list
end

-- Answers that the model draws for random prompts without images.
local function drawn_samples(count, model)
  local list, requests, r = {}, {}, rng.new(1, "data", 0, 0)
  local generator <close> = model:generator {}
  for i = 1, count do
    local ids = {}
    for k = 1, 48 do
      repeat
        ids[k] = r:below(model.arch.text.vocab)
      until ids[k] ~= model.image_token
    end
    requests[i] = { key = i, ids = ids, max_new_tokens = 32, temperature = 1, seed = 1, episode = i, step = 0, eos = {} }
  end
  local next_one = 1
  while next_one <= count or generator:busy() do
    while next_one <= count and generator:free() > 0 do
      generator:submit(requests[next_one])
      next_one = next_one + 1
    end
    for _, reply in ipairs(generator:step()) do
      list[reply.key] = { ids = requests[reply.key].ids, answer = reply.answer }
    end
  end
  return list
end

-- Log-probabilities of all answers' tokens, and the most likely id at each.
local function look(model, samples)
  local logprobs, best = {}, {}
  for _, sample in ipairs(samples) do
    table.move(model:score({ sample }).logprobs:tolist(), 1, #sample.answer, #logprobs + 1, logprobs)
    local ids = table.move(sample.answer, 1, #sample.answer, #sample.ids + 1, { table.unpack(sample.ids) })
    local row, n = model:logits(ids, sample.images):list(), model.arch.text.vocab
    for t = #sample.ids, #ids - 1 do
      local top, at = -math.huge, nil
      for k = (t - 1) * n + 1, t * n do
        if row[k] > top then
          top, at = row[k], k
        end
      end
      best[#best + 1] = at
    end
  end
  return logprobs, best
end

local samples, base, base_best
print(("%-6s %-5s %12s %12s %12s %10s"):format("dtype", "base", "mean logp", "mean change", "largest", "same top"))
for _, way in ipairs(WAYS) do
  local model <close> = vlm.load(folder, { dtype = way[1], base = way[2], slots = 16, max_tokens = 512 })
  samples = samples or (what:match("%.lua$") and expert_samples(what, model) or drawn_samples(tonumber(what), model))
  local logprobs, best = look(model, samples)
  base, base_best = base or logprobs, base_best or best
  local sum, change, largest, same = 0, 0, 0, 0
  for i, x in ipairs(logprobs) do
    sum, change, same = sum + x, change + x - base[i], same + (best[i] == base_best[i] and 1 or 0)
    largest = math.max(largest, math.abs(x - base[i]))
  end
  print(("%-6s %-5s %12.4f %12.5f %12.4f %9.1f%%"):format(way[1], way[2] or "-", sum / #logprobs, change / #logprobs,
    largest, 100 * same / #logprobs))
end
