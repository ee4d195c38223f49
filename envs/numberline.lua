--- numberline.lua - move a number along 0..5 until it stands on the target.
---
--- The frame shows the target and the current number. A step that reaches the target gives 1, one
--- that does not come closer -1, any other 0; after ten steps the episode is cut off.

local canvas = require("rl4vlm.canvas")
local env = require("rl4vlm.env")

local MAX, STEPS = 5, 10

local function number(start, field, fallback)
  local n = start[field] == nil and fallback or start[field]
  if math.type(n) ~= "integer" or n < 0 or n > MAX then
    error(("numberline: start.%s wants an integer from 0 to %d, got %s"):format(field, MAX,
      tostring(start[field])), 0)
  end
  return n
end

local function reset(self, rng, start)
  local from, target = rng:below(MAX + 1), rng:below(MAX + 1)
  from = number(start, "position", from)
  if start.target ~= nil then
    target = number(start, "target")
    if start.position == nil and from == target and not self.options.old_numberline_reset then
      from = (target + 1) % MAX
    end
  elseif from == target and not self.options.old_numberline_reset then
    target = (from + 1) % MAX
  end
  return { position = from, target = target, origin = number(start, "origin", from) }
end

-- The older code moved a target that the episode began on, at the end of each step, when the frame
-- had been made: so it shows at the next one.
local function target_of(self, game)
  local moves = self.options.old_numberline_reset and game.steps > 0 and game.origin == game.target
  return moves and (game.target + 1) % MAX or game.target
end

local function step(self, game, action)
  game.target = target_of(self, game)
  local before = math.abs(game.position - game.target)
  local move = action == "+" and 1 or -1
  game.position = math.max(0, math.min(MAX, game.position + move))
  local after = math.abs(game.position - game.target)
  if after == 0 then
    return 1, true, false
  end
  return after >= before and -1 or 0, false, game.steps + 1 >= STEPS
end

local function draw(_, game)
  local style = { size = 36, bold = true, color = "#000000" }
  return canvas.new(300, 300, "#ffffff")
    :text(30, 60, "Target: " .. game.target, style)
    :text(30, 180, "Current: " .. game.position, style)
    :image()
end

local function expert(self, game)
  local target, position = target_of(self, game), game.position
  local action = (target > position or target == position and position == MAX) and "+" or "-"
  local sign = target > position and ">" or target < position and "<" or "="
  return {
    ["current number"] = position,
    ["target number"] = target,
    thoughts = ("%d %s %d, so %s"):format(target, sign, position, action),
    action = action,
  }
end

return env.define({
  name = "numberline",
  actions = { "-", "+" },
  options = { old_numberline_reset = false },
  rules = { intended = {}, rl4vlm = {} },
  answer_fields = { "current number", "target number", "thoughts", "action" },
  reset = reset,
  step = step,
  draw = draw,
  expert = expert,
})
