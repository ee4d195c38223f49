-- call.lua - calls as Python makes them: filters, tests, methods and functions with named arguments.
--
-- A signature is text: "old:str! new:str! count:int" are names in order; behind ":" the type that is wanted (None
-- is as good as nothing there), "!" for what must be given; "..." takes any.
local limits = require "rl4vlm.jinja.limits"
local value = require "rl4vlm.jinja.value"

local M = {}

---@class rl4vlm.jinja.Callable
---@field names string[]
---@field types table<integer, string>  Python's names
---@field least integer                 how many must be given
---@field open boolean
---@field call function

---Describes a function that templates may call.
---@param signature string  what it takes behind its first argument
---@param call function
---@return rl4vlm.jinja.Callable
function M.define(signature, call)
  local f = { names = {}, types = {}, least = 0, call = call }
  for name, type, must in signature:gmatch("([%w_.]+):?(%a*)(!?)") do
    if name == "..." then
      f.open = true
    else
      f.names[#f.names + 1] = name
      f.types[#f.names] = type ~= "" and type or nil
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

-- The values by their places.
local function place(f, what, args, named)
  if #args > #f.names and not f.open then
    limits.fail("%s takes at most %d arguments, got %d", what, #f.names, #args)
  end
  local values = table.move(args, 1, #args, 1, {})
  for _, pair in ipairs(named) do
    local i = position(f, pair[1])
    if not i then
      limits.fail("%s has no argument '%s'", what, pair[1])
    elseif values[i] ~= nil then
      limits.fail("%s got '%s' twice", what, pair[1])
    end
    values[i] = pair[2]
  end
  return values
end

local function check(f, what, values)
  for i, name in ipairs(f.names) do
    local v, wanted = values[i], f.types[i]
    if wanted and v == value.none then
      v, values[i] = nil, nil
    end
    if v == nil and i <= f.least then
      limits.fail("%s needs '%s'", what, name)
    elseif v ~= nil and wanted and value.type(v) ~= wanted then
      limits.fail("%s: %s: wanted a %s, got a %s", what, name, wanted, value.type(v))
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
  local values = place(f, what, args, named)
  check(f, what, values)
  return f.call(self, table.unpack(values, 1, math.max(#f.names, #args)))
end

return M
