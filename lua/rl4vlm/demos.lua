-- demos.lua - demonstrations to learn from: an expert's answers, made on the fly or read from a file.
--
-- A source gives samples without end: next() -> { before, after, image, answer }. What sample i is
-- depends on the seed and on i alone, so a resumed run goes on with the same ones.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"

local M = {}

local Expert = {}
Expert.__index = Expert

---Demonstrations of one task: whole episodes in which the expert's action is played, but for a share
---of random ones (the labels stay the expert's).
---@param settings rl4vlm.Settings
---@return table source
function M.expert(settings)
  local shared = rollout.shared(settings, nil, "demo", 1.0)
  return setmetatable({ settings = settings, slot = slot.new(shared), episode = 0 }, Expert)
end

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

local File = {}
File.__index = File

local function refuse(path, number, wanted, came)
  error(("%s, line %d: wanted %s, got %s"):format(path, number, wanted, came), 0)
end

local function shown(value)
  local text = json.encode(value)
  return #text > 60 and text:sub(1, 57) .. "..." or text
end

-- One line of the LLaVA conversation form: an image, a human turn that holds <image>, a gpt turn.
local function check_line(path, number, line)
  local item, err = json.decode(line)
  if type(item) ~= "table" then
    refuse(path, number, "a JSON object", err or shown(item))
  end
  local turns = item.conversations
  if type(item.image) ~= "string" then
    refuse(path, number, 'a path under "image"', shown(item.image))
  elseif type(turns) ~= "table" or #turns ~= 2 or turns[1].from ~= "human" or turns[2].from ~= "gpt"
    or type(turns[1].value) ~= "string" or type(turns[2].value) ~= "string" then
    refuse(path, number, 'two "conversations", from "human" and from "gpt"', shown(turns))
  end
  return item
end

-- Text before and after the place of the image; at the front where none is marked.
local function halves(path, number, text)
  local first, last = text:find("\n?<image>\n?")
  if not first then
    return "", text
  elseif text:find("<image>", last + 1, true) then
    refuse(path, number, "one <image>", "more")
  end
  return text:sub(1, first - 1), text:sub(last + 1)
end

---Demonstrations of a JSONL file, each once a pass, in an order drawn anew for each pass. Image
---paths are relative to the file.
---@param path string
---@param seed integer
---@return table source
function M.file(path, seed)
  local text, err = fs.read_file(path)
  if not text then
    error(err, 0)
  end
  local items, number = {}, 0
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if line:find("%S") then
      local item = check_line(path, number, line)
      local before, after = halves(path, number, item.conversations[1].value)
      items[#items + 1] = { before = before, after = after, image = item.image,
        answer = item.conversations[2].value }
    end
  end
  if #items == 0 then
    error(path .. ": no demonstrations in it", 0)
  end
  local folder = path:match("^(.*)/[^/]*$") or "."
  return setmetatable({ items = items, folder = folder, seed = seed, count = 0 }, File)
end

function File:next()
  local image = require "rl4vlm.image"
  local pass, at = self.count // #self.items, self.count % #self.items
  if not self.order or at == 0 then
    self.order = {}
    for i = 1, #self.items do
      self.order[i] = i
    end
    rng.new(self.seed, "data", pass, 1):shuffle(self.order)
  end
  self.count = self.count + 1
  local item = self.items[self.order[at + 1]]
  local path = item.image:find("^/") and item.image or self.folder .. "/" .. item.image
  local picture, err = image.load(path)
  if not picture then
    error(err, 0)
  end
  return { before = item.before, after = item.after, image = picture, answer = item.answer }
end

function File:save()
  return { count = self.count }
end

function File:restore(saved)
  self.count, self.order = saved.count, nil
end

return M
