-- parser.lua - a template's tokens to its statements.
--
-- A body is a list of nodes {kind, at, ...}; jinja/statements.lua says what each does. Expressions are
-- expression.lua's.
local expression = require "rl4vlm.jinja.expression"
local lexer = require "rl4vlm.jinja.lexer"
local limits = require "rl4vlm.jinja.limits"
local value = require "rl4vlm.jinja.value"

local M = {}

local Parser = setmetatable({}, { __index = expression.Parser })
Parser.__index = Parser

-- ---- assignment targets ----

local function is_constant(name)
  return name:find("^[tT]rue$") or name:find("^[fF]alse$") or name:find("^[nN]one$")
end

function Parser:target_name(spaces)
  local token = self:want("name")
  if is_constant(token.value) then
    self:fail(token.at, "cannot assign to %s", token.value)
  elseif spaces and self:skip("op", ".") then
    return { kind = "field", at = token.at, name = token.value, field = self:want("name").value }
  end
  return { kind = "name", at = token.at, name = token.value }
end

function Parser:target_part(spaces)
  if not self:skip("op", "(") then
    return self:target_name(spaces)
  end
  self:deeper()
  local target = self:target(spaces)
  self:shallower()
  self:want("op", ")")
  return target
end

-- A name, or names by commas; any part may stand in parentheses.
function Parser:target(spaces)
  local at, parts, is_tuple = self.token.at, { self:target_part(spaces) }, false
  while self:skip("op", ",") do
    is_tuple = true
    if self.token.type ~= "name" and not self:is("op", "(") then
      break
    end
    parts[#parts + 1] = self:target_part(spaces)
  end
  return is_tuple and { kind = "tuple", at = at, items = parts } or parts[1]
end

-- ---- statements ----

local statements = {}

-- The body up to one of the tags named; the tag's name is taken.
function Parser:body_until(what, at, ...)
  self:want("close", "%}")
  local body, tag = self:body({ ... })
  if not tag then
    self:fail(at, "the block '%s' does not end", what)
  end
  return body, tag
end

statements["if"] = function(self, at)
  local node = { kind = "if", at = at, branches = {} }
  local tag
  repeat
    local test = self:tuple()
    local body
    body, tag = self:body_until("if", at, "elif", "else", "endif")
    node.branches[#node.branches + 1] = { test = test, body = body }
  until tag ~= "elif"
  if tag == "else" then
    node.otherwise = self:body_until("if", at, "endif")
  end
  return node
end

statements["for"] = function(self, at)
  local node = { kind = "for", at = at, target = self:target(false) }
  self:want("name", "in")
  node.over = self:tuple(true)
  node.filter = self:skip("name", "if") and self:expression() or nil
  if self:is("name", "recursive") then
    self:fail(self.token.at, "a for loop that is recursive is not supported")
  end
  local tag
  self.loops = self.loops + 1
  node.body, tag = self:body_until("for", at, "else", "endfor")
  self.loops = self.loops - 1
  if tag == "else" then
    node.otherwise = self:body_until("for", at, "endfor")
  end
  return node
end

statements.set = function(self, at)
  local target = self:target(true)
  if self:skip("op", "=") then
    return { kind = "set", at = at, target = target, value = self:tuple() }
  end
  local filters = self:filters(nil)
  local body = self:body_until("set", at, "endset")
  return { kind = "capture", at = at, target = target, filters = filters, body = body }
end

statements.filter = function(self, at)
  local filters = self:filters(nil, true)
  return { kind = "filtered", at = at, filters = filters, body = (self:body_until("filter", at, "endfilter")) }
end

statements.with = function(self, at)
  local node = { kind = "with", at = at, targets = {}, values = {} }
  while self.token.type ~= "close" do
    if #node.targets > 0 then
      self:want("op", ",")
    end
    node.targets[#node.targets + 1] = self:target_name(false)
    self:want("op", "=")
    node.values[#node.values + 1] = self:expression()
  end
  node.body = self:body_until("with", at, "endwith")
  return node
end

statements.macro = function(self, at)
  local node = { kind = "macro", at = at, name = self:want("name").value, names = {}, defaults = {} }
  self:want("op", "(")
  while not self:skip("op", ")") do
    if #node.names > 0 then
      self:want("op", ",")
    end
    node.names[#node.names + 1] = self:want("name").value
    if self:skip("op", "=") then
      node.defaults[#node.names] = self:expression()
    elseif next(node.defaults) then
      self:fail(self.token.at, "a parameter without a default behind one that has one")
    end
  end
  local loops = self.loops
  self.loops = 0
  node.body = self:body_until("macro", at, "endmacro")
  self.loops = loops
  return node
end

-- transformers' mark of what the assistant wrote: its text is the text of its body.
statements.generation = function(self, at)
  return { kind = "scope", at = at, body = (self:body_until("generation", at, "endgeneration")) }
end

statements.print = function(self, at)
  local node = { kind = "scope", at = at, body = {} }
  repeat
    node.body[#node.body + 1] = { kind = "print", at = at, value = self:expression() }
  until not self:skip("op", ",")
  return node
end

for _, name in ipairs { "break", "continue" } do
  statements[name] = function(self, at)
    if self.loops == 0 then
      self:fail(at, "'%s' outside a loop", name)
    end
    return { kind = name, at = at }
  end
end

local refused = { autoescape = true, block = true, call = true, debug = true, extends = true, ["do"] = true,
  from = true, import = true, include = true, trans = true }

function Parser:statement()
  local tag = self:want("name")
  local parse = statements[tag.value]
  if not parse then
    self:fail(tag.at, refused[tag.value] and "the tag '%s' is not supported" or "unknown tag '%s'", tag.value)
  end
  return parse(self, tag.at)
end

-- ---- bodies ----

-- Nodes up to a tag out of `ends`, whose name comes as well; nil at the end of the template.
function Parser:body(ends)
  local body = {}
  self:deeper()
  while self.token.type ~= "eof" do
    local token = self:next()
    if token.type == "data" then
      body[#body + 1] = { kind = "data", at = token.at, text = token.value }
    elseif token.type == "print" then
      body[#body + 1] = { kind = "print", at = token.at, value = self:tuple() }
      self:want("close", "}}")
    elseif self.token.type == "name" and value.among(ends, self.token.value) then
      self:shallower()
      return body, self:next().value
    else
      body[#body + 1] = self:statement()
      self:want("close", "%}")
    end
  end
  self:shallower()
  return body
end

local function parse(self)
  local body = self:body {}
  if self.token.type ~= "eof" then
    self:fail(self.token.at, "unexpected %s", self:shown())
  end
  return body
end

---The statements of a template.
---@param source string  with "\n" for line ends
---@param state table    gets `at`, where a failure happened
---@return table body
function M.parse(source, state)
  local self = setmetatable({ tokens = lexer.tokens(source, state), position = 1, depth = 0, loops = 0 }, Parser)
  self.token = self.tokens[1]
  local ok, result = limits.catch(parse, self)
  if not ok then
    state.at = self.at or self.token.at
    limits.fail("%s", result)
  end
  return result
end

return M
