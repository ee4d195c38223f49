local json = require "rl4vlm.json"
local settings = require "rl4vlm.generation_settings"

local function read(generation, options)
  return settings.read({ source = { generation = generation }, dir = "DIR", eos = { 2, 5 } }, options)
end

describe("the generate tool's settings", function()
  it("are neutral when nothing is given, whatever generation_config.json says", function()
    local s = read({ do_sample = true, temperature = 0.1, top_k = 1 }, {})
    assert.same({ temperature = 1, seed = 0, eos = { 2, 5 } }, s)
  end)

  it("come from generation_config.json when asked for, with transformers' defaults", function()
    local asked = { ["generation-config"] = true }
    assert.equal(0, read({}, asked).temperature)
    assert.equal(0, read({ temperature = 0.5 }, asked).temperature)
    local s = read({ do_sample = true, temperature = 0.5, top_p = json.null }, asked)
    assert.same({ 0.5, 50, 1, 1 }, { s.temperature, s.top_k, s.top_p, s.repetition_penalty })
    assert.equal(50, read({ do_sample = true, top_k = json.null, typical_p = json.null }, asked).top_k)
    assert.equal(1.05, read({ repetition_penalty = 1.05 }, asked).repetition_penalty)
    assert.has_error(function() read({ repetition_penalty = 0 }, asked) end,
      "DIR/generation_config.json: repetition_penalty: wanted a positive number, came 0")
    assert.has_error(function() read({ num_beams = 4 }, asked) end,
      "DIR/generation_config.json: num_beams: wanted 1 (others are not supported), came 4")
  end)

  it("are overridden by options", function()
    local s = read({ do_sample = true, top_k = 7, top_p = 0.5 },
      { ["generation-config"] = true, ["top-k"] = 3, temperature = 0, ["ignore-eos"] = true, seed = 9,
        ["repetition-penalty"] = 1.5 })
    assert.same({ 0, 3, 0.5, 9 }, { s.temperature, s.top_k, s.top_p, s.seed })
    assert.equal(1.5, s.repetition_penalty)
    assert.same({}, s.eos)
  end)
end)
