-- tower_files.lua - a vision tower in a folder of its own, as if its tensors stood in the model's files.
--
-- LLaVA's authors leave the tower out where they did not train it: it is openai's CLIP, published by itself. Its folder
-- (config.json, model.safetensors) lies as vision_tower in the model's; a saved model holds it all.
local M = {}

local Joined = {}
Joined.__index = Joined

-- The files that hold a name, and the name there.
local function whose(self, name)
  if self.own:info(name) then
    return self.own, name
  end
  local inside = name:sub(1, #self.prefix) == self.prefix and name:sub(#self.prefix + 1)
  return inside and inside:match("^vision_model%.") and self.tower or self.own, inside or name
end

function Joined:info(name)
  local files, there = whose(self, name)
  return files:info(there)
end

function Joined:get(name)
  local files, there = whose(self, name)
  return files:get(there)
end

function Joined:drop(name)
  local files, there = whose(self, name)
  return files:drop(there)
end

function Joined:names()
  local list = self.own:names()
  for _, name in ipairs(self.tower:names()) do
    if name:match("^vision_model%.") then -- CLIP's own text tower stays away
      list[#list + 1] = self.prefix .. name
    end
  end
  return list
end

---@param own userdata    the model's open safetensors
---@param tower userdata  the tower's
---@param prefix string   in front of the tower's names in the model's files
---@return table  with the methods of an open safetensors
function M.join(own, tower, prefix)
  return setmetatable({ own = own, tower = tower, prefix = prefix }, Joined)
end

return M
