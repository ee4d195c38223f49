-- methods.lua - the methods of Python's str, list, tuple and dict that templates may call.
--
-- Methods that change their object are refused, as in transformers' sandbox.
local call = require "rl4vlm.jinja.call"
local limits = require "rl4vlm.jinja.limits"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local define, fail, none = call.define, limits.fail, value.none

-- ---- str ----

local str = {}

for _, name in ipairs { "upper", "lower", "capitalize", "title", "swapcase" } do
  str[name] = define("", text[name])
end

for _, name in ipairs { "strip", "lstrip", "rstrip" } do
  str[name] = define("chars:str", text[name])
end

for _, name in ipairs { "split", "rsplit" } do
  str[name] = define("sep:str maxsplit:int", function(s, mark, most)
    return value.list(text[name](s, mark, most))
  end)
end

str.splitlines = define("", function(s)
  return value.list(text.lines(s))
end)

local function starts(s, part)
  return s:sub(1, #part) == part
end

local function ends(s, part)
  return part == "" or s:sub(-#part) == part
end

-- A text, or any of a tuple of texts.
local function any_of(name, test)
  return define("prefix!", function(s, part)
    for _, one in ipairs(value.kind(part) == "tuple" and part or { part }) do
      if type(one) ~= "string" then
        fail("%s: wanted a str or a tuple of str, got a %s", name, value.type(one))
      elseif test(s, one) then
        return true
      end
    end
    return false
  end)
end

str.startswith = any_of("startswith()", starts)
str.endswith = any_of("endswith()", ends)

str.removeprefix = define("prefix:str!", function(s, part)
  return starts(s, part) and s:sub(#part + 1) or s
end)

str.removesuffix = define("suffix:str!", function(s, part)
  return part ~= "" and ends(s, part) and s:sub(1, -#part - 1) or s
end)

str.replace = define("old:str! new:str! count:int", text.replace)

str.join = define("iterable!", function(s, list)
  local parts, size = value.items(list), 0
  for i, item in ipairs(parts) do
    if type(item) ~= "string" then
      fail("join(): item %d: wanted a str, got a %s", i - 1, value.type(item))
    end
    size = size + #item + #s
  end
  limits.spend_text(size)
  return table.concat(parts, s)
end)

str.find = define("sub:str!", function(s, part)
  return text.find(s, part)
end)

str.rfind = define("sub:str!", function(s, part)
  return text.find(s, part, true)
end)

str.index = define("sub:str!", function(s, part)
  local at = text.find(s, part)
  return at >= 0 and at or fail("index(): substring not found")
end)

str.count = define("sub:str!", text.count)

str.partition = define("sep:str!", function(s, mark)
  local first, last = s:find(mark, 1, true)
  if not first or mark == "" then
    return mark == "" and fail("partition(): empty separator") or value.tuple { s, "", "" }
  end
  return value.tuple { s:sub(1, first - 1), mark, s:sub(last + 1) }
end)

for name, side in pairs { ljust = "right", rjust = "left", center = "both" } do
  str[name] = define("width:int! fillchar:str", function(s, width, fill)
    return text.pad(s, width, side, fill)
  end)
end

str.zfill = define("width:int!", function(s, width)
  local sign, digits = s:match("^([+-]?)(.*)$")
  return sign .. text.pad(digits, width - #sign, "left", "0")
end)

-- Questions about every character; of ASCII, and of what has no letters beyond it.
for name, pattern in pairs { isdigit = "^%d+$", isalpha = "^%a+$", isalnum = "^%w+$", isnumeric = "^%d+$",
  isdecimal = "^%d+$" } do
  str[name] = define("", function(s)
    if s:find("[\x80-\xff]") then
      fail("%s() of a text outside ASCII is not supported", name)
    end
    return s:find(pattern) ~= nil
  end)
end

str.isspace = define("", text.is_space)

str.isupper = define("", function(s)
  return s:find("%a") ~= nil and text.upper(s) == s
end)

str.islower = define("", function(s)
  return s:find("%a") ~= nil and text.lower(s) == s
end)

-- ---- list, tuple, dict ----

local list = {}

list.index = define("value!", function(v, item)
  for i, other in ipairs(v) do
    if value.equals(other, item) then
      return i - 1
    end
  end
  fail("index(): %s is not in the list", value.repr(item))
end)

list.count = define("value!", function(v, item)
  local n = 0
  for _, other in ipairs(v) do
    n = n + (value.equals(other, item) and 1 or 0)
  end
  return n
end)

list.copy = define("", function(v)
  return value.list(table.move(v, 1, #v, 1, {}))
end)

local dict = {}

dict.get = define("key! default", function(d, key, default)
  local v = value.dict_get(d, key)
  if v ~= nil then
    return v
  end
  return default == nil and none or default
end)

---What items(), keys() and values() give.
---@param d table
---@param of "items"|"keys"|"values"
function M.view(d, of)
  local items = {}
  for i, key in ipairs(d.keys) do
    local v = value.dict_get(d, key)
    items[i] = of == "keys" and key or of == "values" and v or value.tuple { key, v }
  end
  limits.spend(#items)
  items.of = of
  return value.new("view", items)
end

for _, of in ipairs { "items", "keys", "values" } do
  dict[of] = define("", function(d)
    return M.view(d, of)
  end)
end

dict.copy = define("", function(d)
  local new = value.dict()
  for _, key in ipairs(d.keys) do
    value.dict_set(new, key, value.dict_get(d, key))
  end
  return new
end)

-- ---- finding them ----

local known = { str = str, list = list, tuple = { index = list.index, count = list.count }, dict = dict }
local changing = { list = { "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort" },
  dict = { "clear", "pop", "popitem", "setdefault", "update" } }
local absent = { str = { "casefold", "encode", "expandtabs", "format", "format_map", "isascii", "isidentifier",
  "isprintable", "istitle", "maketrans", "rindex", "rpartition", "translate" }, dict = { "fromkeys" } }

---The method of a value, as something to call; nil where its type has none of that name.
---@param v any
---@param name string
---@return table?
function M.find(v, name)
  local kind = value.type(v)
  local method = known[kind] and known[kind][name]
  if method then
    return value.new("function", { name = name .. "()", object = v, callable = method })
  elseif value.among(changing[kind] or {}, name) then
    fail("%s.%s() changes its object, which templates may not", kind, name)
  elseif value.among(absent[kind] or {}, name) then
    fail("the method %s.%s() is not supported", kind, name)
  end
end

return M
