-- gae.lua - generalised advantage estimation over environment steps (Schulman et al., 2016).
--
-- One trajectory is what one slot played in one rollout: its episodes behind one another, the last
-- perhaps unfinished. delta = r + gamma V' - V and A = delta + gamma lambda A', where nothing flows
-- over an episode's end; an unfinished end looks at `bootstrap`, the value of the state it reached.
-- A time limit ends an episode like any other end: in these games it is part of the rules.
local tensor = require "rl4vlm.tensor"

-- A column of a trajectory as a list.
local function list_of(t, name)
  local x = type(t) == "table" and t[name]
  if tensor.is_tensor(x) then
    return x:tolist()
  elseif type(x) ~= "table" then
    error(("gae: wanted `%s`, a list or a tensor, got a %s"):format(name, type(x or nil)), 3)
  end
  return x
end

local function check_number(name, x)
  if type(x) ~= "number" then
    error(("gae: %s: wanted a number, got a %s"):format(name, type(x)), 3)
  end
end

---@class rl4vlm.Trajectory
---@field rewards number[]|rl4vlm.Tensor (T)
---@field values number[]|rl4vlm.Tensor (T) V of the state before each step
---@field done boolean[] (T) true where the step ended its episode
---@field bootstrap number|nil V of the state after the last step; not asked for where that was an end

---Advantages and returns (advantage + value) of one trajectory; tensors when `rewards` is one.
---@param t rl4vlm.Trajectory
---@param gamma number
---@param lambda number
---@return number[]|rl4vlm.Tensor advantages (T)
---@return number[]|rl4vlm.Tensor returns (T)
local function gae(t, gamma, lambda)
  local rewards, values, done = list_of(t, "rewards"), list_of(t, "values"), list_of(t, "done")
  check_number("gamma", gamma)
  check_number("lambda", lambda)
  local n = #rewards
  if #values ~= n or #done ~= n then
    error(("gae: %d rewards, %d values, %d done flags: wanted equal counts"):format(n, #values, #done), 2)
  elseif n > 0 and not done[n] and not t.bootstrap then
    error("gae: the last step did not end its episode: wanted `bootstrap`, the next state's value", 2)
  end
  local advantages, returns = {}, {}
  local next_value, next_advantage = t.bootstrap, 0.0
  for i = n, 1, -1 do
    local goes_on = done[i] and 0.0 or 1.0
    local delta = rewards[i] + gamma * goes_on * (next_value or 0.0) - values[i]
    next_advantage = delta + gamma * lambda * goes_on * next_advantage
    advantages[i], returns[i] = next_advantage, next_advantage + values[i]
    next_value = values[i]
  end
  if type(t.rewards) ~= "table" then
    return tensor.new(advantages, "f32"), tensor.new(returns, "f32")
  end
  return advantages, returns
end

return gae
