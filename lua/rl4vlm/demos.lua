-- demos.lua - demonstrations to learn from: an expert's answers, made on the fly or read from a file.
--
-- A source gives samples without end: next() -> { before, after, image, answer }. What sample i is
-- depends on the seed and on i alone, so a resumed run goes on with the same ones.
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"

local M = {}

local Expert = {}
Expert.__index = Expert

-- The state to show next: the expert gave an answer for it.
function Expert:advance()
  local s = self.slot
  if s.done then
    self.episode = self.episode + 1
    s:begin(self.episode)
  end
end

function Expert:next()
  self:advance()
  local s, settings = self.slot, self.settings
  local fields = s.env:expert()
  local before, after = s:words()
  local sample = {
    before = before,
    after = after,
    image = s.obs.image,
    answer = settings.answer:render(fields),
    task = settings.env.name,
    fields = fields,
  }
  local stream = rng.new(settings.seed, "data", slot.stream("demo", s.episode), s.step + 1)
  local action = fields.action
  if stream:uniform() < settings.sft.random_moves then
    action = stream:choice(s.env:actions())
  end
  s:act(action)
  return sample
end

---Demonstrations of one task: whole episodes in which the expert's action is played, but for a share
---of random ones (the labels stay the expert's).
---@param settings rl4vlm.Settings
---@return table source
function M.expert(settings)
  local shared = rollout.shared(settings, nil, "demo", 1.0)
  local function source()
    return setmetatable({ settings = settings, slot = slot.new(shared), episode = 0 }, Expert)
  end
  source():next() -- an environment without an expert, or one that lacks a field, is told before a run begins
  return source()
end

---Where the source stands, as plain data.
function Expert:save()
  return { episode = self.episode, slot = self.slot:save() }
end

function Expert:restore(saved)
  self.episode = saved.episode
  if not self.slot:restore(saved.slot) then
    error("sft: a demonstration's episode does not replay: the environment has changed", 0)
  end
end

local Mixture = {}
Mixture.__index = Mixture

---Several tasks: each sample's task is drawn by weight.
---@param parts { source: table, weight: number }[]
---@param seed integer
---@return table source
function M.mixture(parts, seed)
  local total = 0.0
  for _, part in ipairs(parts) do
    total = total + part.weight
  end
  return setmetatable({ parts = parts, total = total, seed = seed, count = 0 }, Mixture)
end

function Mixture:next()
  local x = rng.new(self.seed, "data", self.count, 0):uniform() * self.total
  self.count = self.count + 1
  for _, part in ipairs(self.parts) do
    x = x - part.weight
    if x < 0 then
      return part.source:next()
    end
  end
  return self.parts[#self.parts].source:next()
end

function Mixture:save()
  local parts = {}
  for i, part in ipairs(self.parts) do
    parts[i] = part.source:save()
  end
  return { count = self.count, parts = json.list(parts) }
end

function Mixture:restore(saved)
  self.count = saved.count
  for i, part in ipairs(self.parts) do
    part.source:restore(saved.parts[i])
  end
end

return M
