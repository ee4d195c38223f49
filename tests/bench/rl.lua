-- rl.lua - our side of `make bench`: generation, update and a whole PPO iteration on a model folder.
--
--   rl4vlm tests/bench/rl.lua MODEL [--dtype fp32|bf16] [--threads N] [--prompt N] [--peak GFLOPS]
--
-- Reads names of measurements from its input, a line each (generate, decode, update, iteration, memory), takes each
-- once, and prints a JSON object for it and a line with a full stop: so that two programs can be measured in turns. The
-- loads are peer_torch.py's: 16 slots, 64 answer tokens, prompts of random ids that share nothing, 4 epochs, everything
-- trained. One thread is timed by its processor seconds, several by the wall. `--peak`: of one thread; the share of it
-- that an update reaches is then reported too.
local host = require "rl4vlm.host"
local image = require "rl4vlm.image"
local json = require "cjson"
local rng = require "rl4vlm.rng"
local tensor = require "rl4vlm.tensor"
local vlm = require "rl4vlm.vlm"

local SLOTS, ANSWER, EPOCHS, TEMPERATURE = 16, 64, 4, 0.2

local options = { dtype = "fp32", threads = 2, prompt = 209, peak = 0 }
local folder = arg[1]
for i = 2, #arg, 2 do
  local key = arg[i]:match("^%-%-(%w+)$")
  options[key] = type(options[key]) == "number" and tonumber(arg[i + 1]) or arg[i + 1]
end

local clock = options.threads == 1 and os.clock or host.clock

-- One prompt of random ids with the image's rows in it, and a noise image; no two are alike.
local function request(model, stream)
  local ids, bytes = {}, {}
  for i = 1, options.prompt do
    ids[i] = stream:int(4, 389)
  end
  for i = 1, 64 * 64 * 3 do
    bytes[i] = string.char(stream:int(0, 255))
  end
  local noise = image.from_bytes(64, 64, table.concat(bytes))
  for i = 11, 10 + model:rows(noise) do
    ids[i] = model.image_token
  end
  return ids, { noise }
end

local function requests(model, round)
  local stream, list = rng.new(7, "user", round), {}
  for i = 1, SLOTS do
    local ids, images = request(model, stream)
    list[i] = { key = i, ids = ids, images = images, max_new_tokens = ANSWER, temperature = TEMPERATURE, eos = {},
      seed = 1, episode = round, step = i }
  end
  return list
end

-- Generates an answer to every request; returns samples for the update.
local function generate(gen, list)
  for _, r in ipairs(list) do
    gen:submit(r)
  end
  local samples = {}
  while gen:busy() do
    for _, reply in ipairs(gen:step()) do
      local r = list[reply.key]
      samples[reply.key] = { ids = r.ids, images = r.images, answer = reply.answer, logprobs = reply.logprobs }
    end
  end
  return samples
end

-- Adds the gradient of PPO's loss on some of the samples.
local function learn(model, part)
  local out = model:score(part, { temperature = TEMPERATURE, grad = true, values = true })
  local old, advantage = {}, {}
  for i, s in ipairs(part) do
    local sum = 0
    for _, lp in ipairs(s.logprobs) do
      sum = sum + lp
    end
    old[i], advantage[i] = sum, s.advantage
  end
  advantage = tensor.new(advantage)
  local ratio = (out.logprobs:segment_sum(out.offsets) - tensor.new(old)):exp()
  local policy = -(ratio * advantage):minimum(ratio:clamp(0.9, 1.1) * advantage):sum()
  local value = ((out.values - advantage) ^ 2):sum();
  ((policy + value * 0.5) / SLOTS):backward()
end

local function update(model, opt, samples)
  for i, s in ipairs(samples) do
    s.advantage = 2 * (i - 1) / (#samples - 1) - 1
  end
  model:zero_grad()
  for _, part in ipairs(model:micro_batches(samples)) do
    learn(model, part)
  end
  opt:step { lr = 1e-5, max_norm = 1 }
end

-- Multiply-adds of one pass over a block's matrices.
local function block_products(t, mlp_matrices)
  local inner = t.heads * (t.head_dim or t.width // t.heads)
  return t.width * inner * 2 + t.width * inner * 2 * (t.kv_heads or t.heads) / t.heads + mlp_matrices * t.width * t.mlp
end

-- Operations (two a multiply-add) of the matrix products that training on one sample needs: forward, dX and dW. The last
-- block works on the answer's rows only behind its attention; attention counts the keys that a row sees.
local function sample_operations(model)
  local text, vision = model.arch.text, model.arch.vision
  local rows = options.prompt + ANSWER
  local skipped = (rows - ANSWER) * (text.width * text.heads * text.head_dim + 3 * text.width * text.mlp)
  local decoder = text.layers * (rows * block_products(text, 3) + rows * rows * text.heads * text.head_dim) - skipped
  local patches = (vision.image_size // vision.patch) ^ 2
  local tower = patches * 3 * vision.patch ^ 2 * vision.width
    + vision.layers * (patches * block_products(vision, 2) + 2 * patches ^ 2 * vision.width)
  return 6 * (decoder + tower + ANSWER * text.width * text.vocab)
end

local model = vlm.load(folder, {
  dtype = options.dtype, threads = options.threads, value_head = true, slots = SLOTS,
  train = { "vision", "connector", "language", "head" }, max_tokens = options.prompt + ANSWER,
  batch = { samples = SLOTS, tokens = options.prompt + ANSWER, split = true },
})
local gen = model:generator { slots = SLOTS, max_tokens = options.prompt + ANSWER }
local opt = model:optimizer {}
local round, list, samples = 0, nil, nil

local function fresh()
  round = round + 1
  list = requests(model, round)
end

local function report(name, value, unit, share)
  print(json.encode { name = name, value = value, unit = unit, share = share, dtype = options.dtype,
    threads = options.threads })
end

local function per_second(count, f)
  local started = clock()
  f()
  return count / (clock() - started)
end

local measure = {}

function measure.generate()
  fresh()
  report("generate", per_second(SLOTS * ANSWER, function() samples = generate(gen, list) end), "tokens/s")
end

-- The last requests again: their prompts are cached but for the last token.
function measure.decode()
  report("decode", per_second(SLOTS * ANSWER, function() generate(gen, list) end), "tokens/s")
end

function measure.update()
  local rate = per_second(SLOTS, function() update(model, opt, samples) end)
  local share = options.peak > 0 and rate * sample_operations(model) * 1e-9 / (options.peak * options.threads) or nil
  report("update", rate, "samples/s", share)
end

function measure.iteration()
  fresh()
  report("iteration", per_second(SLOTS, function()
    samples = generate(gen, list)
    for _ = 1, EPOCHS do
      update(model, opt, samples)
    end
  end), "env-steps/s")
end

function measure.memory()
  report("memory/peak", host.peak_rss(), "bytes")
end

for name in io.lines() do
  measure[name]()
  print "."
  io.stdout:flush()
end
