--- points24.lua - four cards; write a formula with all of them that equals 24.
---
--- Cards are dealt at random: about 27 % of the deals have no solution, and then "=" at once is best.

local cards = require("rl4vlm.cards")
local formula = require("rl4vlm.formula")

local function deal(rng)
  local hand = {}
  for i = 1, 4 do
    hand[i] = cards.name(rng:int(1, 13), rng:int(1, 4))
  end
  return hand
end

return formula.define({
  name = "points24",
  actions = { "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "+", "-", "*", "/", "(", ")", "=" },
  operators = "+-*/(",
  target = 24,
  count = 4,
  limit = 20,
  deal = deal,
  layout = {
    x = { 5, 78, 152, 226 }, y = 103, w = 67, h = 93, size = 16, label_y = 210, text_y = 240,
  },
})
