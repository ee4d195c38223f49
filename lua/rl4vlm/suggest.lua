-- suggest.lua - the nearest known name, for errors that help.
local host = require "rl4vlm.host"

local M = {}

local SHORT = 12 -- names that are all told where none is near

---The text `unknown KIND 'word' (did you mean 'x'?)`; where none is near and there are few, `(known: a, b)`.
---@param kind string what the word should have been ("option", "field of the recipe")
---@param word any
---@param candidates string[]
---@return string
function M.unknown(kind, word, candidates)
  local near = host.nearest(tostring(word), candidates)
  local hint = near and (" (did you mean '%s'?)"):format(near)
    or #candidates > 0 and #candidates <= SHORT and (" (known: %s)"):format(table.concat(candidates, ", ")) or ""
  return ("unknown %s '%s'%s"):format(kind, tostring(word), hint)
end

---The keys of a table, sorted.
---@param t table
---@return string[]
function M.keys(t)
  local list = {}
  for key in pairs(t) do
    list[#list + 1] = tostring(key)
  end
  table.sort(list)
  return list
end

return M
