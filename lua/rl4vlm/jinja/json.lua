-- json.lua - the `tojson` filter: Python's json.dumps, byte for byte.
local json = require "rl4vlm.json"
local limits = require "rl4vlm.jinja.limits"
local text = require "rl4vlm.jinja.text"
local value = require "rl4vlm.jinja.value"

local M = {}

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b",
  ["\f"] = "\\f" }

local function escape(c)
  return escapes[c] or ("\\u%04x"):format(c:byte())
end

local function escape_wide(c)
  local code = utf8.codepoint(c)
  if code < 0x10000 then
    return ("\\u%04x"):format(code)
  end
  code = code - 0x10000
  return ("\\u%04x\\u%04x"):format(0xD800 | code >> 10, 0xDC00 | code & 0x3FF)
end

local function string(s, style)
  limits.spend_text(6.0 * #s)
  s = '"' .. s:gsub('[%z\1-\31"\\]', escape) .. '"'
  return style.ascii and s:gsub("[\xC2-\xF4][\x80-\xBF]*", escape_wide) or s
end

local function number(x)
  if math.type(x) == "integer" then
    return tostring(x)
  end
  return ({ nan = "NaN", inf = "Infinity", ["-inf"] = "-Infinity" })[text.float(x)] or text.float(x)
end

local function wrap(open, parts, close, style, depth)
  if #parts == 0 or not style.indent then
    return open .. table.concat(parts, style.item) .. close
  end
  limits.spend_text((#parts + 1.0) * #style.indent * (depth + 1))
  local pad = "\n" .. style.indent:rep(depth + 1)
  return open .. pad .. table.concat(parts, style.item .. pad) .. "\n" .. style.indent:rep(depth) .. close
end

local write

local function key_text(key)
  if type(key) == "string" then
    return key
  elseif key == value.none then
    return "null"
  elseif type(key) == "boolean" then
    return tostring(key)
  elseif type(key) ~= "number" then
    limits.fail("tojson: a key of type %s", value.type(key))
  end
  return number(key)
end

local function object(d, style, depth)
  local keys, parts = d.keys, {}
  if style.sorted then
    keys = table.move(keys, 1, #keys, 1, {})
    table.sort(keys, function(a, b)
      return value.less(a, b)
    end)
  end
  for i, key in ipairs(keys) do
    parts[i] = string(key_text(key), style) .. style.colon .. write(value.dict_get(d, key), style, depth + 1)
  end
  return wrap("{", parts, "}", style, depth)
end

function write(v, style, depth)
  limits.spend(1)
  local kind = value.kind(v)
  if depth > limits.depth then
    limits.fail("values nested deeper than %d", limits.depth)
  elseif type(v) == "string" then
    return string(v, style)
  elseif type(v) == "boolean" then
    return tostring(v)
  elseif type(v) == "number" then
    return number(v)
  elseif v == json.null then
    return "null"
  elseif kind == "dict" then
    return object(v, style, depth)
  elseif kind ~= "list" and kind ~= "tuple" then
    limits.fail("Object of type %s is not JSON serializable", value.type(v))
  end
  local parts = {}
  for i, item in ipairs(v) do
    parts[i] = write(item, style, depth + 1)
  end
  return wrap("[", parts, "]", style, depth)
end

local function given(v)
  return v ~= nil and v ~= value.none
end

---JSON of a value, as transformers' tojson writes it.
---@param v any
---@param ensure_ascii? boolean
---@param indent? integer|string
---@param separators? table  a pair: between items, behind a key
---@param sort_keys? boolean
---@return string
function M.write(v, ensure_ascii, indent, separators, sort_keys)
  if given(indent) and type(indent) ~= "string" then
    indent = math.type(indent) == "integer" and text.rep(" ", indent)
      or limits.fail("tojson: indent: wanted an int or a str, got a %s", value.type(indent))
  end
  indent = given(indent) and indent or nil
  local pair = given(separators) and separators or { indent and "," or ", ", ": " }
  if value.kind(separators) == nil and given(separators) or type(pair[1]) ~= "string" or type(pair[2]) ~= "string" then
    limits.fail("tojson: separators: wanted two texts")
  end
  local s = write(v, { ascii = given(ensure_ascii) and value.truth(ensure_ascii), indent = indent,
    item = pair[1], colon = pair[2], sorted = given(sort_keys) and value.truth(sort_keys) }, 0)
  limits.spend_text(#s)
  return s
end

return M
