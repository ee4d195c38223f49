-- json.lua - JSON that keeps numbers exact.
--
-- lua-cjson reads every number as a float and writes 14 digits; run folders need doubles back bit for
-- bit, integers as integers, keys in one order and bytes that may be cut-off UTF-8. Writing is ours,
-- reading is cjson's with integral numbers turned back into integers.
local cjson = require("cjson.safe").new()
cjson.decode_invalid_numbers(false)

local M = {}

---The value that writes as `null`, and that null reads as.
M.null = cjson.null

local list_mark = {}
---Marks a table as a list, so that an empty one writes as `[]`.
---@param t table
---@return table t
function M.list(t)
  return setmetatable(t, list_mark)
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function escape(c)
  return escapes[c] or ("\\u%04x"):format(c:byte())
end

---The text with bytes that are not UTF-8 replaced by U+FFFD.
---@param s string
---@return string
function M.utf8(s)
  if utf8.len(s) then
    return s
  end
  local parts, at = {}, 1
  while at <= #s do
    local _, bad = utf8.len(s, at)
    if not bad then
      parts[#parts + 1] = s:sub(at)
      break
    end
    parts[#parts + 1] = s:sub(at, bad - 1) .. "\u{FFFD}"
    at = bad + 1
  end
  return table.concat(parts)
end

local function encode_string(s)
  return '"' .. M.utf8(s):gsub('[%c"\\\127]', escape) .. '"'
end

-- The shortest of %.14g .. %.17g that reads back as the same double; NaN and infinities are null.
local function encode_number(x)
  if math.type(x) == "integer" then
    return ("%d"):format(x)
  elseif x ~= x or x == math.huge or x == -math.huge then
    return "null"
  end
  for digits = 14, 17 do
    local text = ("%." .. digits .. "g"):format(x)
    if tonumber(text) == x then
      return text -- 3.0 writes as 3: a run that was resumed writes the same bytes
    end
  end
end

local encode

local function encode_table(t, indent, depth)
  local parts, open, close = {}, "{", "}"
  if #t > 0 or getmetatable(t) == list_mark then
    open, close = "[", "]"
    for i = 1, #t do
      parts[i] = encode(t[i], indent, depth + 1)
    end
  else
    local keys = {}
    for key in pairs(t) do
      if type(key) ~= "string" then
        error("json: a key of type " .. type(key) .. ", wanted strings", 0)
      end
      keys[#keys + 1] = key
    end
    table.sort(keys)
    for i, key in ipairs(keys) do
      parts[i] = encode_string(key) .. (indent and ": " or ":") .. encode(t[key], indent, depth + 1)
    end
  end
  if indent and #parts > 0 and open == "{" then
    local pad = ("\n%s"):format(indent:rep(depth + 1))
    return open .. pad .. table.concat(parts, "," .. pad) .. "\n" .. indent:rep(depth) .. close
  end
  return open .. table.concat(parts, indent and ", " or ",") .. close
end

function encode(value, indent, depth)
  local kind = type(value)
  if kind == "table" then
    return encode_table(value, indent, depth)
  elseif kind == "string" then
    return encode_string(value)
  elseif kind == "number" then
    return encode_number(value)
  elseif kind == "boolean" then
    return tostring(value)
  elseif value == nil or value == M.null then
    return "null"
  end
  error("json: cannot write a " .. kind, 0)
end

---One line of JSON, keys sorted, doubles exact.
---@param value any
---@return string
function M.encode(value)
  return encode(value, nil, 0)
end

---JSON for people: an object's members on lines of their own.
---@param value any
---@return string
function M.pretty(value)
  return encode(value, "  ", 0) .. "\n"
end

-- cjson gives floats only.
local function integers(value)
  if type(value) == "table" then
    for key, item in pairs(value) do
      value[key] = integers(item)
    end
  elseif math.type(value) == "float" then
    return math.tointeger(value) or value
  end
  return value
end

---Reads JSON; integral numbers below 2^53 come as integers, null as `json.null`.
---@param text string
---@return any value nil when the text is not JSON
---@return string|nil err
function M.decode(text)
  local value, err = cjson.decode(text)
  if value == nil then
    return nil, err
  end
  return integers(value)
end

return M
