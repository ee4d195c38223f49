-- init.lua - what a recipe uses: `local rl = require "rl4vlm"`.
local answer = require "rl4vlm.answer"
local prompt = require "rl4vlm.prompt"
local recipe = require "rl4vlm.recipe"
local schedule = require "rl4vlm.schedule"

local M = {
  recipe = recipe.new,
  prompt = prompt.new,
  json_answer = answer.json,
  constant = schedule.constant,
  linear = schedule.linear,
  cosine = schedule.cosine,
}

-- A constructor of an algorithm's settings: a table that knows its name.
local function algorithm(name)
  return function(given)
    local settings = {}
    for key, value in pairs(given or {}) do
      settings[key] = value
    end
    settings.name = name
    return settings
  end
end

M.ppo = algorithm("ppo")

-- Parts that need tensors load when asked for: a recipe that is only looked at needs none.
local lazy = { gae = "rl4vlm.gae", sft = "rl4vlm.sft", eval = "rl4vlm.eval" }

return setmetatable(M, {
  __index = function(_, key)
    if lazy[key] then
      return require(lazy[key])
    end
  end,
})
