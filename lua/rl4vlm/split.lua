-- split.lua - from bytes of an answer to its tokens: where the thought ends and the action begins.
--
-- Token ids are the only truth: the text is joined from the bytes that each id stands for and never
-- encoded again, so a byte's place leads back to one token.
local M = {}

---The bytes of an answer. Ids in `silent` (end of sequence) stand for nothing.
---@param tokenizer table with token_bytes(id)
---@param ids integer[]
---@param silent table<integer, boolean>
---@return string text
---@return integer[] ends last byte of each token
function M.text(tokenizer, ids, silent)
  local parts, ends, length = {}, {}, 0
  for i, id in ipairs(ids) do
    local bytes = silent[id] and "" or tokenizer:token_bytes(id) or ""
    parts[i] = bytes
    length = length + #bytes
    ends[i] = length
  end
  return table.concat(parts), ends
end

---The first token of the action part: the one that holds byte `at`.
---@param ends integer[] from `text`
---@param at integer|nil byte of the action key; nil: all is thought
---@return integer index from 1; #ends + 1 when all is thought
function M.first_action_token(ends, at)
  if at then
    for i, last in ipairs(ends) do
      if last >= at then
        return i
      end
    end
  end
  return #ends + 1
end

---Weights of the answer's tokens in log pi: `thought` before the action part, 1 in it.
---@param count integer number of tokens
---@param first integer first token of the action part
---@param thought number lambda of log pi = lambda * thought + action
---@return number[]
function M.weights(count, first, thought)
  local weights = {}
  for i = 1, count do
    weights[i] = i < first and thought or 1.0
  end
  return weights
end

return M
