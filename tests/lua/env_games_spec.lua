-- What the four games pay and how often they can be won, computed exactly from the environments'
-- own transitions.

local blackjack = require("rl4vlm.blackjack")
local cards = require("rl4vlm.cards")

local FRAME = require("rl4vlm.canvas").new(8, 8, "#ffffff"):image()

-- An environment that draws no frames: the numbers below need a million transitions.
local function new(name, options)
  local env = require("envs." .. name).new(options)
  env.def = setmetatable({ draw = function() return FRAME end }, { __index = env.def })
  return env
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

local function key_of(game)
  local parts = {}
  for name, value in pairs(game) do
    parts[#parts + 1] = name .. "=" .. (type(value) == "table" and table.concat(value, "_")
      or tostring(value))
  end
  table.sort(parts)
  return table.concat(parts, " ")
end

-- Chance of success, expected return and expected steps from where `env` stands, for a player that
-- takes each action of `policy(env)` (a list of {action, chance}) by chance.
local function expectation(env, policy, memo)
  local state = env:state()
  local key = key_of(state.game)
  if not memo[key] then
    local sum = { 0, 0, 0 }
    for _, choice in ipairs(policy(env)) do
      env:restore(state)
      local _, reward, terminated, truncated, info = env:step(choice[1])
      local rest = (terminated or truncated) and { info.success and 1 or 0, 0, 0 }
        or expectation(env, policy, memo)
      sum[1] = sum[1] + choice[2] * rest[1]
      sum[2] = sum[2] + choice[2] * (reward + rest[2])
      sum[3] = sum[3] + choice[2] * (1 + rest[3])
    end
    memo[key] = sum
  end
  return memo[key]
end

-- The average of `expectation` over starts, a list of {start, weight}.
local function average(env, starts, policy)
  local total, weights = { 0, 0, 0 }, 0
  for _, case in ipairs(starts) do
    env:reset({ start = case[1] })
    local x = expectation(env, policy, {})
    for i = 1, 3 do
      total[i] = total[i] + case[2] * x[i]
    end
    weights = weights + case[2]
  end
  return total[1] / weights, total[2] / weights, total[3] / weights
end

local function always(action)
  return function() return { { action, 1 } } end
end

local function uniform(list)
  local choices = {}
  for i, action in ipairs(list) do
    choices[i] = { action, 1 / #list }
  end
  return choices
end

local function by_expert(env)
  return { { expert(env), 1 } }
end

local function all_actions(env)
  return uniform(env.action_list)
end

-- The same, with one action for all the numbers that are not available.
local function lumped_actions(env)
  local choices = uniform(env:actions())
  for i = 1, #choices do
    choices[i][2] = 1 / #env.action_list
  end
  choices[#choices + 1] = { "1", 1 - #choices / #env.action_list } -- no deal has an ace
  return choices
end

local function legal_actions(env)
  return uniform(env:actions())
end

local function check(expected, success, total, steps)
  assert.near(expected[1], success, 6e-5)
  assert.near(expected[2], total, 6e-4)
  if expected[3] then
    assert.near(expected[3], steps, 6e-3)
  end
end

describe("numberline", function()
  local now, older = {}, {}
  for from = 0, 5 do
    for target = 0, 5 do
      older[#older + 1] = { { position = from, target = target }, 1 }
      now[#now + 1] = { { position = from, target = from == target and (from + 1) % 5 or target },
        1 }
    end
  end

  it("starts as it says", function()
    local env, seen = new("numberline"), {}
    for episode = 1, 3000 do
      local _, info = env:reset({ seed = 5, episode = episode })
      local key = info.state.position * 10 + info.state.target
      seen[key] = (seen[key] or 0) + 1
    end
    for from = 0, 5 do
      for target = 0, 5 do
        local count, double = seen[from * 10 + target] or 0, target == (from + 1) % 5
        local wanted = from == target and 0 or double and 2 or 1
        assert.near(wanted * 3000 / 36, count, 45)
      end
    end
  end)

  it("pays each kind of player what is known", function()
    local env = new("numberline")
    check({ 1, 1, 2.278 }, average(env, now, by_expert))
    check({ 0.5278, -4.194 }, average(env, now, always("+")))
    check({ 0.4722, -4.806 }, average(env, now, always("-")))
    check({ 0.2830, -2.483, 6.19 }, average(env, now, all_actions))
    for rate, success in pairs({ [0.02] = 0.955, [0.05] = 0.892, [0.1] = 0.794, [0.2] = 0.625 }) do
      local got = average(env, now, function(e)
        local best = expert(e)
        return { { best, 1 - rate }, { best == "+" and "-" or "+", rate } }
      end)
      assert.near(success, got, 6e-4)
    end
  end)

  it("caps success at 8/9 with the older reset", function()
    local env = new("numberline", { old_numberline_reset = true, rules = "rl4vlm" })
    check({ 32 / 36, 32 / 36 }, average(env, older, by_expert))
    check({ 0.2517, -2.609 }, average(env, older, all_actions))
    check({ 0.4444, -5.111 }, average(env, older, always("+")))
    check({ 0.4444, -4.556 }, average(env, older, always("-")))
    check({ 0.8611, 0.778 }, average(env, older, function(e)
      local state = select(2, e:observe()).state
      local d = state.target - state.position
      return d == 0 and uniform({ "-", "+" }) or { { d > 0 and "+" or "-", 1 } }
    end))
  end)
end)

describe("ezpoints", function()
  local deals = {
    { { cards = { "2C", "KD" } }, 9 }, { { cards = { "5C", "7D" } }, 4 },
    { { cards = { "9C", "3D" } }, 3 }, { { cards = { "8C", "4D" } }, 3 },
    { { cards = { "6C", "2D" } }, 2 }, { { cards = { "3C", "4D" } }, 2 },
    { { cards = { "6C", "6D" } }, 1 },
  }

  it("deals as it says", function()
    local env, seen, faces = new("ezpoints"), {}, 0
    for episode = 1, 4800 do
      local _, info = env:reset({ seed = 1, episode = episode })
      local a, b = cards.value(info.state.cards[1]), cards.value(info.state.cards[2])
      local key = math.min(a, b) * 100 + math.max(a, b)
      seen[key] = (seen[key] or 0) + 1
      for _, card in ipairs(info.state.cards) do
        assert.not_equal(1, cards.rank(card))
        faces = faces + (cards.rank(card) > 10 and 1 or 0)
      end
    end
    for _, deal in ipairs(deals) do
      local a, b = cards.value(deal[1].cards[1]), cards.value(deal[1].cards[2])
      local key = math.min(a, b) * 100 + math.max(a, b)
      assert.near(deal[2] * 200, seen[key], 140)
    end
    assert.near(1200, faces, 120)
  end)

  for _, rules in ipairs({ "intended", "rl4vlm" }) do
    it("pays each kind of player what is known, " .. rules, function()
      local env = new("ezpoints", { rules = rules })
      check({ 1, 10, 4 }, average(env, deals, by_expert))
      if rules == "intended" then -- the blank tokens of the other give too many states
        check({ 0.000636, -4.185 }, average(env, deals, lumped_actions))
        check({ 0.01316, -0.855 }, average(env, deals, legal_actions))
      end
      check({ 0.375, 0 }, average(env, deals, function(e) -- "10 + 2 =", whatever is on the table
        local steps = select(2, e:observe()).steps
        return { { ({ "10", "+", "2", "=" })[steps + 1], 1 } }
      end), 0)
    end)
  end

  it("halves the success of whoever trusts a stale prompt", function()
    local env, wins, total = new("ezpoints", { stale_prompt = true }), 0, 0
    assert.is_true(env.one_slot)
    assert.is_false(new("ezpoints").one_slot)
    for episode = 1, 400 do
      local obs = env:reset({ seed = 3, episode = episode })
      local info = play(env, obs, function(e, o)
        return o.formula:match("%d[+*]%d") and "=" or expert(e)
      end)
      wins, total = wins + (info.success and 1 or 0), total + info.total_reward
    end
    assert.equal(0.5, wins / 400)
    assert.equal(4.5, total / 400)
  end)
end)

describe("points24", function()
  local name = { "AC", "2D", "3H", "4S", "5C", "6D", "7H", "8S", "9C", "KD" }
  local factorial = { 1, 2, 6, 24 }

  -- Every multiset of four values with the number of rank deals that give it.
  local function multisets(visit)
    for a = 1, 10 do for b = a, 10 do for c = b, 10 do for d = c, 10 do
      local count, ways = {}, 24
      for _, v in ipairs({ a, b, c, d }) do
        count[v] = (count[v] or 0) + 1
        ways = ways * (v == 10 and 4 or 1)
      end
      for _, n in pairs(count) do
        ways = ways // factorial[n]
      end
      visit({ name[c], name[a], name[d], name[b] }, ways)
    end end end end
  end

  for rules, expected in pairs({ intended = { 566, 0.730927, 7.040 }, rl4vlm = { 565, 0.730717, 7.038 } }) do
    it("is won by its expert on exactly the solvable deals, " .. rules, function()
      local env, solved, deals, all, total = new("points24", { rules = rules }), 0, 0, 0, 0
      multisets(function(hand, ways)
        env:reset({ start = { cards = hand } })
        local plan = env:expert().thoughts:match("|(.*)=$")
        local info = play(env, nil, expert)
        all, total = all + ways, total + ways * info.total_reward
        if info.success then
          solved, deals = solved + 1, deals + ways
          assert.equal(plan, table.concat(info.state.formula)) -- it never changes its mind
        else
          assert.same({ 1, -1 }, { info.steps, info.total_reward })
        end
      end)
      assert.equal(28561, all)
      assert.equal(expected[1], solved)
      assert.near(expected[2], deals / all, 5e-7)
      assert.near(expected[3], total / all, 6e-4)
    end)
  end

  it("has one formula for a multiset, whatever the order of the cards", function()
    local env = new("points24")
    local thoughts = {}
    for _, hand in ipairs({ { "3C", "KD", "7H", "5S" }, { "5H", "7H", "3H", "TC" } }) do
      env:reset({ start = { cards = hand } })
      thoughts[#thoughts + 1] = env:expert().thoughts
    end
    assert.equal("3 5 7 10: |5+7*10/3=", (thoughts[1]:gsub("|.*", "|5+7*10/3=")))
    assert.equal(thoughts[1], thoughts[2])
  end)

  it("goes on from what can still win, and gives up at once on what cannot", function()
    local env = new("points24")
    local function answer(...)
      env:reset({ start = { cards = { "3C", "3D", "8H", "8S" }, formula = { ... } } })
      return env:expert()
    end
    assert.equal("8/(3-8/3)", answer().thoughts:match("|(.*)=$"))
    assert.equal("3", answer("8", "/", "(").action)
    assert.same({ "=", "8+3", "3 3 8 8: 8+3|=" },
      { answer("8", "+", "3").action, answer("8", "+", "3").formula, answer("8", "+", "3").thoughts })
    assert.equal("=", answer("3", "8").action)
    assert.equal("3 8", answer("3", "8").formula)
    local blanks = new("points24", { rules = "rl4vlm" })
    blanks:reset({ start = { cards = { "6C", "6D", "6H", "6S" }, formula = { " ", "6", " ", "+" } } })
    assert.equal(" 6 +", blanks:expert().formula)
    assert.equal("6", blanks:expert().action)
  end)

  it("ends after 22 steps, under both rules", function()
    for _, rules in ipairs({ "intended", "rl4vlm" }) do
      local env = new("points24", { rules = rules })
      env:reset({ start = { cards = { "AC", "AD", "AH", "AS" } } })
      local info = play(env, nil, function() return "9" end)
      assert.same({ 22, -22 }, { info.steps, info.total_reward })
      assert.equal(rules == "rl4vlm" and (" "):rep(21) or "", table.concat(info.state.formula))
      env:reset({ start = { cards = { "6C", "6D", "6H", "6S" }, formula =
        { "(", "(", "(", "(", "(", "(", "(", "6", ")", ")", ")", ")", ")", ")", ")", "+", "6", "+",
          "6", "+" } } })
      local _, reward, terminated, truncated = env:step("6")
      assert.same({ 0, false, false }, { reward, terminated, truncated })
      _, reward, terminated, truncated = env:step("=") -- one token too late
      assert.same({ -1, false, true }, { reward, terminated, truncated })
    end
    local env = new("points24", { limit_terminates = true })
    env:reset({ start = { steps = 21 } })
    local _, _, terminated, truncated = env:step("+")
    assert.same({ true, false }, { terminated, truncated })
  end)

  it("joins digits, powers and floors only under the reference's rules", function()
    local cases = {
      { { "2", "4", "+", "(", "1", "-", "1", ")" }, { "2C", "4D", "AH", "AS" } },
      { { "10", "/", "/", "(", "2", "/", "5", ")", "+", "1", "-", "1" }, nil },
      { { "2", "*", "*", "3", "*", "3", "*", "1" }, { "2C", "3D", "3H", "AS" } },
    }
    for _, case in ipairs(cases) do
      for rules, reward in pairs({ intended = -1, rl4vlm = 10 }) do
        if case[2] then
          local env = new("points24", { rules = rules })
          env:reset({ start = { cards = case[2], formula = case[1] } })
          assert.equal(reward, (select(2, env:step("="))))
        end
      end
    end
  end)
end)

describe("blackjack", function()
  local face = { "AC", "2D", "3H", "4S", "5C", "6D", "7H", "8S", "9C", "KD" }
  local env = new("blackjack")

  local function chance(value)
    return (value == 10 and 4 or 1) / 13
  end

  local function total(hand)
    local values = {}
    for i, card in ipairs(hand) do
      values[i] = cards.value(card)
    end
    return blackjack.total(values)
  end

  local function with(hand, card)
    local longer = table.move(hand, 1, #hand, 1, {})
    longer[#longer + 1] = card
    return longer
  end

  local dealer_memo, leaf_memo, outcome_memo = {}, {}, {}

  -- Whether the environment's dealer stops on a hand.
  local function stops(hand)
    env:reset({ start = { player = { "TC", "TD" }, dealer = hand,
      deck = { "2C", "2C", "2C", "2C", "2C", "2C", "2C", "2C" } } })
    return #select(5, env:step("stand")).state.dealer == #hand
  end

  -- Chances of the dealer's final hands by total, each with one hand that shows it.
  local function dealer(hand)
    local sum, soft = total(hand)
    local key = sum * 2 + (soft and 1 or 0) + (#hand == 1 and 1000 or 0)
    if not dealer_memo[key] then
      local finals = {}
      if #hand > 1 and stops(hand) then
        local final = sum > 21 and 22 or sum
        finals[final], leaf_memo[final] = 1, hand
      else
        for value = 1, 10 do
          for final, p in pairs(dealer(with(hand, face[value]))) do
            finals[final] = (finals[final] or 0) + chance(value) * p
          end
        end
      end
      dealer_memo[key] = finals
    end
    return dealer_memo[key]
  end

  local function outcome(hand, final)
    local key = total(hand) * 100 + final
    if not outcome_memo[key] then
      env:reset({ start = { player = hand, dealer = leaf_memo[final] } })
      outcome_memo[key] = select(2, env:step("stand"))
    end
    return outcome_memo[key]
  end

  -- {win, draw, lose} of a policy(sum, soft, shown, cards held) -> chance of hitting.
  local function outlook(hand, shown, policy, memo)
    local sum, soft = total(hand)
    local key = sum * 2 + (soft and 1 or 0) + math.min(#hand, 3) * 1000
    if memo[key] then
      return memo[key]
    end
    local hit, result = policy(sum, soft, shown, #hand), { 0, 0, 0 }
    if hit < 1 then
      for final, p in pairs(dealer({ face[shown] })) do
        local i = 2 - outcome(hand, final)
        result[i] = result[i] + (1 - hit) * p
      end
    end
    for value = 1, hit > 0 and 10 or 0 do
      env:reset({ start = { player = hand, dealer = { face[shown], "2C" }, deck = { face[value] } } })
      local _, reward, terminated, _, info = env:step("hit")
      local rest = terminated and { 0, 0, 1 } or outlook(info.state.player, shown, policy, memo)
      assert.equal(terminated and -1 or 0, reward)
      for i = 1, 3 do
        result[i] = result[i] + hit * chance(value) * rest[i]
      end
    end
    memo[key] = result
    return result
  end

  local function evaluate(policy)
    local sum = { 0, 0, 0 }
    for shown = 1, 10 do
      local memo = {}
      for a = 1, 10 do
        for b = 1, 10 do
          local p = chance(shown) * chance(a) * chance(b)
          local x = outlook({ face[a], face[b] }, shown, policy, memo)
          for i = 1, 3 do
            sum[i] = sum[i] + p * x[i]
          end
        end
      end
    end
    return sum[1] * 100, sum[2] * 100, sum[1] - sum[3]
  end

  local function best(goal)
    return function(sum, soft, shown)
      return blackjack.best(sum, soft, shown, goal) == "hit" and 1 or 0
    end
  end

  it("has the known exact win, draw and return of each policy", function()
    local cases = {
      { best("return"), 42.9457, 9.4530, -0.046556 },
      { best("win"), 43.1630, 8.6569, -0.050172 },
      { function() return 0 end, 38.0734, 5.2164, -0.186368 },
      { function() return 0.5 end, 28.0611, 4.2881, -0.395896 },
      { function(_, _, _, n) return n == 2 and 1 or 0 end, 28.9281, nil, -0.368629 },
      { function(sum, soft) return sum <= (soft and 17 or 11) and 1 or 0 end, 42.1840, 7.0845, -0.085475 },
      { function(sum) return sum < 20 and 1 or 0 end, 29.3866, nil, -0.353554 },
    }
    for _, case in ipairs(cases) do
      local win, draw, value = evaluate(case[1])
      assert.near(case[2], win, 6e-5)
      assert.near(case[3] or draw, draw, 6e-5)
      assert.near(case[4], value, 6e-7)
    end
  end)

  it("has an expert for each goal", function()
    local function action(goal, player, shown)
      local e = new("blackjack", { expert_goal = goal })
      e:reset({ start = { player = player, dealer = { shown } } })
      return e:expert().action
    end
    for _, case in ipairs({
      { { "TC", "2D" }, "2H", "hit", "stand" }, { { "TC", "6D" }, "9H", "hit", "stand" },
      { { "TC", "7D" }, "AH", "stand", "hit" }, { { "AC", "7D" }, "8H", "stand", "hit" },
      { { "TC", "TD" }, "6H", "stand", "stand" }, { { "5C", "6D" }, "TH", "hit", "hit" },
    }) do
      assert.equal(case[3], action("return", case[1], case[2]))
      assert.equal(case[4], action("win", case[1], case[2]))
    end
    local e = new("blackjack")
    e:reset({ start = { player = { "AC", "6D" }, dealer = { "9H" } } })
    assert.equal("dealer 9, player 1+6 = soft 17: hit", e:expert().thoughts)
  end)

  it("takes cards from a given deck, in order", function()
    local e = new("blackjack")
    local _, info = e:reset({ start = { deck = { "9C", "7D", "5H", "KS", "6C", "2D" } } })
    assert.same({ { "9C", "7D" }, { "5H", "KS" } }, { info.state.dealer, info.state.player })
    local _, reward, terminated
    _, reward, terminated, _, info = e:step("hit")
    assert.same({ 0, false, { "5H", "KS", "6C" } }, { reward, terminated, info.state.player })
    _, reward, terminated, _, info = e:step("stand")
    assert.same({ 1, true, true }, { reward, terminated, info.success })
    assert.same({ "9C", "7D", "2D" }, info.state.dealer)
  end)

  it("shows tens as court cards, each value as often as in a deck", function()
    local e, seen, n = new("blackjack"), {}, 0
    for episode = 1, 1500 do
      local _, info = e:reset({ seed = 9, episode = episode })
      for _, hand in ipairs({ info.state.player, info.state.dealer }) do
        for _, card in ipairs(hand) do
          seen[cards.value(card)] = (seen[cards.value(card)] or 0) + 1
          n = n + 1
          assert.not_equal(10, cards.rank(card))
        end
      end
    end
    for value = 1, 10 do
      assert.near(chance(value) * n, seen[value], 90)
    end
  end)
end)
