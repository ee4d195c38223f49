-- A real process, a real (tiny) model, kill -9 at random moments.
package.path = "tests/lua/?.lua;" .. package.path
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local rollout = require "rl4vlm.rollout"
local slot = require "rl4vlm.slot"
local tiny = require "support.tiny"

local function words_of(name)
  local s = slot.new(rollout.shared(require("recipes." .. name):resolve(), nil, "train", 1))
  s:begin(1)
  return (s:words():match("^%s*(.-)%s*$"))
end

local function timeless(dir)
  local lines = {}
  for text in fs.read_file(dir .. "/metrics.jsonl"):gmatch("[^\n]+") do
    local line = json.decode(text)
    for key in pairs(line) do
      if key:find("^timing_") or key:find("^perf/") then
        line[key] = nil
      end
    end
    lines[#lines + 1] = line
  end
  return lines
end

describe("a run", function()
  local work, model, rl4vlm
  lazy_setup(function()
    work = assert(fs.tempdir("resume_spec"))
    model = tiny.make(work .. "/tiny", { words_of("numberline") })
    rl4vlm = ("OMP_NUM_THREADS=1 %s recipes/numberline.lua"):format(host.exe)
  end)
  lazy_teardown(function()
    fs.remove_tree(work)
  end)

  -- Runs the program to its end, or to what `prefix` does to it.
  local function command(words, prefix)
    local ok, _, status = os.execute(("%s %s %s >%s/log 2>&1"):format(prefix or "", rl4vlm, words, work))
    return ok, status
  end

  it("killed with -9 and resumed writes what a run that lived writes", function()
    local options = ("--model %s --env-steps 96 --seed 11 --set schedule.rollout=32 --set "
      .. "schedule.eval_episodes=6 --set schedule.eval_every=2 --set sampling.max_new_tokens=12 "
      .. "--set algorithm.minibatch=16"):format(model)
    assert.is_true(command(("%s --out %s/a"):format(options, work)), fs.read_file(work .. "/log"))
    local done, kills, seconds = nil, 0, 0.2
    for _ = 1, 45 do
      local dir = work .. "/b"
      local words = fs.exists(dir .. "/manifest.json") and "--resume " .. dir
        or ("%s --out %s"):format(options, dir)
      done = command(words, ("timeout -s KILL %.2f env"):format(seconds))
      if done then
        break
      end
      kills = kills + 1
      seconds = seconds * 1.15 -- to a minute and more, for slow and busy machines
    end
    assert.is_true(done, fs.read_file(work .. "/log"))
    assert.is_true(kills > 0)
    local a, b = timeless(work .. "/a"), timeless(work .. "/b")
    assert.equal(3, #a)
    assert.same(a, b)
    for i = 1, #a do
      assert.equal(0, a[i]["training/rollout_probs_diff_max"])
    end
  end)

  it("says before it begins that answers have no room", function()
    local words = ("--model %s --out %s/e --set sampling.max_new_tokens=9999"):format(model, work)
    local _, status = command(words)
    assert.equal(1, status)
    assert.matches("^rl4vlm: sampling%.max_new_tokens: wanted at most %d+: a first prompt takes %d+ of the model's %d+ "
      .. "positions, got 9999\n$", fs.read_file(work .. "/log"))
    command((words:gsub("9999", "12 --set max_tokens=13")))
    assert.matches("wanted at most 0: a first prompt takes %d+ of max_tokens 13, got 12\n$", fs.read_file(work .. "/log"))
    assert.is_false(fs.exists(work .. "/e"))
  end)

  it("goes on from another folder, and without the model that it began with", function()
    local recipe, words = fs.realpath("recipes/numberline.lua"), "--env-steps 32 --set schedule.rollout=32 --set "
      .. "schedule.eval_every=0 --set sampling.max_new_tokens=12 --set lora.r=0"
    local function from(folder, more)
      local ok = os.execute(("cd %s && OMP_NUM_THREADS=1 %s %s %s >%s/log 2>&1"):format(folder, host.exe, recipe, more, work))
      assert.is_true(ok, fs.read_file(work .. "/log"))
    end
    from(work, "--model tiny --out first " .. words)
    from(work, "--model first --out second " .. words)
    local manifest = json.decode(fs.read_file(work .. "/second/manifest.json"))
    assert.equal("tiny", manifest.model_name) -- what by_model goes by
    assert.equal(fs.realpath(work) .. "/first", manifest.recipe.model)
    assert(fs.remove_tree(work .. "/first"))
    from("/", ("--resume %s/second --env-steps 64"):format(fs.realpath(work)))
    assert.equal(2, #timeless(work .. "/second"))
    local after = json.decode(fs.read_file(work .. "/second/manifest.json"))
    assert.same({ "tiny", manifest.hashes.model }, { after.model_name, after.hashes.model })
    from("/", ("eval --episodes 2 --model %s/second"):format(fs.realpath(work)))
  end)

  it("of sft learns a file's demonstrations once, and as many as are asked for", function()
    local item = { conversations = { { from = "human", value = "What?" }, { from = "gpt", value = "+" } } }
    assert(fs.write_atomic(work .. "/three.jsonl", (json.encode(item) .. "\n"):rep(3)))
    local words = ("sft --model %s --data %s/three.jsonl --set sft.batch=2 --set schedule.eval_episodes=2 --set "
      .. "sampling.max_new_tokens=12 --set lora.r=0 --out %s/"):format(model, work, work)
    for out, case in pairs { once = { "", 3 }, more = { " --samples 5", 5 }, set = { " --set sft.samples=2", 2 } } do
      assert.is_true(command(words .. out .. case[1]), fs.read_file(work .. "/log"))
      local lines = timeless(work .. "/" .. out)
      assert.equal(case[2], lines[#lines].samples)
    end
    assert.is_true(command(("sft --resume %s/once --samples 4"):format(work)), fs.read_file(work .. "/log"))
    assert.equal(4, timeless(work .. "/once")[3].samples)
  end)

  -- in the foreground timeout signals once, else its group too: a second Ctrl-C kills
  it("stopped by Ctrl-C says so, with status 130, and goes on", function()
    local dir = work .. "/c"
    local options = ("--model %s --env-steps 64000 --out %s --set schedule.rollout=32 --set "
      .. "schedule.eval_every=0 --set sampling.max_new_tokens=12 --set lora.r=0"):format(model, dir)
    local seconds = 1
    repeat -- on a busy machine it takes a while to the first checkpoint
      local _, status = command(fs.exists(dir) and "--resume " .. dir or options,
        ("timeout --foreground --preserve-status -s INT %d env"):format(seconds))
      assert.equal(130, status, fs.read_file(work .. "/log"))
      seconds = seconds * 2
    until #(fs.list(dir .. "/checkpoints") or {}) > 0
    assert.is_truthy(fs.read_file(work .. "/log"):find("stopped by Ctrl%-C; go on with %-%-resume"))
    local newest = 0
    for _, name in ipairs(fs.list(dir .. "/checkpoints")) do
      newest = math.max(newest, math.tointeger(tonumber(name)) or 0)
    end
    -- far enough that the checkpoint which the run went on from is dropped
    local steps = (newest + 4) * 32
    assert.is_true(command(("--resume %s --env-steps %d"):format(dir, steps)), fs.read_file(work .. "/log"))
    assert.equal(newest + 4, #timeless(dir))
    assert.is_true(fs.exists(("%s/checkpoints/%d/model/tokenizer.json"):format(dir, newest + 4)))
  end)

  it("of sft stopped by Ctrl-C saves its last step, and goes on", function()
    local dir = work .. "/d"
    local options = ("sft --model %s --out %s --samples 100000 --set sft.batch=4 --set sft.checkpoint_every=0 --set "
      .. "schedule.eval_episodes=2 --set sampling.max_new_tokens=12"):format(model, dir)
    local seconds = 1
    repeat
      local _, status = command(fs.exists(dir) and "sft --resume " .. dir or options,
        ("timeout --foreground --preserve-status -s INT %d env"):format(seconds))
      assert.equal(130, status, fs.read_file(work .. "/log"))
      seconds = seconds * 2
    until #(fs.list(dir .. "/checkpoints") or {}) > 0
    local steps = #timeless(dir)
    assert.is_true(fs.exists(("%s/checkpoints/%d/state.json"):format(dir, steps)))
    assert.is_true(command(("sft --resume %s --samples %d"):format(dir, (steps + 2) * 4)), fs.read_file(work .. "/log"))
    assert.equal(steps + 2, #timeless(dir))
  end)

  it("that goes on from an adapter holds its KL penalty against that adapter, resumed or not", function()
    local few = "--set sampling.max_new_tokens=8 --set schedule.eval_episodes=4 --seed 5 "
    assert.is_true(command(("sft --model %s --out %s/sft --samples 64 --set sft.batch=16 --set lora.r=4 "
      .. "--set sft.lr=0.01 %s"):format(model, work, few)), fs.read_file(work .. "/log"))
    local options = ("--model %s/sft --set algorithm.kl_coef=0.1 --set schedule.rollout=16 --set schedule.eval_every=0 "
      .. "--set algorithm.minibatch=16 --set algorithm.epochs=1 %s"):format(work, few)
    local function kl_losses(words)
      assert.is_true(command(words), fs.read_file(work .. "/log"))
      local list = {}
      for i, line in ipairs(timeless(work .. "/kl")) do
        list[i] = line["actor/kl_loss"]
      end
      return list
    end
    -- a rate near zero: the policy stays the adapter, so the penalty stays nothing
    local rate = "--set schedule.lr=1e-12 --set schedule.value_lr=1e-12"
    local first = kl_losses(("%s --env-steps 16 --out %s/kl %s"):format(options, work, rate))
    assert.is_true(first[1] < 1e-9, first[1])
    local both = kl_losses(("--resume %s/kl --env-steps 32"):format(work))
    assert.is_true(#both == 2 and both[2] < 1e-9, both[2])
    fs.remove_tree(work .. "/kl")
    local moved = kl_losses(("%s --env-steps 48 --out %s/kl --set schedule.lr=0.01"):format(options, work))
    assert.is_true(moved[3] > 1e-6, moved[3])
  end)
end)
