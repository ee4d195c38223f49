-- The meta file, which editors and the REPL's ?name read, names what the module has.
local function keys(t)
  local list = {}
  for k in pairs(t) do
    if not k:match("^__") then list[#list + 1] = k end
  end
  table.sort(list)
  return list
end

describe("lua/meta/tensor.lua", function()
  local meta = assert(loadfile("lua/meta/tensor.lua"))()
  local tensor = require "rl4vlm.tensor"
  local methods = getmetatable(tensor.zeros(1)).__methods

  it("names the module's functions", function() assert.same(keys(tensor), keys(meta)) end)
  it("names the methods", function() assert.same(keys(methods), keys(meta.__types["rl4vlm.Tensor"])) end)
  it("has a comment above each", function()
    local before
    for line in io.lines("lua/meta/tensor.lua") do
      if line:match("^function") then assert.matches("^%-%-%-", before, line) end
      before = line
    end
  end)
  it("is found by the REPL's help", function()
    local help = require "rl4vlm.help"
    assert.matches("Makes a tensor of zeros", help.text(help.find("tensor.zeros")[1]))
    assert.matches("e%^x over its sum", help.text(help.find("softmax")[1]))
  end)
end)
