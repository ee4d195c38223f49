-- filters.lua - the filters of templates: `value | name(arguments)`.
local call = require "rl4vlm.jinja.call"
local json_filter = require "rl4vlm.jinja.json"
local limits = require "rl4vlm.jinja.limits"
local methods = require "rl4vlm.jinja.methods"
local subscript = require "rl4vlm.jinja.subscript"
local tests = require "rl4vlm.jinja.tests"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local define, fail, none = call.define, limits.fail, value.none
local filters = {}

-- ---- text ----

for _, name in ipairs { "upper", "lower", "capitalize", "title" } do
  filters[name] = define("", function(v)
    return text[name](value.str(v))
  end)
end

filters.trim = define("chars:str", function(v, chars)
  return text.strip(value.str(v), chars)
end)

filters.string = define("", value.str)
filters.safe = filters.string

filters.escape = define("", function(v)
  return (value.str(v):gsub("&", "&amp;"):gsub(">", "&gt;"):gsub("<", "&lt;"):gsub("'", "&#39;"):gsub('"', "&#34;"))
end)
filters.e = filters.escape

filters.replace = define("old! new! count:int", function(v, old, new, count)
  return text.replace(value.str(v), value.str(old), value.str(new), count)
end)

filters.center = define("width:int", function(v, width)
  return text.pad(value.str(v), width or 80, "both")
end)

filters.wordcount = define("", function(v)
  local n = 0
  for _ in value.str(v):gmatch("[%w_\x80-\xff]+") do
    n = n + 1
  end
  return n
end)

filters.indent = define("width first blank", function(v, width, first, blank)
  if width and type(width) ~= "string" and math.type(width) ~= "integer" then
    fail("indent: width: wanted an int or a str, got a %s", value.type(width))
  end
  local pad = type(width) == "string" and width or text.rep(" ", width or 4)
  local lines = text.lines(value.str(v) .. "\n")
  limits.spend_text(#lines * (#pad + 0.0))
  for i, line in ipairs(lines) do
    if i == 1 and first == true or i > 1 and (blank == true or line ~= "") then
      lines[i] = pad .. line
    end
  end
  return table.concat(lines, "\n")
end)

-- ---- numbers ----

local function to_number(v, base)
  if type(v) == "string" then
    v = text.strip(v):gsub("_", "")
    return base and tonumber((v:gsub("^0[xXoObB]", "")), base) or v:find("^[+-]?[%d.]+[eE]?[+-]?%d*$") and tonumber(v)
  end
  return type(v) ~= "table" and v ~= none and value.number(v) or nil
end

filters.int = define("default base:int", function(v, default, base)
  if base and (base < 2 or base > 36) then
    fail("int: base: wanted 2 to 36, got %d", base)
  end
  local x = to_number(v, base ~= 10 and base or nil)
  local whole = x and x == x and math.tointeger(x < 0 and math.ceil(x) or math.floor(x))
  return whole or default or 0
end)

filters.float = define("default", function(v, default)
  local x = to_number(v)
  return x and x + 0.0 or default or 0.0
end)

filters.abs = define("", function(v)
  local x = type(v) ~= "string" and to_number(v)
  return x and math.abs(x) or fail("bad operand type for abs(): '%s'", value.type(v))
end)

-- Python rounds halves to even; "ceil" and "floor" are asked for by name.
filters.round = define("precision:int method:str", function(v, precision, method)
  local x = type(v) ~= "string" and to_number(v) or fail("round: wanted a number, got a %s", value.type(v))
  if precision and (precision < 0 or precision > 15) then
    fail("round: precision: wanted 0 to 15, got %d", precision)
  end
  local scale = 10.0 ^ (precision or 0)
  if math.type(x) == "integer" and (method or "common") == "common" then
    return x
  elseif method == "ceil" or method == "floor" then
    return math[method](x * scale) / scale
  end
  return tonumber(("%." .. (precision or 0) .. "f"):format(x)) + 0.0
end)

-- ---- what is not there ----

filters.default = define("default_value boolean", function(v, default, boolean)
  local absent = value.kind(v) == "undefined" or boolean ~= nil and value.truth(boolean) and not value.truth(v)
  if absent then
    return default == nil and "" or default
  end
  return v
end)
filters.d = filters.default

-- ---- lists ----

filters.length = define("", value.len)
filters.count = filters.length

filters.list = define("", function(v)
  return value.list(value.items(v))
end)

filters.first = define("", function(v)
  local first = value.items(v)[1]
  return first == nil and value.undefined("No first item, sequence was empty.") or first
end)

filters.last = define("", function(v)
  if value.kind(v) == "generator" then
    fail("last: 'generator' object is not reversible")
  end
  local items = value.items(v)
  return #items == 0 and value.undefined("No last item, sequence was empty.") or items[#items]
end)

filters.join = define("d attribute", function(v, mark, attribute)
  local parts, size = {}, 0
  mark = mark and value.str(mark) or ""
  for i, item in ipairs(value.items(v)) do
    parts[i] = value.str(attribute and subscript.path(item, attribute) or item)
    size = size + #parts[i] + #mark
  end
  limits.spend_text(size)
  return table.concat(parts, mark)
end)

filters.reverse = define("", function(v)
  local back, items = {}, value.items(v)
  for i, item in ipairs(items) do
    back[#items + 1 - i] = item
  end
  return type(v) == "string" and table.concat(back) or value.generator(back)
end)

-- What sort, min, max and unique compare: letters of any case are equal unless asked otherwise.
local function sort_key(attribute, case_sensitive)
  return function(item)
    local v = attribute and attribute ~= none and subscript.path(item, attribute) or item
    return type(v) == "string" and not (case_sensitive and value.truth(case_sensitive)) and text.lower(v) or v
  end
end

-- A stable merge sort: Python's keeps the order of equals.
local function sorted(items, before)
  if #items < 2 then
    return items
  end
  local half = #items // 2
  local a = sorted(table.move(items, 1, half, 1, {}), before)
  local b = sorted(table.move(items, half + 1, #items, 1, {}), before)
  local list, i, k = {}, 1, 1
  while i <= #a or k <= #b do
    if k > #b or i <= #a and not before(b[k], a[i]) then
      list[#list + 1], i = a[i], i + 1
    else
      list[#list + 1], k = b[k], k + 1
    end
  end
  return list
end

filters.sort = define("reverse case_sensitive attribute", function(v, reverse, case_sensitive, attribute)
  local key = sort_key(attribute, case_sensitive)
  local down = reverse ~= nil and value.truth(reverse)
  return value.list(sorted(value.items(v), function(a, b)
    if down then
      a, b = b, a
    end
    return value.less(key(a), key(b))
  end))
end)

local function extreme(v, better, key)
  local best
  for _, item in ipairs(value.items(v)) do
    if best == nil or better(key(item), key(best)) then
      best = item
    end
  end
  return best == nil and value.undefined("No aggregated item, sequence was empty.") or best
end

filters.min = define("case_sensitive attribute", function(v, case_sensitive, attribute)
  return extreme(v, value.less, sort_key(attribute, case_sensitive))
end)

filters.max = define("case_sensitive attribute", function(v, case_sensitive, attribute)
  return extreme(v, function(a, b)
    return value.less(b, a)
  end, sort_key(attribute, case_sensitive))
end)

filters.unique = define("case_sensitive attribute", function(v, case_sensitive, attribute)
  local key, seen, list = sort_key(attribute, case_sensitive), value.dict(), {}
  for _, item in ipairs(value.items(v)) do
    local k = key(item)
    if value.dict_get(seen, k) == nil then
      value.dict_set(seen, k, true)
      list[#list + 1] = item
    end
  end
  return value.generator(list)
end)

filters.sum = define("attribute start", function(v, attribute, start)
  local total = start or 0
  for _, item in ipairs(value.items(v)) do
    local x = attribute and attribute ~= none and subscript.path(item, attribute) or item
    if type(x) == "string" or type(x) == "table" or x == none then
      fail("sum: wanted numbers, got a %s", value.type(x))
    end
    total = total + value.number(x)
  end
  return total
end)

-- ---- dicts ----

filters.items = define("", function(v)
  if value.kind(v) == "undefined" then
    return value.generator {}
  elseif value.kind(v) ~= "dict" then
    fail("items: wanted a mapping, got a %s", value.type(v))
  end
  return value.generator(value.items(methods.view(v, "items")))
end)

filters.dictsort = define("case_sensitive by reverse", function(v, case_sensitive, by, reverse)
  if value.kind(v) ~= "dict" then
    fail("dictsort: wanted a dict, got a %s", value.type(v))
  end
  local key, at, down = sort_key(nil, case_sensitive), by == "value" and 2 or 1, reverse ~= nil and value.truth(reverse)
  return value.list(sorted(value.items(methods.view(v, "items")), function(a, b)
    if down then
      a, b = b, a
    end
    return value.less(key(a[at]), key(b[at]))
  end))
end)

filters.attr = define("name:str!", function(v, name)
  return methods.find(v, name) or value.undefined(name, v)
end)

filters.tojson = define("ensure_ascii indent separators sort_keys", json_filter.write)

-- ---- filters of filters and tests ----

local function chosen(v, keep, of, test)
  local list = {}
  for _, item in ipairs(value.items(v)) do
    if test(of(item)) == keep then
      list[#list + 1] = item
    end
  end
  return value.generator(list)
end

-- The test named by the first of `args` with the others as its arguments; without a name, truth.
local function test_of(args, first)
  local name = args[first]
  if name == nil then
    return value.truth
  end
  local rest = table.move(args, first + 1, #args, 1, {})
  return function(v)
    return tests.run(name, v, rest, {})
  end
end

for name, keep in pairs { select = true, reject = false } do
  filters[name] = define("...", function(v, ...)
    return chosen(v, keep, function(item)
      return item
    end, test_of({ ... }, 1))
  end)
  filters[name .. "attr"] = define("...", function(v, ...)
    local args = { ... }
    if args[1] == nil then
      fail("%sattr needs the name of an attribute", name)
    end
    return chosen(v, keep, function(item)
      return subscript.path(item, args[1])
    end, test_of(args, 2))
  end)
end

local function named(list, name)
  for _, pair in ipairs(list) do
    if pair[1] == name then
      return pair[2]
    end
  end
end

---What `map` gives: an attribute of each item, or each through a filter.
---@param items table
---@param args table
---@param keywords table
---@return table
function M.map(items, args, keywords)
  local attribute, default, list = named(keywords, "attribute"), named(keywords, "default"), {}
  if attribute == nil and args[1] == nil then
    fail("map needs a filter's name or an attribute")
  end
  for i, item in ipairs(items) do
    if attribute ~= nil then
      local v = subscript.path(item, attribute)
      list[i] = default ~= nil and value.kind(v) == "undefined" and default or v
    else
      list[i] = M.run(args[1], item, table.move(args, 2, #args, 1, {}), keywords)
    end
  end
  return list
end

---Runs a filter.
---@param name string
---@param v any
---@param args table
---@param keywords table  {name, value} pairs
---@return any
function M.run(name, v, args, keywords)
  if name == "map" then
    return value.generator(M.map(value.items(v), args, keywords))
  end
  local filter = filters[name]
  if not filter then
    fail("the filter '%s' is not supported", tostring(name))
  end
  return call.invoke(filter, "the filter " .. name, v, args, keywords)
end

return M
