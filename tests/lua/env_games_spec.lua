-- What the four games pay and how often they can be won, from exhaustive enumeration of their own
-- transitions.
local arith = require("rl4vlm.arith")

local function new(name, options)
  return require("envs." .. name).new(options)
end

-- Plays to the end with `policy(env, obs)`; returns the last info.
local function play(env, obs, policy)
  local terminated, truncated, info, _
  repeat
    obs, _, terminated, truncated, info = env:step(policy(env, obs))
  until terminated or truncated
  return info
end

local function expert(env)
  return env:expert().action
end

describe("numberline", function()
  -- Every start of the present reset, with its share.
  local function starts(visit)
    local env = new("numberline")
    for from = 0, 5 do
      for target = 0, 5 do
        visit(env, { position = from, target = from == target and (from + 1) % 5 or target })
      end
    end
  end

  local function average(policy)
    local wins, total, steps = 0, 0, 0
    starts(function(env, start)
      local info = play(env, (env:reset({ start = start })), policy)
      wins = wins + (info.success and 1 or 0)
      total, steps = total + info.total_reward, steps + info.steps
    end)
    return wins / 36, total / 36, steps / 36
  end

  it("is always won by its expert", function()
    local wins, total, steps = average(expert)
    assert.near(1, wins, 1e-12)
    assert.near(1, total, 1e-12)
    assert.near(2.278, steps, 5e-4)
  end)

  it("pays blind players what is known", function()
    local wins, total = average(function() return "+" end)
    assert.near(0.5278, wins, 5e-5)
    assert.near(-4.194, total, 5e-4)
    wins, total = average(function() return "-" end)
    assert.near(0.4722, wins, 5e-5)
    assert.near(-4.806, total, 5e-4)
  end)

  it("caps success at 8/9 with the older reset", function()
    local env, wins, total = new("numberline", { old_numberline_reset = true }), 0, 0
    for from = 0, 5 do
      for target = 0, 5 do
        local obs = env:reset({ start = { position = from, target = target } })
        local info = play(env, obs, expert)
        wins, total = wins + (info.success and 1 or 0), total + info.total_reward
      end
    end
    assert.near(32 / 36, wins / 36, 1e-12)
    assert.near(0.889, total / 36, 5e-4)
  end)
end)

describe("points24", function()
  it("is won by its expert on exactly the solvable deals", function()
    local fact = { 1, 2, 6, 24 }
    for rules, expected in pairs({ intended = { 566, 0.730927 }, rl4vlm = { 565, 0.730717 } }) do
      local env, multisets, deals, all = new("points24", { rules = rules }), 0, 0, 0
      local name = { "AC", "2D", "3H", "4S", "5C", "6D", "7H", "8S", "9C", "KD" }
      for a = 1, 10 do for b = a, 10 do for c = b, 10 do for d = c, 10 do
        local count, ways = {}, 24
        for _, v in ipairs({ a, b, c, d }) do
          count[v] = (count[v] or 0) + 1
          ways = ways * (v == 10 and 4 or 1)
        end
        for _, n in pairs(count) do
          ways = ways // fact[n]
        end
        env:reset({ start = { cards = { name[c], name[a], name[d], name[b] } } })
        local terminated, info, _
        repeat
          _, _, terminated, _, info = env:step(expert(env))
        until terminated
        all = all + ways
        if info.success then
          multisets, deals = multisets + 1, deals + ways
          assert.equal(10, info.total_reward)
        else
          assert.same({ 1, -1 }, { info.steps, info.total_reward })
        end
      end end end end
      assert.equal(28561, all)
      assert.equal(expected[1], multisets)
      assert.near(expected[2], deals / all, 5e-7)
    end
  end)
end)

describe("arith", function()
  it("follows Python where asked to", function()
    assert.equal(24.0, (arith.eval("10//(2/5)", "python")))
    assert.is_false(arith.equals("8/(3-8/3)", 24, "python"))
    assert.is_true(arith.equals("8/(3-8/3)", 24))
  end)
end)
