-- micro_batch.lua - a minibatch in parts that are differentiated one after another.
--
-- The loss of a minibatch is a sum over its samples, so its gradient may be gathered part by part: each part's
-- activations are kept for its backward pass and then forgotten, nothing is computed twice, and memory hangs on the
-- part's rows, not on the minibatch's.
local placeholders = require "rl4vlm.placeholders"

local M = {}

---Tokens of all answers, what means over tokens are taken over.
---@param samples table[]
---@return integer
function M.tokens(samples)
  local tokens = 0
  for _, sample in ipairs(samples) do
    tokens = tokens + #sample.answer
  end
  return tokens
end

---Cuts samples, in their order, into parts that each fit one piece of the model's memory.
---@param model table max_rows, image_rows, image_token
---@param samples table[] each with ids and answer
---@return table[][] parts
function M.cut(model, samples)
  local parts, rows, images = {}, 0, 0
  for _, sample in ipairs(samples) do
    local more, more_images = #sample.ids + #sample.answer, placeholders.rows(model, sample.ids)
    local part = parts[#parts]
    if not part or rows + more > model.max_rows or images + more_images > model.image_rows then
      part, rows, images = {}, 0, 0
      parts[#parts + 1] = part
    end
    part[#part + 1] = sample
    rows, images = rows + more, images + more_images
  end
  return parts
end

return M
