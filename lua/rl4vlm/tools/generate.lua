-- generate.lua - rl4vlm -m generate: answers to a file of requests, many at a time.
local generation_settings = require "rl4vlm.generation_settings"
local json = require "rl4vlm.json"
local requests = require "rl4vlm.requests"
local tool_main = require "rl4vlm.tool_main"

local M = {}

local tool = {
  name = "generate",
  usage = "MODEL --in Q.jsonl --out A.jsonl [options]",
  about = "Generates an answer to every request of a file.",
  required = { "in", "out" },
  rows = tool_main.request_rows {
    { "max-new-tokens", "integer", "N", "the longest answer (default 256, or what fits behind the prompt)" },
    { "temperature", "number", "T", "0: the most likely token (default 1)" },
    { "top-k", "integer", "K", "draw among the K most likely (default: all)" },
    { "top-p", "number", "P", "draw among those that make up P (default: all)" },
    { "min-p", "number", "P", "draw among those with P of the most likely one's probability" },
    { "repetition-penalty", "number", "P", "make tokens of prompt and answer so far less likely (default 1: off)" },
    { "seed", "integer", "N", "of the draws (default 0)" },
    { "stop", "text", "TEXT", "end an answer behind this text", many = true },
    { "ignore-eos", "flag", nil, "do not end answers at the end-of-sequence token" },
    { "generation-config", "flag", nil, "settings of generation_config.json where no option is given" },
    { "slots", "integer", "N", "requests that run at the same time (default 16)" },
  },
}

local within = tool_main.within

function tool.check(o)
  return within(o, "max-new-tokens", 1, 1 << 24) or within(o, "temperature", 0, 1e6) or within(o, "top-k", 0, 1 << 30)
    or within(o, "repetition-penalty", 0.01, 100)
    or within(o, "top-p", 0, 1) or within(o, "min-p", 0, 1) or within(o, "slots", 1, tool_main.MOST_SLOTS)
end

local LONGEST = 256 -- tokens of an answer where nothing is said

-- The longest answer to a request.
local function longest(model, request, settings)
  local most, wanted = model.arch.text.max_positions, settings.max_new_tokens
  local room = most - #request.ids
  if wanted and wanted > room then
    error(("%s: a prompt of %d tokens and --max-new-tokens %d are more than the model's %d positions"):format(
      request.where, #request.ids, wanted, most), 0)
  elseif room < 1 then
    error(("%s: a prompt of %d tokens leaves no room for an answer in the model's %d positions"):format(
      request.where, #request.ids, most), 0)
  end
  return wanted or math.min(LONGEST, room)
end

-- Checks every line; gives how to start the model, and how to draw.
local function survey(model, o)
  local settings = generation_settings.read(model, o)
  local file, count, most = requests.open(model, o, false), 0, 2
  for request in file.next, file do
    count, most = count + 1, math.max(most, #request.ids + longest(model, request, settings))
  end
  file:close()
  local start = { slots = math.min(o.slots or 16, count), max_tokens = most }
  return count > 0 and start or nil, settings
end

local function start_request(generator, request, index, settings)
  local ok, err = pcall(generator.submit, generator, { key = { index, request }, ids = request.ids,
    images = request.images, max_new_tokens = longest(generator.model, request, settings),
    temperature = settings.temperature, top_k = settings.top_k, top_p = settings.top_p, min_p = settings.min_p,
    repetition_penalty = settings.repetition_penalty,
    stop = settings.stop, eos = settings.eos, seed = settings.seed, episode = index, step = 0 })
  if not ok then
    error(("%s: %s"):format(request.where, err), 0)
  end
end

local function reply_line(reply)
  local request = reply.key[2]
  return reply.key[1], { id = request.id, prompt_ids = request.ids, answer_ids = json.list(reply.answer),
    text = reply.text or json.null, logprobs = json.list(reply.logprobs), finish = reply.finish }
end

local function run_all(model, o, out, settings)
  local file, index, more = requests.open(model, o, false), 0, true
  local generator <close> = model:generator {}
  while more or generator:busy() do
    while more and generator:free() > 0 do
      local request = file:next()
      more = request ~= nil
      if more then
        index = index + 1
        start_request(generator, request, index, settings)
      end
    end
    for _, reply in ipairs(generator:step()) do
      out:put(reply_line(reply))
    end
  end
  file:close()
end

function tool.run(o, name)
  tool_main.answer(o, name, survey, run_all)
end

---@param args string[]
---@return integer status
function M.main(args)
  return tool_main.run(tool, args)
end

return M
