-- prompt.lua - prompt templates: `{name}` is a field, every other brace is itself.
--
-- The field `{image}` marks where the image stands. What never changes goes before it: prompts that
-- begin with the same tokens share that part of the key/value cache.
local fs = require "rl4vlm.fs"
local place = require "rl4vlm.place"
local suggest = require "rl4vlm.suggest"

local M = {}

local Prompt = { __name = "rl4vlm.prompt" }
Prompt.__index = Prompt

local FIELD = "{([%a_][%w_]*)}"

---A chat template given in Jinja, or by the name of a file that holds it.
---@param given string
---@return string? source
---@return string? err
function M.template(given)
  if given:find("{[{%%]") then
    return given
  end
  local source, err = fs.read_file(given)
  return source, not source and "wanted a chat template in Jinja, or a file with one: " .. err or nil
end

local function read_template(given)
  if given == nil then
    return nil
  elseif type(given) ~= "string" then
    error("prompt.template: wanted a text, got a " .. type(given), 3)
  end
  local source, err = M.template(given)
  return source or error("prompt.template: " .. err, 3)
end

---Makes a prompt template. A newline at the start and blanks at the end are dropped.
---@param given string|table  the text, or {text, template = chat template in Jinja or its file}: the chat template
---then stands above the checkpoint's
---@return rl4vlm.Prompt
function M.new(given)
  local text = type(given) == "table" and given[1] or given
  if type(text) ~= "string" then
    error("prompt: wanted a text, got a " .. type(text), 2)
  end
  local self = { text = text:gsub("^\n", ""):gsub("%s+$", ""), names = {}, place = place.made("prompt", 2) }
  for key, value in pairs(type(given) == "table" and given or {}) do
    if key == "template" then
      self.template = read_template(value)
    elseif key ~= 1 then
      error("prompt: " .. suggest.unknown("field", tostring(key), { "template" }), 2)
    end
  end
  for name in self.text:gmatch(FIELD) do
    self.names[#self.names + 1] = name
  end
  return setmetatable(self, Prompt)
end

local function braced(names)
  for i, name in ipairs(names) do
    names[i] = "{" .. name .. "}"
  end
  return names
end

local WORDS = { string = true, number = true, boolean = true }

-- A value of a field as the prompt has it.
local function as_text(self, name, value)
  if type(value) == "table" then
    local parts = {}
    for i, item in ipairs(value) do
      parts[i] = as_text(self, name, item)
    end
    return table.concat(parts, ", ")
  elseif not WORDS[type(value)] then -- its address would differ from run to run
    error(("%s: {%s}: wanted a text, a number or a list of them, got a %s"):format(self.place, name, type(value)), 0)
  end
  return tostring(value)
end

---The text with its fields filled in. Lists are joined by ", ".
---@param fields table<string, any>
---@return string
function Prompt:render(fields)
  return (self.text:gsub(FIELD, function(name)
    local value = fields[name]
    if value == nil then
      local known = braced(suggest.keys(fields))
      error(self.place .. ": " .. suggest.unknown("field", "{" .. name .. "}", known), 0)
    end
    return as_text(self, name, value)
  end))
end

---The text before and after the image: what a chat message is made of.
---Without an `{image}` field the image comes first.
---@param fields table<string, any>
---@return string before, string after
function Prompt:halves(fields)
  local mark = "\0image\0"
  local known = {}
  for key, value in pairs(fields) do
    known[key] = value
  end
  known.image = mark
  local text = self:render(known)
  local first, last = text:find(mark, 1, true)
  if not first then
    return "", text
  elseif text:find(mark, last + 1, true) then
    error(self.place .. ": {image} stands twice, wanted once", 0)
  end
  return text:sub(1, first - 1), text:sub(last + 1)
end

---A copy with another chat template above the checkpoint's.
---@param source string
---@return rl4vlm.Prompt
function Prompt:with_template(source)
  local copy = {}
  for key, value in pairs(self) do
    copy[key] = value
  end
  copy.template = source
  return setmetatable(copy, Prompt)
end

function Prompt:__tostring()
  return self.text
end

return M
