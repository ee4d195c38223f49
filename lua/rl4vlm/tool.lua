-- tool.lua - `rl4vlm -m NAME ARGS`: runs an installed Lua module as a program.
--
-- rl4vlm.tools.NAME is looked for first, then NAME itself. A module that returns a table with a
-- function `main` is run by main(args), whose result is the exit status (nothing: 0); any other
-- module has done its work when it has loaded. `arg` holds the arguments in both cases.

local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"

local M = {}

-- Says where `name` would come from, or nil.
local function find(name)
  return package.loaded[name] or package.preload[name]
    or package.searchpath(name, package.path) or package.searchpath(name, package.cpath)
end

---The names of the tools that come with the program.
---@return string[]
function M.names()
  local names = {}
  for _, file in ipairs(fs.list(host.root .. "/lua/rl4vlm/tools") or {}) do
    names[#names + 1] = file:match("^(.*)%.lua$")
  end
  return names
end

local function unknown(name)
  local names = M.names()
  local nearest = host.nearest(name, names)
  io.stderr:write("rl4vlm: no module '", name, "'",
    nearest and (" (did you mean '%s'?)"):format(nearest) or "",
    "; the tools are: ", table.concat(names, ", "), "\n")
  return 2
end

---Runs tool or module `name`.
---@param name string
---@param args string[]
---@return integer status
function M.run(name, args)
  local own = "rl4vlm.tools." .. name
  local module = find(own) and own or find(name) and name
  if not module then
    return unknown(name)
  end
  local value = require(module)
  local mt = getmetatable(value)
  if mt and mt.__name == "rl4vlm.recipe" then
    return require("rl4vlm.cli").run(value, args)
  end
  if type(value) == "table" and type(rawget(value, "main")) == "function" then
    return value.main(args) or 0
  end
  return 0
end

return M
