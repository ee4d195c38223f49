-- chat_template.lua - messages to a prompt by a checkpoint's own chat template.
--
-- The template is looked for as transformers does: chat_template.jinja, chat_template.json,
-- tokenizer_config.json; then the family's. A recipe's prompt.template stands above them all.
local fs = require "rl4vlm.fs"
local jinja = require "rl4vlm.jinja"
local json = require "rl4vlm.json"

local M = {}

---@class rl4vlm.ChatTemplate
---@field template rl4vlm.jinja.Template
---@field tokens table<string, string>  bos_token, eos_token... as the template's variables
---@field form "text"|"parts"|nil       how it wants contents: it knows no parts, nothing else, or both
local Chat = {}
Chat.__index = Chat

local function read_json(path)
  local object = json.decode(fs.read_file(path) or "")
  return type(object) == "table" and object or {}
end

-- A template, or the one named "default" of several: a list of {name, template}, or an object by name.
local function choose(found, path)
  if type(found) ~= "table" then
    return type(found) == "string" and found or nil
  end
  local names = {}
  for key, item in pairs(found) do
    local name = type(item) == "table" and item.name or key
    if name == "default" then
      return type(item) == "table" and item.template or item
    end
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  error(("%s: chat_template: wanted one named default, came %s: prompt.template may name another"):format(path,
    table.concat(names, ", ")), 0)
end

---A checkpoint's template.
---@param dir string
---@return string? source
---@return string? path  of the file that holds it
function M.find(dir)
  local path = dir .. "/chat_template.jinja"
  local source = fs.read_file(path)
  for _, file in ipairs { "chat_template.json", "tokenizer_config.json" } do
    if not source then
      path = dir .. "/" .. file
      source = choose(read_json(path).chat_template, path)
    end
  end
  return source, source and path
end

local function form_of(source)
  if not source:find("type", 1, true) then
    return "text"
  end
  return not source:find("is%s+string") and not source:find("is%s+not%s+string") and "parts" or nil
end

-- Texts of tokens with a name, such as bos_token; tokenizer_config.json's stand above the older file's.
local function named_tokens(dir)
  local tokens = {}
  for _, file in ipairs { "special_tokens_map.json", "tokenizer_config.json" } do
    for key, value in pairs(read_json(dir .. "/" .. file)) do
      local content = type(value) == "table" and value.content or value
      if key:find("_token$") and type(content) == "string" then
        tokens[key] = content
      end
    end
  end
  return tokens
end

---Opens the template of a checkpoint.
---@param dir string
---@param family string?    the family's template, for a folder without one
---@param override string?  a template that stands above the folder's
---@return rl4vlm.ChatTemplate
function M.open(dir, family, override)
  local source, path = override, "prompt.template"
  if not source then
    source, path = M.find(dir)
  end
  if not source then
    source, path = family, dir .. ": the family's chat template"
  end
  if not source then
    error(dir .. ": no chat template: write the prompt as text, or give a prompt.template", 0)
  end
  local template, err = jinja.compile(source, path)
  if not template then
    error(err .. (override and "" or ": prompt.template can give another"), 0)
  end
  return setmetatable({ template = template, tokens = named_tokens(dir), form = form_of(source) }, Chat)
end

-- The content as the template reads it.
local function content_for(self, content)
  if type(content) == "string" then
    return self.form == "parts" and { { type = "text", text = content } } or content
  elseif self.form ~= "text" then
    return content
  end
  local texts = {}
  for i, part in ipairs(content) do
    if part.type ~= "text" then
      return content
    end
    texts[i] = part.text
  end
  return table.concat(texts)
end

-- The message as variables hold it: without images, which no template reads, and without nulls.
local function message_for(self, message, images)
  local copy = {}
  for key, value in pairs(message) do
    copy[key] = value ~= json.null and value or nil
  end
  copy.content = copy.content and content_for(self, copy.content)
  for _, part in ipairs(type(copy.content) == "table" and copy.content or {}) do
    if part.type == "image" then
      images[#images + 1] = part
    end
  end
  return copy
end

---Writes messages as a prompt, and the generation prompt behind it.
---@param messages table[]  Hugging Face's list form
---@return string text
---@return table[] images   the image parts, in the order of the messages
function Chat:write(messages)
  local images, variables = {}, { add_generation_prompt = true, tools = json.null, documents = json.null }
  for name, text in pairs(self.tokens) do
    variables[name] = text
  end
  variables.messages = json.list {}
  for i, message in ipairs(messages) do
    variables.messages[i] = message_for(self, message, images)
  end
  local text, err = self.template:render(variables)
  if not text then
    error(err, 0)
  end
  return text, images
end

return M
