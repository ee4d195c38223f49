--- blackjack.lua - one hand against a dealer who draws to 17; no splitting, no bonus for naturals.
---
--- Cards come from an endless deck. The dealer's second card stays hidden from the frame.

local canvas = require("rl4vlm.canvas")
local cards = require("rl4vlm.cards")
local env = require("rl4vlm.env")
local formula = require("rl4vlm.formula")
local policy = require("rl4vlm.blackjack")

local WHITE, TABLE = "#ffffff", "#35654d"
local COURT = { 11, 12, 13 }

-- The next card: from the caller's deck while it lasts, then random. Values are those of 13 equal
-- ranks; a value of ten shows as a jack, queen or king, never as a ten.
local function draw_card(game, rng)
  if game.deck and #game.deck > 0 then
    return table.remove(game.deck, 1)
  end
  local rank = rng:int(1, 13)
  if rank >= 10 then
    rank = rng:choice(COURT)
  end
  return cards.name(rank, rng:int(1, 4))
end

local function fill(game, hand, rng)
  while #hand < 2 do
    hand[#hand + 1] = draw_card(game, rng)
  end
  return hand
end

local function reset(self, rng, start)
  local game = {
    deck = formula.check_hand(self.name, "deck", start.deck, 0, 1000),
    dealer = formula.check_hand(self.name, "dealer", start.dealer, 1, 30) or {},
    player = formula.check_hand(self.name, "player", start.player, 1, 30) or {},
  }
  fill(game, game.dealer, rng)
  fill(game, game.player, rng)
  return game
end

local function total(hand)
  return policy.total(formula.values(hand))
end

local function step(_, game, action, rng)
  if action == "hit" then
    table.insert(game.player, draw_card(game, rng))
    local bust = total(game.player) > 21
    return bust and -1 or 0, bust, false
  end
  while total(game.dealer) < 17 do
    table.insert(game.dealer, draw_card(game, rng))
  end
  local player, dealer = total(game.player), total(game.dealer)
  player, dealer = player > 21 and 0 or player, dealer > 21 and 0 or dealer
  return player > dealer and 1 or player < dealer and -1 or 0, true, false
end

-- Where the player's i-th of n cards lies. The reference puts the fifth outside the frame.
local function place(self, i, n)
  if self.options.hidden_fifth_card then
    return i <= 5 and 5 + (i - 1) * 74 or 5 + (i - 6) * 74, i <= 5 and 150 or 252
  end
  if i <= 4 then
    return 5 + (i - 1) * 74, 150
  end
  local gap = n <= 8 and 74 or 222 // (n - 5)
  return 5 + (i - 5) * gap, 252
end

local function draw(self, game)
  local style = { size = 16, bold = true, color = WHITE }
  local frame = canvas.new(300, 300, TABLE)
  frame:text(5, 5, "Dealer", style):text(5, 130, "Player", style)
  cards.draw(frame, game.dealer[1], 5, 25, 70, 98)
  cards.draw(frame, "back", 78, 25, 70, 98)
  for i, card in ipairs(game.player) do
    local x, y = place(self, i, #game.player)
    cards.draw(frame, card, x, y, 70, 98)
  end
  return frame:image()
end

local function expert(self, game)
  local values = formula.values(game.player)
  local sum, soft = policy.total(values)
  local shown = cards.value(game.dealer[1])
  local action = policy.best(sum, soft, shown, self.options.expert_goal)
  return {
    thoughts = ("dealer %d, player %s = %s%d: %s"):format(shown, table.concat(values, "+"),
      soft and "soft " or "", sum, action),
    action = action,
  }
end

return env.define({
  name = "blackjack",
  actions = { "stand", "hit" },
  options = { hidden_fifth_card = false, expert_goal = "return" },
  rules = { intended = {}, rl4vlm = { hidden_fifth_card = true } },
  choices = { expert_goal = { ["return"] = true, win = true } },
  answer_fields = { "thoughts", "action" },
  reset = reset,
  step = step,
  draw = draw,
  expert = expert,
})
