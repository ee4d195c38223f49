--- blackjack.lua - the exact best play of blackjack with an endless deck, by dynamic programming.

local M = {}

local CHANCE = {}
for value = 1, 10 do
  CHANCE[value] = (value == 10 and 4 or 1) / 13
end

---The total of a hand: one ace counts 11 where that stays within 21.
---@param values integer[]  1 (ace) .. 10
---@return integer total, boolean soft
function M.total(values)
  local sum, ace = 0, false
  for _, value in ipairs(values) do
    sum, ace = sum + value, ace or value == 1
  end
  local soft = ace and sum + 10 <= 21
  return soft and sum + 10 or sum, soft
end

-- A hand grows: total and softness after one more card.
local function add(total, soft, value)
  local low, ace = soft and total - 10 or total, soft or value == 1
  low = low + value
  if ace and low + 10 <= 21 then
    return low + 10, true
  end
  return low, false
end

---The distribution of the dealer's final total, 17..21 and 0 for a bust.
---@param total integer
---@param soft boolean
---@return table<integer, number>
local function dealer_from(total, soft)
  if total >= 17 then
    return { [total > 21 and 0 or total] = 1 }
  end
  local sums = {}
  for value = 1, 10 do
    for final, p in pairs(dealer_from(add(total, soft, value))) do
      sums[final] = (sums[final] or 0) + CHANCE[value] * p
    end
  end
  return sums
end

local dealers = {}

---The distribution of the dealer's final total when one card is seen and the other drawn.
---@param shown integer  1..10
---@return table<integer, number>
function M.dealer(shown)
  dealers[shown] = dealers[shown] or dealer_from(add(0, false, shown))
  return dealers[shown]
end

local function stand_value(total, shown, goal)
  local value = 0
  for final, p in pairs(M.dealer(shown)) do
    if total > final then
      value = value + p
    elseif total < final and goal == "return" then
      value = value - p
    end
  end
  return value
end

local tables = { ["return"] = {}, win = {} }

-- Value and action of the best play; goal "return": expected reward, "win": chance to win.
local function solve(total, soft, shown, goal)
  if total > 21 then
    return goal == "return" and -1 or 0
  end
  local key = (total * 2 + (soft and 1 or 0)) * 16 + shown
  local entry = tables[goal][key]
  if not entry then
    local hit = 0
    for value = 1, 10 do
      local t, s = add(total, soft, value)
      hit = hit + CHANCE[value] * solve(t, s, shown, goal)
    end
    local stand = stand_value(total, shown, goal)
    entry = { value = math.max(hit, stand), action = hit > stand and "hit" or "stand" }
    tables[goal][key] = entry
  end
  return entry.value, entry.action
end

---The best action.
---@param total integer  of the player
---@param soft boolean
---@param shown integer  the dealer's visible card, 1..10
---@param goal? string  "return" (default) or "win"
---@return string action, number value
function M.best(total, soft, shown, goal)
  local value, action = solve(total, soft, shown, goal or "return")
  return action or "stand", value
end

return M
