local answer = require "rl4vlm.answer"
local split = require "rl4vlm.split"

local actions = { "+", "-", "1", "10", "=" }
local format = answer.json { "cards", "thoughts", "action", reads = { "cards" } }

describe("answer:read", function()
  local cases = {
    -- text, status, action, byte of the key
    { '{"thoughts": "a", "action": "+"}', "ok", "+", 19 },
    { '{"action": "-", "thoughts": "late"}', "ok", "-", 2 },
    { 'Sure! {"action":"10"} Bye {x}', "ok", "10", 8 },
    { '{"action": "+"} {"action": "-"}', "ok", "-", 18 },
    { '{"a": {"action": "+"}, "b": 1', "ok", "+", 8 },
    { '{"thoughts": "say \\"action\\": \\"-\\"", "action": "+"', "ok", "+", 39 },
    { '{"action": " = "}', "ok", "=", 2 },
    { '{"\\u0061ction": "\\u002b"}', "ok", "+", 2 },
    { '{"action": 10}', "ok", "10", 2 },
    { '{"x": "unclosed {"action": "-"}', "ok", "-", 18 },
    { '{"x": [{"action": "+"}, oops', "ok", "+", 9 },
    { "```json\n{\n  \"action\" : \"-\"\n}\n```", "ok", "-", 13 },
    { '{"action": "1', "unparsable", nil, 2 },
    { '{"action": 1', "unparsable", nil, 2 },
    { '{"action": "+"} {"action": "', "unparsable", nil, 18 },
    { '{"action": "+", oops}', "unparsable" },
    { '{"action": "+"', "ok", "+", 2 },
    { '{"action": "+",', "ok", "+", 2 },
    { '{"action": "+", "th', "ok", "+", 2 },
    { '{"action": ["+"]}', "unparsable", nil, 2 },
    { '{"action": null}', "unparsable", nil, 2 },
    { '{"action": "fly"}', "illegal", nil, 2 },
    { '{"action": "11"}', "illegal", nil, 2 },
    { "+", "unparsable" },
    { "", "unparsable" },
    { '"action": "+"', "unparsable" },
    { "{", "unparsable" },
    { '{"action"', "unparsable" },
    { '{"action":', "unparsable" },
    { "{\xff\xfe\0}", "unparsable" },
    { '{"action": "+\xff"}', "illegal", nil, 2 },
  }
  for _, case in ipairs(cases) do
    it(("reads %q as %s"):format(case[1], case[2]), function()
      local got = format:read(case[1], actions)
      assert.equal(case[2], got.status)
      assert.equal(case[3], got.action)
      assert.equal(case[4], got.key_at)
      assert.equal(case[2] == "ok", got.reason == nil)
    end)
  end

  it("takes actions in any case, and gives them as the list has them", function()
    local list = { "Left", "open Door 1", "LEFT" }
    for _, mode in ipairs { "json", "rl4vlm" } do
      local f = answer.json { "action", parse = mode }
      assert.equal("open Door 1", f:read('{"action": "Open door 1"}', list).action)
    end
    assert.equal("LEFT", format:read('{"action": " LEFT"}', list).action)
    assert.equal("Left", format:read('{"action": "left"}', list).action)
    assert.equal("illegal", format:read('{"action": "Lefts"}', list).status)
  end)

  it("gives the values stated beside the action", function()
    local got = format:read('{"cards": [7, 10], "thoughts": "x\\ny", "action": "+"}', actions)
    assert.same({ cards = { 7, 10 }, thoughts = "x\ny" }, got.fields)
    assert.same({ 1, 1 }, { format:readings(got.fields, { cards = { 7, 10 } }) })
    assert.same({ 0, 1 }, { format:readings(got.fields, { cards = { 7, 9 } }) })
    assert.same({ cards = { 3 } }, format:read('{"cards": [3], "thoughts": "cut', actions).fields)
  end)

  it("compares the part of a value that the picture decides", function()
    local a = answer.json { "thoughts", "action", reads = { thoughts = "^dealer %d+, player [%d+]+" } }
    local truth = { thoughts = "dealer 9, player 2+10 = 12: hit" }
    assert.same({ 1, 1 }, { a:readings({ thoughts = "dealer 9, player 2+10 = 13: stand" }, truth) })
    assert.same({ 0, 1 }, { a:readings({ thoughts = "dealer 9, player 2+9 = 12: hit" }, truth) })
    assert.same({ 0, 1 }, { a:readings({ thoughts = 5 }, truth) })
    a.cot = false
    assert.same({ 0, 0 }, { a:readings({}, truth) })
  end)

  it("says why", function()
    local function why(text)
      return format:read(text, actions).reason
    end
    assert.equal("no JSON object", why("I hit"))
    assert.equal('no "action" key in a JSON object', why('{"act": "+"}'))
    assert.equal("the text ends inside the action's value", why('{"action": "1'))
    assert.equal("the action is not a string: [1]", why('{"action": [1]}'))
    assert.equal('"fold" is not one of the actions', why('{"action": "fold"}'))
  end)

  it("is linear on hostile megabytes", function()
    local hostile = {
      ("{"):rep(2 ^ 20), ('{"a":'):rep(2 ^ 16), ("["):rep(2 ^ 18), ('{"a":['):rep(2 ^ 15),
      ('{"'):rep(2 ^ 17), ("\\"):rep(2 ^ 18), ('{"a": "' .. ("\\"):rep(2 ^ 18)),
      ('{"a": "{'):rep(2 ^ 15), ("{ "):rep(2 ^ 17), ('{"action":"+"},'):rep(2 ^ 14),
      '{"a": ' .. ("9"):rep(2 ^ 18), ("\0\xff{\""):rep(2 ^ 16), ('{"a":"b",'):rep(2 ^ 15),
    }
    for i, text in ipairs(hostile) do
      local start = os.clock()
      assert.equal("string", type(format:read(text, actions).status))
      assert.is_true(os.clock() - start < 5, "case " .. i .. " took " .. os.clock() - start)
    end
  end)

  it("never raises on random bytes", function()
    local alphabet = { "{", "}", '"', "\\", "action", ":", "[", "]", ",", "1", " ", "\xff", "u00", "+" }
    math.randomseed(7)
    for _ = 1, 3000 do
      local parts = {}
      for i = 1, math.random(0, 30) do
        parts[i] = alphabet[math.random(#alphabet)]
      end
      local got = format:read(table.concat(parts), actions)
      assert.is_true(got.status == "ok" or type(got.reason) == "string")
    end
  end)
end)

describe("the reference's f", function()
  local ref = answer.json { "action", parse = "rl4vlm" }
  local cases = {
    { '{"action": "10"}', "10" },
    { '{"ACTION": "+"}', "+" },
    { '"action": "-" or maybe not', "-" },
    { '"action": "+" or "-"', nil },
    { '"action" : "+"', nil },
    { "I choose +", "+" },
    { '{"action": "110"}', nil },
    { "", nil },
  }
  for _, case in ipairs(cases) do
    it(("reads %q"):format(case[1]), function()
      assert.equal(case[2], ref:read(case[1], actions).action)
    end)
  end
  it("splits at the last key", function()
    assert.equal(16, ref:read('"action": "+", "action": "+"', actions).key_at)
  end)
end)

describe("json_answer", function()
  it("words the template and demonstrations", function()
    local a = answer.json { "cards", "thoughts", "action", hints = { cards = "[a, b]" } }
    assert.equal('{"cards": [a, b], "thoughts": "...", "action": "..."}', a:template())
    local values = { cards = { 7, "K" }, thoughts = 'a "b"', action = "10" }
    assert.equal('{"cards": [7, "K"], "thoughts": "a \\"b\\"", "action": "10"}', a:render(values))
    a.cot = false
    assert.equal('{"action": "..."}', a:template())
    assert.equal('{"action": "10"}', a:render(values))
    assert.has_error(function()
      answer.json({ "x", "action" }):render { action = "1" }
    end, 'answer: no value for the key "x" (there are: action)')
  end)
  it("names what is wrong with it", function()
    local bad = {
      { { "thoughts" }, 'json_answer: the last key: wanted "action", got "thoughts"' },
      { { "action", cott = true }, "json_answer: unknown option 'cott' (did you mean 'cot'?)" },
      { { "action", cot = 1 }, "json_answer: cot: wanted a boolean, got a number" },
      { { "action", parse = "x" }, 'json_answer: parse: wanted "json" or "rl4vlm", got "x"' },
      { { "action", "action" }, 'json_answer: key 2: "action" stands twice' },
      { { "cards", "action", reads = { "card" } }, "json_answer: reads: unknown key 'card' (did you mean 'cards'?)" },
      { { "cards", "action", hints = { x = "n" } }, "json_answer: hints: unknown key 'x'" },
      { { "cards", "action", hints = { cards = 3 } }, "json_answer: hints: cards: wanted a text, got 3" },
      { { "cards", "action", reads = { cards = 5 } }, "json_answer: reads: cards: wanted a pattern, got 5" },
      { { "cards", "action", reads = { cards = "(" } },
        'json_answer: reads: cards: wanted a pattern, got "(": unfinished capture' },
      { { 5, "action" }, "json_answer: key 1: wanted a string, got a number" },
    }
    for _, case in ipairs(bad) do
      assert.error_matches(function()
        answer.json(case[1])
      end, case[2], 1, true)
    end
  end)
end)

describe("split", function()
  local tokenizer = { token_bytes = function(_, id)
    return ({ '{"a": ', '"x", "', "action", '": "+"}', "</s>" })[id]
  end }
  it("finds the token that holds the key's first byte", function()
    local text, ends = split.text(tokenizer, { 1, 2, 3, 4, 5 }, { [5] = true })
    assert.equal('{"a": "x", "action": "+"}', text)
    local at = format:read(text, actions).key_at
    assert.equal(12, at)
    assert.equal(2, split.first_action_token(ends, at))
    assert.same({ 0.5, 1.0, 1.0, 1.0, 1.0 }, split.weights(5, 2, 0.5))
    assert.equal(6, split.first_action_token(ends, nil))
    assert.same({ 0.5, 0.5 }, split.weights(2, 3, 0.5))
  end)
end)
