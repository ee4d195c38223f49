-- conversations.lua - demonstrations from JSONL files in LLaVA's form.
--
-- A line is { "image": PATH or none, "conversations": [{ "from": "human", "value": TEXT }, { "from":
-- "gpt", "value": TEXT }, ...] }. Every turn of gpt is one demonstration, behind all turns before it.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"

local M = {}

local Conversations = {}
Conversations.__index = Conversations

local function shown(value)
  local text = json.encode(value)
  return #text > 60 and text:sub(1, 57) .. "..." or text
end

local function refuse(where, wanted, came)
  error(("%s: wanted %s, got %s"):format(where, wanted, came), 0)
end

local function check_turns(where, turns)
  local good = type(turns) == "table" and #turns >= 2 and #turns % 2 == 0
  for i, turn in ipairs(good and turns or {}) do
    good = good and type(turn) == "table" and turn.from == (i % 2 == 1 and "human" or "gpt")
      and type(turn.value) == "string"
  end
  if not good then
    refuse(where, '"conversations" in turns, from "human" and from "gpt"', shown(turns))
  end
end

-- The image's path, or nil for a conversation in text; each <image> wants its image.
local function check_image(where, item, folder)
  local marks = 0
  for _, turn in ipairs(item.conversations) do
    marks = marks + select(2, turn.value:gsub("<image>", ""))
  end
  if item.image == nil and marks == 0 then
    return nil
  elseif type(item.image) ~= "string" then
    refuse(where, 'a path under "image"', shown(item.image))
  elseif marks > 1 then
    refuse(where, "one <image>", tostring(marks))
  end
  local path = item.image:find("^/") and item.image or folder .. "/" .. item.image
  if not fs.exists(path) then
    refuse(where, "an image file", path .. ", which is not there")
  end
  return path
end

-- Where the image stands: the turn that marks it, else the front of the first.
local function image_turn(turns)
  for i, turn in ipairs(turns) do
    if turn.value:find("<image>", 1, true) then
      return i
    end
  end
  return 1
end

-- Text before and after the place of the image; at the front where none is marked.
local function halves(text)
  local first, last = text:find("\n?<image>\n?")
  if not first then
    return "", text
  end
  return text:sub(1, first - 1), text:sub(last + 1)
end

-- Adds the demonstrations of a line to `items`.
local function add_line(items, where, line, folder)
  local item, err = json.decode(line)
  if type(item) ~= "table" then
    refuse(where, "a JSON object", err or shown(item))
  end
  if item.image == json.null then
    item.image = nil
  end
  check_turns(where, item.conversations)
  local path = check_image(where, item, folder)
  local at = path and image_turn(item.conversations)
  for last = 2, #item.conversations, 2 do
    items[#items + 1] = { turns = item.conversations, last = last, path = path, image_turn = at, where = where }
  end
end

---Demonstrations of a file, each once a pass, in an order drawn anew for each pass. Image paths are
---relative to the file.
---@param path string
---@param seed integer
---@return table source
function M.open(path, seed)
  local text, err = fs.read_file(path)
  if not text then
    error(err, 0)
  end
  local folder = path:match("^(.*)/[^/]*$") or "."
  local items, number = {}, 0
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if line:find("%S") then
      add_line(items, ("%s, line %d"):format(path, number), line, folder)
    end
  end
  if #items == 0 then
    error(path .. ": no demonstrations in it", 0)
  end
  return setmetatable({ items = items, seed = seed, count = 0 }, Conversations)
end

local function load_image(item)
  local ok, picture, err = pcall(require("rl4vlm.image").load, item.path)
  if not ok or not picture then
    error(("%s: %s"):format(item.where, tostring(ok and err or picture)), 0)
  end
  return picture
end

-- The turns before the question, as messages.
local function history(item, picture)
  local messages = {}
  for i = 1, item.last - 2 do
    local turn = item.turns[i]
    local content = { { type = "text", text = turn.value } }
    if i == item.image_turn then
      local before, after = halves(turn.value)
      content = { { type = "image", image = picture }, { type = "text", text = after } }
      if before ~= "" then
        table.insert(content, 1, { type = "text", text = before })
      end
    end
    messages[i] = { role = i % 2 == 1 and "user" or "assistant", content = content }
  end
  return messages
end

function Conversations:next()
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
  local seen = item.image_turn and item.image_turn < item.last
  local picture = seen and load_image(item) or nil
  local here = picture and item.image_turn == item.last - 1
  local before, after = "", item.turns[item.last - 1].value
  if here then
    before, after = halves(after)
  end
  return { history = history(item, picture), before = before, after = after, image = here and picture or nil,
    answer = item.turns[item.last].value, where = item.where }
end

function Conversations:save()
  return { count = self.count }
end

function Conversations:restore(saved)
  self.count, self.order = saved.count, nil
end

return M
