-- The contract of environments: the order of calls, options, seeding, saved states, frames.

local env = require("rl4vlm.env")
local json = require("rl4vlm.json")

local GAMES = { "numberline", "ezpoints", "points24", "blackjack" }

local function new(name, options)
  return require("envs." .. name).new(options)
end

-- The example of docs/ENVIRONMENTS.md, as written there.
local function example()
  local file = assert(io.open("docs/ENVIRONMENTS.md"))
  local text = file:read("a")
  file:close()
  local code = text:match("```lua\n(local canvas.-)```")
  return assert(load(code, "@docs/ENVIRONMENTS.md"))(), select(2, code:gsub("\n", "\n"))
end

-- Plays `count` steps by the expert and random actions; returns what was seen, as text.
local function trace(e, count, choose)
  local lines = {}
  for i = 1, count do
    local action = i % 3 == 0 and choose[i % #choose + 1] or e:expert().action
    local obs, reward, terminated, truncated, info = e:step(action)
    lines[#lines + 1] = table.concat({ action, reward, tostring(terminated), tostring(truncated),
      obs.formula or "", (obs.image:hash():gsub(".", function(c) return ("%02x"):format(c:byte()) end)),
      json.encode(info.state) }, " ")
    if terminated or truncated then
      e:reset()
    end
  end
  return table.concat(lines, "\n")
end

describe("the order of calls", function()
  it("is enforced", function()
    local e = new("numberline")
    assert.error_matches(function() e:step("+") end,
      "numberline: step before the first reset; call reset first$")
    assert.error_matches(function() e:actions() end, "numberline: actions before the first reset$")
    assert.error_matches(function() e:expert() end, "numberline: expert before the first reset$")
    e:reset({ start = { position = 1, target = 2 } })
    assert.error_matches(function() e:step("hit") end,
      "numberline: unknown action 'hit'; the actions are %- %+$")
    assert.error_matches(function() e:step(1) end, "unknown action '1'")
    assert.error_matches(function() e:step() end, "unknown action 'nil'")
    e:step("+")
    assert.error_matches(function() e:step("+") end,
      "numberline: step after the episode's end; call reset first$")
  end)
end)

describe("options", function()
  local cases = {
    { "points24", { rule = "intended" }, "points24: unknown option 'rule' %(did you mean 'rules'%?%)$" },
    { "points24", { rules = "rl4vl" }, "points24: unknown rules 'rl4vl' %(did you mean 'rl4vlm'%?%)$" },
    { "points24", { max_steps = -5 }, "points24: option 'max_steps' wants a whole number of 0 or more, got %-5$" },
    { "points24", { stale_prompt = 1 },
      "points24: option 'stale_prompt' wants a boolean, got number %(1%)$" },
    { "points24", { colour = 1 }, "points24: unknown option 'colour' %(known: blank_tokens, clip_formula, "
      .. "limit_terminates, max_steps, python_eval, rules, stale_prompt%)$" },
    { "blackjack", { expert_goal = "wins" },
      "blackjack: unknown expert_goal 'wins' %(did you mean 'win'%?%)$" },
  }
  for _, case in ipairs(cases) do
    it("are checked: " .. case[3], function()
      assert.error_matches(function() new(case[1], case[2]) end, case[3])
    end)
  end

  it("set single switches over a rule set", function()
    local e = new("points24", { rules = "rl4vlm", stale_prompt = false })
    assert.same({ blank_tokens = true, clip_formula = true, python_eval = true, stale_prompt = false,
      limit_terminates = false, max_steps = 1000 }, e.options)
    assert.equal("rl4vlm", e.rules)
  end)
end)

describe("reset", function()
  local cases = {
    { "numberline", { sed = 1 }, "numberline.reset: unknown option 'sed' %(did you mean 'seed'%?%)$" },
    { "numberline", { seed = 0.5 }, "numberline: seed wants an integer from" },
    { "numberline", { episode = -1 }, "numberline: episode wants an integer from 0 to" },
    { "numberline", { split = "evil" }, "numberline: unknown split 'evil' %(did you mean 'eval'%?%)$" },
    { "numberline", { start = { position = 6 } },
      "numberline: start.position wants an integer from 0 to 5, got 6$" },
    { "numberline", { start = { target = "x" } },
      "numberline: start.target wants an integer from 0 to 5, got x$" },
    { "numberline", { start = { steps = -1 } }, "numberline: start.steps wants an integer from 0" },
    { "ezpoints", { start = { cards = { "2H" } } }, "ezpoints: start.cards wants a list of 2 cards$" },
    { "ezpoints", { start = { cards = { "2H", "10D" } } },
      "ezpoints: start.cards: .*wanted a rank of A23456789TJQK and a suit of CDHS, as in TH, got '10D'" },
    { "points24", { start = { formula = { "11" } } }, "points24: start.formula: '11' is no token" },
    { "points24", { start = { formula = { "=" } } }, "points24: start.formula: '=' is no token" },
    { "points24", { start = { formula = "1+2" } }, "points24: start.formula wants a list of tokens$" },
    { "ezpoints", { start = { cards = { "2H", "TD" }, formula = { "2", "2" } } },
      "ezpoints: start.formula uses 2 more often than the cards 2H TD have it$" },
    { "blackjack", { start = { player = {} } }, "blackjack: start.player wants a list of 1 to 30 cards$" },
    { "blackjack", { start = { deck = { true } } }, "blackjack: start.deck: " },
  }
  for _, case in ipairs(cases) do
    it("checks its arguments: " .. case[3], function()
      assert.error_matches(function() new(case[1]):reset(case[2]) end, case[3])
    end)
  end

  it("takes any state it ever showed, fields missing or unknown", function()
    for _, name in ipairs(GAMES) do
      for _, rules in ipairs({ "intended", "rl4vlm" }) do
        local e, other = new(name, { rules = rules }), new(name, { rules = rules })
        for episode = 1, 30 do
          local _, info = e:reset({ seed = 11, episode = episode })
          for i = 1, 30 do
            local _, again = other:reset({ start = info.state })
            assert.same(info, again)
            local list = e:all_actions()
            local _, _, terminated, truncated, after = e:step(list[(i * 7 + episode) % #list + 1])
            info = after
            if terminated or truncated then
              break
            end
          end
          assert.same(info, (select(2, other:reset({ start = info.state }))))
          other:reset({ start = { colour = "green" } })
        end
      end
    end
  end)

  it("gives the same episode for the same seed, split and number, whatever was played before", function()
    for _, name in ipairs(GAMES) do
      local a, b = new(name), new(name)
      local seen = {}
      for episode = 1, 40 do
        local _, info = a:reset({ seed = 5, episode = episode, split = "eval" })
        seen[episode] = info
      end
      local differ = 0
      for episode = 40, 1, -1 do
        assert.same(seen[episode], (select(2, b:reset({ seed = 5, episode = episode, split = "eval" }))))
        b:step(b:all_actions()[1])
        local _, train = b:reset({ seed = 5, episode = episode, split = "train" })
        differ = differ + (json.encode(train.state) ~= json.encode(seen[episode].state) and 1 or 0)
      end
      assert.is_true(differ > 25)
      assert.same((select(2, a:reset({ seed = 8 }))), (select(2, b:reset({ seed = 8 }))))
    end
  end)
end)

describe("state and restore", function()
  it("continue exactly, also through JSON and in another instance", function()
    for _, name in ipairs(GAMES) do
      for _, rules in ipairs({ "intended", "rl4vlm" }) do
        local e = new(name, { rules = rules })
        e:reset({ seed = 21, episode = 2 })
        local all = e:all_actions()
        trace(e, 7, all)
        local saved = e:state()
        local text = json.encode(saved)
        local first = trace(e, 25, all)
        e:restore(saved)
        assert.equal(first, trace(e, 25, all))
        local fresh = new(name, { rules = rules })
        fresh:restore(json.decode(text))
        assert.equal(first, trace(fresh, 25, all))
      end
    end
  end)

  it("keep a stale prompt", function()
    local e = new("ezpoints", { stale_prompt = true })
    e:reset({ seed = 1, start = { cards = { "TC", "2D" } } })
    e:step("10")
    e:step("=")
    assert.equal("10", e:reset().formula)
    local saved = e:state()
    e:step("+")
    assert.equal("+", e:observe().formula)
    assert.equal("10", e:restore(saved).formula)
  end)

  it("refuse what is no state", function()
    assert.error_matches(function() new("ezpoints"):restore({}) end,
      "ezpoints: restore wants what state%(%) gave$")
    assert.is_nil(new("ezpoints"):restore(new("ezpoints"):state()))
  end)
end)

describe("observations", function()
  it("are frames of 300 x 300 that tell states apart", function()
    for _, name in ipairs(GAMES) do
      local e, by_hash = new(name), {}
      for episode = 1, 60 do
        local obs, info = e:reset({ seed = 2, episode = episode })
        local w, h = obs.image:size()
        assert.same({ 300, 300 }, { w, h })
        local state = info.state
        local visible = json.encode({ state.position or 0, state.target or 0, state.cards or {},
          state.player or {}, state.dealer and state.dealer[1] or "" })
        local hash = obs.image:hash()
        assert.is_true(by_hash[hash] == nil or by_hash[hash] == visible)
        by_hash[hash] = visible
      end
    end
  end)

  it("never tell what only the image may tell", function()
    local fields = { numberline = {}, blackjack = {}, ezpoints = { "formula" }, points24 = { "formula" } }
    for name, allowed in pairs(fields) do
      local obs, names = new(name):reset({ seed = 1 }), {}
      for key in pairs(obs) do
        if key ~= "image" then
          names[#names + 1] = key
        end
      end
      assert.same(allowed, names)
    end
  end)

  it("hide the dealer's second card, at the end too", function()
    local e, hashes = new("blackjack"), {}
    for i, hole in ipairs({ "2C", "KD", "AS" }) do
      local obs = e:reset({ start = { player = { "TC", "7D" }, dealer = { "9H", hole } } })
      hashes[i] = obs.image:hash()
      obs = e:step("stand")
      assert.equal(hashes[i], obs.image:hash())
      assert.equal(hashes[1], hashes[i])
    end
  end)

  it("show every card of a hand of eight, but for the reference's fifth", function()
    local hand = { "AC", "AD", "2H", "2S", "2C", "3D", "AH", "AS" }
    for n = 5, 8 do
      for changed = 1, n do
        for _, rules in ipairs({ "intended", "rl4vlm" }) do
          local e = new("blackjack", { rules = rules })
          local a = table.move(hand, 1, n, 1, {})
          local b = table.move(hand, 1, n, 1, {})
          b[changed] = "9C"
          local first = e:reset({ start = { player = a, dealer = { "2C", "2D" } } }).image:hash()
          local second = e:reset({ start = { player = b, dealer = { "2C", "2D" } } }).image:hash()
          assert.equal(rules == "rl4vlm" and changed == 5, first == second)
        end
      end
    end
  end)
end)

describe("legal actions", function()
  it("are the numbers left, operators and =", function()
    local e = new("points24")
    e:reset({ start = { cards = { "TC", "KD", "3H", "AS" }, formula = { "10", "+", "3" } } })
    assert.equal("1 10 + - * / ( ) =", table.concat(e:actions(), " "))
    assert.equal("1 2 3 4 5 6 7 8 9 10 + - * / ( ) =", table.concat(e:all_actions(), " "))
    local _, reward, _, _, info = e:step("3")
    assert.same({ -1, "10+3" }, { reward, table.concat(info.state.formula) })
    _, reward, _, _, info = e:step("10")
    assert.same({ 0, "10+310", 2 }, { reward, table.concat(info.state.formula), info.steps - 3 })
  end)
end)

describe("an environment that never ends", function()
  local module = require("rl4vlm.env").define {
    name = "endless", actions = { "on" },
    reset = function() return {} end,
    step = function() return 0, false, false end,
    draw = function() return require("rl4vlm.image").new(4, 4) end,
  }

  local function ends(options)
    local e = module.new(options)
    e:reset { seed = 1 }
    for step = 1, 3000 do
      local _, _, terminated, truncated = e:step("on")
      if terminated or truncated then
        return step, terminated, truncated
      end
    end
  end

  it("is cut off after max_steps", function()
    assert.same({ 1000, false, true }, { ends() })
    assert.same({ 7, false, true }, { ends { max_steps = 7 } })
    assert.same({ 7, true, false }, { ends { max_steps = 7, limit_terminates = true } })
    assert.is_nil(ends { max_steps = 0 })
  end)
end)

describe("the example of the documentation", function()
  it("is a whole environment", function()
    local module, lines = example()
    assert.is_true(lines <= 45)
    assert.error_matches(function() module.new({ siz = 3 }) end,
      "treasure: unknown option 'siz' %(did you mean 'size'%?%)$")
    local e = module.new({ size = 4 })
    for episode = 1, 50 do
      local obs, info = e:reset({ seed = 1, episode = episode })
      assert.is_false(info.state.x == info.state.tx and info.state.y == info.state.ty)
      assert.equal(300, (obs.image:size()))
      local terminated, _
      repeat
        local saved = json.decode(json.encode(e:state()))
        local action = e:expert().action
        _, _, terminated, _, info = e:step(action)
        local game = json.encode(info.state)
        e:restore(saved)
        assert.equal(game, json.encode((select(5, e:step(action))).state))
      until terminated
      assert.is_true(info.success)
    end
  end)

  local image = require("rl4vlm.canvas").new(8, 8, "#ffffff"):image()

  local function definition(changes)
    local def = {
      name = "x", actions = { "a" },
      reset = function() return {} end,
      step = function() return 0, true end,
      draw = function() return image end,
    }
    for key, value in pairs(changes) do
      def[key] = value
    end
    return def
  end

  it("is checked when it is defined", function()
    local function refuses(changes, message)
      assert.error_matches(function() env.define(definition(changes)) end, message .. "$")
    end
    assert.error_matches(function() env.define({ name = "x" }) end,
      "env.define: the definition lacks 'actions'$")
    assert.error_matches(function() env.define({ name = "x", action = {} }) end,
      "env.define: unknown field 'action' %(did you mean 'actions'%?%)$")
    refuses({ actionss = {} }, "env.define: unknown field 'actionss' %(did you mean 'actions'%?%)")
    refuses({ draw = 3 }, "env.define: 'draw' wants a function, got a number")
    refuses({ actions = {} }, "env.define: 'actions' wants texts that differ, got nil as number 1")
    refuses({ actions = { "a", 2 } }, "env.define: 'actions' wants texts that differ, got 2 as number 2")
    refuses({ actions = { "a", "b " } }, "env.define: 'actions' wants texts without blanks around them, got 'b ' as number 2")
    refuses({ actions = { "a", up = "b" } }, "env.define: 'actions' wants a list, got the key 'up'")
    refuses({ options = { f = print } }, "env.define: option 'f' wants plain data %(a table, number, text or boolean%), "
      .. "got a function in it")
    refuses({ options = { max_steps = -1 } }, "env.define: option 'max_steps' wants a whole number of 0 or more, got %-1")
    refuses({ actions = { "a", "a" } }, "^[%w/._-]*tests/lua/env_spec.lua: env.define: 'actions' wants texts that differ, "
      .. "got a as number 2")
  end)

  it("needs an expert to learn from, told before a run begins; without thoughts none to play", function()
    local rl = require "rl4vlm"
    local none = env.define(definition { observe = function() return {} end })
    package.loaded["envs.none"] = none
    local recipe = rl.recipe { name = "x", env = { "none" }, prompt = rl.prompt "{actions}",
      answer = rl.json_answer { "thoughts", "action", cot = false, reads = { "thoughts" } } }
    assert.has_error(function() require("rl4vlm.demos").expert(recipe:resolve()) end, "x: this environment has no expert")
    local settings = recipe:resolve()
    local s = require("rl4vlm.slot").new(require("rl4vlm.rollout").shared(settings, nil, "train", 1.0))
    s:begin(1)
    assert.same({}, s:truth())
    package.loaded["envs.none"] = nil
  end)

  it("is checked as it plays, and the line of what failed is named", function()
    local place
    local function refuses(changes, message)
      changes.expert = changes.expert or function() return { action = "a" } end
      local e = env.define(definition(changes)).new()
      local ok, err = pcall(function()
        e:reset()
        e:actions()
        e:expert()
        e:step("a")
      end)
      assert.same({ false, (message:gsub(": w", (" (%s): w"):format(place), 1)) }, { ok, err })
    end
    local function gives(...)
      local values = table.pack(...)
      return function() return table.unpack(values, 1, values.n) end
    end
    local made = debug.getinfo(gives(), "S")
    place = ("%s:%d"):format(made.short_src, made.linedefined)
    refuses({ reset = gives() }, "x: reset: wanted a game, a plain table, got nil")
    refuses({ draw = gives() }, "x: draw: wanted an image, got nil")
    refuses({ draw = gives(require("rl4vlm.canvas").new(8, 8, "#ffffff")) }, "x: draw: wanted an image, got userdata")
    refuses({ step = gives() }, "x: step: wanted a reward, a finite number, got nil")
    refuses({ step = gives(1 / 0) }, "x: step: wanted a reward, a finite number, got inf")
    refuses({ step = gives(1, 0) }, "x: step: wanted true or false for terminated and truncated, got 0")
    refuses({ observe = gives(3) }, "x: observe: wanted a table of fields, got 3")
    refuses({ legal = gives(false) }, "x: legal: wanted an action at least while the episode goes on, got none")
    refuses({ expert = gives(3) }, "x: expert: wanted a table of fields with an action of the list, got 3")
    refuses({ expert = gives { action = "b" } }, "x: expert: wanted a table of fields with an action of the list, "
      .. "got the action b")
    refuses({ reset = gives { f = print } }, "x: reset: wanted a game of plain data (tables, numbers, strings, "
      .. "booleans), got a function in it")
    local circle = {}
    circle.circle = circle
    refuses({ reset = gives(circle) }, "x: reset: wanted a game of plain data (tables, numbers, strings, booleans), "
      .. "got a table within itself")
  end)
end)
