-- sft.lua - supervised fine-tuning: the likelihood of demonstrated answers, and nothing else.
--
--     L = - mean over the answers' tokens of log p(token)
--
-- Prompts carry no loss; samples of a batch are packed, not padded. One pass over the samples.
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local micro_batch = require "rl4vlm.micro_batch"

local M = {}

---Token ids of a demonstration: its prompt as the model's chat has it, its answer with an end.
---@param model table
---@param sample table { before, after, image or nil, answer, history = messages before or nil, where = its place in a
---file or nil }
---@return table { ids, images, answer }
function M.encode(model, sample)
  local content, messages = {}, table.move(sample.history or {}, 1, #(sample.history or {}), 1, {})
  if sample.before ~= "" then
    content[1] = { type = "text", text = sample.before }
  end
  if sample.image then
    content[#content + 1] = { type = "image", image = sample.image }
  end
  content[#content + 1] = { type = "text", text = sample.after }
  messages[#messages + 1] = { role = "user", content = content }
  local text, images = model:chat(messages)
  local answer = model.tokenizer:encode(sample.answer, { special = false })
  answer[#answer + 1] = model.eos[1]
  local ids, most = model:prompt(text, images), model.arch.text.max_positions
  if #ids + #answer > most then
    error(("%s: wanted at most the model's %d positions, got %d tokens"):format(sample.where or "demonstration", most,
      #ids + #answer), 0)
  end
  return { ids = ids, images = images, answer = answer }
end

---Adds the gradient of the loss of some encoded samples.
---@param model table
---@param samples table[]
---@return number loss
---@return integer tokens
function M.learn(model, samples)
  local tokens, sum = micro_batch.tokens(samples), 0.0
  for _, part in ipairs(model:micro_batches(samples)) do
    local loss = -model:score(part, { grad = true }).logprobs:sum() / tokens
    loss:backward()
    sum = sum + loss:item()
  end
  return sum, tokens
end

---@class rl4vlm.SftOptions
---@field model table
---@field optimizer table
---@field source table of demos.lua
---@field samples integer how many to learn from
---@field batch integer
---@field lr rl4vlm.Schedule
---@field warmup number fraction of the run
---@field max_grad_norm number
---@field from integer|nil samples learned from before (a resumed run)
---@field on_step fun(line: table)|nil after each optimiser step

local function check(loss, norm, step)
  if loss ~= loss or loss == math.huge or norm ~= norm then
    error(("step %d: the loss is %s, the gradient's norm %s"):format(step, tostring(loss),
      tostring(norm)), 0)
  end
end

---Learns. The rate rises over the warm-up and falls to the schedule's end over the whole run.
---@param o rl4vlm.SftOptions
function M.run(o)
  local done = o.from or 0
  local step = done // o.batch
  while done < o.samples do
    local start, batch = host.clock(), {}
    for i = 1, math.min(o.batch, o.samples - done) do
      batch[i] = M.encode(o.model, o.source:next())
    end
    o.model:zero_grad()
    local loss, tokens = M.learn(o.model, batch)
    local lr = o.lr:at(math.max(done, o.warmup > 0 and o.batch or 0) / o.samples, o.warmup)
    local norm = o.optimizer:step { lr = lr, max_norm = o.max_grad_norm }
    step, done = step + 1, done + #batch
    check(loss, norm, step)
    if o.on_step then
      o.on_step {
        update = step,
        samples = done,
        ["actor/lr"] = lr,
        ["actor/grad_norm"] = norm,
        ["sft/loss"] = loss,
        ["sft/tokens"] = tokens,
        ["timing_s/step"] = host.clock() - start,
        ["perf/peak_bytes"] = host.peak_rss() or json.null,
      }
    end
    collectgarbage() -- frames are large and look small to Lua's collector
    if host.interrupted() then
      error("interrupted!", 0)
    end
  end
end

return M
