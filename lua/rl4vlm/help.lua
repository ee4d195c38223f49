-- help.lua - finds the comments that stand above functions in our Lua files: the stubs of the C modules
-- (lua/meta) and the modules themselves.

local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"

local M = {}

---@class rl4vlm.help.Entry
---@field name string  "rl4vlm.tensor.zeros", "rl4vlm.Tensor:sum"
---@field call string  "(n)" for functions, "" for fields
---@field text string  the comment, without dashes

-- What one line of a comment says to a reader, or nil for what only editors want.
local function plain(line)
  local name, kind, text = line:match("^@param (%S+) (%S+)%s*(.*)$")
  if name then
    return ("  %-12s %s%s"):format(name, kind, text ~= "" and ": " .. text or "")
  end
  kind, text = line:match("^@return (%S+)%s*(.*)$")
  if kind then
    return ("  returns      %s%s"):format(kind, text ~= "" and " " .. text or "")
  end
  name, kind, text = line:match("^@field (%S+) (%S+)%s*(.*)$")
  if name then
    return ("  .%-11s %s%s"):format(name, kind, text ~= "" and ": " .. text or "")
  end
  name, text = line:match("^@class ([%w_.]+)%s*(.*)$")
  if name then
    return "class " .. name .. (text ~= "" and " " .. text or "")
  end
  return not line:match("^@") and line or nil
end

-- The named thing that a line of code below a comment defines: its name inside the module, and how it
-- is called.
local function definition(line)
  local name, args = line:match("^function ([%w_.:]+)(%b())")
  if not name then
    name, args = line:match("^([%w_.]+) = function(%b())")
  end
  if not name then
    name, args = line:match("^([%w_]+%.[%w_]+) = "), ""
  end
  return name, args
end

-- Adds the entries of one file. Local names stand for what they are: `M` for the module, and the local
-- below a ---@class line for that class.
local function read_file(path, module, entries)
  local text = fs.read_file(path)
  if not text then
    return
  end
  module = text:match("^%-%-%-@meta ([%w_.]+)") or module
  local real, comment, class = { M = module }, {}, nil
  local head = text:match("^%-%-%-@meta[^\n]*\n(.-)\nlocal ") or text:match("^(%-%-.-)\n[^-]") or ""
  entries[#entries + 1] = { name = module, call = "", text = (head:gsub("\n?%-%-%-?%s?", "\n"):gsub("^\n", "")) }
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local said = line:match("^%-%-%-%s?(.*)$")
    local declared = line:match("^local ([%w_]+) = ")
    local name, call = definition(line)
    if said then
      class = said:match("^@class ([%w_.]+)") or class
      comment[#comment + 1] = plain(said)
    else
      if declared and class then
        real[declared], class = class, nil
        entries[#entries + 1] = { name = real[declared], call = "", text = table.concat(comment, "\n") }
      elseif name and #comment > 0 then
        local owner, field = name:match("^([%w_]+)([.:].+)$")
        if owner and real[owner] then
          entries[#entries + 1] = { name = real[owner] .. field, call = call, text = table.concat(comment, "\n") }
        end
      end
      comment = {}
    end
  end
end

local function read_folder(folder, module, entries)
  for _, name in ipairs(fs.list(folder) or {}) do
    local path, base = folder .. "/" .. name, name:match("^([%w_]+)%.lua$")
    if base then
      read_file(path, base == "init" and module or module .. "." .. base, entries)
    elseif not name:match("%.") then
      read_folder(path, module .. "." .. name, entries)
    end
  end
end

local all -- read once, when first asked

---All entries of the installed files.
---@return rl4vlm.help.Entry[]
function M.entries()
  if not all then
    all = {}
    read_folder(host.root .. "/lua/rl4vlm", "rl4vlm", all)
    read_folder(host.root .. "/lua/meta", "rl4vlm", all)
    table.sort(all, function(a, b) return a.name < b.name end)
  end
  return all
end

---Entries whose name is `name`, or ends with it after a dot or colon. Methods of a module's type count as
---its functions: tensor.sum is Tensor:sum.
---@param name string
---@return rl4vlm.help.Entry[]
function M.find(name)
  local function plain_name(text)
    return (text:lower():gsub(":", "."))
  end
  local exact, found, wanted = {}, {}, plain_name(name)
  for _, entry in ipairs(M.entries()) do
    local before = entry.name:sub(-#name - 1, -#name - 1)
    if plain_name(entry.name) == wanted or plain_name(entry.name) == "rl4vlm." .. wanted then
      exact[#exact + 1] = entry
    elseif entry.name:sub(-#name) == name and (before:match("[.:]") or name:match("^:")) then
      found[#found + 1] = entry
    end
  end
  return #exact > 0 and exact or found
end

---An entry as text.
---@param entry rl4vlm.help.Entry
---@return string
function M.text(entry)
  return entry.name .. entry.call .. "\n" .. entry.text:gsub("([^\n]+)", "  %1")
end

return M
