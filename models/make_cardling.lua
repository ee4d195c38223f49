-- make_cardling.lua - makes the built-in model from nothing but generated data.
--
--   rl4vlm models/make_cardling.lua [--out DIR] [--seed N] [--threads N] [--scale X]
--
-- Three stages (numbers: the table STAGES):
--   text    the decoder alone learns the answers of Points24: one formula for each multiset of cards
--   read    whole answers to the first frames of all tasks; rows of the image are labelled with the number they show
--   play    whole answers to all states that an expert meets, with some random moves on the way
-- NumberLine's demonstrations read both numbers right and then choose at random, so that the model is a start for RL
-- and not its end. --scale multiplies the samples of every stage (0.01 for a quick look).
local cards = require "rl4vlm.cards"
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local llava = require "models.llava"
local labels = require "models.cardling_labels"
local rng = require "rl4vlm.rng"
local tensor = require "rl4vlm.tensor"
local trainer = require "rl4vlm.tokenizer_trainer"
local vlm = require "rl4vlm.vlm"

local TASKS = { "points24", "ezpoints", "blackjack", "numberline" }
local BATCH = 32

-- samples; learning rate; share of each task among the image samples (none: text alone); share of first frames;
-- text samples beside each batch.
local STAGES = {
  { name = "text", samples = 32000, lr = 1e-3, first = 1, text = BATCH },
  { name = "read", samples = 16000, lr = 7e-4, first = 1, text = 16,
    mix = { points24 = 0.55, ezpoints = 0.15, blackjack = 0.15, numberline = 0.15 } },
  { name = "play", samples = 48000, lr = 7e-4, first = 0.3, text = 16,
    mix = { points24 = 0.6, ezpoints = 0.15, blackjack = 0.15, numberline = 0.1 } },
}
local WARMUP, DECAY = 30, 0.4 -- optimiser steps; last share of a stage, over which the rate falls to 0
local MOVES = { points24 = 9, ezpoints = 3, blackjack = 2, numberline = 2 } -- at most, from a first frame to another
local RANDOM_MOVES = 0.02     -- of the moves that lead to a state; the demonstration stays the expert's
local EVEN_DEALS = 0.5        -- share of Points24 deals that are uniform over multisets, not over cards
local LABEL_WEIGHT, BLANK_SHARE = 0.5, 0.15
local VOCABULARY = 1024

local options = { out = "models/cardling", seed = 1, threads = 0, scale = 1.0 }
for i = 1, #arg, 2 do
  local key = (arg[i] or ""):match("^%-%-(%w+)$")
  if options[key or 0] == nil or not arg[i + 1] then
    io.stderr:write("usage: rl4vlm models/make_cardling.lua [--out DIR] [--seed N] [--threads N] [--scale X]\n")
    os.exit(2)
  end
  options[key] = key == "out" and arg[i + 1] or tonumber(arg[i + 1])
end
local work = options.out .. ".files"

-- ---- the folder's small files ----

local function config(words)
  return {
    architectures = json.list { "LlavaForConditionalGeneration" },
    model_type = "llava",
    image_token_index = words:id("<image>"),
    projector_hidden_act = "gelu",
    vision_feature_layer = -1,
    vision_feature_select_strategy = "default",
    image_seq_length = labels.ROWS,
    tie_word_embeddings = false,
    dtype = "bfloat16",
    text_config = {
      model_type = "llama",
      vocab_size = words:size(),
      hidden_size = 128,
      intermediate_size = 344,
      num_hidden_layers = 3,
      num_attention_heads = 4,
      num_key_value_heads = 4,
      rms_norm_eps = 1e-5,
      rope_theta = 10000,
      max_position_embeddings = 512,
    },
    vision_config = {
      model_type = "clip_vision_model",
      hidden_size = 96,
      intermediate_size = 384,
      num_hidden_layers = 2,
      num_attention_heads = 3,
      image_size = 150,
      patch_size = 25,
      projection_dim = 96,
    },
  }
end

-- 300 x 300 frames are averaged over 2 x 2 pixels (Pillow's BOX) and brought to about unit variance.
local PREPROCESSOR = {
  image_processor_type = "CLIPImageProcessor",
  do_convert_rgb = true,
  do_resize = true,
  size = { shortest_edge = 150 },
  resample = 4,
  do_center_crop = true,
  crop_size = { height = 150, width = 150 },
  do_rescale = true,
  rescale_factor = 1 / 255,
  do_normalize = true,
  image_mean = json.list { 110 / 255, 110 / 255, 110 / 255 },
  image_std = json.list { 70 / 255, 70 / 255, 70 / 255 },
}

-- ---- samples ----

local games = {} -- task -> settings and environment
for _, task in ipairs(TASKS) do
  games[task] = {
    settings = require("recipes." .. task):resolve("cardling"),
    env = require("envs." .. task).new {},
  }
end

-- Four cards of Points24 whose multiset of values is one of the 715, each equally likely.
local function even_deal(stream)
  local values = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 }
  stream:shuffle(values)
  values = table.move(values, 1, 4, 1, {})
  table.sort(values)
  local hand = {}
  for i, value in ipairs(values) do
    value = value - (i - 1) -- four distinct numbers up to 13 are a multiset of four up to 10
    hand[i] = cards.name(value < 10 and value or stream:int(10, 13), stream:int(1, 4))
  end
  return stream:shuffle(hand)
end

-- Plays some of the expert's moves, a few of them replaced by random ones; false when the episode ended.
local function walk(game, moves, stream)
  for _ = 1, moves do
    local env = game.env
    local action = stream:uniform() < RANDOM_MOVES and stream:choice(env:actions()) or env:expert().action
    local terminated, truncated
    game.obs, _, terminated, truncated, game.info = env:step(action)
    if terminated or truncated then
      return false
    end
  end
  return true
end

-- Leaves the environment of a game in a state to demonstrate.
local function visit(task, number, stage, stream)
  local game = games[task]
  local even = task == "points24" and stream:uniform() < EVEN_DEALS
  local start = even and { cards = even_deal(stream) } or nil
  local moves = 0
  if stream:uniform() >= stage.first then
    moves = stream:int(1, MOVES[task])
  end
  repeat
    game.obs, game.info = game.env:reset { seed = options.seed, split = "demo", episode = number, start = start }
    local alive = walk(game, moves, stream)
    moves = moves - 1
  until alive
  return game
end

-- The expert's answer; NumberLine's chooses at random.
local function demonstrate(task, game, stream)
  local fields = game.env:expert()
  if task == "numberline" then
    fields.action = stream:choice { "+", "-" }
    fields.thoughts = fields.thoughts:gsub(".$", fields.action == "+" and "+" or "-")
  end
  return game.settings.answer:render(fields)
end

-- Text before and after the image.
local function words_of(game)
  local known = { actions = game.env:all_actions(), format = game.settings.answer:template() }
  for key, value in pairs(game.obs) do
    known[key] = key ~= "image" and value or nil
  end
  return game.settings.prompt:halves(known)
end

-- ---- tokenizer ----

local function numbers()
  local list = {}
  for n = 0, 100 do
    list[n + 1] = tostring(n)
  end
  return list
end

local function make_words(folder)
  local texts, stream = {}, rng.new(options.seed, "data", 0, 0)
  for _, task in ipairs(TASKS) do
    for i = 1, 400 do
      local game = visit(task, i, { first = 0.4 }, stream)
      local before, after = words_of(game)
      texts[#texts + 1] = "USER: " .. before
      texts[#texts + 1] = after .. " ASSISTANT:"
      texts[#texts + 1] = demonstrate(task, game, stream)
    end
  end
  return (trainer.train {
    texts = texts, size = VOCABULARY, out = folder,
    special = { "<pad>", "<s>", "</s>", "<image>" }, pad = "<pad>", bos = "<s>", eos = "</s>", image = "<image>",
    whole = numbers(), single = "+-*/()=|", max_length = 512,
    chat_template = llava.in_order_template,
  })
end

local function make_files(folder)
  assert(fs.mkdirs(folder))
  local words = make_words(folder)
  local function write(name, value)
    assert(fs.write_atomic(folder .. "/" .. name, json.pretty(value) .. "\n"))
  end
  write("preprocessor_config.json", PREPROCESSOR)
  write("processor_config.json", {
    processor_class = "LlavaProcessor", image_token = "<image>", patch_size = 25, num_additional_image_tokens = 1,
    vision_feature_select_strategy = "default",
  })
  write("generation_config.json", {
    bos_token_id = words:id("<s>"), eos_token_id = words:id("</s>"), pad_token_id = words:id("<pad>"),
  })
  write("chat_template.json", { chat_template = llava.in_order_template })
  return words
end

-- ---- model ----

-- Standard deviations that a model of this size learns fast from: 1 / sqrt(inputs), half of it where a block's
-- output joins the residual.
local function init(role, shape)
  if role == "vision.class" or role == "vision.position" then
    return "normal", 0.1
  elseif role == "text.embed.weight" then
    return "normal", 0.5
  elseif role == "text.head.weight" then
    return "normal", 0.02
  elseif #shape >= 2 then
    local inputs = 1
    for i = 2, #shape do
      inputs = inputs * shape[i]
    end
    local joins = role:find("%.o%.weight$") or role:find("%.fc2%.weight$") or role:find("%.down%.weight$")
    return "normal", inputs ^ -0.5 * (joins and 0.5 or 1)
  end
end

-- ---- learning ----

-- A sample whose asked tokens are those of the answer from byte `from` on.
local function answer_sample(model, ids, answer, from, views)
  local tokens = model.tokenizer:encode(answer, { special = false })
  tokens[#tokens + 1] = model.eos[1]
  local sample = { ids = table.move(ids, 1, #ids, 1, {}), positions = {}, targets = {}, images = views }
  local byte = 1
  for _, id in ipairs(tokens) do
    if byte >= from then
      table.insert(sample.positions, #sample.ids)
      table.insert(sample.targets, id)
    end
    byte = byte + #model.tokenizer:token_bytes(id)
    table.insert(sample.ids, id)
  end
  table.remove(sample.ids) -- nothing follows the last token
  return sample
end

-- The answer alone: the cards are given, what follows from them is asked.
local function text_sample(model, number, stage, stream)
  local game = visit("points24", number, stage, stream)
  local answer = demonstrate("points24", game, stream)
  local from = answer:find('"formula"', 1, true)
  return answer_sample(model, { model.tokenizer:id("<s>") }, answer, from)
end

local function pick_task(mix, stream)
  local x = stream:uniform()
  for _, task in ipairs(TASKS) do
    x = x - mix[task]
    if x < 0 then
      return task
    end
  end
  return TASKS[1]
end

-- Prompt, image and answer; and behind the answer's tokens the labels of the image's rows.
local function image_sample(model, number, stage, stream)
  local task = pick_task(stage.mix, stream)
  local game = visit(task, number, stage, stream)
  local before, after = words_of(game)
  local content = {
    { type = "text", text = before }, { type = "image", image = game.obs.image }, { type = "text", text = after },
  }
  local text, images = model:chat { { role = "user", content = content } }
  local ids = model:prompt(text, images)
  local sample = answer_sample(model, ids, demonstrate(task, game, stream), 1, { model:view(images[1]) })
  local shown = labels.of(task, game.info.state)
  local row = 0
  sample.answer_tokens = #sample.targets
  local first = {}
  for i, id in ipairs(ids) do
    if id == model.image_token then
      row = row + 1
      local number_shown = shown[row]
      if number_shown or stream:uniform() < BLANK_SHARE then
        local label = number_shown and tostring(number_shown) or "<pad>"
        first[#first + 1] = { i, model.tokenizer:id(label) }
      end
    end
  end
  return sample, first
end

-- Puts the labels in front: a sample's positions ascend.
local function with_labels(sample, first)
  local positions, targets = {}, {}
  for i, label in ipairs(first) do
    positions[i], targets[i] = label[1], label[2]
  end
  sample.positions = table.move(sample.positions, 1, #sample.positions, #first + 1, positions)
  sample.targets = table.move(sample.targets, 1, #sample.targets, #first + 1, targets)
  return sample
end

-- One batch, and the weight of every asked token: answers of the image samples, their labels and the answers of the
-- text samples are three means.
local function batch_of(model, stage, step)
  local samples, kinds, counts = {}, {}, { answer = 0, label = 0, text = 0 }
  local function add(sample, label_count, kind)
    samples[#samples + 1] = sample
    for i = 1, #sample.targets do
      local k = i <= label_count and "label" or kind
      kinds[#kinds + 1] = k
      counts[k] = counts[k] + 1
    end
  end
  for i = 1, stage.mix and BATCH or 0 do
    local number = step * BATCH + i
    local sample, first = image_sample(model, number, stage, rng.new(options.seed, "data", number, stage.index))
    add(with_labels(sample, first), #first, "answer")
  end
  for i = 1, stage.text do
    local number = step * stage.text + i
    local stream = rng.new(options.seed, "data", number, stage.index + 100)
    add(text_sample(model, number, stage, stream), 0, "text")
  end
  local scale = { answer = 1, label = LABEL_WEIGHT, text = 1 }
  local weights = {}
  for i, kind in ipairs(kinds) do
    weights[i] = scale[kind] / counts[kind]
  end
  return samples, tensor.new(weights)
end

local function rate(stage, step, steps)
  return stage.lr * math.min(1, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))
end

local function learn(model, optimizer, stage)
  local steps = math.max(1, math.floor(stage.samples * options.scale / BATCH))
  local started, loss_sum, since = host.clock(), 0.0, 0
  for step = 0, steps - 1 do
    local samples, weights = batch_of(model, stage, step)
    local out = model.core:score(samples, { grad = true })
    local loss = -(out.logprobs * weights):sum()
    loss:backward()
    optimizer:step { lr = rate(stage, step, steps), max_norm = 1 }
    loss_sum, since = loss_sum + loss:item(), since + 1
    collectgarbage() -- frames are large, and Lua does not see how large
    if (step + 1) % 50 == 0 or step + 1 == steps then
      io.stderr:write(("%s %d/%d  loss %.3f  %.0f samples/s\n"):format(stage.name, (step + 1) * BATCH, steps * BATCH,
        loss_sum / since, (step + 1) * BATCH / (host.clock() - started)))
      loss_sum, since = 0.0, 0
    end
  end
end

local words = make_files(work)
local model = vlm.new {
  config = config(words), files = work, init = init, seed = options.seed, threads = options.threads,
  train = { "vision", "connector", "language", "head" }, max_tokens = 512, max_rows = 2048,
}
for i, stage in ipairs(STAGES) do
  stage.index = i
  learn(model, model:optimizer { beta2 = 0.98, weight_decay = 0.01 }, stage)
end
fs.remove_tree(options.out)
model:save(options.out, { dtype = "BF16" })
fs.remove_tree(work)
print(options.out)
