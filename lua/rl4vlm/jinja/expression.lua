-- expression.lua - the expressions of a template: the parser's lower half, with Jinja's precedence.
--
-- From weak to strong: if-else, or, and, not, comparisons, + -, ~, * / // %, **, signs, then .name [key]
-- (call), then filters and tests.
local limits = require "rl4vlm.jinja.limits"
local value = require "rl4vlm.jinja.value"

local M = {}

---@class rl4vlm.jinja.Parser
local Parser = {}
Parser.__index = Parser
M.Parser = Parser

-- ---- tokens ----

function Parser:fail(at, message, ...)
  self.at = at
  limits.fail(message, ...)
end

---What the token at hand is, for messages.
function Parser:shown()
  local token = self.token
  return token.type == "eof" and "the end of the template" or token.type == "data" and "text"
    or token.type == "string" and "a string" or ("'%s'"):format(tostring(token.value))
end

function Parser:is(type, content)
  return self.token.type == type and (content == nil or self.token.value == content)
end

function Parser:next()
  local token = self.token
  self.position = self.position + 1
  self.token = self.tokens[self.position] or token
  return token
end

function Parser:skip(type, content)
  return self:is(type, content) and self:next() or nil
end

function Parser:want(type, content)
  if not self:is(type, content) then
    self:fail(self.token.at, "wanted %s, got %s", content and ("'%s'"):format(content) or "a " .. type, self:shown())
  end
  return self:next()
end

function Parser:deeper()
  self.depth = self.depth + 1
  if self.depth > limits.depth then
    self:fail(self.token.at, "nested deeper than %d", limits.depth)
  end
end

function Parser:shallower()
  self.depth = self.depth - 1
end

-- ---- operators ----

-- Operators of one strength, from the left.
local function binary(operators, operand)
  return function(self)
    local left = operand(self)
    while self.token.type == "op" and operators[self.token.value] do
      local op = self:next()
      left = { kind = "binary", at = op.at, op = op.value, left = left, right = operand(self) }
    end
    return left
  end
end

local power = binary({ ["**"] = true }, function(self)
  return self:unary(true)
end)
local product = binary({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, power)

local function joined(self)
  local first = product(self)
  if not self:is("op", "~") then
    return first
  end
  local node = { kind = "joined", at = self.token.at, items = { first } }
  while self:skip("op", "~") do
    node.items[#node.items + 1] = product(self)
  end
  return node
end

local sum = binary({ ["+"] = true, ["-"] = true }, joined)

local signs = { ["=="] = true, ["!="] = true, ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

-- The comparison at hand, taken; nil where there is none.
function Parser:comparison()
  local following = self.tokens[self.position + 1]
  if self.token.type == "op" and signs[self.token.value] then
    return self:next().value
  elseif self:skip("name", "in") then
    return "in"
  elseif self:is("name", "not") and following and following.type == "name" and following.value == "in" then
    self:next()
    self:next()
    return "not in"
  end
end

local function compared(self)
  local node = { kind = "compare", first = sum(self), at = self.token.at }
  local sign = self:comparison()
  while sign do
    node[#node + 1] = { sign = sign, value = sum(self) }
    sign = self:comparison()
  end
  return node[1] and node or node.first
end

local function negated(self)
  local negation = self:skip("name", "not")
  if not negation then
    return compared(self)
  end
  self:deeper()
  local node = { kind = "not", at = negation.at, value = negated(self) }
  self:shallower()
  return node
end

local function logical(name, operand)
  return function(self)
    local left = operand(self)
    while self:is("name", name) do
      left = { kind = name, at = self:next().at, left = left, right = operand(self) }
    end
    return left
  end
end

local either = logical("or", logical("and", negated))

---An expression; `plain`: without if-else, which a for loop's own `if` would look like.
function Parser:expression(plain)
  self:deeper()
  local node = either(self)
  while not plain and self:is("name", "if") do
    node = { kind = "choice", at = self:next().at, yes = node, test = either(self) }
    node.no = self:skip("name", "else") and self:expression() or nil
  end
  self:shallower()
  return node
end

local function ends_tuple(self)
  return self.token.type == "close" or self:is("op", ")") or self:is("op", "]") or self:is("op", "}")
    or self.token.type == "eof"
end

---An expression, or a tuple of some.
---@param plain? boolean
---@param paren? boolean  nothing at all is the empty tuple
function Parser:tuple(plain, paren)
  local at, items, is_tuple = self.token.at, {}, false
  while not ends_tuple(self) do
    items[#items + 1] = self:expression(plain)
    if not self:skip("op", ",") then
      break
    end
    is_tuple = true
  end
  if is_tuple or #items == 0 and paren then
    return { kind = "tuple", at = at, items = items }
  elseif #items == 0 then
    self:fail(at, "wanted an expression, got %s", self:shown())
  end
  return items[1]
end

-- ---- signs, calls, subscripts, filters, tests ----

function Parser:unary(filtered)
  local node
  local sign = self:skip("op", "-") or self:skip("op", "+")
  if sign then
    self:deeper()
    node = { kind = "sign", at = sign.at, op = sign.value, value = self:unary(false) }
    self:shallower()
  else
    node = self:primary()
  end
  node = self:postfix(node)
  return filtered and self:filtered(node) or node
end

function Parser:arguments()
  local open = self:want("op", "(")
  local args, named = {}, {}
  while not self:skip("op", ")") do
    if #args + #named > 0 then
      self:want("op", ",")
      if self:skip("op", ")") then
        break
      end
    end
    if self:is("op", "*") or self:is("op", "**") then
      self:fail(self.token.at, "arguments with %s are not supported", self.token.value)
    end
    local following = self.tokens[self.position + 1]
    if self.token.type == "name" and following.type == "op" and following.value == "=" then
      local name = self:next().value
      self:next()
      named[#named + 1] = { name, self:expression() }
    elseif #named > 0 then
      self:fail(open.at, "an argument without a name behind one that has one")
    else
      args[#args + 1] = self:expression()
    end
  end
  return args, named
end

function Parser:call(callee)
  local at = self.token.at
  local args, named = self:arguments()
  return { kind = "call", at = at, callee = callee, args = args, named = named }
end

local function index_end(self)
  return self:is("op", ":") or self:is("op", "]")
end

-- What stands in [ ]: a key, or a slice.
function Parser:subscripted(object)
  local open = self:want("op", "[")
  local first = not self:is("op", ":") and self:expression() or nil
  local node = { kind = "element", at = open.at, object = object, key = first }
  if self:skip("op", ":") then
    node = { kind = "slice", at = open.at, object = object, start = first }
    node.stop = not index_end(self) and self:expression() or nil
    if self:skip("op", ":") then
      node.step = not index_end(self) and self:expression() or nil
    end
  end
  if self:is("op", ",") then
    self:fail(self.token.at, "a subscript of several keys is not supported")
  end
  self:want("op", "]")
  return node
end

function Parser:dotted(object)
  local dot = self:next()
  if self.token.type == "number" and math.type(self.token.value) == "integer" then
    local key = self:next()
    key = { kind = "constant", at = key.at, value = key.value }
    return { kind = "element", at = dot.at, object = object, key = key }
  end
  return { kind = "attribute", at = dot.at, object = object, name = self:want("name").value }
end

function Parser:postfix(node)
  while self.token.type == "op" do
    if self:is("op", ".") then
      node = self:dotted(node)
    elseif self:is("op", "[") then
      node = self:subscripted(node)
    elseif self:is("op", "(") then
      node = self:call(node)
    else
      break
    end
  end
  return node
end

local function dotted_name(self)
  local token = self:want("name")
  local name = token.value
  while self:skip("op", ".") do
    name = name .. "." .. self:want("name").value
  end
  return name, token.at
end

---Filters behind a value; `inline`: the first without its "|".
function Parser:filters(node, inline)
  while inline or self:skip("op", "|") do
    local name, at = dotted_name(self)
    local args, named = {}, {}
    if self:is("op", "(") then
      args, named = self:arguments()
    end
    node, inline = { kind = "filter", at = at, object = node, name = name, args = args, named = named }, false
  end
  return node
end

local stops_test = { ["else"] = true, ["or"] = true, ["and"] = true, ["if"] = true }

function Parser:test(object)
  self:next()
  local negation = self:skip("name", "not")
  local name, at = dotted_name(self)
  local node = { kind = "test", at = at, object = object, name = name, args = {}, named = {} }
  local token = self.token
  if self:is("op", "(") then
    node.args, node.named = self:arguments()
  elseif self:is("name", "is") then
    self:fail(token.at, "tests cannot be chained with is")
  elseif token.type == "name" and not stops_test[token.value] or token.type == "string" or token.type == "number"
    or self:is("op", "[") or self:is("op", "{") then
    node.args[1] = self:postfix(self:primary())
  end
  return negation and { kind = "not", at = at, value = node } or node
end

function Parser:filtered(node)
  while true do
    if self:is("op", "|") then
      node = self:filters(node)
    elseif self:is("name", "is") then
      node = self:test(node)
    elseif self:is("op", "(") then
      node = self:call(node)
    else
      return node
    end
  end
end

-- ---- literals ----

local constants = { ["true"] = true, True = true, ["false"] = false, False = false, none = value.none,
  None = value.none }

-- Items by commas up to `close`; a comma may stand behind the last.
function Parser:items(close, item)
  local items = {}
  while not self:skip("op", close) do
    if #items > 0 then
      self:want("op", ",")
      if self:skip("op", close) then
        break
      end
    end
    items[#items + 1] = item(self)
  end
  return items
end

local function pair(self)
  local key = self:expression()
  self:want("op", ":")
  return { key = key, value = self:expression() }
end

function Parser:text()
  local at, parts = self.token.at, {}
  while self.token.type == "string" do
    parts[#parts + 1] = self:next().value
  end
  return { kind = "constant", at = at, value = table.concat(parts) }
end

function Parser:primary()
  local token = self.token
  if token.type == "string" then
    return self:text()
  elseif token.type == "name" then
    self:next()
    local constant = constants[token.value]
    if constant ~= nil then
      return { kind = "constant", at = token.at, value = constant }
    end
    return { kind = "name", at = token.at, name = token.value }
  elseif token.type == "number" then
    return { kind = "constant", at = token.at, value = self:next().value }
  elseif self:skip("op", "(") then
    local node = self:tuple(false, true)
    self:want("op", ")")
    return node
  elseif self:skip("op", "[") then
    return { kind = "list", at = token.at, items = self:items("]", self.expression) }
  elseif self:skip("op", "{") then
    return { kind = "dict", at = token.at, pairs = self:items("}", pair) }
  end
  self:fail(token.at, "wanted an expression, got %s", self:shown())
end

return M
