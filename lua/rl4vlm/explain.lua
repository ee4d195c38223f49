-- explain.lua - what a person is told of an error: a failure of ours keeps its traceback; what a user
-- can mend needs neither that nor the line of ours that met it.

local RUNTIME = { "^attempt to ", "^bad argument ", "^calling '" }

local function is_failure(said)
  for _, pattern in ipairs(RUNTIME) do
    if said:find(pattern) then
      return true
    end
  end
  return false
end

---A handler for xpcall.
---@param message any
---@return any
local function explain(message)
  local place, said
  if type(message) == "string" and not message:find("\nstack traceback:", 1, true) then
    place, said = message:match("^([^\n]-%.lua):%d+: (.*)$")
  end
  if not said then
    return message
  elseif is_failure(said) or not place:find("rl4vlm/[%w_/]+%.lua$") then
    return debug.traceback(message, 2) -- a recipe's own lines are worth naming
  end
  return said
end

return explain
