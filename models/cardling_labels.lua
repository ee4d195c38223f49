-- cardling_labels.lua - which number each patch of a frame shows: labels for the rows of the image.
--
-- cardling sees a frame as 6 x 6 patches, 50 pixels of the frame wide each, in raster order. The patch that holds the
-- centre of an index glyph (or digit) is labelled with the number it shows; every other one is blank.
local cards = require "rl4vlm.cards"

local M = { ROWS = 36 }

local CELL, ACROSS = 50, 6

local function put(labels, x, y, value)
  if x >= 0 and x < 300 and y >= 0 and y < 300 then
    labels[y // CELL * ACROSS + x // CELL + 1] = value
  end
end

-- The index of a card stands in the middle of its upper part.
local function put_card(labels, x, y, w, h, card)
  put(labels, x + w // 2, y + h * 3 // 10, cards.value(card))
end

local layouts = {}

function layouts.points24(labels, state)
  for i, x in ipairs { 5, 78, 152, 226 } do
    put_card(labels, x, 103, 67, 93, state.cards[i])
  end
end

function layouts.ezpoints(labels, state)
  for i, x in ipairs { 5, 153 } do
    put_card(labels, x, 55, 135, 189, state.cards[i])
  end
end

function layouts.blackjack(labels, state)
  put_card(labels, 5, 25, 70, 98, state.dealer[1])
  for i, card in ipairs(state.player) do
    if i < 5 then
      put_card(labels, 5 + (i - 1) * 74, 150, 70, 98, card)
    end
  end
end

function layouts.numberline(labels, state)
  put(labels, 207, 82, state.target)
  put(labels, 227, 202, state.position)
end

---Numbers by patch; patches that show none are absent.
---@param task string
---@param state table  info.state of the environment
---@return table<integer, integer>
function M.of(task, state)
  local labels = {}
  layouts[task](labels, state)
  return labels
end

return M
