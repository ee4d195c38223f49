-- load.lua - the model of a run: which folder, with which options.
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"

local M = {}

local function some(list)
  return list and #list > 0 and list or nil
end

local MARGIN = 64 -- tokens by which later prompts may be longer than the first

-- Tokens that a prompt and its answer may take, from the prompt of a first state.
local function max_tokens(settings, opened)
  local s = slot.new(rollout.shared(settings, opened, "train", 1.0))
  s:begin(1)
  local prompt, answer, positions = #s:prompt(), settings.sampling.max_new_tokens, opened.arch.text.max_positions
  local room = settings.max_tokens > 0 and settings.max_tokens or positions
  if prompt + answer > room then
    error(("sampling.max_new_tokens: wanted at most %d: a first prompt takes %d of %s, got %d"):format(
      math.max(room - prompt, 0), prompt, settings.max_tokens > 0 and ("max_tokens %d"):format(room)
        or ("the model's %d positions"):format(room), answer), 0)
  end
  return settings.max_tokens > 0 and room or math.min(prompt + MARGIN + answer, positions)
end

local function open(settings, name)
  local opened = require("rl4vlm.vlm").open(name, settings.adapter)
  opened.template = settings.prompt.template
  return opened
end

-- What vlm.load is asked for.
local function options_of(settings, opened, o)
  local lora = o.train and settings.lora.r > 0
  return {
    device = settings.device,
    dtype = settings.dtype ~= "auto" and settings.dtype or nil,
    base = settings.base ~= "none" and settings.base or nil,
    threads = settings.threads > 0 and settings.threads or nil,
    adapter = settings.adapter,
    train = o.train and not lora and some(settings.train) or nil,
    -- a checkpoint of a run with LoRA is an adapter, which brings its base
    train_adapter = lora and (o.resumed or settings.adapter) and true or nil,
    lora = lora and not o.resumed and not settings.adapter and {
      r = settings.lora.r,
      alpha = settings.lora.alpha,
      targets = settings.lora.targets,
    } or nil,
    value_head = o.value_head ~= false or nil,
    slots = o.slots or settings.slots,
    max_tokens = max_tokens(settings, opened),
    seed = settings.seed,
    template = settings.prompt.template,
  }
end

---Loads a model for a run: to train, with the parts that learn, or only to play.
---@param settings rl4vlm.Settings
---@param name string a name, a folder, RUN, RUN/best or RUN/checkpoints/N
---@param o { train: boolean, slots: integer|nil, value_head: boolean|nil, resumed: boolean|nil }
---@return table model
function M.model(settings, name, o)
  return require("rl4vlm.vlm").load(name, options_of(settings, open(settings, name), o))
end

local FROZEN = { train = false, value_head = false, slots = 0 }

---True where the KL penalty needs a model of its own: without an adapter that could be switched off.
---@param settings rl4vlm.Settings
---@return boolean
function M.needs_reference(settings)
  return (settings.algorithm.kl_coef or 0) > 0 and settings.lora.r == 0
end

---The frozen start that the KL penalty looks at, where one is needed.
---@param settings rl4vlm.Settings
---@return table|nil model
function M.reference(settings)
  return M.needs_reference(settings) and M.model(settings, settings.model, FROZEN) or nil
end

---Bytes that training takes, by what they are for; nothing is taken.
---@param settings rl4vlm.Settings
---@return table
function M.plan(settings)
  local model = open(settings, settings.model)
  local function plan_for(o)
    local options = options_of(settings, model, o)
    options.adapter, options.seed = nil, nil
    return model:plan_for(options)
  end
  local plan = plan_for { train = true }
  if M.needs_reference(settings) then
    plan.reference = plan_for(FROZEN).total
    plan.total = plan.total + plan.reference
  end
  return plan
end

---Writes what a run learned: its adapter, or the whole model, in fp32 so that it goes on bit for bit.
---@param model table
---@param settings rl4vlm.Settings
---@param dir string
function M.save(model, settings, dir)
  if settings.lora.r > 0 then
    model:save_adapter(dir)
  else
    model:save(dir, { dtype = "F32" })
  end
end

return M
