-- rl.lua - our side of `make bench`: generation, update and a whole PPO iteration on a model folder.
--
--   rl4vlm tests/bench/rl.lua MODEL [--dtype fp32|bf16] [--threads N] [--what gen,update,iteration] [--prompt N] [--times N]
--
-- The loads of peer_torch.py: 16 slots, 64 answer tokens, prompts of random ids that share nothing, 4 epochs, everything
-- trained. Prints one JSON object a line.
local host = require "rl4vlm.host"
local image = require "rl4vlm.image"
local json = require "cjson"
local rng = require "rl4vlm.rng"
local tensor = require "rl4vlm.tensor"
local vlm = require "rl4vlm.vlm"

local SLOTS, ANSWER, EPOCHS, TEMPERATURE = 16, 64, 4, 0.2

local options = { what = "gen,update,iteration", dtype = "fp32", threads = 2, prompt = 209, times = 3 }
local folder = arg[1]
for i = 2, #arg, 2 do
  local key = arg[i]:match("^%-%-(%w+)$")
  local number = type(options[key]) == "number"
  options[key] = number and math.tointeger(tonumber(arg[i + 1])) or arg[i + 1]
end

local function report(name, value, unit)
  print(json.encode { name = name, value = value, unit = unit, dtype = options.dtype, threads = options.threads })
end

-- Least seconds of `times` calls after one to warm up; f gets the number of the call.
local function best(f, times)
  f(0)
  local least = math.huge
  for i = 1, times do
    local started = host.clock()
    f(i)
    least = math.min(least, host.clock() - started)
  end
  return least
end

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

local function update(model, opt, samples)
  local out = model:score(samples, { temperature = TEMPERATURE, grad = true, values = true })
  local old = {}
  for i, s in ipairs(samples) do
    local sum = 0
    for _, lp in ipairs(s.logprobs) do
      sum = sum + lp
    end
    old[i] = sum
  end
  local advantage = tensor.linspace(-1, 1, #samples)
  local ratio = (out.logprobs:segment_sum(out.offsets) - tensor.new(old)):exp()
  local policy = -(ratio * advantage):minimum(ratio:clamp(0.9, 1.1) * advantage):mean()
  local value = ((out.values - advantage) ^ 2):mean()
  model:zero_grad();
  (policy + value * 0.5):backward()
  opt:step { lr = 1e-5, max_norm = 1 }
end

local model = vlm.load(folder, {
  dtype = options.dtype, threads = options.threads, value_head = true, slots = SLOTS,
  train = { "vision", "connector", "language", "head" }, max_tokens = options.prompt + ANSWER,
})
local gen = model:generator { slots = SLOTS, max_tokens = options.prompt + ANSWER }
local opt = model:optimizer {}
local rounds = {}
for i = 0, options.times do
  rounds[i] = requests(model, i)
end

if options.what:find("gen") then
  report("generate", SLOTS * ANSWER / best(function(i) generate(gen, rounds[i]) end, options.times), "tokens/s")
  -- decode alone: the same prompts again, now cached but for their last token
  report("decode", SLOTS * ANSWER / best(function() generate(gen, rounds[options.times]) end, options.times), "tokens/s")
end
local samples = generate(gen, rounds[0])
if options.what:find("update") then
  report("update", SLOTS / best(function() update(model, opt, samples) end, options.times), "samples/s")
end
if options.what:find("iteration") then
  local function iteration(i)
    local fresh = generate(gen, rounds[i])
    for _ = 1, EPOCHS do
      update(model, opt, fresh)
    end
  end
  report("iteration", SLOTS / best(iteration, options.times), "env-steps/s")
end
report("memory/peak", host.peak_rss(), "bytes")
