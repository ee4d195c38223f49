--- ezpoints.lua - two cards; write a formula with both that equals 12.

local cards = require("rl4vlm.cards")
local formula = require("rl4vlm.formula")

local TARGET = 12

local function card_of_value(rng, value)
  return cards.name(value, rng:int(1, 4)) -- 10 is a ten: court cards come from the first draw only
end

-- Every deal has a solution: the second card completes a sum or, where it can, a product.
local function deal(rng)
  local rank = rng:int(2, 13)
  local value = math.min(rank, 10)
  local second = TARGET - value
  if TARGET % value == 0 and value <= 6 and rng:below(2) == 0 then
    second = TARGET // value
  end
  local hand = { cards.name(rank, rng:int(1, 4)), card_of_value(rng, second) }
  if rng:below(2) == 0 then
    hand[1], hand[2] = hand[2], hand[1]
  end
  return hand
end

return formula.define({
  name = "ezpoints",
  actions = { "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "+", "*", "=" },
  operators = "+*",
  target = TARGET,
  count = 2,
  limit = 5,
  deal = deal,
  layout = { x = { 5, 153 }, y = 55, w = 135, h = 189, size = 20, label_y = 258, text_y = 258 },
})
