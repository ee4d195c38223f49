--- formula.lua - card games in which a formula is written token by token (EZPoints, Points24).
---
--- Numbers may be used once for each card that bears them; "=" evaluates and ends the episode.

local arith = require("rl4vlm.arith")
local canvas = require("rl4vlm.canvas")
local cards = require("rl4vlm.cards")
local env = require("rl4vlm.env")

local M = {}

local WHITE, TABLE = "#ffffff", "#35654d"

---Values of cards, in order: an ace is 1, court cards are 10.
---@param hand string[]
---@return integer[]
function M.values(hand)
  local list = {}
  for i, card in ipairs(hand) do
    list[i] = cards.value(card)
  end
  return list
end

---The cards that a caller asked for, checked; nil when it asked for none.
---@param name string  for messages
---@param field string
---@param hand any
---@param least integer
---@param most integer
---@return string[]?
function M.check_hand(name, field, hand, least, most)
  if hand == nil then
    return nil
  end
  if type(hand) ~= "table" or #hand < least or #hand > most then
    local count = least == most and tostring(least) or ("%d to %d"):format(least, most)
    error(("%s: start.%s wants a list of %s cards"):format(name, field, count), 0)
  end
  for _, card in ipairs(hand) do
    local ok, message = pcall(cards.rank, card)
    if not ok then
      error(("%s: start.%s: %s"):format(name, field, message:gsub("^.-%(", "", 1):gsub("%)$", "")), 0)
    end
  end
  return hand
end

-- How often each number may still be used.
local function available(game)
  local count = {}
  for _, value in ipairs(M.values(game.cards)) do
    count[tostring(value)] = (count[tostring(value)] or 0) + 1
  end
  for _, token in ipairs(game.formula) do
    if tonumber(token) then
      count[token] = (count[token] or 0) - 1
    end
  end
  return count
end

-- The formula as a prompt shows it: without gaps, but for two numbers side by side (which only the
-- reference's rules join).
local function text_of(self, formula)
  local text = table.concat(formula)
  if self.options.python_eval then
    return text
  end
  local spaced = {}
  for i, token in ipairs(formula) do
    local gap = i > 1 and tonumber(token) and tonumber(formula[i - 1])
    spaced[i] = gap and " " .. token or token
  end
  return table.concat(spaced)
end

local function check_formula(spec, set, formula)
  if type(formula) ~= "table" then
    error(spec.name .. ": start.formula wants a list of tokens", 0)
  end
  for _, token in ipairs(formula) do
    if token == "=" or (token ~= " " and not set[token]) then
      error(("%s: start.formula: '%s' is no token; they are %s"):format(spec.name,
        tostring(token), table.concat(spec.actions, " ")), 0)
    end
  end
  return formula
end

local function reset_of(spec)
  return function(self, rng, start)
    local hand = M.check_hand(spec.name, "cards", start.cards, spec.count, spec.count)
    local formula = check_formula(spec, self.action_set, start.formula or {})
    local game = { cards = hand or spec.deal(rng), formula = formula, steps = #formula }
    for number, left in pairs(available(game)) do
      if left < 0 then
        error(("%s: start.formula uses %s more often than the cards %s have it"):format(spec.name,
          number, table.concat(game.cards, " ")), 0)
      end
    end
    return game
  end
end

local function evaluate(self, spec, game)
  local left = 0
  for _, count in pairs(available(game)) do
    left = left + count
  end
  local rules = self.options.python_eval and "python" or "exact"
  local text = table.concat(game.formula, rules == "exact" and " " or "")
  return left == 0 and arith.equals(text, spec.target, rules) and 10 or -1
end

-- Steps taken so far as the limit counts them: the reference counts tokens, of which each of its
-- steps adds one.
local function taken(self, game)
  return self.options.blank_tokens and #game.formula or game.steps
end

local function step_of(spec)
  return function(self, game, action)
    if taken(self, game) > spec.limit then
      return -1, false, true
    end
    if action == "=" then
      return evaluate(self, spec, game), true, false
    end
    if tonumber(action) and (available(game)[action] or 0) < 1 then
      if self.options.blank_tokens then
        game.formula[#game.formula + 1] = " "
      end
      return -1, false, false
    end
    game.formula[#game.formula + 1] = action
    return 0, false, false
  end
end

-- Splits tokens into lines no wider than `width`.
local function wrap(tokens, size, width)
  local lines, line = {}, ""
  for _, token in ipairs(tokens) do
    local longer = line == "" and token or line .. " " .. token
    if canvas.measure(longer, { size = size }) > width and line ~= "" then
      lines[#lines + 1], line = line, token
    else
      line = longer
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

local function draw_of(spec)
  local place = spec.layout
  return function(self, game)
    local frame = canvas.new(300, 300, TABLE)
    for i, card in ipairs(game.cards) do
      cards.draw(frame, card, place.x[i], place.y, place.w, place.h)
    end
    local text = table.concat(game.formula, " ")
    local style = { size = place.size, color = WHITE }
    if place.label_y == place.text_y then
      return frame:text(10, place.text_y, "Formula: " .. text, style):image()
    end
    if not self.options.clip_formula then
      text = wrap(game.formula, place.size, 280)
    end
    frame:text(10, place.label_y, "Formula:", style)
    return frame:text(10, place.text_y, text, style):image()
  end
end

local known, known_count = {}, 0 -- continuations found so far, by position
local NONE, KEEP = {}, 100000

-- The tokens that complete the formula to the target, "=" not included; nil when none do.
local function complete(self, spec, game)
  local prefix, numbers, left = {}, {}, available(game)
  for _, token in ipairs(game.formula) do
    if token ~= " " then
      prefix[#prefix + 1] = token
    end
  end
  for value = 1, 10 do
    for _ = 1, left[tostring(value)] or 0 do
      numbers[#numbers + 1] = value
    end
  end
  local room = spec.limit - taken(self, game)
  local rules = self.options.python_eval and "python" or "exact"
  local key = table.concat({ spec.name, rules, room, table.concat(numbers, ","),
    table.concat(prefix) }, " ")
  if known[key] == nil then
    if known_count >= KEEP then
      known, known_count = {}, 0
    end
    known_count = known_count + 1
    known[key] = room >= 0 and arith.solve({ numbers = numbers, prefix = prefix, rules = rules,
      target = spec.target, operators = spec.operators, max_tokens = room }) or NONE
  end
  return known[key] ~= NONE and known[key] or nil
end

local function expert_of(spec)
  return function(self, game)
    local values, rest = M.values(game.cards), complete(self, spec, game)
    local sorted = table.move(values, 1, #values, 1, {})
    table.sort(sorted)
    local formula = text_of(self, game.formula)
    return {
      cards = values,
      formula = formula,
      thoughts = ("%s: %s|%s="):format(table.concat(sorted, " "), formula,
        rest and table.concat(rest) or ""),
      action = rest and rest[1] or "=",
    }
  end
end

---Makes such a game. `spec`: `name`, `actions`, `operators` (that the expert uses), `target`,
---`count` of cards, `limit` (tokens beyond which a step ends the episode), `deal(rng)` -> cards,
---`layout` = {x, y, w, h, size, label_y, text_y}.
---@param spec table
---@return { name: string, new: fun(options?: table): rl4vlm.Env }
function M.define(spec)
  return env.define({
    name = spec.name,
    actions = spec.actions,
    options = {
      blank_tokens = false, clip_formula = false, python_eval = false, stale_prompt = false,
    },
    rules = {
      intended = {},
      rl4vlm = { blank_tokens = true, clip_formula = true, python_eval = true, stale_prompt = true },
    },
    answer_fields = { "cards", "formula", "thoughts", "action" },
    reset = reset_of(spec),
    step = step_of(spec),
    draw = draw_of(spec),
    expert = expert_of(spec),
    legal = function(_, game, action)
      return not tonumber(action) or (available(game)[action] or 0) > 0
    end,
    observe = function(self, game)
      return { formula = self.memory.stale or text_of(self, game.formula) }
    end,
    one_slot = function(self)
      return self.options.stale_prompt
    end,
    begin = function(self, before)
      self.memory.stale = self.options.stale_prompt and before
        and text_of(self, before.formula) or nil
    end,
    leave = function(self)
      self.memory.stale = nil
    end,
  })
end

return M
