-- init.lua - chat templates: the part of Jinja that they use, rendered as transformers does.
--
-- That is: trim_blocks and lstrip_blocks on, break and continue, transformers' tojson, a sandbox, Python's
-- meaning of values. What is not known is an error that names it with its line and column. Reading:
-- lexer, parser, expression; running: statements, evaluate, value.
local call = require "rl4vlm.jinja.call"
local limits = require "rl4vlm.jinja.limits"
local parser = require "rl4vlm.jinja.parser"
local statements = require "rl4vlm.jinja.statements"
local value = require "rl4vlm.jinja.value"

local M = {}

---@class rl4vlm.jinja.Template
---@field name string
---@field source string
---@field body table
local Template = {}
Template.__index = Template

-- ---- functions of all templates ----

local function namespace(_, args, named)
  local fields = value.dict()
  for _, d in ipairs(args) do
    for _, key in ipairs(value.kind(d) == "dict" and d.keys or limits.fail("namespace(): wanted a dict")) do
      value.dict_set(fields, key, value.dict_get(d, key))
    end
  end
  for _, pair in ipairs(named) do
    value.dict_set(fields, pair[1], pair[2])
  end
  return fields
end

-- The sandbox has no longer ranges either.
local most_range = 100000

local function range(first, last, step)
  if not last then
    first, last = 0, first
  end
  step = step or 1
  for _, v in ipairs { first, last, step } do
    if math.type(v) ~= "integer" then
      limits.fail("range(): wanted integers, got a %s", value.type(v))
    end
  end
  if step == 0 then
    limits.fail("range(): the step cannot be zero")
  elseif (last - first) // step > most_range then
    limits.fail("range(): more than %d items", most_range)
  end
  local items = { text = step == 1 and ("range(%d, %d)"):format(first, last)
    or ("range(%d, %d, %d)"):format(first, last, step) }
  for i = first, last + (step > 0 and -1 or 1), step do
    items[#items + 1] = i
  end
  limits.spend(#items)
  return value.new("range", items)
end

local function simple(name, signature, f)
  return value.new("function", { name = name .. "()", callable = call.define(signature, function(_, ...)
    return f(...)
  end) })
end

local function keyed(name, f)
  return value.new("function", { name = name .. "()", run = f })
end

local globals = {
  range = simple("range", "start! stop step", range),
  raise_exception = simple("raise_exception", "message!", function(message)
    limits.fail("%s", value.str(message))
  end),
  strftime_now = simple("strftime_now", "format!", function()
    limits.fail("strftime_now() is not supported: a prompt must not hang on the date")
  end),
  dict = keyed("dict", namespace),
  namespace = keyed("namespace", function(_, args, named)
    return value.new("namespace", { fields = namespace(nil, args, named) })
  end),
}

-- ---- templates ----

-- Line and column of a byte, both from 1; columns count characters.
local function place(source, at)
  local before = source:sub(1, math.min(at, #source + 1) - 1)
  local _, line = before:gsub("\n", "")
  return line + 1, (utf8.len(before:match("[^\n]*$")) or 0) + 1
end

local function message_at(self, at, message)
  local line, column = place(self.source, at or 1)
  return ("%s: line %d, column %d: %s"):format(self.name, line, column, message)
end

---Reads a template.
---@param source string
---@param name string  what stands in messages
---@return rl4vlm.jinja.Template? template
---@return string? err
function M.compile(source, name)
  if not utf8.len(source) then
    return nil, name .. ": the template is not UTF-8"
  end
  local self = setmetatable({ name = name, source = source:gsub("\r\n?", "\n"):gsub("\n$", "") }, Template)
  local state = {}
  limits.begin()
  local ok, result = limits.catch(parser.parse, self.source, state)
  if not ok then
    return nil, message_at(self, state.at, result)
  end
  self.body = result
  return self
end

local function run(state, body, variables)
  for key, v in pairs(variables) do
    state.scope.vars[key] = value.from_lua(v)
  end
  state.scope = { vars = {}, outer = state.scope }
  statements.run(state, body)
  return table.concat(state.out)
end

---The template's text with these variables: Lua's values, null being rl4vlm.json's.
---@param variables table<string, any>
---@return string? text
---@return string? err
function Template:render(variables)
  local state = { out = {}, depth = 0, scope = { vars = {}, outer = { vars = globals } } }
  limits.begin()
  local ok, result = limits.catch(run, state, self.body, variables)
  if not ok then
    return nil, message_at(self, state.at, result)
  end
  return result
end

---A dict in the order given, for variables whose keys' order shows.
---@param pairs_in_order table[]  {key, value}
---@return table
function M.ordered(pairs_in_order)
  local d = value.dict()
  for _, pair in ipairs(pairs_in_order) do
    value.dict_set(d, pair[1], value.from_lua(pair[2]))
  end
  return d
end

return M
