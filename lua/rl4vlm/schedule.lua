-- schedule.lua - learning rates over a run: functions of the fraction of it that is done.
local M = {}

local Schedule = { __name = "rl4vlm.schedule" }
Schedule.__index = Schedule

local curves = {
  constant = function(from)
    return from
  end,
  linear = function(from, to, x)
    return from + (to - from) * x
  end,
  cosine = function(from, to, x)
    return to + (from - to) * (1 + math.cos(math.pi * x)) / 2
  end,
}

local function rate(x, name)
  if type(x) ~= "number" or not (x >= 0 and x < math.huge) then
    error(("%s: wanted a rate of 0 or more, got %s"):format(name, tostring(x)), 3)
  end
  return x + 0.0
end

local function make(kind, from, to)
  return setmetatable({ kind = kind, from = from, to = to }, Schedule)
end

---The same rate all the time.
---@param lr number
function M.constant(lr)
  return make("constant", rate(lr, "constant"), lr)
end

---From one rate to another, straight.
---@param from number
---@param to? number default 0
function M.linear(from, to)
  return make("linear", rate(from, "linear"), rate(to or 0, "linear"))
end

---From one rate to another along half a cosine; it ends there and does not climb again.
---@param from number
---@param to? number default 0
function M.cosine(from, to)
  return make("cosine", rate(from, "cosine"), rate(to or 0, "cosine"))
end

---The rate at a fraction of the run; below `warmup` it rises linearly from zero.
---@param x number fraction done, 0 to 1 (clamped)
---@param warmup? number fraction of the run
---@return number
function Schedule:at(x, warmup)
  x = math.min(math.max(x, 0), 1)
  warmup = warmup or 0
  if x < warmup then
    return self.from * x / warmup
  end
  local span = 1 - warmup
  return curves[self.kind](self.from, self.to, span > 0 and (x - warmup) / span or 1)
end

function Schedule:__tostring()
  if self.kind == "constant" then
    return ("%.14g"):format(self.from)
  end
  return ("%s(%.14g, %.14g)"):format(self.kind, self.from, self.to)
end

---Reads a number or the text that `tostring` gives: "cosine(1e-5, 1e-9)".
---@param text string|number
---@return table|nil schedule nil when the text is none
function M.parse(text)
  local lr = tonumber(text)
  if lr then
    return lr >= 0 and lr < math.huge and M.constant(lr) or nil
  end
  local kind, list = tostring(text):match("^%s*(%a+)%s*%((.*)%)%s*$")
  if not curves[kind] then
    return nil
  end
  local rates = {}
  for item in list:gmatch("[^,]+") do
    local x = tonumber(item)
    if not (x and x >= 0 and x < math.huge) then
      return nil
    end
    rates[#rates + 1] = x
  end
  return #rates >= 1 and #rates <= 2 and M[kind](rates[1], rates[2]) or nil
end

---True for a schedule.
function M.is(value)
  return getmetatable(value) == Schedule
end

return M
