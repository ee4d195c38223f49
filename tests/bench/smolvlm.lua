-- smolvlm.lua - our side of `tests/bench/smolvlm`: models of SmolVLM's shapes with random weights.
--
--   rl4vlm tests/bench/smolvlm.lua make 256m|500m FOLDER
--   rl4vlm tests/bench/smolvlm.lua run FOLDER [--dtype fp32|bf16] [--threads N] [--what decode,...] [--context N]
--
-- Prints one JSON object a line. A figure is the best of many steps: the machine may be shared.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"
local vlm = require "rl4vlm.vlm"

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
    architectures = { "LlavaForConditionalGeneration" }, model_type = "llava", dtype = "bfloat16",
    image_token_index = 49190, projector_hidden_act = "gelu",
    tie_word_embeddings = false, vision_feature_layer = -1, vision_feature_select_strategy = "default",
    text_config = text,
    vision_config = { model_type = "clip_vision_model", hidden_size = 768, intermediate_size = 3072,
      num_hidden_layers = 12, num_attention_heads = 12, image_size = 512, patch_size = 16, projection_dim = 512 },
  }
end

local function make(shape, folder)
  local files = assert(fs.tempdir("smolvlm"))
  local model = vlm.new { config = config_of(shape), files = files, seed = 1, dtype = "bf16", max_tokens = 64 }
  model:save(folder, { dtype = "BF16" })
  fs.remove_tree(files)
  print(folder)
end

local options = { what = "decode", dtype = "fp32", threads = 2, context = 128, slots = "1,16", steps = 24 }

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

local function run(folder)
  local most = 0
  for slots in options.slots:gmatch("%d+") do
    most = math.max(most, tonumber(slots))
  end
  local started = host.clock()
  local model = vlm.load(folder, { dtype = options.dtype, threads = options.threads, slots = most,
    max_tokens = options.context + options.steps })
  report("load", host.clock() - started, "s")
  if options.what:find("decode") then
    for slots in options.slots:gmatch("%d+") do
      decode(model, math.tointeger(tonumber(slots)))
    end
  end
  report("memory/peak", host.peak_rss(), "bytes")
end

if arg[1] == "make" then
  make(arg[2], arg[3])
else
  for i = 3, #arg, 2 do
    local key = arg[i]:match("^%-%-(%w+)$")
    options[key] = type(options[key]) == "number" and math.tointeger(tonumber(arg[i + 1])) or arg[i + 1]
  end
  run(arg[2])
end
