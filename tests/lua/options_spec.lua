local options = require "rl4vlm.options"

local rows = {
  { "model", "text", "DIR", "the model" },
  { "episodes", "integer", "N" },
  { "temperature", "number", "T" },
  { "device", { "auto", "cpu" } },
  { "set", "text", "KEY=VALUE", many = true },
  { "compare", "text", "DIR...", rest = true },
  { "json", "flag" },
}

describe("options.parse", function()
  it("reads values of every kind, in any order, and keeps the other words", function()
    local got = options.parse({ "eval", "--episodes", "3", "--temperature=0.5", "--json", "--set",
      "a.b=1", "--device", "cpu", "--set=c=2", "x", "--compare", "p", "q", "--", "--json" }, rows)
    assert.same({ "eval", "x", "--json", episodes = 3, temperature = 0.5, json = true,
      set = { "a.b=1", "c=2" }, device = "cpu", compare = { "p", "q" } }, got)
    assert.equal("integer", math.type(got.episodes))
  end)

  it("takes negative numbers", function()
    assert.same({ temperature = -1 }, options.parse({ "--temperature", "-1" }, rows))
  end)

  it("says what is wrong", function()
    local known = " (known: --model, --episodes, --temperature, --device, --set, --compare, --json)"
    local cases = {
      [{ "--episods", "3" }] = "unknown option '--episods' (did you mean '--episodes'?)",
      [{ "--xyzzy" }] = "unknown option '--xyzzy'" .. known,
      [{ "-j" }] = "unknown option '-j'" .. known,
      [{ "--episodes", "many" }] = "--episodes wants a whole number, got 'many'",
      [{ "--episodes", "1.5" }] = "--episodes wants a whole number, got '1.5'",
      [{ "--episodes" }] = "--episodes wants a value: --episodes N",
      [{ "--model", "--json" }] = "--model wants a value: --model DIR",
      [{ "--device", "cup" }] = "--device wants one of auto, cpu (did you mean 'cpu'?), got 'cup'",
      [{ "--model=" }] = "--model wants some text, got ''",
      [{ "--model", "" }] = "--model wants some text, got ''",
      [{ "--json=1" }] = "--json takes no value",
    }
    for args, message in pairs(cases) do
      local values, err = options.parse(args, rows)
      assert.is_nil(values)
      assert.equal(message, err)
    end
  end)

  it("prints a line for each option", function()
    assert.equal("  --model DIR                the model", (options.help(rows):match("[^\n]+")))
  end)
end)
