-- tests.lua - the tests of templates: `value is name(argument)`.
local call = require "rl4vlm.jinja.call"
local limits = require "rl4vlm.jinja.limits"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local define = call.define
local tests = {}

local function kind_test(...)
  local kinds = {}
  for _, kind in ipairs { ... } do
    kinds[kind] = true
  end
  return define("", function(v)
    return kinds[value.kind(v) or value.type(v)] or false
  end)
end

tests.defined = define("", function(v)
  return value.kind(v) ~= "undefined"
end)
tests.undefined = kind_test "undefined"
tests.none = kind_test "NoneType"
tests.string = kind_test "str"
tests.mapping = kind_test "dict"
tests.boolean = kind_test "bool"
tests.integer = kind_test "int"
tests.float = kind_test "float"
tests.number = kind_test("int", "float", "bool")
tests.iterable = kind_test("str", "list", "tuple", "dict", "range", "view", "generator", "undefined", "loop")
tests.sequence = kind_test("str", "list", "tuple", "dict", "range", "undefined")
tests.callable = kind_test "function"

tests["true"] = define("", function(v)
  return v == true
end)
tests["false"] = define("", function(v)
  return v == false
end)

local function whole(v, what)
  local x = value.kind(v) == nil and v ~= value.none and type(v) ~= "string" and value.number(v)
  return x or limits.fail("the test %s wants a number, got a %s", what, value.type(v))
end

tests.odd = define("", function(v)
  return whole(v, "odd") % 2 == 1
end)
tests.even = define("", function(v)
  return whole(v, "even") % 2 == 0
end)
tests.divisibleby = define("num!", function(v, n)
  if n == 0 then
    limits.fail("the test divisibleby: division by zero")
  end
  return whole(v, "divisibleby") % whole(n, "divisibleby") == 0
end)

tests.upper = define("", function(v)
  local s = value.str(v)
  return s:find("%a") ~= nil and text.upper(s) == s
end)
tests.lower = define("", function(v)
  local s = value.str(v)
  return s:find("%a") ~= nil and text.lower(s) == s
end)

tests["in"] = define("seq!", function(v, list)
  return value.contains(list, v)
end)

tests.sameas = define("other!", function(v, other)
  return rawequal(v, other)
end)

local function less(a, b, sign)
  return value.less(a, b, sign)
end

local comparisons = {
  eq = value.equals,
  ne = function(a, b) return not value.equals(a, b) end,
  lt = function(a, b) return less(a, b, "<") end,
  gt = function(a, b) return less(b, a, ">") end,
  le = function(a, b) return value.equals(a, b) or less(a, b, "<=") end,
  ge = function(a, b) return value.equals(a, b) or less(b, a, ">=") end,
}
local spellings = { eq = { "equalto", "==" }, ne = { "!=" }, lt = { "lessthan", "<" }, gt = { "greaterthan", ">" },
  le = { "<=" }, ge = { ">=" } }
for name, f in pairs(comparisons) do
  tests[name] = define("other!", f)
  for _, other in ipairs(spellings[name]) do
    tests[other] = tests[name]
  end
end

---Two values by a comparison's sign: "==", "!=", "<", ">", "<=" or ">=".
---@return boolean
function M.compare(sign, a, b)
  return tests[sign].call(a, b)
end

---Runs a test.
---@param name string
---@param v any
---@param args table
---@param named table  {name, value} pairs
---@return boolean
function M.run(name, v, args, named)
  local test = tests[name]
  if not test then
    limits.fail("the test '%s' is not supported", tostring(name))
  end
  return call.invoke(test, "the test " .. name, v, args, named)
end

return M
