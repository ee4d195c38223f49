---@meta rl4vlm.cards
---Playing cards. A card is rank (`A 2..9 T J Q K`) and suit (`C D H S`): "TH".
local M = {}

---Draws a card, or "back", of w x h pixels with its top left at (x, y).
---@param canvas rl4vlm.Canvas
---@param card string
---@param x integer
---@param y integer
---@param w integer
---@param h integer
---@return rl4vlm.Canvas canvas
function M.draw(canvas, card, x, y, w, h) end

---@param card string
---@return integer rank  1 (ace) to 13 (king)
function M.rank(card) end

---@param card string
---@return integer value  1 (ace) to 10 (ten and court cards)
function M.value(card) end

---@param rank integer  1 to 13
---@param suit integer  1 to 4: clubs, diamonds, hearts, spades
---@return string card
function M.name(rank, suit) end

return M
