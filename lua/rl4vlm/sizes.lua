-- sizes.lua - how a model's memory is sized, what it comes to, and what would make it smaller.
local core = require "rl4vlm.core"
local memory = require "rl4vlm.memory"
local pixel_cache = require "rl4vlm.pixel_cache"
local raw_generator = require "rl4vlm.generator"
local tensor_file = require "rl4vlm.tensor_file"

local M = {}

local BLOCK = 64 -- tokens of a cache block
local SPARE = 64 << 20 -- bytes of cache for prefixes that outlive their request

---Cache blocks of a generator: every slot's longest sequence, and room for prefixes.
---@param slots integer
---@param max_tokens integer
---@param text table  arch.text
---@return integer
function M.cache_blocks(slots, max_tokens, text)
  if slots == 0 then
    return 0
  end
  local bytes = BLOCK * text.layers * 2 * text.kv_heads * text.head_dim * 4
  local needed = slots * ((max_tokens + BLOCK - 1) // BLOCK)
  return needed + math.max(slots, math.min(SPARE // bytes, needed // 4))
end

-- Rows of a micro-batch in training: with so many, products run at full speed.
local ROWS = 1024
-- Where a minibatch is differentiated as a whole: rows that take up to so many bytes of activations, so that small
-- models run it in one piece and nothing of it twice.
local KEPT, MOST_ROWS = 384 << 20, 16384

---Image rows that a micro-batch has room for where prompts are alike: a tenth more than their share.
---@param rows integer        of the micro-batch
---@param max_tokens integer
---@param share? number       of image rows in a sequence; nil: any
---@return integer?
function M.image_rows(rows, max_tokens, share)
  return share and math.min(rows, math.max(max_tokens, math.ceil(1.1 * rows * share)))
end

-- The most rows whose activations take up to KEPT bytes, of whole sequences.
local function whole_rows(arch, options, batch)
  local trial, least = {}, options.max_rows
  for key, value in pairs(options) do
    trial[key] = value
  end
  trial.base, trial.kv_blocks = nil, 0 -- activations are the same; all of them, not just beside the cache
  trial.train = { language = true, vision = options.train.vision }
  local most = math.max(least, math.min(MOST_ROWS, batch.samples and batch.samples * batch.tokens or MOST_ROWS))
  local function bytes(rows)
    trial.max_rows, trial.image_rows = rows, M.image_rows(rows, options.max_tokens, batch.image_share)
    return core.plan(arch, trial).activations
  end
  if bytes(most) <= KEPT then
    return most
  end
  while most - least > 16 do -- bytes(least) fits or must do, bytes(most) does not
    local rows = (least + most) // 2
    least, most = bytes(rows) <= KEPT and rows or least, bytes(rows) <= KEPT and most or rows
  end
  return least - least % (batch.tokens or 1)
end

---Rows of a micro-batch for options of core.new whose max_rows holds the longest sequence.
---@param arch table
---@param options table
---@param batch? table  of an update: samples, tokens of a usual one, image_share (see image_rows), split (whether it
---runs in micro-batches)
---@return integer
function M.rows(arch, options, batch)
  if batch and batch.split then
    local samples = math.max(1, ROWS // batch.tokens)
    return math.max(options.max_rows, math.min(samples, batch.samples or samples) * batch.tokens)
  end
  return math.max(options.max_rows, whole_rows(arch, options, batch or {}))
end

---Rows that one step of generation computes at the most.
---@param slots integer
---@return integer
function M.chunk(slots)
  return math.max(512, slots)
end

---Bytes of a view of so many patches.
---@param arch table
---@param patches? integer  default: of the largest view that the model is made for
---@return integer
function M.view_bytes(arch, patches)
  local v = arch.vision
  return v and (patches or arch.max_view_patches) * 3 * (v.temporal or 1) * v.patch * v.patch * 4 or 0
end

-- Bytes that writing a checkpoint takes: the largest tensor that learns, and those that wait for the collector.
local function saving(made)
  local most, sum = 0, 0
  for _, param in ipairs(made.core:params()) do
    local bytes = param.trained and tensor_file.bytes { dtype = "F32", shape = param.shape } or 0
    most, sum = math.max(most, bytes), sum + bytes
  end
  return math.min(most + tensor_file.garbage, 3 * sum) -- values, and the optimiser's two moments
end

---Bytes of a model by what they are for: its own, a generator's, views of images.
---@param made table  core (adapters are there), arch, slots, max_tokens, kv_blocks, image_bytes
---@return table plan
function M.count(made)
  local plan = made.core:plan()
  plan.generation = made.slots > 0 and raw_generator.bytes(made.core, { slots = made.slots,
    max_tokens = made.max_tokens, chunk = M.chunk(made.slots), blocks = made.kv_blocks }) or 0
  plan.images = pixel_cache.bytes(made.image_bytes, M.view_bytes(made.arch))
  plan.saving = saving(made)
  plan.total = plan.total + plan.generation + plan.images + plan.saving
  return plan
end

-- Options that may shrink a model, as a command line or recipe spells them; what to change.
local function smaller(options, dtype)
  local learns = options.train or options.lora or options.train_adapter
  local adapted = not options.train
  local list = {}
  local function try(name, when, change)
    if when then
      list[#list + 1] = { name = name, change = change }
    end
  end
  try("--dtype bf16", dtype == "fp32", { dtype = "bf16" })
  try("lora.r = 16", options.train, { train = false, lora = { r = 16 } })
  try("--base int8", adapted and (options.base or "none") == "none", { base = "int8" })
  try("--base nf4", adapted and options.base ~= "nf4", { base = "nf4" })
  try("recompute = true", learns and not options.recompute, { recompute = true })
  local rows = options.max_tokens
  try(("max_rows = %d"):format(rows or 0), learns and rows and rows < (options.max_rows or math.huge),
    { max_rows = rows })
  local fewer = (options.slots or 0) // 4
  try(("--slots %d"):format(fewer), fewer > 0, { slots = fewer })
  return list
end

local function changed(options, change)
  local copy = {}
  for key, value in pairs(options) do
    copy[key] = value
  end
  for key, value in pairs(change) do
    copy[key] = value or nil
  end
  return copy
end

local function by_need(a, b)
  return a.total < b.total
end

---What would make a model smaller that needs too much: a line for each option by itself, and all together.
---@param model rl4vlm.Model
---@param options rl4vlm.vlm.Options  those that do not fit
---@param need integer  bytes
---@param free integer  bytes
---@return string[] lines
function M.advice(model, options, need, free)
  local found, all = {}, {}
  for _, option in ipairs(smaller(options, model:dtype_for(options.dtype))) do
    local ok, plan = pcall(model.plan_for, model, changed(options, option.change))
    local total = ok and plan.total - plan.program
    if total and total < 0.97 * need then
      found[#found + 1] = { name = option.name, total = total }
      for key, value in pairs(option.change) do
        all[key] = value
      end
    end
  end
  table.sort(found, by_need)
  local lines, fits = {}, false
  for i, option in ipairs(found) do
    fits = fits or option.total <= free
    lines[i] = ("with %s it needs %s%s"):format(option.name, memory.show(option.total),
      option.total <= free and ", which fits" or "")
  end
  if #found > 1 and not fits then
    local plan = model:plan_for(changed(options, all))
    local total = plan.total - plan.program
    lines[#lines + 1] = ("with all of these %s%s"):format(memory.show(total), total <= free and ", which fits" or "")
  end
  return lines
end

return M
