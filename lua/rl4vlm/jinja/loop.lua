-- loop.lua - the `loop` of a for: index, first, last, length and the rest.
local call = require "rl4vlm.jinja.call"
local limits = require "rl4vlm.jinja.limits"
local value = require "rl4vlm.jinja.value"

local M = {}

---@param items table  all that the loop runs over
function M.new(items)
  return value.new("loop", { items = items, at = 0 })
end

local function method(object, name, signature, f)
  return value.new("function", { name = name, object = object, callable = call.define(signature, f) })
end

local function cycle(self, ...)
  local n = select("#", ...)
  if n == 0 then
    limits.fail("loop.cycle() needs items")
  end
  return (select((self.at - 1) % n + 1, ...))
end

local function changed(self, v)
  local same = self.seen ~= nil and value.equals(self.seen, v)
  self.seen = v
  return not same
end

local function item(self, at, where)
  local v = self.items[at]
  return v == nil and value.undefined("there is no " .. where .. " item") or v
end

local fields = {
  index = function(l) return l.at end,
  index0 = function(l) return l.at - 1 end,
  revindex = function(l) return #l.items - l.at + 1 end,
  revindex0 = function(l) return #l.items - l.at end,
  first = function(l) return l.at == 1 end,
  last = function(l) return l.at == #l.items end,
  length = function(l) return #l.items end,
  depth = function() return 1 end,
  depth0 = function() return 0 end,
  previtem = function(l) return item(l, l.at - 1, "previous") end,
  nextitem = function(l) return item(l, l.at + 1, "next") end,
  cycle = function(l) return method(l, "loop.cycle()", "...", cycle) end,
  changed = function(l) return method(l, "loop.changed()", "value!", changed) end,
}

---A field of a loop; nil where there is none of that name.
---@param l table
---@param name string
function M.field(l, name)
  local get = fields[name]
  if get then
    return get(l)
  end
end

return M
