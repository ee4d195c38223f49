local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"

describe("rl4vlm.safetensors", function()
  local path

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  it("reads back what it wrote", function()
    local data = string.pack("<ffffff", 1, 2, 3, 4, 5, 6)
    safetensors.write(path, {
      weight = { dtype = "F32", shape = { 2, 3 }, data = data },
      scalar = slice.new { dtype = "I64", shape = {}, data = string.pack("<i8", 7) },
    }, { format = "pt" })
    local f = safetensors.open(path)
    assert.same({ "scalar", "weight" }, f:names())
    assert.same({ dtype = "F32", shape = { 2, 3 }, bytes = 24, file = path }, f:info("weight"))
    assert.is_nil(f:info("bias"))
    assert.equal("pt", f:metadata("format"))
    local w = f:get("weight")
    f = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(data, w:data())
    assert.equal(24, #w)
    assert.same({ 2, 3 }, w:shape())
  end)

  it("writes tensors one by one", function()
    local w = safetensors.create(path, {
      a = { dtype = "U8", shape = { 2 } },
      b = { dtype = "F32", shape = { 1 } },
    })
    assert.equal("b", w:next())
    w:put(string.pack("<f", 1.5))
    assert.has_error(function() w:put("abc") end, path .. ": tensor 'a': wanted 2 bytes, came 3")
    w:put("xy")
    assert.is_nil(w:next())
    w:commit()
    assert.has_error(function() w:commit() end, "calling 'commit' on bad self (the file is finished)")
    assert.equal("xy", safetensors.open(path):get("a"):data())
  end)

  it("leaves the old file when a new one is not finished", function()
    safetensors.write(path, { a = { dtype = "U8", shape = { 1 }, data = "x" } })
    local w = safetensors.create(path, { a = { dtype = "U8", shape = { 1 } } })
    w:abort()
    assert.equal("x", safetensors.open(path):get("a"):data())
  end)

  it("errors on bad input", function()
    local cases = {
      { { a = { dtype = "F9", shape = {}, data = "" } }, "field 'dtype': wanted one of F32, BF16, F16, ..., came F9" },
      { { a = { dtype = "F32", shape = { 1.5 }, data = "" } }, "field 'shape': wanted sizes, came 1.5" },
      { { a = { dtype = "F32", shape = { -1 }, data = "" } }, "field 'shape': wanted sizes, came -1" },
      { { a = { dtype = "F32", shape = { 2 }, data = "abc" } }, "field 'data': wanted a string of 8 bytes, came 3" },
      { { a = { dtype = "F32", shape = { 2 } } }, "field 'data': wanted a string of 8 bytes, came nil" },
      { { a = { dtype = "F32", shape = { 1 << 40, 1 << 40 }, data = "" } },
        "field 'shape': wanted sizes, came 1099511627776" },
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(safetensors.write, path, case[1])
      assert.is_false(ok)
      assert.equal(case[2], message)
    end
  end)
end)
