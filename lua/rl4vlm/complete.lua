-- complete.lua - what the word at the cursor may become: globals, fields and methods, modules after
-- require, files inside other strings. Values are looked at, never called: no metamethod runs.

local fs = require "rl4vlm.fs"

local M = {}

local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto",
  "if", "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

-- The table behind a value's fields: itself, or what its metatable's __index is.
local function fields_of(value)
  if type(value) == "table" then
    return value
  end
  local mt = debug.getmetatable(value)
  local index = type(mt) == "table" and rawget(mt, "__index")
  return type(index) == "table" and index or nil
end

-- Reads a field by raw access along the chain of __index tables.
local function get(value, name)
  local t = fields_of(value)
  for _ = 1, 10 do
    if not t then
      return nil
    end
    local found = rawget(t, name)
    if found ~= nil then
      return found
    end
    local mt = debug.getmetatable(t)
    local index = type(mt) == "table" and rawget(mt, "__index")
    t = type(index) == "table" and index or nil
  end
end

-- All names a value answers to, along the same chain.
local function names(value)
  local found, t = {}, fields_of(value)
  for _ = 1, 10 do
    if not t then
      break
    end
    for key, field in next, t do
      if type(key) == "string" and found[key] == nil then
        found[key] = field
      end
    end
    local mt = debug.getmetatable(t)
    local index = type(mt) == "table" and rawget(mt, "__index")
    t = type(index) == "table" and index or nil
  end
  return found
end

local function starts(word, prefix)
  return word:sub(1, #prefix) == prefix
end

-- Names, or paths of names, inside the value that `word` leads to.
local function fields(word)
  local path, separator, last = word:match("^(.-)([.:]?)([^.:]*)$")
  local value = _G
  for name in path:gmatch("[^.:]+") do
    value = get(value, name)
  end
  local out = {}
  if value == nil then
    return out
  end
  for name, field in pairs(names(value)) do
    local callable = type(field) == "function"
    if starts(name, last) and name:match("^[%a_][%w_]*$") and (not name:match("^__") or last:match("^__"))
      and (separator ~= ":" or callable) then
      out[#out + 1] = path .. separator .. name .. (callable and "(" or "")
    end
  end
  if separator == "" then
    for _, name in ipairs(keywords) do
      if starts(name, last) then
        out[#out + 1] = name
      end
    end
  end
  return out
end

-- Modules in one folder of package.path: `template` has one "?".
local function modules_in(template, word, out)
  local front, back = template:match("^(.-)%?(.*)$")
  if not front then
    return
  end
  local above = word:match("^(.*%.)[^.]*$") or ""
  local folder = front .. above:gsub("%.", "/")
  for _, name in ipairs(fs.list(folder == "" and "." or folder) or {}) do
    local module = back == ".lua" and name:match("^([%w_]+)%.lua$")
    if not module and name:match("^[%w_]+$") and fs.exists(folder .. name .. back) then
      module = name
    end
    if not module and back == ".lua" and name:match("^[%w_]+$") then
      local stat = fs.stat(folder .. name)
      module = stat and stat.type == "folder" and front ~= "./" and name .. "." or nil
    end
    if module and starts(above .. module, word) then
      out[above .. module] = true
    end
  end
end

---Names of modules that `require` finds and that begin with `word`.
---@param word string
---@return string[] names  sorted; a folder's ends with a dot
function M.modules(word)
  local found, out = {}, {}
  for name in pairs(package.preload) do
    found[name] = starts(name, word) or nil
  end
  for name in pairs(package.loaded) do
    found[name] = found[name] or starts(name, word) or nil
  end
  for template in package.path:gmatch("[^;]+") do
    modules_in(template, word, found)
  end
  for name in pairs(found) do
    out[#out + 1] = name
  end
  table.sort(out)
  return out
end

-- Adds the modules that the prompt's global `rl4vlm` loads when they are first asked for.
local function add_own_modules(word, out)
  local there = {}
  for _, name in ipairs(out) do
    there[name] = true
  end
  for _, name in ipairs(M.modules(word)) do
    out[#out + 1] = not there[name] and name or nil
  end
end

local function files(path)
  local folder, last = path:match("^(.-)([^/]*)$")
  local out = {}
  for _, name in ipairs(fs.list(folder == "" and "." or folder) or {}) do
    if starts(name, last) and (last ~= "" or not name:match("^%.")) then
      local stat = fs.stat(folder .. name)
      out[#out + 1] = name .. (stat and stat.type == "folder" and "/" or "")
    end
  end
  return out, #folder
end

-- The text since the quote that is still open, and what stands before that quote; or nil.
local function open_string(line)
  local at, quote = 1, nil
  local begin
  while at <= #line do
    local c = line:sub(at, at)
    if quote and c == "\\" then
      at = at + 1
    elseif quote and c == quote then
      quote = nil
    elseif not quote and (c == '"' or c == "'") then
      quote, begin = c, at
    end
    at = at + 1
  end
  if quote then
    return line:sub(begin + 1), line:sub(1, begin - 1)
  end
end

---What may stand in the place of `word`.
---@param before string  the line up to the word
---@param word string  the beginning of a word, without spaces and operators
---@return string[] words  sorted
function M.words(before, word)
  local text, front = open_string(before .. word)
  local out
  if text and front:match("require%s*%(?%s*$") then
    out = M.modules(text)
    for i, name in ipairs(out) do
      out[i] = name:sub(#text - #word + 1)
    end
  elseif text then
    local above
    out, above = files(text)
    local cut = #text - #word -- libedit's word may begin after the last "/"
    for i, name in ipairs(out) do
      out[i] = (text:sub(1, above) .. name):sub(cut + 1)
    end
  else
    out = fields(word)
    if starts(word, "rl4vlm.") and rawget(_G, "rl4vlm") then
      add_own_modules(word, out)
    end
  end
  table.sort(out)
  return out
end

return M
