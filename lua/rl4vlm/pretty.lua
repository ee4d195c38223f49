-- pretty.lua - any value as text for people: tables by their content, to a depth and a width.

local M = {}

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
  then true until while]]):gmatch("%a+") do
  keywords[word] = true
end

-- A string as Lua would write it, on one line, cut when it is long.
local function quote(s, longest)
  local cut = #s > longest
  if cut then
    local from = utf8.offset(s, 0, longest + 1) or longest + 1 -- never inside a character
    s = s:sub(1, from - 1)
  end
  local text = ("%q"):format(s):gsub("\\\n", "\\n")
  if not utf8.len(text) then
    text = text:gsub("[\128-\255]", function(c) return ("\\x%02x"):format(c:byte()) end)
  end
  return cut and text .. "..." or text
end

local function function_text(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then
    return tostring(f)
  end
  return ("function %s:%d"):format(info.short_src, info.linedefined)
end

local function key_text(key)
  if type(key) == "string" and key:match("^[%a_][%w_]*$") and not keywords[key] then
    return key
  end
  return "[" .. (type(key) == "string" and quote(key, 60) or tostring(key)) .. "]"
end

-- Keys beyond the list part: strings first, each kind in its order.
local function sorted_keys(t, n)
  local keys = {}
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then
      return type(a) == "string" or type(b) ~= "string" and type(a) < type(b)
    elseif type(a) == "number" then
      return a < b
    end
    return tostring(a) < tostring(b)
  end)
  return keys
end

local show

-- The items of a table as texts: list part, then fields.
local function items_of(t, state, depth)
  local items, left, n = {}, state.items, rawlen(t)
  local function add(prefix, value)
    left = left - 1
    items[#items + 1] = prefix .. show(value, state, depth + 1)
  end
  local skipped = math.max(0, n - left)
  for i = 1, n - skipped do
    add("", rawget(t, i))
  end
  for _, key in ipairs(sorted_keys(t, n)) do
    if left > 0 then
      add(key_text(key) .. " = ", rawget(t, key))
    else
      skipped = skipped + 1
    end
  end
  if skipped > 0 then
    items[#items + 1] = ("... %d more"):format(skipped)
  end
  return items
end

local function fits(items, room)
  local length = 4
  for _, item in ipairs(items) do
    length = length + (utf8.len(item) or #item) + 2
    if length > room or item:find("\n", 1, true) then
      return false
    end
  end
  return true
end

-- Short items (numbers, mostly) flow over several lines; others take a line each.
local function lay_out(items, indent, room)
  local longest = 0
  for _, item in ipairs(items) do
    longest = item:find("\n", 1, true) and math.huge or math.max(longest, #item)
  end
  if longest > 12 then
    return table.concat(items, ",\n" .. indent)
  end
  local lines, line = {}, ""
  for _, item in ipairs(items) do
    if #line + #item + 2 > room and line ~= "" then
      lines[#lines + 1], line = line, ""
    end
    line = line == "" and item or line .. ", " .. item
  end
  lines[#lines + 1] = line
  return table.concat(lines, ",\n" .. indent)
end

local function table_text(t, state, depth)
  if state.open[t] then
    return "<cycle>"
  elseif next(t) == nil then
    return "{}"
  elseif depth >= state.depth then
    return "{...}"
  end
  state.open[t] = true
  local items = items_of(t, state, depth)
  state.open[t] = nil
  local room = state.width - 2 * depth
  if fits(items, room) then
    return "{ " .. table.concat(items, ", ") .. " }"
  end
  local indent = ("  "):rep(depth + 1)
  return "{\n" .. indent .. lay_out(items, indent, room - 3) .. "\n" .. ("  "):rep(depth) .. "}"
end

function show(value, state, depth)
  local kind = type(value)
  if kind == "string" then
    return quote(value, state.string)
  elseif kind == "function" then
    return function_text(value)
  elseif kind ~= "table" then
    return tostring(value)
  end
  local mt = debug.getmetatable(value)
  if type(mt) == "table" and rawget(mt, "__tostring") then
    local ok, text = pcall(tostring, value)
    if ok then
      return text
    end
  end
  return table_text(value, state, depth)
end

---A value as text. A string at the top is shown as it is, as `print` does. Tables inside tables are opened as
---deep as the lines allow, the outermost always.
---@param value any
---@param options? {width?: integer, depth?: integer, lines?: integer, items?: integer, string?: integer}
---  columns (80), nested tables (4), lines (60), entries of one table (100), characters of a nested string (200)
---@return string
function M.text(value, options)
  if type(value) == "string" then
    return value
  end
  options = options or {}
  local state = { open = {}, width = options.width or 80, depth = options.depth or 4,
    items = options.items or 100, string = options.string or 200 }
  local text = show(value, state, 0)
  while state.depth > 1 and select(2, text:gsub("\n", "\n")) >= (options.lines or 60) do
    state.depth = state.depth - 1
    text = show(value, state, 0)
  end
  return text
end

return M
