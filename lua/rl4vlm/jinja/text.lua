-- text.lua - Python's str on Lua strings: templates count code points, not bytes.
--
-- Texts are UTF-8. Letters outside ASCII have no upper or lower case here: a template that asks for it is
-- refused, for its prompt would not be the one that the model learned from.
local limits = require "rl4vlm.jinja.limits"

local M = {}

local fail = limits.fail

local function ascii(s)
  return not s:find("[\x80-\xff]")
end

---Code points of a text.
---@param s string
---@return integer
function M.len(s)
  return ascii(s) and #s or utf8.len(s)
end

---The code points first .. last (1-based, both in range or empty).
---@param s string
---@param first integer
---@param last integer
---@return string
function M.sub(s, first, last)
  if ascii(s) then
    return s:sub(first, last)
  elseif last < first then
    return ""
  end
  return s:sub(utf8.offset(s, first), utf8.offset(s, last + 1) - 1)
end

---The characters of a text.
---@param s string
---@return string[]
function M.characters(s)
  limits.spend(#s)
  local list = {}
  for c in s:gmatch(utf8.charpattern) do
    list[#list + 1] = c
  end
  return list
end

-- ---- white space ----

local white = { [0x85] = true, [0xA0] = true, [0x1680] = true, [0x2028] = true, [0x2029] = true,
  [0x202F] = true, [0x205F] = true, [0x3000] = true, [0x20] = true }
for _, range in ipairs { { 0x09, 0x0D }, { 0x1C, 0x1F }, { 0x2000, 0x200A } } do
  for code = range[1], range[2] do
    white[code] = true
  end
end

---The first place at or behind `at` that is no white space.
---@param s string
---@param at integer
---@return integer
function M.skip_white(s, at)
  while at <= #s and white[utf8.codepoint(s, at)] do
    at = utf8.offset(s, 2, at)
  end
  return at
end

local function skip_back(s, set)
  local stop = #s + 1
  while stop > 1 do
    local at = utf8.offset(s, -1, stop)
    if not set[utf8.codepoint(s, at)] then
      break
    end
    stop = at
  end
  return stop - 1
end

local function set_of(chars)
  local set = {}
  for _, code in utf8.codes(chars) do
    set[code] = true
  end
  return set
end

---@param s string
---@param chars? string  what to take away; nil: white space
---@return string
function M.lstrip(s, chars)
  local set, at = chars and set_of(chars) or white, 1
  while at <= #s and set[utf8.codepoint(s, at)] do
    at = utf8.offset(s, 2, at)
  end
  return s:sub(at)
end

---@param s string
---@param chars? string
---@return string
function M.rstrip(s, chars)
  return s:sub(1, skip_back(s, chars and set_of(chars) or white))
end

---@param s string
---@param chars? string
---@return string
function M.strip(s, chars)
  return M.lstrip(M.rstrip(s, chars), chars)
end

---True for a text of white space that is not empty.
function M.is_space(s)
  return s ~= "" and M.skip_white(s, 1) > #s
end

-- ---- splitting ----

local function split_white(s, most)
  local list, at = {}, M.skip_white(s, 1)
  while at <= #s do
    if #list == most then
      list[#list + 1] = s:sub(at)
      break
    end
    local stop = at
    while stop <= #s and not white[utf8.codepoint(s, stop)] do
      stop = utf8.offset(s, 2, stop)
    end
    list[#list + 1] = s:sub(at, stop - 1)
    at = M.skip_white(s, stop)
  end
  return list
end

local function split_at(s, mark, most)
  if mark == "" then
    fail("split(): empty separator")
  end
  local list, at = {}, 1
  while #list ~= most do
    local first, last = s:find(mark, at, true)
    if not first then
      break
    end
    list[#list + 1] = s:sub(at, first - 1)
    at = last + 1
  end
  list[#list + 1] = s:sub(at)
  return list
end

---Python's split.
---@param s string
---@param mark? string   nil: runs of white space
---@param most? integer  splits at most; nil or negative: all
---@return string[]
function M.split(s, mark, most)
  limits.spend(#s)
  most = most and most >= 0 and most or nil
  return mark and split_at(s, mark, most) or not mark and split_white(s, most)
end

local function reversed(list)
  local back = {}
  for i, s in ipairs(list) do
    back[#list + 1 - i] = s:reverse()
  end
  return back
end

---Python's rsplit with a separator: splits are counted from the end.
function M.rsplit(s, mark, most)
  if not mark then
    fail("rsplit() without a separator is not supported")
  end
  return reversed(M.split(s:reverse(), mark:reverse(), most))
end

---Python's splitlines, without the line ends.
---@param s string
---@return string[]
function M.lines(s)
  limits.spend(#s)
  local list = {}
  s = s:gsub("\r\n", "\n"):gsub("[\r\v\f\x1c-\x1e]", "\n"):gsub("\u{85}", "\n"):gsub("\u{2028}", "\n")
    :gsub("\u{2029}", "\n")
  for line in (s:sub(-1) == "\n" and s or s == "" and s or s .. "\n"):gmatch("([^\n]*)\n") do
    list[#list + 1] = line
  end
  return list
end

-- ---- searching and replacing ----

---Occurrences of a text, not overlapping.
function M.count(s, part)
  limits.spend(#s)
  if part == "" then
    return M.len(s) + 1
  end
  local n, at = 0, 1
  while true do
    local first, last = s:find(part, at, true)
    if not first then
      return n
    end
    n, at = n + 1, last + 1
  end
end

---@param s string
---@param old string
---@param new string
---@param most? integer
---@return string
function M.replace(s, old, new, most)
  local parts
  if old == "" then
    parts = M.characters(s)
    table.insert(parts, 1, "")
    parts[#parts + 1] = ""
    for i = #parts, (most and most >= 0 and most or #parts) + 2, -1 do
      parts[i - 1] = parts[i - 1] .. table.remove(parts, i)
    end
  else
    parts = M.split(s, old, most)
  end
  limits.spend_text(#s + (#parts - 1) * (#new + 0.0))
  return table.concat(parts, new)
end

---Code points before the first (or, from behind, the last) occurrence of a text; -1 where there is none.
---@param s string
---@param part string
---@param from_behind? boolean
---@return integer
function M.find(s, part, from_behind)
  local first = s:find(part, 1, true)
  if from_behind and first then
    local _, last = s:reverse():find(part:reverse(), 1, true)
    first = #s - last + 1
  end
  return first and M.len(s:sub(1, first - 1)) or -1
end

-- ---- case ----

-- Scripts that have case; elsewhere (Chinese, Arabic, emoji...) there is nothing to change.
local cased = { { 0xAA, 0x587 }, { 0x10A0, 0x10FF }, { 0x13A0, 0x13FF }, { 0x1C80, 0x1FFF }, { 0x2071, 0x209C },
  { 0x2100, 0x218F }, { 0x24B6, 0x24E9 }, { 0x2C00, 0x2DFF }, { 0xA640, 0xA7FF }, { 0xAB30, 0xABBF },
  { 0xFB00, 0xFB17 }, { 0xFF21, 0xFF5A }, { 0x10400, 0x118FF }, { 0x16E40, 0x16E7F }, { 0x1D400, 0x1E943 } }

local function check_case(s, what)
  for _, code in utf8.codes(ascii(s) and "" or s) do
    for _, range in ipairs(cased) do
      if code >= range[1] and code <= range[2] and code ~= 0xD7 and code ~= 0xF7 then
        fail("%s of '%s': letters outside ASCII are not supported", what, utf8.char(code))
      end
    end
  end
  return s
end

function M.upper(s)
  return check_case(s, "upper"):upper()
end

function M.lower(s)
  return check_case(s, "lower"):lower()
end

function M.capitalize(s)
  check_case(s, "capitalize")
  return s:sub(1, 1):upper() .. s:sub(2):lower()
end

---Python's str.title: a letter behind a letter is small, any other capital.
function M.title(s)
  return (check_case(s, "title"):gsub("%a+", M.capitalize))
end

function M.swapcase(s)
  return (check_case(s, "swapcase"):gsub("%a", function(c)
    return c:lower() == c and c:upper() or c:lower()
  end))
end

-- ---- padding ----

---@param s string
---@param width integer
---@param side "left"|"right"|"both"  where the padding goes
---@param fill? string
---@return string
function M.pad(s, width, side, fill)
  local gap = math.max(width - M.len(s), 0)
  limits.spend_text(gap)
  local left = side == "left" and gap or side == "right" and 0 or gap // 2 + (gap & width & 1)
  fill = fill or " "
  return fill:rep(left) .. s .. fill:rep(gap - left)
end

---The text `n` times.
function M.rep(s, n)
  limits.spend_text((#s + 0.0) * math.max(n, 0))
  return s:rep(n)
end

-- ---- as Python writes values ----

local escapes = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function hidden(code)
  return code < 0x20 or code >= 0x7F and code <= 0xA0 or code == 0xAD
    or white[code] and code ~= 0x20 or code >= 0x200B and code <= 0x200F or code >= 0x202A and code <= 0x202E
    or code >= 0x2060 and code <= 0x206F or code == 0xFEFF or code >= 0xE000 and code <= 0xF8FF
end

local function escape(c)
  local code = utf8.codepoint(c)
  return escapes[c] or hidden(code) and (code < 0x100 and ("\\x%02x"):format(code) or ("\\u%04x"):format(code)) or c
end

---A text as Python's repr has it.
---@param s string
---@return string
function M.repr(s)
  limits.spend_text(4.0 * #s)
  local quote = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
  return quote .. s:gsub(utf8.charpattern, escape):gsub(quote, quote == "'" and "\\'" or quote) .. quote
end

---A float as Python's repr has it: the shortest that reads back, "1.0", "1e+16", "inf".
---@param x number
---@return string
function M.float(x)
  if x ~= x then
    return "nan"
  elseif x == math.huge or x == -math.huge then
    return x > 0 and "inf" or "-inf"
  end
  local digits = 0
  while tonumber(("%." .. digits .. "e"):format(x)) ~= x do
    digits = digits + 1
  end
  local exponent = tonumber(("%." .. digits .. "e"):format(x):match("e(.+)$"))
  if exponent < -4 or exponent >= 16 then
    return (("%." .. digits .. "e"):format(x))
  end
  return ("%." .. math.max(digits - exponent, 1) .. "f"):format(x)
end

return M
