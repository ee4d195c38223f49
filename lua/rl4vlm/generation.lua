-- generation.lua - model:generator: requests with text and images in, replies out as they finish.
--
-- Slots, cache and sampling are rl4vlm.generator's (src/vlm/generate.c). Stop strings are looked for
-- here, in the text of the tokens so far; a string may span tokens. As in transformers it stays part of
-- the answer.
local placeholders = require "rl4vlm.placeholders"
local raw = require "rl4vlm.generator"
local sizes = require "rl4vlm.sizes"
local suggest = require "rl4vlm.suggest"

local M = {}

---@class rl4vlm.generation.Options
---@field slots? integer       default: the model's
---@field max_tokens? integer  default: the model's
---@field chunk? integer       new rows of one step at the most (default 512)
---@field share? boolean       prompts share what they begin with (default true)

---@class rl4vlm.Generator
local Generator = { __name = "rl4vlm.Generator" }
Generator.__index = Generator

-- Raises where a table has a key that is not in `known`.
local function check_keys(t, known, kind)
  for name in pairs(t) do
    if not known[name] then
      error(suggest.unknown(kind, name, suggest.keys(known)), 3)
    end
  end
end

local known_options = { slots = true, max_tokens = true, chunk = true, share = true }

---@param model rl4vlm.Model
---@param options? rl4vlm.generation.Options
---@return rl4vlm.Generator
function M.new(model, options)
  options = options or {}
  check_keys(options, known_options, "option of a generator")
  local slots = options.slots or model.slots
  if not slots then
    error("generator: the model was loaded without slots", 3)
  end
  local generator = raw.new(model.core, { slots = slots, max_tokens = options.max_tokens or model.max_tokens,
    chunk = options.chunk or sizes.chunk(slots), blocks = model.kv_blocks, share = options.share,
    banned = placeholders.banned(model) })
  return setmetatable({ model = model, raw = generator, running = {}, count = 0 }, Generator)
end

local known_fields = {}
for name in ([[key ids images max_new_tokens temperature top_k top_p min_p repetition_penalty stop stop_ids eos
  seed episode step]]):gmatch("%S+") do
  known_fields[name] = true
end

-- The texts that end an answer, nil where there are none.
local function stop_texts(stop)
  if stop ~= nil and type(stop) ~= "table" then
    error(("stop: wanted a list of texts, came %s"):format(tostring(stop)), 3)
  end
  for i, text in ipairs(stop or {}) do
    if type(text) ~= "string" or text == "" then
      error(("stop[%d]: wanted some text, came %s"):format(i, text == "" and "none" or tostring(text)), 3)
    end
  end
  return stop and #stop > 0 and stop or nil
end

-- Views of a request, and the hashes that name them in the cache.
local function images_of(model, images)
  if not images or #images == 0 then
    return nil
  end
  local views, hashes = {}, {}
  for i, image in ipairs(images) do
    views[i], hashes[i] = model:view(image), image:hash()
  end
  return views, hashes
end

---Starts a request in a free slot.
---
---{key =, ids =, images =, max_new_tokens = 256, temperature = 1, top_k =, top_p =, min_p =,
---repetition_penalty =, stop = {texts}, stop_ids = {ids}, eos = {ids}, seed = 0, episode = 0, step = 0}.
---The tokens drawn hang on the ids, the images, the settings and (seed, episode, step), never on what
---else runs.
---@param request table
function Generator:submit(request)
  check_keys(request, known_fields, "field of a request")
  local stop = stop_texts(request.stop)
  local images, hashes = images_of(self.model, request.images)
  local slot = self.raw:submit { ids = request.ids, images = images, hashes = hashes,
    max_new_tokens = request.max_new_tokens, temperature = request.temperature, top_k = request.top_k,
    top_p = request.top_p, min_p = request.min_p, repetition_penalty = request.repetition_penalty,
    eos = request.eos or self.model.eos,
    stop = request.stop_ids, seed = request.seed, episode = request.episode, step = request.step }
  self.running[slot] = { key = request.key, stop = stop, seen = 0, text = "",
    stream = stop and self.model.tokenizer:stream() }
  self.count = self.count + 1
end

---Slots that take a request now.
---@return integer
function Generator:free()
  return self.raw:vacant()
end

---True while requests run.
---@return boolean
function Generator:busy()
  return self.count > 0
end

-- True when a stop string has come: the text grows by the new tokens, only its end is searched.
local function stopped(self, slot, run, n)
  local longest = 0
  for _, text in ipairs(run.stop) do
    longest = math.max(longest, #text)
  end
  while run.seen < n do
    run.seen = run.seen + 1
    local from = math.max(1, #run.text - longest + 2)
    run.text = run.text .. (run.stream:push(self.raw:id(slot, run.seen)) or "")
    for _, text in ipairs(run.stop) do
      if run.text:find(text, from, true) then
        return true
      end
    end
  end
  return false
end

local function reply_of(self, slot, run, finish)
  local reply = self.raw:take(slot)
  reply.key, reply.finish = run.key, finish
  reply.text = self.model:text(reply.answer)
  self.running[slot] = nil
  self.count = self.count - 1
  return reply
end

---Runs one token of every request, and gives those that finished:
---{key =, answer = ids, logprobs = {}, filtered = {}, value =, finish = "eos"|"stop"|"length", text =, cached =}.
---@return table[]
function Generator:step()
  self.raw:step()
  local replies, slots = {}, {}
  for slot in pairs(self.running) do
    slots[#slots + 1] = slot
  end
  table.sort(slots)
  for _, slot in ipairs(slots) do
    local run = self.running[slot]
    local n, finish = self.raw:poll(slot)
    if finish ~= "eos" and run.stop and stopped(self, slot, run, n) then
      finish = "stop"
    end
    if finish then
      replies[#replies + 1] = reply_of(self, slot, run, finish)
    end
  end
  return replies
end

---What was computed since the generator was made: prompt_rows, cached_rows, answer_rows, images, steps.
---@return table
function Generator:stats()
  return self.raw:stats()
end

---Frees the generator's memory.
function Generator:close()
  self.raw:close()
end
Generator.__close = Generator.close

return M
