-- place.lua - where in a user's file a field or a function stands, for messages.
--
-- `return rl.recipe { ... }` is a tail call: by the time of an error nobody on the stack remembers the
-- file. It is the script then, and the line is found by reading it.
local fs = require "rl4vlm.fs"

local M = {}

-- File and line of the call of `f`, as far as the stack knows; file nil: it was a tail call.
local function call_of(f)
  for level = 2, 30 do
    local info = debug.getinfo(level, "ft")
    if not info then
      return nil
    elseif info.func == f then
      local caller = not info.istailcall and debug.getinfo(level + 1, "Sl")
      return caller and caller.source:match("^@(.*)"), caller and caller.currentline
    end
  end
end

local function lines_of(file)
  local lines = {}
  for line in ((fs.read_file(file) or "") .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line
  end
  return lines
end

-- The line from `first` on that gives a value to the field; `first` where none does.
local function field_line(lines, first, field)
  local at = first
  for name in (field or ""):gmatch("[%a_][%w_]*") do
    local found
    for i = at, #lines do
      if lines[i]:find("%f[%w_]" .. name .. "%s*=[^=]") or lines[i]:find("%f[%w_]" .. name .. "%s*=$") then
        found = i
        break
      end
    end
    if not found then
      break
    end
    at = found
  end
  return at
end

---File and line of a function that is written in Lua.
---@param f any
---@return string? file
---@return integer? line
function M.of_function(f)
  local info = type(f) == "function" and debug.getinfo(f, "S")
  if info and info.what == "Lua" then
    return info.short_src, info.linedefined
  end
end

local function named(what, file, line)
  return file and ("%s (%s:%d)"):format(what, file, line) or what
end

---"WHAT (FILE:LINE)": what a user's function is for, and where it stands.
---@param what string
---@param f any
---@return string
function M.named(what, f)
  return named(what, M.of_function(f))
end

---"WHAT (FILE:LINE)": what a user's call made, and where that call stands.
---@param what string
---@param level integer as error's
---@return string
function M.made(what, level)
  local info = debug.getinfo(level + 1, "Sl")
  local known = info and info.currentline > 0
  return named(what, known and info.short_src or nil, known and info.currentline or nil)
end

---"FILE:LINE: " of a field in the table that `f` was called with; "" where there is no telling.
---@param f function  a function on the stack
---@param field string?  its dotted name
---@return string
function M.of(f, field)
  local file, first = call_of(f)
  local script = file or (arg or {})[0]
  local lines = script and lines_of(script) or {}
  for i = 1, file and 0 or #lines do
    if not first and lines[i]:find("^%s*return%s.*recipe%s*[{(]") then
      first = i
    end
  end
  return first and ("%s:%d: "):format(script, field_line(lines, first, field)) or ""
end

return M
