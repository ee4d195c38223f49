local pretty = require "rl4vlm.pretty"

describe("pretty.text", function()
  it("shows scalars as print does", function()
    for _, value in ipairs { 1, 1.5, true, "a\nb" } do
      assert.equal(tostring(value), pretty.text(value))
    end
    assert.equal("nil", pretty.text(nil))
  end)

  it("shows lists, then fields in order, on one line while they fit", function()
    assert.equal('{ 1, "x", a = {}, b = { c = 2 }, ["b c"] = 3, ["end"] = 4, [10] = 5 }',
      pretty.text { 1, "x", b = { c = 2 }, a = {}, ["b c"] = 3, ["end"] = 4, [10] = 5 })
  end)

  it("breaks lines at the width", function()
    assert.equal('{\n  first = "' .. ("x"):rep(30) .. '",\n  second = { 1, 2 }\n}',
      pretty.text({ first = ("x"):rep(30), second = { 1, 2 } }, { width = 40 }))
    local numbers = {}
    for i = 1, 40 do
      numbers[i] = i
    end
    for row in pretty.text(numbers, { width = 40 }):gmatch("[^\n]+") do
      assert.is_true(#row <= 40, row)
    end
  end)

  it("ends at cycles, depth and number of items", function()
    local t = { {} }
    t[1].up = t
    assert.equal("{ { up = <cycle> } }", pretty.text(t))
    assert.equal("{ { {...} } }", pretty.text({ { { { 1 } } } }, { depth = 2 }))
    assert.equal("{ 1, 2, ... 2 more }", pretty.text({ 1, 2, 3, x = 4 }, { items = 2 }))
    assert.equal('{ "éé"... }', pretty.text({ "ééé" }, { string = 5 }))
  end)

  it("opens tables inside as deep as the lines allow", function()
    local deep = { list = {} }
    for i = 1, 20 do
      deep.list[i] = { name = ("n"):rep(40), more = { ("m"):rep(40) } }
    end
    local shallow = pretty.text(deep)
    assert.equal(23, select(2, shallow:gsub("\n", "\n")))
    assert.matches("list = {\n    { more = {...}, name = ", shallow)
    assert.equal("{ list = {...} }", pretty.text(deep, { lines = 5 }))
  end)

  it("takes __tostring at its word, and survives one that fails", function()
    assert.equal("me", pretty.text(setmetatable({}, { __tostring = function() return "me" end })))
    assert.equal("{ 1 }", pretty.text(setmetatable({ 1 }, { __tostring = error })))
  end)

  it("escapes what is no text", function()
    assert.equal('{ "\\x80\\xff\\0\\27[1m\\n" }', pretty.text { "\128\255\0\27[1m\n" })
    assert.equal('{ ["\\xff"] = 1 }', pretty.text { ["\255"] = 1 })
  end)

  it("says where a function comes from", function()
    assert.matches("^function .*pretty_spec.lua:%d+$", pretty.text(function() end))
    assert.matches("^function: ", pretty.text(print))
  end)
end)
