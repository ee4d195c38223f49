-- limits.lua - what a template may cost, and how its errors travel.
--
-- A chat template comes with the weights, from anywhere: it may not run away. Everything that takes time
-- or memory spends from one budget: a node or an item is a step, so are 16 bytes of text. Rendering is not
-- re-entrant, so the budget is the module's.
local M = {}

---Steps of one rendering; a long chat takes some thousands.
M.steps = 4000000
---How deep expressions, blocks and values may nest.
M.depth = 100

local left = 0

local Failure = { __name = "rl4vlm.jinja.Failure" }
Failure.__tostring = function(self)
  return self.message
end

---Raises a failure of the template; the parser or evaluator knows where it is.
---@param message string
---@param ... any  for string.format
function M.fail(message, ...)
  error(setmetatable({ message = select("#", ...) > 0 and message:format(...) or message }, Failure), 0)
end

---Runs a function and tells failures of the template from faults of the program, which go on.
---@return boolean ok
---@return any result  or the failure's message
function M.catch(f, ...)
  local ok, result = pcall(f, ...)
  if ok then
    return true, result
  elseif getmetatable(result) == Failure then
    return false, result.message
  elseif type(result) == "string" and result:find("stack overflow", 1, true) then
    return false, "nested too deep"
  end
  error(result, 0)
end

---Begins a rendering.
function M.begin()
  left = M.steps
end

---Spends steps.
---@param n integer
function M.spend(n)
  left = left - n
  if left < 0 then
    M.fail("more than %d steps: the template does not end, or writes too much", M.steps)
  end
end

---Spends what a text of `n` bytes costs, before it is made.
---@param n number
function M.spend_text(n)
  M.spend(n < 1e15 and math.tointeger(n // 16) or M.steps + 1)
end

return M
