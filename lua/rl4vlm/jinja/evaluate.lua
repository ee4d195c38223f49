-- evaluate.lua - what the expressions of a template are worth, as Python would have it.
local call = require "rl4vlm.jinja.call"
local filters = require "rl4vlm.jinja.filters"
local limits = require "rl4vlm.jinja.limits"
local subscript = require "rl4vlm.jinja.subscript"
local tests = require "rl4vlm.jinja.tests"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local fail = limits.fail

---@class rl4vlm.jinja.State
---@field scope table   {vars =, outer =}: names set so far
---@field at integer    where the evaluation is, for messages
---@field depth integer macros that are running
---@field captured? string  the text of a block that goes through filters

local eval = {}

---The value of an expression.
---@param state rl4vlm.jinja.State
---@param node table
---@return any
function M.value(state, node)
  limits.spend(1)
  state.at = node.at
  return eval[node.kind](state, node)
end

local evaluate = M.value

local function all(state, nodes)
  local list = {}
  for i, node in ipairs(nodes) do
    list[i] = evaluate(state, node)
  end
  return list
end

local function keywords(state, named)
  local list = {}
  for i, pair in ipairs(named) do
    list[i] = { pair[1], evaluate(state, pair[2]) }
  end
  return list
end

-- ---- names and literals ----

---The value of a name: the innermost that was set, a function of all templates, or undefined.
function M.lookup(state, name)
  local scope = state.scope
  while scope do
    local v = scope.vars[name]
    if v ~= nil then
      return v
    end
    scope = scope.outer
  end
  return value.undefined(name)
end

function eval.constant(_, node)
  return node.value
end

function eval.name(state, node)
  return M.lookup(state, node.name)
end

function eval.list(state, node)
  return value.list(all(state, node.items))
end

function eval.tuple(state, node)
  return value.tuple(all(state, node.items))
end

function eval.dict(state, node)
  local d = value.dict()
  for _, pair in ipairs(node.pairs) do
    local key = evaluate(state, pair.key)
    value.dict_set(d, key, evaluate(state, pair.value))
  end
  return d
end

-- ---- arithmetic ----

local function bad_operands(op, a, b)
  for _, v in ipairs { a, b } do
    if value.kind(v) == "undefined" then
      value.fail_undefined(v)
    end
  end
  fail("unsupported operand types for %s: '%s' and '%s'", op, value.type(a), value.type(b))
end

local function is_number(v)
  return type(v) == "number" or type(v) == "boolean"
end

-- Integers are Python's as long as 64 bits hold them.
local function checked(exact, approximate)
  if math.abs(exact - approximate) > 1e3 + 1e-9 * math.abs(approximate) then
    fail("an integer beyond 64 bits is not supported")
  end
  return exact
end

local function power(a, b)
  if math.type(a) == "float" or math.type(b) == "float" or b < 0 then
    return (a + 0.0) ^ b
  end
  limits.spend(1)
  local result, base, left = 1, a, b
  while left > 0 do
    result = left & 1 == 1 and result * base or result
    base, left = base * base, left >> 1
  end
  return checked(result, (a + 0.0) ^ b)
end

local function both_integers(a, b)
  return math.type(a) == "integer" and math.type(b) == "integer"
end

local arithmetic = {
  ["+"] = function(a, b) return both_integers(a, b) and checked(a + b, (a + 0.0) + b) or a + b end,
  ["-"] = function(a, b) return both_integers(a, b) and checked(a - b, (a + 0.0) - b) or a - b end,
  ["*"] = function(a, b) return both_integers(a, b) and checked(a * b, (a + 0.0) * b) or a * b end,
  ["**"] = power,
  ["/"] = function(a, b) return b ~= 0 and a / b or fail("division by zero") end,
  ["//"] = function(a, b) return b ~= 0 and a // b or fail("division by zero") end,
  ["%"] = function(a, b) return b ~= 0 and a % b or fail("division by zero") end,
}

local function concatenated(a, b)
  limits.spend(#a + #b)
  local list = table.move(a, 1, #a, 1, {})
  table.move(b, 1, #b, #a + 1, list)
  return a.kind == "tuple" and value.tuple(list) or value.list(list)
end

local function repeated(v, n)
  if type(v) == "string" then
    return text.rep(v, n)
  end
  limits.spend(n > 0 and math.min(#v * (n + 0.0), 1e9) // 1 | 0 or 0)
  local list = {}
  for _ = 1, n do
    table.move(v, 1, #v, #list + 1, list)
  end
  return v.kind == "tuple" and value.tuple(list) or value.list(list)
end

local function is_row(v)
  return type(v) == "string" or value.kind(v) == "list" or value.kind(v) == "tuple"
end

-- + and * of texts and lists; nil where they are neither.
local function rows(op, a, b)
  if op == "+" and type(a) == "string" and type(b) == "string" then
    limits.spend_text(#a + #b)
    return a .. b
  elseif op == "+" and value.kind(a) and value.kind(a) == value.kind(b) and is_row(a) then
    return concatenated(a, b)
  elseif op == "*" and is_row(a) and is_number(b) and math.type(value.number(b)) == "integer" then
    return repeated(a, value.number(b))
  elseif op == "*" and is_row(b) and is_number(a) and math.type(value.number(a)) == "integer" then
    return repeated(b, value.number(a))
  elseif op == "%" and type(a) == "string" then
    fail("formatting a text with % is not supported")
  end
end

function eval.binary(state, node)
  local a, b = evaluate(state, node.left), evaluate(state, node.right)
  state.at = node.at
  if is_number(a) and is_number(b) then
    return arithmetic[node.op](value.number(a), value.number(b))
  end
  local v = rows(node.op, a, b)
  if v == nil then
    bad_operands(node.op, a, b)
  end
  return v
end

function eval.sign(state, node)
  local v = evaluate(state, node.value)
  state.at = node.at
  if not is_number(v) then
    bad_operands(node.op, v, v)
  end
  return node.op == "-" and -value.number(v) or value.number(v)
end

function eval.joined(state, node)
  local parts, size = all(state, node.items), 0
  for i, v in ipairs(parts) do
    parts[i] = value.str(v)
    size = size + #parts[i]
  end
  limits.spend_text(size)
  return table.concat(parts)
end

-- ---- logic ----

eval["not"] = function(state, node)
  return not value.truth(evaluate(state, node.value))
end

eval["and"] = function(state, node)
  local left = evaluate(state, node.left)
  if not value.truth(left) then
    return left
  end
  return evaluate(state, node.right)
end

eval["or"] = function(state, node)
  local left = evaluate(state, node.left)
  if value.truth(left) then
    return left
  end
  return evaluate(state, node.right)
end

function eval.choice(state, node)
  if value.truth(evaluate(state, node.test)) then
    return evaluate(state, node.yes)
  elseif node.no then
    return evaluate(state, node.no)
  end
  return value.undefined("the inline if without else")
end

local function holds(sign, a, b)
  if sign == "in" then
    return value.contains(b, a)
  elseif sign == "not in" then
    return not value.contains(b, a)
  end
  return tests.compare(sign, a, b)
end

function eval.compare(state, node)
  local left = evaluate(state, node.first)
  for _, step in ipairs(node) do
    local right = evaluate(state, step.value)
    state.at = node.at
    if not holds(step.sign, left, right) then
      return false
    end
    left = right
  end
  return true
end

-- ---- looking up, calling ----

function eval.attribute(state, node)
  local object = evaluate(state, node.object)
  state.at = node.at
  return subscript.attribute(object, node.name)
end

function eval.element(state, node)
  local object = evaluate(state, node.object)
  local key = evaluate(state, node.key)
  state.at = node.at
  return subscript.element(object, key)
end

local function part(state, node)
  if not node then
    return value.none
  end
  return evaluate(state, node)
end

function eval.slice(state, node)
  local object = evaluate(state, node.object)
  local start, stop, step = part(state, node.start), part(state, node.stop), part(state, node.step)
  state.at = node.at
  return subscript.slice(object, start, stop, step)
end

function eval.call(state, node)
  local f = evaluate(state, node.callee)
  local args, named = all(state, node.args), keywords(state, node.named)
  state.at = node.at
  if value.kind(f) == "undefined" then
    value.fail_undefined(f)
  elseif value.kind(f) ~= "function" then
    fail("'%s' object is not callable", value.type(f))
  elseif f.run then
    return f.run(state, args, named)
  end
  return call.invoke(f.callable, f.name, f.object, args, named)
end

function eval.filter(state, node)
  local v = state.captured -- what a block's first filter is given
  if node.object then
    v = evaluate(state, node.object)
  end
  local args, named = all(state, node.args), keywords(state, node.named)
  state.at = node.at
  return filters.run(node.name, v, args, named)
end

function eval.test(state, node)
  local v = evaluate(state, node.object)
  local args, named = all(state, node.args), keywords(state, node.named)
  state.at = node.at
  return tests.run(node.name, v, args, named)
end

return M
