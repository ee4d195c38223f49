-- episodes.lua - the few episodes that a run keeps for people: frame, prompt, answer, reward.
local json = require "rl4vlm.json"

local M = {}

local function step_record(run, step)
  return {
    image = run:keep_image(step.images[1]),
    prompt = step.words[1] .. "{image}" .. step.words[2],
    answer = step.text,
    action = step.action,
    status = step.parsed.status,
    reason = step.parsed.reason or json.null,
    reward = step.reward,
    value = step.value or json.null,
  }
end

---Adds an episode to episodes.jsonl.
---@param run rl4vlm.Run
---@param split "train"|"eval"
---@param update integer
---@param steps rl4vlm.Step[] of one episode
function M.add(run, split, update, steps)
  local last = steps[#steps]
  local record = {
    split = split,
    update = update,
    episode = last.episode,
    ["return"] = last.total,
    success = last.success,
    steps = {},
  }
  for i, step in ipairs(steps) do
    record.steps[i] = step_record(run, step)
  end
  run:add("episodes.jsonl", record)
end

---Up to `count` episodes that a rollout played from their first step to their last.
---@param trajectories rl4vlm.Step[][]
---@param count integer
---@return rl4vlm.Step[][]
function M.whole(trajectories, count)
  local list = {}
  for _, steps in ipairs(trajectories) do
    local episode
    for _, step in ipairs(steps) do
      if step.number == 1 then
        episode = {}
      end
      if episode then
        episode[#episode + 1] = step
        if step.done and #list < count then
          list[#list + 1], episode = episode, nil
        end
      end
    end
  end
  return list
end

return M
