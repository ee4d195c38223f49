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

  it("takes __tostring at its word, and survives one that fails", function()
    assert.equal("me", pretty.text(setmetatable({}, { __tostring = function() return "me" end })))
    assert.equal("{ 1 }", pretty.text(setmetatable({ 1 }, { __tostring = error })))
  end)

  it("says where a function comes from", function()
    assert.matches("^function .*pretty_spec.lua:%d+$", pretty.text(function() end))
    assert.matches("^function: ", pretty.text(print))
  end)
end)
