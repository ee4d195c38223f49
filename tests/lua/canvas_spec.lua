-- rl4vlm.canvas, rl4vlm.cards and rl4vlm.arith from Lua: what they do, and what they refuse.

local arith = require("rl4vlm.arith")
local canvas = require("rl4vlm.canvas")
local cards = require("rl4vlm.cards")

local function refuses(cases)
  for _, case in ipairs(cases) do
    local ok, message = pcall(case[1])
    assert.is_false(ok, case[2])
    assert.is_truthy(message:find(case[2], 1, true), message)
  end
end

describe("canvas", function()
  it("draws shapes, text and sprites, call after call", function()
    local sprite = canvas.new(10, 10, { 255, 0, 0, 128 })
    local c = canvas.new(40, 30, "#000000")
    assert.equal(c, c:rect(0, 0, 5, 5, { 0, 255, 0 }))
    c:circle(20, 15, 4, "#ffffff"):ellipse(30, 15, 2, 3, "#0000ff80"):line(0, 29.5, 40, 29.5, 1, "#0a0b0c")
    c:polygon({ 10, 0, 20, 0, 20, 10, 10, 10 }, { 1, 2, 3 }):polygon({}, "#ffffff")
    c:blit(sprite, 30, 0):blit(sprite, 0, 20, 0.5):text(2, 8, "é♠\n\xff", { size = 8, bold = true })
    local im = c:image()
    assert.same({ 0, 255, 0 }, { im:get(4, 4) })
    assert.same({ 255, 255, 255 }, { im:get(20, 15) })
    assert.same({ 0, 0, 128 }, { im:get(30, 15) })
    assert.same({ 10, 11, 12 }, { im:get(20, 29) })
    assert.same({ 1, 2, 3 }, { im:get(15, 5) })
    assert.same({ 128, 0, 0 }, { im:get(39, 0) })
    assert.same({ 64, 0, 0 }, { im:get(0, 20) })
    assert.same({ 40, 30 }, { c:size() })
    assert.equal("rl4vlm.Canvas(40 x 30)", tostring(c))
    assert.equal(im, canvas.from(im):image())
    assert.equal(im, canvas.new(40, 30):blit(im, 0, 0):image())
  end)

  it("measures text", function()
    local w, h = canvas.measure("Target: 3", { size = 36, bold = true })
    assert.is_true(w > 150 and w < 220 and h >= 36 and h < 50)
    assert.same({ 0, 24 }, { canvas.measure("", { size = 20 }) })
  end)

  it("refuses what it cannot draw", function()
    local c = canvas.new(9, 9)
    local closed = canvas.new(2, 2)
    closed:close()
    closed:close()
    refuses({
      { function() canvas.new(0, 5) end, "canvas: wanted sides from 1 to 16384 and at most 67108864 pixels, got 0 x 5" },
      { function() canvas.new(2.5, 5) end, "number has no integer representation" },
      { function() canvas.new(5, 5, "red") end, 'wanted a colour: {r, g, b [, a]} of integers from 0 to 255, or "#rrggbb"' },
      { function() canvas.new(5, 5, { 1, 2 }) end, "wanted a colour" },
      { function() canvas.new(5, 5, { 1, 2, 256 }) end, "wanted a colour" },
      { function() canvas.new(5, 5, true) end, "colour expected, got boolean" },
      { function() c:rect(0, 0, 0 / 0, 1, "#000000") end, "wanted a finite number" },
      { function() c:circle(1 / 0, 0, 1, "#000000") end, "wanted a finite number" },
      { function() c:polygon({ 1, 2, 3 }, "#000000") end, "wanted {x0, y0, x1, y1, ...}" },
      { function() c:polygon({ 1, 2, "x", 3 }, "#000000") end, "coordinates must be numbers" },
      { function() c:text(0, 0, "x", { sise = 3 }) end, "unknown option 'sise' (did you mean 'size'?)" },
      { function() c:text(0, 0, "x", { size = 5000 }) end, "text: wanted a size from 1 to 1024 pixels, got 5000" },
      { function() c:blit(c, 0, 0) end, "a canvas cannot be drawn onto itself" },
      { function() c:blit(canvas.new(1, 1), 0, 0, 2) end, "wanted an opacity from 0 to 1" },
      { function() c:blit("x", 0, 0) end, "rl4vlm.Canvas expected, got string" },
      { function() closed:rect(0, 0, 1, 1, "#000000") end, "the canvas is closed" },
      { function() c:blit(closed, 0, 0) end, "the canvas is closed" },
    })
  end)
end)

describe("cards", function()
  it("know their names and values", function()
    assert.equal("TH", cards.name(10, 3))
    assert.same({ 1, 10, 13 }, { cards.rank("AS"), cards.rank("TC"), cards.rank("KD") })
    assert.same({ 1, 10, 10 }, { cards.value("AS"), cards.value("TC"), cards.value("KD") })
  end)

  it("look the same every time, and are clipped", function()
    local function draw(x)
      return cards.draw(canvas.new(60, 60, "#35654d"), "QS", x, 5, 67, 93):image()
    end
    assert.equal(draw(3), draw(3))
    assert.not_equal(draw(3), draw(4))
    assert.equal(canvas.new(60, 60, "#35654d"):image(), draw(-67))
    draw(math.mininteger)
  end)

  it("refuse what is none", function()
    local c = canvas.new(9, 9)
    refuses({
      { function() cards.rank("10H") end, "wanted a rank of A23456789TJQK and a suit of CDHS, as in TH, got '10H'" },
      { function() cards.draw(c, "XX", 0, 0, 5, 5) end, "got 'XX'" },
      { function() cards.draw(c, "AS", 0, 0, -5, 5) end, "wanted sides from 1 to 16384" },
      { function() cards.name(14, 1) end, "wanted a rank from 1 to 13" },
      { function() cards.name(1, 0) end, "wanted a suit from 1 to 4" },
    })
  end)
end)

describe("arith", function()
  it("evaluates exactly, or as Python", function()
    assert.same({ 24, 1 }, { arith.eval("8/(3-8/3)") })
    assert.same({ -1, 6 }, { arith.eval("1/3-1/2") })
    assert.equal(24.0, arith.eval("10//(2/5)", "python"))
    assert.equal("float", math.type(arith.eval("4/2", "python")))
    assert.equal(105, arith.eval("105", "python"))
    assert.is_true(arith.equals("8/(3-8/3)", 24))
    assert.is_false(arith.equals("8/(3-8/3)", 24, "python"))
    assert.is_false(arith.equals("", 24))
  end)

  it("types what fails", function()
    local cases = {
      { "1 2", nil, "not an expression (at character 3)", "syntax" },
      { "1/(2-2)", nil, "division by zero (at character 8)", "zero" },
      { "9999999999*9999999999", nil, "a number is too large (at character 22)", "overflow" },
      { "10**10**10", "python", "a number is too large (at character 11)", "overflow" },
      { "(2)(3)", "python", "not a real number (at character 7)", "type" },
      { ("("):rep(200), nil, "too long or too deeply nested (at character 101)", "too long" },
    }
    for _, case in ipairs(cases) do
      assert.same({ n = 3, nil, case[3], case[4] }, table.pack(arith.eval(case[1], case[2])))
    end
  end)

  it("completes formulas", function()
    local function solve(task)
      local tokens = arith.solve(task)
      return tokens and table.concat(tokens, " ")
    end
    assert.equal("1 + 2 + 3 * 7", solve({ numbers = { 7, 3, 2, 1 }, target = 24 }))
    assert.equal("/ ( 3 - 8 / 3 )", solve({ numbers = { 3, 8, 3 }, target = 24, prefix = { "8" } }))
    assert.equal("2 + 10", solve({ numbers = { 10, 2 }, target = 12, operators = "+*" }))
    assert.is_nil(solve({ numbers = { 1, 1, 1, 1 }, target = 24 }))
    assert.is_nil(solve({ numbers = { 3, 3, 8, 8 }, target = 24, rules = "python" }))
    assert.equal("", solve({ numbers = {}, target = 24, prefix = { "4", "*", 6 } }))
    refuses({
      { function() arith.solve({ numbers = { 0 }, target = 24 }) end, "wanted numbers from 1 to 100" },
      { function() arith.solve({ numbers = { 1, 2, 3, 4, 5, 6, 7 }, target = 24 }) end, "too many numbers" },
      { function() arith.solve({ numbers = { 1 }, target = 24, prefix = { "**" } }) end, "tokens of one character" },
      { function() arith.solve({ numbers = { 1 }, aim = 24 }) end, "unknown option 'aim'" },
      { function() arith.solve({ numbers = "x", target = 24 }) end, "must be lists" },
    })
  end)
end)
