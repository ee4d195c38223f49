-- options.lua - reads the words of a command line: verbs and tools declare what they take.

local host = require "rl4vlm.host"
local suggest = require "rl4vlm.suggest"

local M = {}

---@class rl4vlm.options.Row
---@field [1] string  name, without the dashes
---@field [2] "flag"|"integer"|"number"|"text"|string[]  what its value must be; a list: one of these
---@field [3] string?  name of the value in the help text
---@field [4] string?  what it does, one line
---@field many boolean?  may be given more than once; the value is then a list
---@field rest boolean?  takes all words up to the next option; the value is then a list

-- What `text` means as a value of kind `kind`, or nil and what was wanted.
local function convert(kind, text)
  if kind == "integer" then
    return math.tointeger(tonumber(text)), "a whole number"
  elseif kind == "number" then
    return tonumber(text), "a number"
  elseif type(kind) == "table" then
    for _, choice in ipairs(kind) do
      if choice == text then
        return text
      end
    end
    local nearest = host.nearest(text, kind)
    return nil, "one of " .. table.concat(kind, ", ") ..
      (nearest and (" (did you mean '%s'?)"):format(nearest) or "")
  end
  return text ~= "" and text or nil, "some text"
end

local function names_of(rows)
  local names = {}
  for i, row in ipairs(rows) do
    names[i] = "--" .. row[1]
  end
  return names
end

local function unknown(rows, word)
  return suggest.unknown("option", word, names_of(rows))
end

-- Puts one value where its row wants it.
local function store(values, row, value)
  if row.many or row.rest then
    local list = values[row[1]] or {}
    list[#list + 1] = value
    values[row[1]] = list
  else
    values[row[1]] = value
  end
end

local function store_text(values, row, text)
  local value, wanted = convert(row[2], text)
  if value == nil then
    return ("--%s wants %s, got '%s'"):format(row[1], wanted, text)
  end
  store(values, row, value)
end

-- Reads the value of an option with the text after "=", or else from args[i] on. Returns the index of
-- the next word, or nil and what is wrong.
local function read_value(values, row, text, args, i)
  local name = row[1]
  if row[2] == "flag" then
    values[name] = true
    return not text and i or nil, ("--%s takes no value"):format(name)
  end
  if not text then
    text, i = args[i], i + 1
    if not text or text:match("^%-%-") then
      return nil, ("--%s wants a value: --%s %s"):format(name, name, row[3] or "VALUE")
    end
  end
  local err = store_text(values, row, text)
  while not err and row.rest and args[i] and not args[i]:match("^%-%-") do
    err, i = store_text(values, row, args[i]), i + 1
  end
  return not err and i or nil, err
end

---Reads `args`: `--name VALUE`, `--name=VALUE`, flags, and other words in their order; `--` ends the
---options. Values stand under their option's name, the other words under 1, 2, ...
---@param args string[]
---@param rows rl4vlm.options.Row[]
---@return table? values
---@return string? err  for people: what was wrong, and the nearest right option
function M.parse(args, rows)
  local by_name, values, i = {}, {}, 1
  for _, row in ipairs(rows) do
    by_name["--" .. row[1]] = row
  end
  while args[i] do
    local word = args[i]
    i = i + 1
    local name, text = word:match("^(%-%-?[^=]+)=?(.*)$")
    if word == "--" then
      table.move(args, i, #args, #values + 1, values)
      break
    elseif not name then
      values[#values + 1] = word
    elseif not by_name[name] then
      return nil, unknown(rows, name)
    else
      local err
      i, err = read_value(values, by_name[name], word:find("=", 1, true) and text, args, i)
      if not i then
        return nil, err
      end
    end
  end
  return values
end

---The help text of the rows, a line each.
---@param rows rl4vlm.options.Row[]
---@return string
function M.help(rows)
  local lines = {}
  for i, row in ipairs(rows) do
    local kind = row[2]
    local value = kind ~= "flag" and " " .. (row[3] or (type(kind) == "table"
      and table.concat(kind, "|") or kind:upper())) or ""
    lines[i] = ("  --%-24s %s"):format(row[1] .. value, row[4] or "")
  end
  return table.concat(lines, "\n")
end

return M
