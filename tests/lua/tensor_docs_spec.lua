-- Runs every example of docs/TENSORS.md and compares what it prints with what the page says.
describe("docs/TENSORS.md", function()
  local text = assert(io.open("docs/TENSORS.md")):read("a")
  local n = 0
  for code in text:gmatch("```lua\n(.-)```") do
    n = n + 1
    it("example " .. n, function()
      local want, got = {}, {}
      for line in code:gmatch("[^\n]+") do
        want[#want + 1] = line:match("%-%-> (.*)$")
      end
      local env = setmetatable({
        print = function(...)
          local parts = table.pack(...)
          for i = 1, parts.n do parts[i] = tostring(parts[i]) end
          got[#got + 1] = table.concat(parts, "\t")
        end,
      }, { __index = _G })
      assert(load(code, "=example", "t", env))()
      assert.equal(table.concat(want, "\n"), (table.concat(got, "\n"):gsub("example:%d+: ", "")))
    end)
  end
  it("has examples", function() assert.is_true(n >= 7) end)
end)
