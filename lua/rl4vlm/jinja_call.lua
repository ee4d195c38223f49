-- jinja_call.lua - calls as Python makes them: filters, tests, methods and functions with named arguments.
--
-- A signature is text: "old! new! count" are names in order, those with "!" must be given; "..." takes any.
local limits = require "rl4vlm.jinja_limits"

local M = {}

---@class rl4vlm.jinja.Callable
---@field names string[]
---@field least integer
---@field open boolean
---@field call function

---Describes a function that templates may call.
---@param signature string  such as "old! new! count": what it takes behind its first argument
---@param call function
---@return rl4vlm.jinja.Callable
function M.define(signature, call)
  local f = { names = {}, least = 0, call = call }
  for name, must in signature:gmatch("([%w_.]+)(!?)") do
    if name == "..." then
      f.open = true
    else
      f.names[#f.names + 1] = name
      f.least = must == "!" and #f.names or f.least
    end
  end
  return f
end

local function position(f, name)
  for i, known in ipairs(f.names) do
    if known == name then
      return i
    end
  end
end

---Calls it: `self` first, then its arguments by their places. Those not given are nil.
---@param f rl4vlm.jinja.Callable
---@param what string   its name, for messages
---@param self any
---@param args table    in order
---@param named table   {name, value} pairs in order
---@return any
function M.invoke(f, what, self, args, named)
  local values = table.move(args, 1, #args, 1, {})
  if #args > #f.names and not f.open then
    limits.fail("%s takes at most %d arguments, got %d", what, #f.names, #args)
  end
  for _, pair in ipairs(named) do
    local i = position(f, pair[1])
    if not i then
      limits.fail("%s has no argument '%s'", what, pair[1])
    elseif values[i] ~= nil then
      limits.fail("%s got '%s' twice", what, pair[1])
    end
    values[i] = pair[2]
  end
  for i = 1, f.least do
    if values[i] == nil then
      limits.fail("%s needs '%s'", what, f.names[i])
    end
  end
  return f.call(self, table.unpack(values, 1, math.max(#f.names, #args)))
end

return M
