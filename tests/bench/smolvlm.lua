-- smolvlm.lua - our side of `tests/bench/smolvlm`: models of SmolVLM's shapes with random weights.
--
--   rl4vlm tests/bench/smolvlm.lua make 256m|500m FOLDER [FILES]
--   rl4vlm tests/bench/smolvlm.lua run FOLDER [--dtype fp32|bf16] [--threads N] [--what decode,image,update] [--context N]
--   rl4vlm tests/bench/smolvlm.lua table OURS PEERS
--
-- `make` writes a checkpoint in Idefics3's layout; FILES: a folder whose tokenizer.json goes with it. `run` prints one
-- JSON object a line, `table` two files of such lines as ratios. A figure is the best of many: the machine may be shared.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"
local tensor = require "rl4vlm.tensor"
local vlm = require "rl4vlm.vlm"

local IMAGE_TOKEN, IMAGE_ROWS = 49190, 64

local decoders = {
  ["256m"] = { hidden_size = 576, intermediate_size = 1536, num_hidden_layers = 30,
    num_attention_heads = 9, num_key_value_heads = 3 },
  ["500m"] = { hidden_size = 960, intermediate_size = 2560, num_hidden_layers = 32,
    num_attention_heads = 15, num_key_value_heads = 5 },
}

local function config_of(shape)
  local text = { model_type = "llama", vocab_size = 49280, head_dim = 64, rms_norm_eps = 1e-5,
    rope_theta = 100000, max_position_embeddings = 8192, tie_word_embeddings = false }
  for key, value in pairs(decoders[shape]) do
    text[key] = value
  end
  return {
    architectures = { "Idefics3ForConditionalGeneration" }, model_type = "idefics3", dtype = "bfloat16",
    image_token_id = IMAGE_TOKEN, scale_factor = 4, tie_word_embeddings = false, vocab_size = 49280,
    pad_token_id = 2, bos_token_id = 1, eos_token_id = 49279, text_config = text,
    vision_config = { model_type = "idefics3_vision", hidden_size = 768, intermediate_size = 3072,
      num_hidden_layers = 12, num_attention_heads = 12, image_size = 512, patch_size = 16 },
  }
end

local preprocessor = {
  image_processor_type = "Idefics3ImageProcessor", processor_class = "Idefics3Processor", do_convert_rgb = true,
  do_image_splitting = false, do_normalize = true, do_pad = true, do_rescale = true, do_resize = true,
  image_mean = { 0.5, 0.5, 0.5 }, image_std = { 0.5, 0.5, 0.5 }, max_image_size = { longest_edge = 512 },
  resample = 1, rescale_factor = 1 / 255, size = { longest_edge = 2048 },
}

local function make(shape, folder, from)
  local files = assert(fs.tempdir("smolvlm"))
  assert(fs.write_atomic(files .. "/preprocessor_config.json", json.encode(preprocessor)))
  if from then
    assert(fs.copy_file(from .. "/tokenizer.json", files .. "/tokenizer.json"))
  end
  local model <close> = vlm.new { config = config_of(shape), files = files, seed = 1, dtype = "bf16", max_tokens = 1024 }
  model:save(folder, { dtype = "BF16" })
  fs.remove_tree(files)
  print(folder)
end

local options = { what = "decode", dtype = "fp32", threads = 2, context = 256, slots = "1,16", steps = 24, times = 2, batch = 4,
  text = 48, answer = 64 }

local function report(name, value, unit)
  print(json.encode { name = name, value = value, unit = unit, dtype = options.dtype, threads = options.threads })
end

local function text_request(slot, context, answer)
  local stream, ids = rng.new(7, "user", slot), {}
  for i = 1, context do
    ids[i] = stream:int(4, 49000)
  end
  return { key = slot, ids = ids, max_new_tokens = answer, temperature = 1, eos = {}, seed = 1, episode = 0,
    step = slot }
end

-- Least seconds of a step of `slots` sequences that all decode.
local function decode(model, slots)
  local gen <close> = model:generator { slots = slots, max_tokens = options.context + options.steps }
  for slot = 1, slots do
    gen:submit(text_request(slot, options.context, options.steps))
  end
  local least = math.huge
  while gen:busy() do
    local before, started = gen:stats().answer_rows, host.clock()
    gen:step()
    local seconds, after = host.clock() - started, gen:stats()
    if after.answer_rows - before == slots and after.steps > 1 then
      least = math.min(least, seconds)
    end
  end
  report("decode/" .. slots, slots / least, "tokens/s")
end

-- A sample of an image, some text and an answer; no two are alike.
local function sample_of(n)
  local stream, ids, bytes = rng.new(7, "user", 1000 + n), {}, {}
  local function tokens(count)
    local list = {}
    for i = 1, count do
      list[i] = stream:int(4, 49000)
    end
    return list
  end
  for i = 1, IMAGE_ROWS do
    ids[i] = IMAGE_TOKEN
  end
  for i, id in ipairs(tokens(options.text)) do
    ids[IMAGE_ROWS + i] = id
  end
  for i = 1, 64 * 64 * 3 do
    bytes[i] = string.char(stream:int(0, 255))
  end
  return { ids = ids, answer = tokens(options.answer), images = { image.from_bytes(64, 64, table.concat(bytes)) } }
end

local function samples_of(count, from)
  local list = {}
  for i = 1, count do
    list[i] = sample_of(from + i)
  end
  return list
end

-- Least seconds of `times` calls after one to warm up; f gets the number of the call.
local function best(f)
  f(0)
  local least = math.huge
  for i = 1, options.times do
    local started = host.clock()
    f(i)
    least = math.min(least, host.clock() - started)
  end
  return least
end

-- A new image (its patches are ready) and its prompt, to the first logits.
local function first_token(model)
  local samples = {}
  for i = 0, options.times do
    samples[i] = sample_of(100 + i)
    samples[i].answer = { 5 }
    model:view(samples[i].images[1])
  end
  report("image", best(function(i) model:score({ samples[i] }) end), "s")
end

-- Adds the gradient of PPO's loss on some of the samples.
local function learn(model, part)
  local out, advantage = model:score(part, { grad = true }), {}
  for i, sample in ipairs(part) do
    advantage[i] = sample.advantage
  end
  advantage = tensor.new(advantage)
  local ratio = (out.logprobs:segment_sum(out.offsets) * 1e-3):exp();
  (-(ratio * advantage):minimum(ratio:clamp(0.9, 1.1) * advantage):sum() / options.batch):backward()
end

-- One PPO minibatch: score, backward, AdamW; the adapter alone learns.
local function minibatch(model, opt, samples)
  model:zero_grad()
  for _, part in ipairs(model:micro_batches(samples)) do
    learn(model, part)
  end
  opt:step { lr = 1e-5, max_norm = 1 }
end

-- On images that were not seen before, and on the same ones again, as the later epochs of an update have it.
local function update(model)
  local opt, sets = model:optimizer {}, {}
  for i = 0, options.times do
    sets[i] = samples_of(options.batch, 1000 * i)
    for k, sample in ipairs(sets[i]) do
      sample.advantage = 2 * k / options.batch - 1
      model:view(sample.images[1]) -- its patches are ready, as the peer's are
    end
  end
  report("update", options.batch / best(function(i) minibatch(model, opt, sets[i]) end), "samples/s")
  report("update/seen", options.batch / best(function() minibatch(model, opt, sets[options.times]) end), "samples/s")
end

local function run(folder)
  local most = 0
  for slots in options.slots:gmatch("%d+") do
    most = math.max(most, math.tointeger(tonumber(slots)))
  end
  local learns = options.what:find("update") ~= nil
  local started = host.clock()
  local model = vlm.load(folder, { dtype = options.dtype, threads = options.threads, slots = most,
    max_tokens = options.context + options.steps, lora = learns and { r = 16, alpha = 32 } or nil,
    batch = learns and { samples = options.batch, tokens = IMAGE_ROWS + options.text + options.answer, split = true }
      or nil })
  report("load", host.clock() - started, "s")
  for slots in options.slots:gmatch("%d+") do
    if options.what:find("decode") then
      decode(model, math.tointeger(tonumber(slots)))
    end
  end
  if options.what:find("image") then
    first_token(model)
  end
  if learns then
    update(model)
  end
  report("memory/peak", host.peak_rss(), "bytes")
end

-- The best figure by name, type of numbers and peer.
local function read(path)
  local figures, order = {}, {}
  for line in io.lines(path) do
    local f = line:sub(1, 1) == "{" and json.decode(line)
    if f then
      local key = ("%s %s %s"):format(f.name, f.dtype, f.peer or "")
      local old = figures[key]
      local better = not old or (f.unit == "s" and f.value < old.value) or (f.unit ~= "s" and f.value > old.value)
      if not old then
        order[#order + 1] = key
      end
      figures[key] = better and f or old
    end
  end
  return figures, order
end

local function ratios(ours_path, peers_path)
  local ours = read(ours_path)
  local peers, order = read(peers_path)
  print("| measurement | dtype | ours | peer | peer's | ratio |\n|---|---|---|---|---|---|")
  for _, key in ipairs(order) do
    local peer = peers[key]
    local own = ours[("%s %s "):format(peer.name, peer.dtype)]
    if own then
      local ratio = own.unit == "s" and peer.value / own.value or own.value / peer.value
      print(("| %s | %s | %.3g %s | %s | %.3g | %.2f |"):format(peer.name, peer.dtype, own.value, own.unit, peer.peer,
        peer.value, ratio))
    end
  end
end

if arg[1] == "table" then
  ratios(arg[2], arg[3])
elseif arg[1] == "make" then
  make(arg[2], arg[3], arg[4])
else
  for i = 3, #arg, 2 do
    local key = arg[i]:match("^%-%-(%w+)$")
    options[key] = type(options[key]) == "number" and math.tointeger(tonumber(arg[i + 1])) or arg[i + 1]
  end
  run(arg[2])
end
