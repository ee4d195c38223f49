local rl = require "rl4vlm"
local plain = require "rl4vlm.plain"

local function given(changes)
  local t = {
    name = "demo",
    env = { "points24", rules = "intended" },
    prompt = rl.prompt "Play {actions}. {format}",
    answer = rl.json_answer { "thoughts", "action" },
    algorithm = rl.ppo { clip = 0.2 },
    schedule = { rollout = 64, lr = rl.cosine(1e-5, 1e-9) },
    by_model = { small = { schedule = { lr = 5e-5 }, algorithm = { epochs = 2 } } },
  }
  for key, value in pairs(changes or {}) do
    t[key] = value
  end
  return t
end

describe("recipe", function()
  it("fills in defaults and lays the model's settings over them", function()
    local r = rl.recipe(given())
    assert.equal("rl4vlm.recipe", getmetatable(r).__name)
    local s = r:resolve()
    assert.equal(0.2, s.algorithm.clip)
    assert.equal(4, s.algorithm.epochs)
    assert.equal("cosine(1e-05, 1e-09)", tostring(s.schedule.lr))
    assert.equal(15000, s.schedule.env_steps)
    assert.equal(16, s.slots)
    assert.equal(64, s.algorithm.minibatch)
    s = r:resolve("small")
    assert.equal("5e-05", tostring(s.schedule.lr))
    assert.equal(2, s.algorithm.epochs)
  end)

  it("reads --set as the type it replaces, above the model's settings", function()
    local r = rl.recipe(given()):set("schedule.lr", "linear(1e-3, 0)"):set("algorithm.epochs", "7")
      :set("answer.cot", "false"):set("env.rules", "rl4vlm"):set("train", "vision,language")
    local s = r:resolve("small")
    assert.equal("linear(0.001, 0)", tostring(s.schedule.lr))
    assert.equal(7, s.algorithm.epochs)
    assert.is_false(s.answer.cot)
    assert.equal("rl4vlm", s.env.rules)
    assert.same({ "vision", "language" }, s.train)
  end)

  it("takes what a family begins with, and its settings by name", function()
    local family = { name = "big", settings = { ["image.splitting"] = false, ["lora.r"] = 4 } }
    local more = given()
    more.by_model = { big = { lora = { r = 16 } }, one = { lora = { alpha = 3.0 } } }
    local s = rl.recipe(more):resolve("one", family)
    assert.same({ false, 16, 3.0 }, { s.image.splitting, s.lora.r, s.lora.alpha })
    s = rl.recipe(more):set("image.splitting", "true"):resolve("other", family)
    assert.same({ true, 16, 16.0 }, { s.image.splitting, s.lora.r, s.lora.alpha })
  end)

  it("takes a chat template with the prompt, or by --set", function()
    assert.is_nil(rl.recipe(given()):resolve().prompt.template)
    local r = rl.recipe(given { prompt = rl.prompt { "Play {actions}.", template = "{{ a }}" } })
    assert.equal("{{ a }}", r:resolve().prompt.template)
    assert.same({ text = "Play {actions}.", template = "{{ a }}" }, plain.of(r:resolve()).prompt)
    local changed = r:set("prompt.template", "{% if a %}{% endif %}")
    assert.equal("{% if a %}{% endif %}", changed:resolve().prompt.template)
    assert.equal("{{ a }}", r:resolve().prompt.template)
    assert.error_matches(function()
      r:set("prompt.template", "no/such.jinja")
    end, "recipe demo: prompt.template: wanted a chat template in Jinja, or a file with one: cannot read no/such.jinja", 1, true)
    assert.error_matches(function()
      rl.prompt { "x", templates = "y" }
    end, "prompt: unknown field 'templates' (did you mean 'template'?)", 1, true)
  end)

  it("leaves the recipe it came from alone", function()
    local r = rl.recipe(given())
    local changed = r:with { thought_weight = 0.1 }:set("answer.cot", "false")
    assert.equal(0.5, r:resolve().thought_weight)
    assert.equal(0.1, changed:resolve().thought_weight)
    assert.is_true(r:resolve().answer.cot)
    assert.error_matches(function()
      r:with(3)
    end, "with: wanted a table of fields, got 3$")
  end)

  it("can be assigned to, and is checked again", function()
    local r = rl.recipe(given())
    r.thought_weight = 0.25
    r.schedule.rollout = 32
    assert.equal(0.25, r:resolve().thought_weight)
    assert.equal(32, r:resolve().schedule.rollout)
    r.thought_wait = 1
    assert.has_error(function()
      r:resolve()
    end, "recipe demo: unknown field 'thought_wait' (did you mean 'thought_weight'?)")
  end)

  it("keeps slots within the rollout", function()
    assert.equal(12, rl.recipe(given { schedule = { rollout = 24 } }):resolve().slots)
    assert.equal(4, rl.recipe(given { schedule = { rollout = 4 }, slots = 8 }):resolve().slots)
    assert.equal(10, rl.recipe(given()):with { schedule = { env_steps = 10 } }:resolve().schedule.rollout)
  end)

  local bad = {
    { { shedule = {} }, "recipe demo: unknown field 'shedule' (did you mean 'schedule'?)" },
    { { schedule = { lrr = 1 } }, "recipe demo: unknown field 'schedule.lrr' (did you mean 'schedule.lr'?)" },
    { { schedule = { rollout = -3 } },
      "recipe demo: schedule.rollout: wanted a whole number of 1 or more, got -3" },
    { { schedule = { rollout = 1.5 } },
      "recipe demo: schedule.rollout: wanted a whole number of 1 or more, got 1.5" },
    { { schedule = 3 }, "recipe demo: schedule: wanted a table of settings, got 3" },
    { { algorithm = rl.ppo { clipp = 1 } },
      "recipe demo: unknown field 'algorithm.clipp' (did you mean 'algorithm.clip'?)" },
    { { algorithm = rl.ppo { gamma = 2 } },
      "recipe demo: algorithm.gamma: wanted a number from 0 to 1, got 2" },
    { { algorithm = "ppo" },
      'recipe demo: algorithm: wanted an algorithm such as rl.ppo { ... }, got "ppo"' },
    { { prompt = "text" }, 'recipe demo: prompt: wanted a prompt made by rl.prompt, got "text"' },
    { { answer = {} }, "recipe demo: answer: wanted an answer format made by rl.json_answer, got a table" },
    { { env = { rules = "x" } }, "recipe demo: env: wanted an environment's name first" },
    { { thought_weight = "0.5" },
      'recipe demo: thought_weight: wanted a number of 0 or more, got "0.5"' },
    { { fallback = "none" }, 'recipe demo: fallback: wanted "legal" or "all", got "none"' },
    { { fallback = "legl" }, 'recipe demo: fallback: wanted "legal" or "all", got "legl" (did you mean "legal"?)' },
    { { by_model = { x = { foo = 1 } } }, "recipe demo: unknown field 'foo'" },
  }
  for _, case in ipairs(bad) do
    it("refuses: " .. case[2], function()
      assert.error_matches(function()
        rl.recipe(given(case[1]))
      end, case[2], 1, true)
    end)
  end

  it("needs an algorithm only to train", function()
    local t = given()
    t.algorithm, t.by_model = nil, nil
    assert.same({}, rl.recipe(t):resolve().algorithm)
    t.model = "cardling"
    assert.is_nil(require("rl4vlm.load").reference(rl.recipe(t):resolve()))
  end)

  it("names what is missing", function()
    local t = given()
    t.prompt = nil
    assert.has_error(function()
      rl.recipe(t)
    end, "recipe demo: prompt: wanted a prompt made by rl.prompt, got nothing")
    assert.error_matches(function()
      rl.recipe "x"
    end, 'recipe: wanted a table of fields, got "x"', 1, true)
  end)

  it("says in which line of which file, called by return or not", function()
    local path = os.tmpname()
    local head = 'local rl = require "rl4vlm"\n-- return rl.recipe {\n'
    local body = "rl.recipe {\n  name = 'demo',\n  env = { 'walk' },\n  prompt = rl.prompt 'x',\n"
      .. "  answer = rl.json_answer { 'action' },\n  schedule = {\n    env_steps = 3,\n    rollout = -3,\n  },\n}\n"
    -- luacheck: globals arg
    local script = arg[0]
    for _, case in ipairs { { "return " .. body, 10 }, { "local r = " .. body .. "return r\n", 10 },
      { "return " .. body:gsub("  env = [^\n]*\n", ""):gsub("%-3", "3"), 3 } } do
      local f = assert(io.open(path, "w"))
      f:write(head, case[1])
      f:close()
      arg[0] = path
      local ok, err = pcall(assert(loadfile(path)))
      arg[0] = script
      assert.is_false(ok)
      assert.equal(("%s:%d: recipe demo: "):format(path, case[2]), err:match("^[^:]*:%d+: recipe demo: "))
    end
    os.remove(path)
  end)

  local texts = {
    { "lora.dropout", "0.05", "recipe demo: lora.dropout: wanted 0 (with dropout, what is recorded while sampling "
      .. "would not be what is scored), got 0.05" },
    { "lora.rank_pattern", "q_proj=0", "recipe demo: lora.rank_pattern: wanted whole numbers of 1 or more by modules' "
      .. "names, got a table" },
    { "lora.alpha_pattern", "q_proj", 'recipe demo: lora.alpha_pattern: wanted numbers above 0 by modules\' names, got '
      .. '"q_proj"' },
    { "lora.layers", "1,x", "recipe demo: lora.layers: wanted a list of whole numbers, got a table" },
    { "algorithm.clp", "1", "recipe demo: unknown field 'algorithm.clp' (did you mean 'algorithm.clip'?)" },
    { "schedule", "1", "recipe demo: unknown field 'schedule'" },
    { "algorithm.clip", "x", 'recipe demo: algorithm.clip: wanted a number above 0, got "x"' },
    { "schedule.lr", "cosin(1)", 'schedule.lr: wanted a rate, or a schedule such as cosine(1e-5, 1e-9), got' },
    { "prompt", "x", "recipe demo: prompt: cannot be given as text: change it in the recipe" },
    { "answer.cot", "yes", 'recipe demo: answer.cot: wanted true or false, got "yes"' },
    { "env.rules", "3", 'recipe demo: env.rules: wanted a string, got "3"' },
  }
  for _, case in ipairs(texts) do
    it(("--set %s=%s"):format(case[1], case[2]), function()
      assert.error_matches(function()
        rl.recipe(given()):set(case[1], case[2])
      end, case[3], 1, true)
    end)
  end

  it("refuses what does not go together", function()
    assert.has_error(function()
      rl.recipe(given { slots = 7 }):resolve()
    end, "recipe demo: slots: wanted a divisor of schedule.rollout (64), got 7")
    assert.has_error(function()
      rl.recipe(given { train = { "visoin" } }):resolve()
    end, "recipe demo: train: unknown part 'visoin' (did you mean 'vision'?)")
  end)

  it("gives plain data, and where two differ", function()
    local a = plain.of(rl.recipe(given()):resolve())
    local b = plain.of(rl.recipe(given { reward = function(r) return r end }):resolve("small"))
    assert.equal("Play {actions}. {format}", a.prompt)
    assert.same({ "algorithm.epochs", "reward", "schedule.lr" }, plain.differences(a, b))
    assert.same({ name = "points24", rules = "intended" }, a.env)
    local json = require "rl4vlm.json"
    assert.same(a, json.decode(json.encode(a)))
  end)
end)

describe("a function's digest", function()
  -- A function that sees `scale`, by way of another, and what a table holds.
  local function made(scale, list)
    local function times(x)
      return x * scale
    end
    return function(x)
      return times(x) + #list + (list.more or 0) + math.abs(rl.version and 1 or 0)
    end
  end
  it("tells the values that it sees from outside", function()
    local a = plain.of(made(2, { 1 }))
    assert.equal(a, plain.of(made(2, { 1 })))
    assert.not_equal(a, plain.of(made(3, { 1 })))
    assert.not_equal(a, plain.of(made(2, { 2 })))
    assert.not_equal(a, plain.of(made(2, { 1, more = true })))
    local circle = {}
    circle.circle = circle
    assert.equal(plain.of(made(2, circle)), plain.of(made(2, circle)))
  end)
end)

describe("prompt", function()
  it("fills fields and leaves other braces", function()
    local p = rl.prompt '\nA {x} {"action": "..."} {} {1} {x y} {list}\n'
    assert.equal('A 1 {"action": "..."} {} {1} {x y} a, b', p:render { x = 1, list = { "a", "b" } })
  end)
  it("splits at the image", function()
    assert.same({ "Look ", " now: +" }, { rl.prompt "Look {image} now: {a}":halves { a = "+" } })
    assert.same({ "", "Look" }, { rl.prompt "Look":halves {} })
    assert.error_matches(function()
      rl.prompt "{image}{image}":halves {}
    end, "^prompt %(.*recipe_spec.lua:%d+%): {image} stands twice, wanted once$")
  end)
  it("names an unknown field and the nearest one", function()
    assert.error_matches(function()
      rl.prompt "{formla}":render { formula = 1, actions = 2 }
    end, "^prompt %(.*recipe_spec.lua:%d+%): unknown field '{formla}' %(did you mean '{formula}'%?%)$")
  end)
  it("takes words alone: what prints as an address would differ from run to run", function()
    assert.error_matches(function()
      rl.prompt "{list}":render { list = { "a", print } }
    end, "{list}: wanted a text, a number or a list of them, got a function$")
  end)
end)

describe("schedule", function()
  it("ends where it should", function()
    local s = rl.cosine(1e-5, 1e-9)
    assert.equal(1e-5, s:at(0))
    assert.near(1e-9, s:at(1), 1e-15)
    assert.near((1e-5 + 1e-9) / 2, s:at(0.5), 1e-12)
    assert.near(1e-9, s:at(7), 1e-15)
    assert.equal(0.5, rl.linear(1):at(0.5))
    assert.near(0.5, rl.linear(1):at(0.05, 0.1), 1e-12)
    assert.equal(3e-4, rl.constant(3e-4):at(0.9))
    assert.error_matches(function()
      rl.cosine(-1)
    end, "cosine: wanted a rate of 0 or more, got -1", 1, true)
  end)
end)
