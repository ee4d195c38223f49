-- slot.lua - one place at the table: an environment, its current state, its next prompt.
--
-- Training, evaluation and `play` all go through here. Random numbers hang on (seed, split, episode,
-- step) and on nothing else, so what an episode is does not depend on the slot that plays it.
local kinds = require "rl4vlm.kinds"
local place = require "rl4vlm.place"
local rng = require "rl4vlm.rng"
local split = require "rl4vlm.split"

local M = {}

-- Splits lie in ranges of episode numbers of their own, so their streams never meet.
local SPLITS = { train = 0, eval = 1, demo = 2, user = 3 }

---The number that names an episode's random streams.
---@param split_name "train"|"eval"|"demo"|"user"
---@param episode integer from 1
---@return integer
function M.stream(split_name, episode)
  return SPLITS[split_name] << 40 | episode
end

---@class rl4vlm.Table What all slots share.
---@field settings rl4vlm.Settings
---@field model table
---@field split "train"|"eval"|"demo"|"user"
---@field new_env fun(): table
---@field temperature number

---@class rl4vlm.Slot
---@field episode integer number of the episode, 0 before the first
---@field step integer steps taken in it
---@field done boolean true between episodes
local Slot = {}
Slot.__index = Slot

---@param shared rl4vlm.Table
---@return rl4vlm.Slot
function M.new(shared)
  return setmetatable({ shared = shared, env = shared.new_env(), done = true, episode = 0, step = 0 },
    Slot)
end

-- Takes an observation as the current state; its prompt is made when asked for.
function Slot:see(obs, info)
  self.obs, self.info, self.ids, self.said = obs, info, nil, nil
end

---Starts an episode.
---@param episode integer
function Slot:begin(episode)
  local shared = self.shared
  self.episode, self.step, self.done = episode, 0, false
  self.actions, self.total = {}, 0.0
  self:see(self.env:reset { seed = shared.settings.seed, split = shared.split, episode = episode })
end

---The prompt of the current state, for people.
---@return string before, string after what stands before and after the image
function Slot:words()
  if not self.said then
    local settings = self.shared.settings
    local known = { actions = self.env:all_actions(), format = settings.answer:template() }
    for key, value in pairs(self.obs) do
      if key ~= "image" then
        known[key] = value
      end
    end
    self.said = { settings.prompt:halves(known) }
  end
  return self.said[1], self.said[2]
end

---Token ids and images of the current state's prompt.
---@return integer[] ids, table images
function Slot:prompt()
  if not self.ids then
    local model = self.shared.model
    local before, after = self:words()
    local content = {}
    if before ~= "" then
      content[1] = { type = "text", text = before }
    end
    content[#content + 1] = { type = "image", image = self.obs.image }
    content[#content + 1] = { type = "text", text = after }
    local text, images = model:chat { { role = "user", content = content } }
    self.ids, self.images = model:prompt(text, images), images
  end
  return self.ids, self.images
end

---What the generator is asked for.
---@param key any comes back with the reply
function Slot:request(key)
  local shared, s = self.shared, self.shared.settings.sampling
  local ids, images = self:prompt()
  return {
    key = key,
    ids = ids,
    images = images,
    max_new_tokens = s.max_new_tokens,
    temperature = shared.temperature,
    top_k = s.top_k,
    top_p = s.top_p,
    min_p = s.min_p,
    seed = shared.settings.seed,
    episode = M.stream(shared.split, self.episode),
    step = self.step + 1,
  }
end

-- f failed: a random action from the episode's own stream.
function Slot:fallback()
  local settings = self.shared.settings
  local list = settings.fallback == "all" and self.env:all_actions() or self.env:actions()
  local stream = M.stream(self.shared.split, self.episode)
  return rng.new(settings.seed, "fallback", stream, self.step + 1):choice(list)
end

-- The environment's step, and what the episode has come to.
function Slot:act(action)
  local obs, reward, terminated, truncated, info = self.env:step(action)
  self.step = self.step + 1
  self.actions[self.step] = action
  self.total = self.total + reward
  self.done = terminated or truncated
  self:see(obs, info)
  return reward
end

---@class rl4vlm.Step
---@field ids integer[] the prompt's tokens
---@field images table
---@field answer integer[] the sampled tokens
---@field logprobs number[]
---@field value number
---@field first integer first token of the action part
---@field text string
---@field parsed rl4vlm.Parsed
---@field action string what was executed
---@field reward number what the learner sees (after shaping)
---@field done boolean
---@field right integer, asked integer values that the picture decides: stated right, asked

---Takes the model's answer: reads it, plays it, and gives the record of the step.
---@param reply table from the generator
---@return rl4vlm.Step
function Slot:apply(reply)
  local shared, settings = self.shared, self.shared.settings
  local ids, images = self:prompt()
  local text, ends = split.text(shared.model.tokenizer, reply.answer, shared.silent)
  local parsed = settings.answer:read(text, self.env:all_actions())
  local right, asked = settings.answer:readings(parsed.fields, self:truth())
  local step = {
    ids = ids,
    images = images,
    answer = reply.answer,
    logprobs = reply.logprobs,
    value = reply.value,
    finish = reply.finish,
    first = split.first_action_token(ends, parsed.key_at),
    text = text,
    parsed = parsed,
    right = right,
    asked = asked,
    words = self.said,
    action = parsed.action or self:fallback(),
  }
  local reward = self:act(step.action)
  step.raw_reward, step.done = reward, self.done
  step.reward = self:shape(reward, step)
  step.episode, step.number = self.episode, self.step
  if self.done then
    step.total, step.success = self.total, self.total > 0
  end
  return step
end

-- What an expert would state about the current picture; empty where the recipe measures no reading.
function Slot:truth()
  local answer = self.shared.settings.answer
  if not answer.cot or next(answer.reads) == nil then
    return {}
  end
  return self.env:expert() or {}
end

function Slot:shape(reward, step)
  local shape = self.shared.settings.reward
  if not shape then
    return reward
  end
  local shaped = shape(reward, {
    action = step.action,
    parsed = step.parsed,
    text = step.text,
    done = step.done,
    step = self.step,
    state = self.info.state,
  })
  if not kinds.finite(shaped) then
    error(("recipe %s: %s: wanted a finite number, got %s"):format(self.shared.settings.name,
      place.named("reward", shape), kinds.show(shaped)), 0)
  end
  return shaped
end

---What a checkpoint keeps of the slot: the episode and the actions that lead to its state.
---@return table
function Slot:save()
  return {
    episode = self.episode,
    step = self.step,
    done = self.done,
    actions = self.done and {} or self.actions,
    total = self.total,
    state = not self.done and self.env.state and self.env:state() or nil,
  }
end

---Goes back to a saved slot: by the environment's own `restore`, else by replaying the actions.
---@param saved table
---@return boolean same false where the replay went another way: the episode is to be dropped
function Slot:restore(saved)
  if saved.done then
    self.episode, self.done = saved.episode, true
    return true
  end
  self:begin(saved.episode)
  if saved.state and self.env.restore then
    self:see(self.env:restore(saved.state))
    self.step, self.actions, self.total = saved.step, saved.actions, saved.total
    return true
  end
  for _, action in ipairs(saved.actions) do
    if self.done then
      return false
    end
    self:act(action)
  end
  return not self.done and self.total == saved.total
end

return M
