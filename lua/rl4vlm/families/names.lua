-- names.lua - what the tensor of a role is called in a family's files.
--
-- A part of a model (vision, connector, newline, text, head) has had several names: as published, as
-- transformers 5 writes or holds it, as its authors wrote it. A family lists them as namings, {prefix,
-- words}: `words` gives the family's word for each of ours, `words.layers` the way to a block.
local M = {}

-- The part of a role and the rest of it.
local function split(role)
  if role == "connector.newline" then
    return "newline", "newline"
  elseif role:match("^text%.head%.") then
    return "head", role:match("^text%.(.+)$")
  end
  return role:match("^(%w+)%.(.+)$")
end

local function spell(naming, rest)
  local prefix, words = naming[1], naming[2]
  local layer, inside = rest:match("^layers%.(%d+)%.(.+)$")
  local word, tail = (inside or rest):match("^([%w_]+)(.*)$")
  local way = layer and words.layers .. layer .. "." or ""
  return prefix .. way .. (words[word] or word) .. tail
end

---The functions of a descriptor that are about names.
---@param namings table<string, table[]>  the namings of each part, the published one first
---@param in_memory table<string, integer>  which of them is the path in the model that transformers 5 holds
---@return fun(role: string): string, string[] names  the part, and the names that the role's tensor may have;
---roles of one part have their names in the same order
---@return fun(role: string): string module  the path of a weight's module, as peft names it in new files
function M.new(namings, in_memory)
  local function names(role)
    local part, rest = split(role)
    local list = {}
    for i, naming in ipairs(namings[part]) do
      list[i] = spell(naming, rest)
    end
    return part, list
  end
  local function module(role)
    local part, list = names(role)
    return (list[in_memory[part]]:gsub("%.weight$", ""))
  end
  return names, module
end

return M
