-- requests.lua - request files of the tools: one JSON object a line, read one at a time.
--
-- Every error names FILE:LINE and the field. A file is read twice: once to check every line and to learn
-- the sizes, once to run; no more than a few lines are held.
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local placeholders = require "rl4vlm.placeholders"
local suggest = require "rl4vlm.suggest"

local M = {}

---@class rl4vlm.Request
---@field id any               as in the file; the line's number where it is absent
---@field where string         FILE:LINE
---@field offset integer       of the line in the file
---@field ids integer[]        the prompt, placeholders expanded
---@field images rl4vlm.Image[]
---@field answer integer[]?
---@field weights number[]?

local known = { "id", "prompt", "messages", "prompt_ids", "images", "answer", "answer_ids", "weights" }
local known_set = {}
for _, name in ipairs(known) do
  known_set[name] = true
end

local function fail(where, field, wanted, came)
  error(("%s: %s: wanted %s, came %s"):format(where, field, wanted, came), 0)
end

-- Calls f; an error names the place in the file instead of ours.
local function at(where, f, ...)
  local ok, value, second = pcall(f, ...)
  if not ok then
    error(("%s: %s"):format(where, (tostring(value):gsub("^[^\n]-%.lua:%d+: ", ""))), 0)
  end
  return value, second
end

local function kind(value)
  if type(value) == "table" then
    local text = #value == 0 and next(value) and json.encode(value)
    return text and (#text > 60 and text:sub(1, 57) .. "..." or text) or #value > 0 and "a list" or "an empty list"
  end
  return value == nil and "nothing" or value == json.null and "null" or type(value) == "string" and "text"
    or tostring(value)
end

-- Exactly one of the named fields.
local function only(line, where, names, required)
  local found
  for _, name in ipairs(names) do
    if line[name] ~= nil and line[name] ~= json.null then
      if found then
        fail(where, name, "only one of " .. table.concat(names, ", "), found .. " as well")
      end
      found = name
    end
  end
  if required and not found then
    fail(where, names[1], "one of " .. table.concat(names, ", "), "none")
  end
  return found
end

local function list(line, where, field, check, wanted)
  local value = line[field]
  if type(value) ~= "table" or next(value) ~= nil and #value == 0 then
    fail(where, field, "a list", kind(value))
  end
  for i, item in ipairs(value) do
    if not check(item) then
      fail(where, ("%s[%d]"):format(field, i), wanted, kind(item))
    end
  end
  return value
end

local function is_text(x)
  return type(x) == "string"
end

-- A check for ids of a model's vocabulary, and others that stand for images.
local function id_check(vocab, ...)
  local others = { ... }
  return function(x)
    return math.type(x) == "integer" and (x >= 0 and x < vocab or x == others[1] or x == others[2])
  end, ("an id from 0 to %d"):format(vocab - 1)
end

-- The prompt of messages; images that stand in them go before those of the list.
local function from_messages(model, line, where, paths)
  local messages = list(line, where, "messages", function(x)
    return type(x) == "table" and is_text(x.role) and (is_text(x.content) or type(x.content) == "table")
  end, "an object with role and content")
  for i, message in ipairs(messages) do
    for k, part in ipairs(is_text(message.content) and {} or message.content) do
      local field = ("messages[%d].content[%d]"):format(i, k)
      if type(part) ~= "table" or not (part.type == "image" or part.type == "text" and is_text(part.text)) then
        fail(where, field, 'an object with type "image", or type "text" and text', kind(part))
      end
    end
  end
  local text, found = at(where, model.chat, model, messages)
  local all, next_path = {}, 1
  for i, item in ipairs(found) do
    if is_text(item) then
      all[i] = item
    else
      all[i] = paths[next_path]
      next_path = next_path + 1
      if not all[i] then
        fail(where, "images", "a path for every image in messages", tostring(#paths))
      end
    end
  end
  if next_path <= #paths then
    fail(where, "images", ("%d paths, as messages have images"):format(next_path - 1), tostring(#paths))
  end
  return text, all
end

-- The images of a line, read.
local function load_images(where, paths, exif)
  local images = {}
  for i, path in ipairs(paths) do
    if not fs.exists(path) then
      fail(where, ("images[%d]"):format(i), "an image file", path .. ", which is not there")
    end
    local ok, value, err = pcall(image.load, path, { exif = exif })
    if not ok or not value then
      error(("%s: images[%d]: %s"):format(where, i, tostring(ok and err or value)), 0)
    end
    images[i] = value
  end
  return images
end

-- The tokens of the images; those of the prompt must be as many.
local function check_images(model, where, ids, images)
  local rows, wanted = placeholders.rows(model, ids), 0
  for i, picture in ipairs(images) do
    wanted = wanted + at(("%s: images[%d]"):format(where, i), model.rows, model, picture)
  end
  if rows ~= wanted then
    fail(where, "images", ("%d image tokens in the prompt, by the %d images"):format(wanted, #images), tostring(rows))
  end
  return rows
end

local function read_prompt(model, line, where, file)
  local paths = {}
  if line.images ~= nil and line.images ~= json.null then
    paths = list(line, where, "images", is_text, "a path")
  end
  local field = only(line, where, { "prompt_ids", "prompt", "messages" }, true)
  local ids, text
  if field == "prompt_ids" then
    ids = list(line, where, field, id_check(model.arch.text.vocab, model.image_token, model.family.sentinel))
    if #ids == 0 then
      fail(where, field, "at least one id", "none")
    end
  else
    text = line.prompt
    if field == "messages" then
      text, paths = from_messages(model, line, where, paths)
    elseif not is_text(text) then
      fail(where, field, "text", kind(text))
    end
  end
  for i, path in ipairs(paths) do
    paths[i] = path:match("^/") and path or file.folder .. path
  end
  local images = load_images(where, paths, file.exif)
  ids = ids and model.family.sentinel and placeholders.write_out(model, ids, images) or ids
  if text then
    ids = at(where, model.prompt, model, text, images)
  end
  return ids, images, check_images(model, where, ids, images)
end

local function read_answer(model, line, where, required)
  local field = only(line, where, { "answer_ids", "answer" }, required)
  if not field then
    return nil
  end
  local ids
  if field == "answer_ids" then
    ids = list(line, where, field, id_check(model.arch.text.vocab))
  else
    if not is_text(line.answer) then
      fail(where, field, "text", kind(line.answer))
    end
    ids = model.tokenizer:encode(line.answer, { special = false })
    ids[#ids + 1] = model.eos[1]
  end
  return ids
end

local function read_weights(line, where, answer)
  if line.weights == nil or line.weights == json.null then
    return nil
  end
  local weights = list(line, where, "weights", function(x)
    return type(x) == "number" and x > -math.huge and x < math.huge
  end, "a finite number")
  if #weights ~= #answer then
    fail(where, "weights", ("%d numbers, one an answer token"):format(#answer), tostring(#weights))
  end
  return weights
end

local function parse(file, text, where)
  local model = file.model
  local _, wrong = utf8.len(text)
  if wrong then
    fail(where, "line", "UTF-8 text", ("byte 0x%02X at %d"):format(text:byte(wrong), wrong))
  end
  local line, err = json.decode(text)
  if type(line) ~= "table" or #line > 0 then
    fail(where, "line", "a JSON object", err or kind(line))
  end
  for name in pairs(line) do
    if not known_set[name] then
      error(("%s: %s"):format(where, suggest.unknown("field", name, known)), 0)
    end
  end
  local request = { id = line.id, where = where }
  if line.id == nil then
    request.id = file.number
  elseif type(line.id) == "table" then
    fail(where, "id", "text or a number", kind(line.id))
  end
  local rows
  request.ids, request.images, rows = read_prompt(model, line, where, file)
  if file.answers then
    request.answer = read_answer(model, line, where, true)
    request.weights = read_weights(line, where, request.answer)
  end
  local total, most = #request.ids + (request.answer and #request.answer or 0), model.arch.text.max_positions
  if total > most then
    fail(where, "prompt", ("at most %d tokens"):format(most), rows == 0 and tostring(total)
      or ("%d, of them %d for %d images"):format(total, rows, #request.images))
  end
  return request
end

---@class rl4vlm.RequestFile
local RequestFile = {}
RequestFile.__index = RequestFile

---Opens a request file.
---@param model rl4vlm.Model  opened, its numbers are not needed
---@param o table  a tool's options: `in`, its path; `exif`, whether images are turned as EXIF says
---@param answers boolean  lines must have answers (they are left out otherwise)
---@return rl4vlm.RequestFile
function M.open(model, o, answers)
  local path = o["in"]
  local file, err = io.open(path, "rb")
  if not file then
    error(err, 0)
  elseif not file:seek("set") then
    error(("%s: wanted a file, for it is read twice, came a pipe"):format(path), 0)
  end
  return setmetatable({ model = model, path = path, file = file, answers = answers, exif = o.exif,
    folder = path:match("^(.*/)") or "", number = 0, offset = 0 }, RequestFile)
end

---The next request; nil at the end of the file. Empty lines are passed over.
---@return rl4vlm.Request?
function RequestFile:next()
  while true do
    local text, err = self.file:read("L")
    if err then
      error(("cannot read %s: %s"):format(self.path, err), 0)
    elseif not text then
      return nil
    end
    local offset = self.offset
    self.number, self.offset = self.number + 1, offset + #text
    if self.number == 1 then
      text = text:gsub("^\xEF\xBB\xBF", "") -- a byte order mark, as some editors write it
    end
    if text:find("%S") then
      local where = ("%s:%d"):format(self.path, self.number)
      local request = parse(self, text, where)
      request.offset, request.number = offset, self.number
      return request
    end
  end
end

---Goes to a line that was read before.
---@param offset integer
---@param number integer  of the line
function RequestFile:seek(offset, number)
  self.file:seek("set", offset)
  self.offset, self.number = offset, number - 1
end

function RequestFile:close()
  self.file:close()
end

-- ---- replies ----

---@class rl4vlm.ReplyFile
local ReplyFile = {}
ReplyFile.__index = ReplyFile

---A file of replies, written under a temporary name (a device or pipe as it is); it stands in the
---order of the requests.
---@param path string
---@return rl4vlm.ReplyFile
function M.replies(path)
  local stat = fs.stat(path)
  if stat and stat.type == "folder" then
    error(("cannot write %s: Is a directory"):format(path), 0)
  end
  local temporary = not fs.is_stream(path) and ("%s.tmp.%d"):format(path, require("rl4vlm.host").pid()) or nil
  local file, err, code = io.open(temporary or path, "wb")
  if not file then
    error(("cannot write %s: %s"):format(path, code and err:match(": ([^:]*)$") or err), 0)
  end
  return setmetatable({ path = path, temporary = temporary, file = file, waiting = {}, next = 1 }, ReplyFile)
end

---Writes reply `index`, or keeps it until those before it have come.
---@param index integer
---@param reply table
function ReplyFile:put(index, reply)
  self.waiting[index] = json.encode(reply)
  while self.waiting[self.next] do
    local ok, err = self.file:write(self.waiting[self.next], "\n")
    if not ok then
      error(("cannot write %s: %s"):format(self.path, err), 0)
    end
    self.waiting[self.next] = nil
    self.next = self.next + 1
  end
end

---Puts the finished file in its place.
function ReplyFile:commit()
  local ok, err = self.file:close()
  if ok and self.temporary then
    ok, err = fs.rename(self.temporary, self.path)
  end
  if not ok then
    error(("cannot write %s: %s"):format(self.path, err), 0)
  end
  self.temporary = nil
end

---Drops the file unless it was committed. After Ctrl-C the replies so far stay beside its place, in `kept`.
---@param err any  what ends the work, nil at its end
function ReplyFile:close(err)
  local written = io.type(self.file) == "file" and self.file:close()
  if not self.temporary then
    return
  end
  local partial = self.path .. ".partial"
  if written and self.next > 1 and type(err) == "string" and err:find("interrupted!", 1, true)
    and fs.rename(self.temporary, partial) then
    self.kept = partial
  else
    fs.remove(self.temporary)
  end
  self.temporary = nil
end
ReplyFile.__close = ReplyFile.close

return M
