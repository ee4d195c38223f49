-- lexer.lua - a template's text to tokens, with the white space rules of trim_blocks and lstrip_blocks.
--
-- A token is {type, value, at}: `at` is the byte in the template with its line ends made "\n". Types: data,
-- print and block (where a tag opens), close, name, string, number, op, eof.
local limits = require "rl4vlm.jinja.limits"
local text = require "rl4vlm.jinja.text"

local M = {}

local Lexer = {}
Lexer.__index = Lexer

function Lexer:fail(at, message, ...)
  self.at = at
  limits.fail(message, ...)
end

function Lexer:add(type, value, at)
  self.tokens[#self.tokens + 1] = { type = type, value = value, at = at }
end

-- ---- text between tags ----

-- The text in front of a tag: "-" takes white space away; a block or comment that only blanks stand before
-- takes those of its line.
function Lexer:data(first, last, sign, strips)
  local s = self.source:sub(first, last)
  if sign == "-" then
    s = text.rstrip(s)
  elseif sign ~= "+" and strips then
    local line = s:find("[^\n]*$")
    if (line > 1 or self.line_start) and text.is_space(s:sub(line)) then
      s = s:sub(1, line - 1)
    end
  end
  if s ~= "" then
    self:add("data", s, first)
  end
end

-- The end of a tag at `at`, `mark` being "}}", "%}" or "#}"; nil where it isn't. "-" takes the white space
-- behind it, a block or comment the line's end.
function Lexer:tag_end(at, mark)
  local sign = self.source:match("^[-+]", at) or ""
  if self.source:sub(at + #sign, at + #sign + 1) ~= mark or sign == "+" and mark == "}}" then
    return nil
  end
  local next_at = at + #sign + 2
  if sign == "-" then
    next_at = text.skip_white(self.source, next_at)
  elseif sign == "" and mark ~= "}}" and self.source:sub(next_at, next_at) == "\n" then
    next_at = next_at + 1
  end
  self.line_start = self.source:sub(next_at - 1, next_at - 1) == "\n"
  return next_at
end

-- ---- inside tags ----

local plain_escapes = { n = "\n", t = "\t", r = "\r", a = "\a", b = "\b", f = "\f", v = "\v", ["\\"] = "\\",
  ["'"] = "'", ['"'] = '"', ["\n"] = "" }
local code_digits = { x = 2, u = 4, U = 8 }

-- One escape of a Python string at its backslash: what it means and where it ends.
function Lexer:escape(at)
  local c = self.source:sub(at + 1, at + 1)
  if plain_escapes[c] then
    return plain_escapes[c], at + 2
  end
  local octal = self.source:match("^[0-7][0-7]?[0-7]?", at + 1)
  local digits = code_digits[c] and self.source:match("^%x+", at + 2)
  if octal then
    return utf8.char(tonumber(octal, 8)), at + 1 + #octal
  elseif code_digits[c] then
    local n = code_digits[c]
    local code = digits and #digits >= n and tonumber(digits:sub(1, n), 16)
    if not code or code > 0x10FFFF or code >= 0xD800 and code <= 0xDFFF then
      self:fail(at, "bad escape \\%s in a string", c)
    end
    return utf8.char(code), at + 2 + n
  elseif c == "N" then
    self:fail(at, "the escape \\N{...} is not supported")
  end
  return "\\", at + 1 -- as Python: an unknown escape is itself
end

function Lexer:string(at)
  local quote, parts, from = self.source:sub(at, at), {}, at + 1
  while true do
    local stop = self.source:find("[\\" .. quote .. "]", from)
    if not stop then
      self:fail(at, "a string that does not end")
    end
    parts[#parts + 1] = self.source:sub(from, stop - 1)
    if self.source:sub(stop, stop) == quote then
      self:add("string", table.concat(parts), at)
      return stop + 1
    end
    parts[#parts + 1], from = self:escape(stop)
  end
end

local function float_at(source, at)
  for _, rest in ipairs { "%.%d[%d_]*[eE][+-]?%d[%d_]*", "[eE][+-]?%d[%d_]*", "%.%d[%d_]*" } do
    local s = source:match("^[%d_]*%d" .. rest, at)
    if s and source:sub(at - 1, at - 1) ~= "." then
      return s
    end
  end
end

local bases = { b = 2, o = 8, x = 16 }

function Lexer:number(at)
  local s = float_at(self.source, at)
  if s then
    self:add("number", tonumber((s:gsub("_", ""))) + 0.0, at)
    return at + #s
  end
  local prefix, base, digits = self.source:match("^(0([bBoOxX]))([%x_]+)", at)
  s = prefix and prefix .. digits or self.source:match("^[1-9][%d_]*", at) or self.source:match("^0[0_]*", at)
  local value = prefix and tonumber((digits:gsub("_", "")), bases[base:lower()])
    or math.tointeger(tonumber((s:gsub("_", ""))))
  if not value then
    self:fail(at, "the number %s is not supported", s)
  end
  self:add("number", value, at)
  return at + #s
end

local pairs_of = { ["("] = ")", ["["] = "]", ["{"] = "}" }
local wide = { ["//"] = true, ["**"] = true, ["=="] = true, ["!="] = true, [">="] = true, ["<="] = true }

function Lexer:operator(at, open)
  local two, c = self.source:sub(at, at + 1), self.source:sub(at, at)
  local op = wide[two] and two or c:find("[-+/*%%~%[%](){}<>=.:|,;]") and c
  if not op then
    self:fail(at, "unexpected character '%s'", self.source:match("^" .. utf8.charpattern, at) or c)
  elseif pairs_of[op] then
    open[#open + 1] = pairs_of[op]
  elseif op:find("^[)%]}]$") and table.remove(open) ~= op then
    self:fail(at, "unexpected '%s'", op)
  end
  self:add("op", op, at)
  return at + #op
end

-- Tokens up to the end of a tag; gives where the text goes on.
function Lexer:tag(at, mark)
  local open, begin = {}, at
  while true do
    at = text.skip_white(self.source, at)
    local after = #open == 0 and self:tag_end(at, mark)
    if after then
      self:add("close", mark, at)
      return after
    elseif at > #self.source then
      self:fail(begin, "a tag that does not end with %s", mark)
    end
    local name = self.source:match("^[%a_\x80-\xff][%w_\x80-\xff]*", at)
    local c = self.source:sub(at, at)
    if name then
      self:add("name", name, at)
      at = at + #name
    elseif c == "'" or c == '"' then
      at = self:string(at)
    elseif c:find("%d") then
      at = self:number(at)
    else
      at = self:operator(at, open)
    end
  end
end

-- ---- the whole ----

function Lexer:comment(at)
  local stop = self.source:find("#}", at, true)
  if not stop then
    self:fail(at, "a comment that does not end with #}")
  end
  local signed = stop > at and self.source:find("^[-+]", stop - 1)
  return self:tag_end(signed or stop, "#}")
end

-- Behind `{% raw %}`: text as it stands up to `{% endraw %}`.
function Lexer:raw(at)
  self.line_start = self.source:sub(at - 1, at - 1) == "\n"
  local first, _, sign, stop = self.source:find("{%%([-+]?)%s*endraw%s*()", at)
  local after = first and self:tag_end(stop, "%}")
  if not after then
    self:fail(at, "a raw block that does not end with {% endraw %}")
  end
  self:data(at, first - 1, sign, true)
  return after
end

local closers = { ["{{"] = "}}", ["{%"] = "%}", ["{#"] = "#}" }

function Lexer:run()
  local at = 1
  while true do
    local first = self.source:find("{[{%%#]", at)
    if not first then
      self:data(at, #self.source)
      self:add("eof", nil, #self.source + 1)
      return self.tokens
    end
    local open = self.source:sub(first, first + 1)
    local sign = self.source:match("^[-+]", first + 2) or ""
    self:data(at, first - 1, sign, open ~= "{{")
    local inside = first + 2 + #sign
    local dash, behind = self.source:match("^%s*raw%s*(%-?)%%}()", inside)
    if open == "{%" and behind then
      at = self:raw(dash == "-" and text.skip_white(self.source, behind) or behind)
    elseif open == "{#" then
      at = self:comment(inside)
    else
      self:add(open == "{{" and "print" or "block", open, first)
      at = self:tag(inside, closers[open])
    end
  end
end

---The tokens of a template.
---@param source string  with "\n" for line ends
---@param state table    gets `at`, where a failure happened
---@return table[] tokens
function M.tokens(source, state)
  local self = setmetatable({ source = source, tokens = {}, line_start = true }, Lexer)
  local ok, result = limits.catch(self.run, self)
  if not ok then
    state.at = self.at
    limits.fail("%s", result)
  end
  return result
end

return M
