-- plan.lua - one line of `tests/long/plan`: makes a checkpoint, runs it, compares the plan with the peak.
--
--   rl4vlm tests/long/plan.lua make|run|compare FAMILY inference|lora|full FOLDER THREADS
--
-- `make` writes the checkpoint, `run` leaves the measured peak in its folder, `compare` plans in a process of its own, as a
-- user does, and prints a row of the table.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local vlm = require "rl4vlm.vlm"

local what, family, use, folder, threads = table.unpack(arg)

-- Tokenizer, processor and the odd keys come from the small checkpoints of the tests.
local small = { llava = "llava", llava_next = "next", qwen2_vl = "qwen2", qwen2_5_vl = "qwen2.5", idefics3 = "smolvlm" }

local SLOTS, ANSWER = 4, 48

-- Full training holds four numbers a weight.
local layers = { inference = 16, lora = 12, full = 6 }

local text = { hidden_size = 640, intermediate_size = 1728, num_attention_heads = 10, num_key_value_heads = 5,
  head_dim = 64, max_position_embeddings = 2048, num_hidden_layers = layers[use] }

local function tower(image_size)
  return { hidden_size = 256, intermediate_size = 1024, num_attention_heads = 4, num_hidden_layers = 5,
    image_size = image_size }
end

local function qwen(vision, most_pixels)
  local config = { vision_config = vision, rope_scaling = { type = "mrope", mrope_section = { 8, 12, 12 } } }
  for key, value in pairs(text) do
    config[key] = value
  end
  config.head_dim = nil
  return { config, { max_pixels = most_pixels } }
end

local tiles = { { 60, 120 }, { 120, 60 }, { 120, 120 } }

-- By family: keys of config.json above those of the small checkpoint, and of its processor.
local scaled = {
  llava = { { text_config = text, vision_config = tower(84) },
    { size = { shortest_edge = 84 }, crop_size = { height = 84, width = 84 } } },
  llava_next = { { text_config = text, vision_config = tower(60), image_grid_pinpoints = tiles },
    { size = { shortest_edge = 60 }, crop_size = { height = 60, width = 60 }, image_grid_pinpoints = tiles } },
  idefics3 = { { text_config = text, vision_config = tower(48) },
    { size = { longest_edge = 144 }, max_image_size = { longest_edge = 48 } } },
  qwen2_vl = qwen({ depth = 5, num_heads = 4, embed_dim = 256, mlp_ratio = 4, hidden_size = 640 }, 14000),
  qwen2_5_vl = qwen({ depth = 5, num_heads = 4, hidden_size = 256, intermediate_size = 684, out_hidden_size = 640,
    fullatt_block_indexes = { 1, 4 } }, 9600),
}

local function laid(over, under)
  for key, value in pairs(over) do
    if type(value) == "table" and type(under[key]) == "table" and #value == 0 then
      laid(value, under[key])
    else
      under[key] = value
    end
  end
  return under
end

local function read(path)
  local file <close> = assert(io.open(path))
  return json.decode(file:read("a"))
end

local function make()
  local from, parts = "tests/golden/families/" .. small[family], folder .. ".parts"
  local config, processor = table.unpack(scaled[family])
  assert(fs.mkdirs(parts))
  for _, name in ipairs { "tokenizer.json", "chat_template.json" } do
    assert(fs.copy_file(from .. "/" .. name, parts .. "/" .. name))
  end
  assert(fs.write_atomic(parts .. "/preprocessor_config.json",
    json.encode(laid(processor, read(from .. "/preprocessor_config.json")))))
  local model <close> = vlm.new { config = laid(config, read(from .. "/config.json")), files = parts, seed = 1,
    max_tokens = 64 }
  model:save(folder)
  fs.remove_tree(parts)
end

-- ---- generation ----

-- No two have an image in common: what prompts share takes less.
local function requests()
  local lines = {}
  for i = 1, 3 * SLOTS do
    local path = ("%s/%d.png"):format(folder, i)
    image.from_bytes(300, 300, ("\10\200" .. string.char(i)):rep(300 * 300)):save(path)
    lines[i] = json.encode { messages = { { role = "user", content = { { type = "image", image = path },
      { type = "text", text = ("What do you see here? "):rep(12) } } } } }
  end
  assert(fs.write_atomic(folder .. "/in", table.concat(lines, "\n") .. "\n"))
end

local function generate()
  requests()
  return require("rl4vlm.tools.generate").main { folder, "--in", folder .. "/in", "--out", folder .. "/out", "--slots",
    tostring(SLOTS), "--max-new-tokens", tostring(ANSWER), "--ignore-eos", "--threads", threads }
end

local function longest()
  local most = 0
  for line in io.lines(folder .. "/out") do
    most = math.max(most, #json.decode(line).prompt_ids)
  end
  return most + ANSWER
end

-- ---- training ----

local RECIPE = [[
local rl = require "rl4vlm"
return rl.recipe { name = "plan", env = { "numberline" }, model = "%s",
  prompt = rl.prompt "Move the current number to the target number. Legal actions: {actions}. {format}\n{image}",
  answer = rl.json_answer { "thoughts", "action" }, threads = %s, slots = %d, seed = 1,
  sampling = { max_new_tokens = %d }, lora = { r = %d, alpha = 64.0 },
  algorithm = rl.ppo { epochs = 1, minibatch = 8, kl_coef = 0.0 },
  schedule = { env_steps = 16, rollout = 16, eval_every = 0 } }
]]

local function recipe()
  local path = folder .. "/recipe.lua"
  assert(fs.write_atomic(path, RECIPE:format(folder, threads, SLOTS, ANSWER, use == "lora" and 32 or 0)))
  return path
end

-- ---- the three steps ----

local function command(line)
  local pipe <close> = assert(io.popen(line))
  local last
  for l in pipe:lines() do
    last = l
  end
  return json.decode(last)
end

local function planned()
  local program = arg[-1]
  if use == "inference" then
    return command(("'%s' -m inspect '%s' --json --slots %d --max-tokens %d --threads %s"):format(program, folder, SLOTS,
      longest(), threads)).bytes.inference
  end
  return command(("'%s' '%s' describe --json"):format(program, recipe())).memory
end

local function measured()
  if use == "inference" then
    return read(folder .. "/peak").bytes
  end
  local peak
  for line in io.lines(folder .. "/run/metrics.jsonl") do
    peak = json.decode(line)["perf/peak_bytes"] or peak
  end
  return peak
end

local function compare()
  local plan, peak = planned(), measured()
  local ratio = plan.total / peak
  print(("| %s | %s | %.0f | %.0f | %.3f |"):format(family, use, plan.total / 1e6, peak / 1e6, ratio))
  if os.getenv("PLAN_PARTS") then
    print(require("rl4vlm.memory").words(plan))
  end
  os.exit(ratio >= 0.95 and ratio <= 1.05)
end

if what == "make" then
  make()
elseif what == "run" and use == "inference" then
  local status = generate()
  assert(fs.write_atomic(folder .. "/peak", json.encode { bytes = host.peak_rss() }))
  os.exit(status)
elseif what == "run" then
  local program = arg[-1]
  os.exit(os.execute(("'%s' '%s' train --out '%s/run'"):format(program, recipe(), folder)))
else
  compare()
end
