-- verbs/describe.lua - `describe`: what would run. The resolved recipe, the prompt of a first state,
-- the memory that it takes. Runs nothing.
local json = require "rl4vlm.json"
local load = require "rl4vlm.load"
local memory = require "rl4vlm.memory"
local plain = require "rl4vlm.plain"
local rollout = require "rl4vlm.rollout"
local settings_list = require "rl4vlm.settings"
local slot = require "rl4vlm.slot"
local suggest = require "rl4vlm.suggest"

local M = {}

local function one_line(value)
  if type(value) == "string" then
    return (value:gsub("\n", " "))
  end
  return json.encode(value)
end

-- Dotted leaves of the plain settings, in the order of settings.lua.
local function leaves(data)
  local lines, seen = {}, {}
  local function add(name, value)
    if not seen[name] and name ~= "prompt" then
      seen[name] = true
      lines[#lines + 1] = ("  %-28s %s"):format(name, one_line(value))
    end
  end
  local function walk(name, value)
    if type(value) == "table" and #value == 0 and next(value) then
      for _, key in ipairs(suggest.keys(value)) do
        walk(name .. "." .. key, value[key])
      end
    elseif value ~= nil then
      add(name, value)
    end
  end
  for _, field in ipairs(settings_list.list) do
    local node = data
    for part in field.name:gmatch("[^.]+") do
      node = type(node) == "table" and node[part] or nil
    end
    walk(field.name, node)
  end
  return table.concat(lines, "\n")
end

local function plan_text(plan)
  local lines = {}
  local function add(name, bytes)
    lines[#lines + 1] = ("  %-28s %10.1f MiB"):format(name, bytes / 2 ^ 20)
  end
  for _, name in ipairs(memory.names) do
    if (plan[name] or 0) > 0 then
      add(name, plan[name])
    end
  end
  add("total", plan.total)
  add(plan.activations < plan.activations_kept and "activations without recompute" or "activations with recompute",
    plan.activations < plan.activations_kept and plan.activations_kept or plan.activations_recomputed)
  return table.concat(lines, "\n")
end

---@param call rl4vlm.Call
function M.run(call)
  call:only { "model", "adapter", "seed", "env-steps", "episodes", "slots", "threads", "device",
    "temperature", "dtype", "base", "set", "data", "samples" }
  local settings = call:settings(call.recipe)
  local data = plain.of(settings)
  local s = slot.new(rollout.shared(settings, nil, "train", settings.sampling.temperature))
  s:begin(1)
  local before, after = s:words()
  local plan = load.plan(settings)
  call:result({ verb = "describe", recipe = data, prompt = { before, after }, memory = plan }, function()
    return ("recipe %s for %s\n%s\n\nprompt of a first state (the frame stands at [image])\n%s[image]%s\n"
      .. "\nmemory for training\n%s\n"):format(settings.name, settings.model, leaves(data), before, after,
      plan_text(plan))
  end)
end

return M
