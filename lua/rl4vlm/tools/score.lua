-- score.lua - rl4vlm -m score: log-probabilities of given answers; logits and gradients for tests.
local json = require "rl4vlm.json"
local requests = require "rl4vlm.requests"
local safetensors = require "rl4vlm.safetensors"
local tensor = require "rl4vlm.tensor"
local tool_main = require "rl4vlm.tool_main"

local M = {}

local tool = {
  name = "score",
  usage = "MODEL --in Q.jsonl --out S.jsonl [options]",
  about = "Gives the log-probability of every token of the answers in a file.",
  required = { "in", "out" },
  rows = tool_main.request_rows {
    { "temperature", "number", "T", "of the softmax (default 1; 0: untempered)" },
    { "logits", "text", "FILE", "untempered logits (T, V) of every request, under its id" },
    { "grads", "text", "FILE", "gradient of the weighted sum of all log-probabilities" },
  },
}

function tool.check(o)
  if o.temperature and not (o.temperature >= 0 and o.temperature < 1e6) then
    return ("--temperature wants a number of at least 0, got %g"):format(o.temperature)
  end
end

-- Checks every line; gives how to start the model, and each line's place for --logits.
local function survey(model, o)
  local file, most, places, some = requests.open(model, o, true), 2, {}, o.grads or o.logits
  for request in file.next, file do
    local total = #request.ids + #request.answer
    most, some = math.max(most, total), true
    if o.logits then
      local name = tostring(request.id)
      if places[name] then
        error(("%s: id: wanted ids that differ, came %s again"):format(request.where, name), 0)
      end
      places[name] = { offset = request.offset, number = request.number, total = total }
    end
  end
  file:close()
  local all = o.grads and not model.opened_adapter and { "vision", "connector", "language", "head" } or nil
  local start = { train = all, train_adapter = o.grads ~= nil and model.opened_adapter ~= nil, max_tokens = most }
  return some and start or nil, places
end

-- ---- log-probabilities and gradients ----

local function finish_of(model, answer)
  for _, id in ipairs(model.eos) do
    if answer[#answer] == id then
      return "eos"
    end
  end
  return "length"
end

-- `scores` are those of the requests with an answer, in order.
local function write_replies(model, batch, scores, out)
  local logprobs, at = scores and scores.logprobs:detach():tolist() or {}, 0
  for _, request in ipairs(batch) do
    local n = #request.answer
    out:put(request.index, { id = request.id, prompt_ids = json.list(request.ids),
      answer_ids = json.list(request.answer), text = model:text(request.answer) or json.null,
      logprobs = json.list(table.move(logprobs, at + 1, at + n, 1, {})), finish = finish_of(model, request.answer) })
    at = at + n
  end
end

-- Adds the gradient of the weighted log-probabilities of a batch.
local function add_gradient(batch, scores)
  local weights = {}
  for _, request in ipairs(batch) do
    for k = 1, #request.answer do
      weights[#weights + 1] = request.weights and request.weights[k] or 1.0
    end
  end
  (scores.logprobs * tensor.new(weights, { dtype = "f32" })):sum():backward()
end

local function score_batch(model, batch, o, out)
  local samples = {}
  for _, request in ipairs(batch) do
    if #request.answer > 0 then
      samples[#samples + 1] = { ids = request.ids, answer = request.answer, images = request.images }
    end
  end
  local temperature = o.temperature ~= 0 and o.temperature or 1
  local scores = #samples > 0 and model:score(samples, { temperature = temperature, grad = o.grads ~= nil })
  if scores and o.grads then
    add_gradient(batch, scores)
  end
  write_replies(model, batch, scores, out)
end

local function score_all(model, o, out)
  local file, batch, rows, index = requests.open(model, o, true), {}, 0, 0
  for request in file.next, file do
    local total = #request.ids + #request.answer
    if rows > 0 and rows + total > model.max_rows then
      score_batch(model, batch, o, out)
      batch, rows = {}, 0
    end
    index, rows = index + 1, rows + total
    request.index = index
    batch[#batch + 1] = request
  end
  if #batch > 0 then
    score_batch(model, batch, o, out)
  end
  file:close()
end

-- Every trained parameter's gradient, named as in the checkpoint's or the adapter's own file.
local function write_grads(model, path)
  local specs, role_of = {}, {}
  for _, param in ipairs(model.core:params()) do
    if param.trained then
      local name = model.adapter and model.adapter.names[param.role] or model.source.name_of[param.role]
      specs[name], role_of[name] = { dtype = "F32", shape = param.shape }, param.role
    end
  end
  local writer = safetensors.create(path, specs, { format = "pt" })
  for name in writer.next, writer do
    writer:put(model.core:get(role_of[name], "grad"))
  end
  writer:commit()
end

-- ---- logits ----

-- Writes the logits in the file's order of names, reading each request again.
local function write_logits(model, o, places)
  local specs, file = {}, requests.open(model, o, true)
  for name, place in pairs(places) do
    specs[name] = { dtype = "F32", shape = { place.total, model.arch.text.vocab } }
  end
  local writer = safetensors.create(o.logits, specs, { format = "pt" })
  for name in writer.next, writer do
    file:seek(places[name].offset, places[name].number)
    local request = file:next()
    local ids = table.move(request.answer, 1, #request.answer, #request.ids + 1, request.ids)
    writer:put(model:logits(ids, request.images))
  end
  writer:commit()
  file:close()
end

local function answer(model, o, out, places)
  score_all(model, o, out)
  if o.grads then
    write_grads(model, o.grads)
  end
  if o.logits then
    write_logits(model, o, places)
  end
end

function tool.run(o, name)
  tool_main.answer(o, name, survey, answer)
end

---@param args string[]
---@return integer status
function M.main(args)
  return tool_main.run(tool, args)
end

return M
