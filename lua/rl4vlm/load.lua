-- load.lua - the model of a run: which folder, with which options.
local pixel_cache = require "rl4vlm.pixel_cache"
local placeholders = require "rl4vlm.placeholders"
local rng = require "rl4vlm.rng"
local rollout = require "rl4vlm.rollout"
local sizes = require "rl4vlm.sizes"
local slot = require "rl4vlm.slot"
local update = require "rl4vlm.update"

local M = {}

local function some(list)
  return list and #list > 0 and list or nil
end

local MARGIN = 64 -- tokens by which later prompts may be longer than the first

-- What a prompt's image takes, where it is most of the prompt.
local function of_image(rows, prompt)
  return 2 * rows > prompt and (" (%d for its image: settings of `image` change that)"):format(rows) or ""
end

-- Tokens that a prompt and its answer may take, from the prompt of a first state; what that prompt and the
-- longest answer take; and the share of an image's rows in a sequence with half of that answer.
local function max_tokens(settings, opened)
  local s = slot.new(rollout.shared(settings, opened, "train", 1.0))
  s:begin(1)
  local ids, answer, positions = s:prompt(), settings.sampling.max_new_tokens, opened.arch.text.max_positions
  local prompt, rows = #ids, placeholders.rows(opened, ids)
  local room = settings.max_tokens > 0 and settings.max_tokens or positions
  if prompt + answer > room then
    error(("sampling.max_new_tokens: wanted at most %d: a first prompt takes %d%s of %s, got %d"):format(
      math.max(room - prompt, 0), prompt, of_image(rows, prompt),
      settings.max_tokens > 0 and ("max_tokens %d"):format(room) or ("the model's %d positions"):format(room),
      answer), 0)
  end
  return settings.max_tokens > 0 and room or math.min(prompt + MARGIN + answer, positions), prompt + answer,
    rows / (prompt + answer / 2)
end

-- The checkpoint of a run that learns an adapter is one, and brings its base.
local function open(settings, name, o)
  local opened = require("rl4vlm.vlm").open(name, not o.resumed and settings.adapter or nil,
    { image = settings.image })
  opened.template = settings.prompt.template
  return opened
end

-- A fresh adapter as a recipe describes it.
local function fresh(lora)
  return { r = lora.r, alpha = lora.alpha, targets = lora.targets, exclude = lora.exclude, layers = lora.layers,
    rank_pattern = lora.rank_pattern, alpha_pattern = lora.alpha_pattern, rslora = lora.rslora, bias = lora.bias,
    save = lora.save }
end

-- What vlm.load is asked for. An adapter that is there learns; without one, a fresh one where the recipe
-- wants it, else the parts that it names.
local function options_of(settings, opened, o, reference)
  local loaded = opened.opened_adapter ~= nil
  local learns = o.train and (loaded or settings.lora.r > 0)
  if o.train and not learns and not some(settings.train) then
    error("train: wanted a part of the model that learns, or lora.r above 0, got neither", 0)
  end
  local tokens, usual, share = max_tokens(settings, opened)
  return {
    device = settings.device,
    dtype = settings.dtype ~= "auto" and settings.dtype or nil,
    base = settings.base ~= "none" and settings.base or nil,
    threads = settings.threads > 0 and settings.threads or nil,
    adapter = not o.resumed and settings.adapter or nil,
    reference = reference,
    train = o.train and not learns and some(settings.train) or nil,
    train_adapter = learns and loaded or nil,
    lora = learns and not loaded and fresh(settings.lora) or nil,
    value_head = o.value_head ~= false or nil,
    slots = o.slots or settings.slots,
    max_tokens = tokens,
    max_rows = settings.max_rows > 0 and math.max(settings.max_rows, tokens) or nil,
    batch = o.train and { samples = o.batch or settings.algorithm and settings.algorithm.minibatch or 1, tokens = usual,
      image_share = share, split = o.supervised or update.splits(settings.algorithm) } or nil,
    recompute = settings.recompute,
    seed = settings.seed,
    template = settings.prompt.template,
    image = settings.image,
  }
end

local FROZEN = { train = false, value_head = false, slots = 0 }

-- What the KL penalty looks at: nil (no penalty), "model" (a frozen copy of the start), "base" (the adapter
-- off), or the start's adapter, whose folder is given, frozen beside the one that learns. `start` is the
-- opened start, where it is at hand.
local function reference_of(settings, start)
  if (settings.algorithm.kl_coef or 0) == 0 then
    return nil
  end
  local adapter = (start or open(settings, settings.model, {})).opened_adapter
  if adapter and next(adapter.fields:get("modules_to_save") or {}) or settings.lora.save then
    return "model" -- whole modules learn: the base itself moves
  elseif adapter then
    return "adapter", adapter.dir
  end
  return settings.lora.r > 0 and "base" or "model"
end

---Loads a model for a run: to train, with the parts that learn, or only to play.
---@param settings rl4vlm.Settings
---@param name string a name, a folder, RUN, RUN/best or RUN/checkpoints/N
---@param o { train: boolean, slots: integer|nil, value_head: boolean|nil, resumed: boolean|nil,
---  supervised: boolean|nil } supervised: there is no penalty, and nothing to hold it against
---@return table model
function M.model(settings, name, o)
  local opened = open(settings, name, o)
  local reference
  if o.train and not o.supervised then
    reference = select(2, reference_of(settings, not o.resumed and opened or nil))
  end
  return require("rl4vlm.vlm").load(name, options_of(settings, opened, o, reference))
end

---The frozen start that the KL penalty looks at, where it is a model of its own and no adapter.
---@param settings rl4vlm.Settings
---@return table|nil model
function M.reference(settings)
  return reference_of(settings) == "model" and M.model(settings, settings.model, FROZEN) or nil
end

-- Bytes of the views that a rollout sees, and of the largest, counted in one of random actions.
local function image_bytes(settings, model)
  local env = rollout.shared(settings, model, "train", 1.0).new_env()
  local stream, seen, sum, largest, episode = rng.new(settings.seed, "user", 0), {}, 0, 0, 0
  local obs, over
  for _ = 1, settings.schedule.rollout do
    if not obs or over then
      episode = episode + 1
      obs = env:reset { seed = settings.seed, split = "train", episode = episode }
    end
    local hash = obs.image:hash()
    if not seen[hash] then
      local layout = model.views:layout(obs.image)
      local bytes = sizes.view_bytes(model.arch, layout.tiles * layout.h * layout.w)
      seen[hash], sum, largest = true, sum + bytes, math.max(largest, bytes)
    end
    obs.image:close()
    local actions = env:actions()
    local next_obs, _, terminated, truncated = env:step(actions[stream:int(1, #actions)])
    obs, over = next_obs, terminated or truncated
  end
  return sum, largest
end

---Bytes that training takes, by what they are for; nothing is taken.
---@param settings rl4vlm.Settings
---@return table
function M.plan(settings)
  local model = open(settings, settings.model, {})
  local kind, dir = reference_of(settings, model)
  local function plan_for(o)
    local options = options_of(settings, model, o, o.train and dir or nil)
    options.adapter, options.seed = nil, nil
    options.image_bytes = 0
    return model:plans_for(options)
  end
  local plan = plan_for { train = true }
  plan.images = pixel_cache.bytes(image_bytes(settings, model))
  plan.total = plan.total + plan.images
  if kind == "model" then
    local frozen = plan_for(FROZEN)
    plan.reference = frozen.total - frozen.program
    plan.total = plan.total + plan.reference
  end
  return plan
end

---Writes what a run learned: its adapter, or the whole model, in fp32 so that it goes on bit for bit.
---@param model table
---@param dir string
function M.save(model, dir)
  if model.adapter then
    model:save_adapter(dir)
  else
    model:save(dir, { dtype = "F32" })
  end
end

return M
