-- verbs/play.lua - `play`: watch episodes in the terminal. `--model human` lets a person play,
-- `--model expert` shows the environment's own expert.
local load = require "rl4vlm.load"
local host = require "rl4vlm.host"
local picture = require "rl4vlm.picture"
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"

local M = {}

-- A stand-in for a model: prompts have no tokens, answers are text.
local function stand_in()
  return {
    eos = {},
    tokenizer = {
      token_bytes = function(_, id)
        return string.char(id)
      end,
    },
    chat = function()
      return "", {}
    end,
    prompt = function()
      return {}
    end,
  }
end

local function ask(s)
  while true do
    io.stdout:write("your action (", table.concat(s.env:actions(), " "), "): ")
    io.stdout:flush()
    local line = io.read("l")
    if not line or host.interrupted() then
      return nil
    end
    local word = line:match("^%s*(.-)%s*$")
    for _, action in ipairs(s.env:all_actions()) do
      if action == word then
        return ('{"action": "%s"}'):format(word)
      end
    end
    io.stdout:write(("'%s' is none of the actions\n"):format(word))
  end
end

local players = {
  human = ask,
  expert = function(s)
    return s.shared.settings.answer:render(s.env:expert())
  end,
}

-- One answer of whoever plays.
local function reply(s, player, generator)
  if player then
    local text = player(s)
    return text and { answer = { text:byte(1, -1) }, logprobs = {} }
  end
  generator:submit(s:request(1))
  repeat
    local done = generator:step()
    if done[1] then
      return done[1]
    end
  until host.interrupted()
end

local function show_state(s, kind)
  local before, after = s:words()
  io.stdout:write(("\n-- episode %d, step %d --\n"):format(s.episode, s.step + 1),
    s.step == 0 and before .. "\n" or "", kind and picture.text(s.obs.image, kind) or "[frame]\n", after,
    "\n")
end

local function show_step(step)
  local note = step.parsed.status ~= "ok" and (" (%s: %s)"):format(step.parsed.status, step.parsed.reason)
    or ""
  io.stdout:write(("answer  %s\naction  %s%s\nreward  %g\n"):format(step.text, step.action, note,
    step.raw_reward))
  if step.done then
    io.stdout:write(("return  %g: %s\n"):format(step.total, step.success and "success" or "failure"))
  end
end

---@param call rl4vlm.Call
function M.run(call)
  call:only { "model", "adapter", "seed", "episodes", "threads", "device", "temperature", "dtype", "base", "set" }
  local settings = call:settings(call.recipe)
  local player = players[settings.model]
  local model = player and stand_in()
    or load.model(settings, settings.model, { train = false, slots = 1, value_head = false })
  local s = slot.new(rollout.shared(settings, model, "eval", settings.eval.temperature))
  local generator = not player and model:generator { slots = 1 }
  local kind = host.isatty("stdout") and (picture.from_environment() or "blocks")
  local total, wins, count = 0.0, 0, call.values.episodes or 1
  for episode = 1, count do
    s:begin(episode)
    repeat
      show_state(s, kind)
      local answer = reply(s, player, generator)
      if not answer then
        error(host.interrupted() and "interrupted!" or "stopped: standard input has ended", 0)
      end
      show_step(s:apply(answer))
    until s.done
    total, wins = total + s.total, wins + (s.total > 0 and 1 or 0)
  end
  call:result({ verb = "play", episodes = count, success_rate = wins / count,
    return_mean = total / count }, function()
    return ""
  end)
end

return M
