-- suggest.lua - the nearest known name, for errors that help.
local M = {}

-- Edit distance of two words (insert, delete, replace cost 1).
local function distance(a, b)
  local row = {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local up = row[j]
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(diagonal + cost, up + 1, row[j - 1] + 1)
      diagonal = up
    end
  end
  return row[#b]
end

---The candidate nearest to a word; ties go to the first in alphabetical order.
---@param word string
---@param candidates string[]
---@return string|nil nearest nil when there are no candidates
function M.nearest(word, candidates)
  local sorted = table.move(candidates, 1, #candidates, 1, {})
  table.sort(sorted)
  local best, best_distance
  word = tostring(word):sub(1, 64):lower()
  for _, name in ipairs(sorted) do
    local d = distance(word, name:lower())
    if not best_distance or d < best_distance then
      best, best_distance = name, d
    end
  end
  return best
end

---The text `unknown KIND 'word' (did you mean 'x'?)`.
---@param kind string what the word should have been ("option", "field of the recipe")
---@param word any
---@param candidates string[]
---@return string
function M.unknown(kind, word, candidates)
  local near = M.nearest(tostring(word), candidates)
  local hint = near and (" (did you mean '%s'?)"):format(near) or ""
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
