---@meta rl4vlm.cards
---Playing cards, named by rank and suit: "TH" is the ten of hearts.
local M = {}

---Draws a card.
---@param canvas rl4vlm.Canvas
---@param card string  or "back"
---@param x number
---@param y number
---@param width integer
---@param height integer
---@return rl4vlm.Canvas
function M.draw(canvas, card, x, y, width, height) end

---1 (ace) to 13 (king).
---@param card string
---@return integer
function M.rank(card) end

---1 (ace) to 10 (ten and court cards).
---@param card string
---@return integer
function M.value(card) end

---The name of a card.
---@param rank integer  1..13
---@param suit integer  1..4: clubs, diamonds, hearts, spades
---@return string
function M.name(rank, suit) end

return M
