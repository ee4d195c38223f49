-- repl.lua - the interactive prompt: reads a statement over as many lines as it takes, runs it, prints
-- what it gives. Locals end with their statement, as in the standalone lua.

local complete = require "rl4vlm.complete"
local fs = require "rl4vlm.fs"
local help = require "rl4vlm.help"
local host = require "rl4vlm.host"
local line = require "rl4vlm.line"
local picture = require "rl4vlm.picture"
local pretty = require "rl4vlm.pretty"

local M = {}

local function prompt(name, default)
  local value = rawget(_G, name)
  return value ~= nil and tostring(value) or default
end

-- $XDG_STATE_HOME/rl4vlm/history, its folder made; nil where there is no place for it.
local function history_path()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if not state or not state:match("^/") then
    state = home and home:match("^/") and home .. "/.local/state"
  end
  local folder = state and state .. "/rl4vlm"
  return folder and fs.mkdirs(folder) and folder .. "/history" or nil
end

-- What the terminal can draw, asked once: first the environment, then the terminal itself (a question
-- of kitty's protocol, and the primary device attributes, where 4 means sixel).
local kind_of_pictures
local function pictures()
  if not kind_of_pictures then
    kind_of_pictures = not host.isatty("stdout") and "none" or picture.from_environment()
  end
  if not kind_of_pictures then
    local answer = line.ask("\27_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\27\\\27[c", "c", 200)
    kind_of_pictures = answer:find("i=31;OK", 1, true) and "kitty"
      or answer:match("%[%?[%d;]*;4[;c]") and "sixel" or "blocks"
  end
  return kind_of_pictures
end

local function is_image(value)
  local mt = type(value) == "userdata" and debug.getmetatable(value)
  return mt and rawget(mt, "__name") == "rl4vlm.Image"
end

-- Prints the results of a statement and keeps the first in `_`.
local function show(results)
  local columns, texts, long = host.term_size(), {}, false
  for i = 1, results.n do
    local value = results[i]
    long = long or type(value) == "table" or type(value) == "userdata"
    texts[i] = is_image(value) and pictures() ~= "none"
      and picture.text(value, pictures(), columns // 2) .. tostring(value)
      or pretty.text(value, { width = columns })
  end
  io.write(table.concat(texts, long and "\n" or "\t"), "\n")
  rawset(_G, "_", results[1])
end

-- The message without our own part of the traceback.
local function trim(message)
  return (message:gsub("\n%s+%[C%]: in function '?rl4vlm%.host%.call'?.*$", ""))
end

-- Calls f with Ctrl-C armed; shows its results or the error.
local function run(f)
  local results = table.pack(host.call(f))
  host.clear_interrupt()
  if not results[1] then
    io.stderr:write("rl4vlm: ", trim(results[2]), "\n")
    return
  end
  if results.n > 1 then
    local ok, err = host.call(show, table.pack(table.unpack(results, 2, results.n)))
    if not ok then
      io.stderr:write("rl4vlm: ", trim(err), "\n")
    end
  end
end

local function ends_too_soon(err)
  return err:sub(-5) == "<eof>"
end

-- Compiles an expression or statements. Returns the function; or nil and the message; or nil, nil when
-- the text is only the beginning of either.
local function compile(text)
  local f, not_expression = load("return " .. text, "=stdin")
  if f then
    return f
  end
  local err
  f, err = load(text, "=stdin")
  if not f and (ends_too_soon(err) or ends_too_soon(not_expression)) then
    return nil, nil
  end
  return f, err
end

-- One entry of the history: on one line where that means the same.
local function remember(text, path)
  local entry = text
  if not (text:find("--", 1, true) or text:find("[[", 1, true) or text:find("\\\n", 1, true)) then
    entry = text:gsub("\n%s*", " ")
  end
  for part in entry:gmatch("[^\n]+") do
    line.add(part)
  end
  if path then
    line.save(path)
  end
end

-- Reads a whole statement. Returns its text; nil at the end of input; false after Ctrl-C.
local function read()
  local text = line.read(prompt("_PROMPT", "> "))
  if not text or text:match("^%?") then
    return text
  end
  text = text:gsub("^=", "return ")
  while true do
    local f, err = compile(text)
    if f or err then
      return text
    end
    local more = line.read(prompt("_PROMPT2", ">> "))
    if more == nil then
      return text
    elseif not more then
      return false
    end
    text = text .. "\n" .. more
  end
end

-- Our modules, without those in folders, which are parts of one.
local function modules()
  local names = {}
  for _, name in ipairs(complete.modules("rl4vlm.")) do
    names[#names + 1] = name:match("^rl4vlm%.([%w_]+)$")
  end
  return names
end

-- Words between commas, on lines of the terminal's width.
local function wrap(words)
  local columns, lines, row = host.term_size(), {}, ""
  for i, word in ipairs(words) do
    word = i < #words and word .. ", " or word
    if #row + #word > columns and row ~= "" then
      lines[#lines + 1], row = row, ""
    end
    row = row .. word
  end
  lines[#lines + 1] = row
  return table.concat(lines, "\n")
end

-- ? alone: what there is.
local function overview()
  io.write("?name    help on a function or module, as ?fs.stat or ?fs\n",
    "??name   its source\n",
    "_        the last value;  Ctrl-C stops what runs, Ctrl-D ends\n",
    "modules  rl4vlm.NAME, or require \"rl4vlm.NAME\":\n", wrap(modules()), "\n")
end

-- The name to look up when `name` leads to a value of ours: "Tensor:sum" for a method of one.
local function typed_name(name)
  local path, method = name:match("^(.*)[.:]([%w_]+)$")
  local f = path and load("return " .. path, "=?")
  local ok, value = pcall(f or error)
  local mt = ok and type(value) == "userdata" and debug.getmetatable(value)
  return mt and type(mt.__name) == "string" and mt.__name .. ":" .. method or name
end

local function show_help(name)
  local found = help.find(typed_name(name))
  if #found == 0 then
    found = help.find(name)
  end
  if #found == 0 and name:find(":", 1, true) then
    found = help.find(name:match(":.*$"))
  end
  local texts = {}
  for i, entry in ipairs(found) do
    texts[i] = help.text(entry)
  end
  if #texts == 0 then
    texts[1] = ("no help on '%s'; ? alone says what there is"):format(name)
  end
  io.write(table.concat(texts, "\n\n"), "\n")
end

local function value_of(name)
  local f = load("return " .. name, "=?")
  local ok, value = pcall(f or error)
  return ok and value or package.loaded[name] or package.loaded["rl4vlm." .. name]
end

local function show_source(name)
  local value = value_of(name)
  if type(value) == "table" and type(debug.getmetatable(value)) == "table" then
    value = rawget(debug.getmetatable(value), "__call") or value
  end
  if type(value) ~= "function" then
    io.write(("'%s' is a %s, not a function\n"):format(name, type(value)))
    return
  end
  local info = debug.getinfo(value, "S")
  local text = info.source:match("^@") and fs.read_file(info.source:sub(2))
  if not text then
    io.write(info.what == "C" and "built in, written in C\n" or "typed at the prompt\n")
    return
  end
  io.write("-- ", info.short_src, ":", info.linedefined, "\n")
  local number = 0
  for source_line in text:gmatch("([^\n]*)\n?") do
    number = number + 1
    if number >= info.linedefined and number <= info.lastlinedefined then
      io.write(source_line, "\n")
    end
  end
end

local function answer(question)
  local marks, name = question:match("^(%?+)%s*(.-)%s*$")
  if name == "" then
    overview()
  elseif marks == "?" then
    show_help(name)
  else
    show_source(name)
  end
end

-- The global `rl4vlm` of the prompt: every module by its name, ours in Lua loaded when first asked for.
local function module_table()
  local t = setmetatable({}, { __index = function(t, name)
    local full = "rl4vlm." .. tostring(name)
    if package.searchpath(full, package.path) then
      t[name] = require(full)
    end
    return rawget(t, name)
  end })
  for name in pairs(package.preload) do
    local ours = name:match("^rl4vlm%.(.*)$")
    if ours then
      t[ours] = require(name)
    end
  end
  return t
end

---Runs the prompt until the input ends.
---@param value any  what a script returned (-i): kept in `_`
---@return integer status
function M.run(value)
  if value ~= nil then
    rawset(_G, "_", value)
  end
  if rawget(_G, "rl4vlm") == nil then
    rawset(_G, "rl4vlm", module_table())
  end
  local path = line.editing() and history_path()
  line.completer(complete.words)
  if path then
    line.load(path)
  end
  io.write(("rl4vlm %s, %s. ? helps, Ctrl-D ends.\n"):format(host.version, _VERSION))
  while true do
    local text = read()
    if text == nil then
      break
    elseif text then
      if text:match("%S") then
        remember(text, path)
      end
      if text:match("^%?") then
        run(function() answer(text) end)
      else
        local f, err = compile(text)
        if f then
          run(f)
        else
          io.stderr:write("rl4vlm: ", err or "unfinished statement", "\n")
        end
      end
    end
    io.stdout:flush()
  end
  io.write("\n")
  return 0
end

return M
