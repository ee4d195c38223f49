package.path = "tests/lua/?.lua;" .. package.path
local fake = require "support.fake"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local model_name = require "rl4vlm.model_name"
local progress = require "rl4vlm.progress"
local plain = require "rl4vlm.plain"
local run = require "rl4vlm.run"
local train = require "rl4vlm.train"

local quiet = progress.new(true)

-- Trains in `dir` from the start or from its newest checkpoint, as the verb does.
local function trainer(dir, settings, on_model)
  local folder = run.is_run(dir) and run.open(dir)
    or run.create(dir, { recipe = plain.of(settings) })
  local n, state = folder:latest()
  local checkpoint = n and ("%s/checkpoints/%d"):format(dir, n)
  local model = fake.model(checkpoint)
  if on_model then
    on_model(model)
  end
  return train.new {
    settings = settings,
    run = folder,
    model = model,
    state = state,
    checkpoint = checkpoint,
    progress = quiet,
  }
end

local function timeless(dir)
  local lines = {}
  for i, line in ipairs(run.open(dir):lines("metrics.jsonl")) do
    lines[i] = {}
    for key, value in pairs(line) do
      if not key:find("^timing_") and not key:find("^perf/") then
        lines[i][key] = value
      end
    end
  end
  return lines
end

describe("training", function()
  local work
  lazy_setup(function()
    fake.install()
    work = assert(fs.tempdir("train_spec"))
  end)
  lazy_teardown(function()
    fs.remove_tree(work)
  end)

  it("learns, and writes what a run's folder holds", function()
    local dir = work .. "/plain"
    trainer(dir, fake.recipe():resolve()):train()
    local lines = run.open(dir):lines("metrics.jsonl")
    assert.equal(6, #lines)
    assert.equal(192, lines[6].env_steps)
    local evaluations = run.open(dir):lines("evaluations.jsonl")
    assert.equal(4, #evaluations)
    assert.equal(0, evaluations[1].update)
    assert.is_true(evaluations[4]["val/success_rate"] > evaluations[1]["val/success_rate"])
    assert.equal(evaluations[4]["val/success_rate"], lines[6]["val/success_rate"])
    for i, line in ipairs(lines) do
      assert.equal(i, line.update)
      assert.equal(0, line["training/rollout_probs_diff_max"])
      for key, value in pairs(line) do
        assert.is_true(type(value) == "number" or value == json.null, key)
      end
    end
    assert.is_true(lines[1]["episode/read_right_rate"] > 0.8)
    assert.is_true(lines[1]["episode/invalid_rate"] > 0)
    local folder = run.open(dir)
    local list = folder:checkpoints()
    assert.equal(6, list[#list])
    assert.is_true(#list <= 3)
    assert.is_true(fs.exists(model_name.resolve(dir .. "/best") .. "/model.json"))
    assert.equal(dir .. "/checkpoints/6/model", model_name.resolve(dir .. "/checkpoints/6"))
    local episodes = folder:lines("episodes.jsonl")
    assert.is_true(#episodes >= 8)
    assert.equal("png", fs.read_file(dir .. "/" .. episodes[1].steps[1].image):sub(1, 3))
    assert.is_nil(fs.read_file(dir .. "/metrics.jsonl"):lower():find("nan"))
  end)

  -- Stops at every kind of moment: in a rollout, in an update, in an evaluation, while writing.
  for _, opaque in ipairs { false, true } do
    it(("goes on as if nothing had happened (%s)"):format(opaque and "replayed" or "restored"), function()
      fake.install(opaque)
      local whole, broken = work .. "/a" .. tostring(opaque), work .. "/b" .. tostring(opaque)
      local settings = fake.recipe { schedule = { checkpoint_every = 2 } }:resolve()
      trainer(whole, settings):train()
      local budget = 37
      for _ = 1, 200 do
        local calls = 0
        local t = trainer(broken, settings, function(model)
          for _, name in ipairs { "reply", "score", "save" } do
            local real = getmetatable(model).__index[name]
            model[name] = function(...)
              calls = calls + 1
              if calls > budget then
                error("killed", 0)
              end
              return real(...)
            end
          end
        end)
        local ok, err = pcall(t.train, t)
        if ok then
          break
        end
        assert.equal("killed", err:match("^%a+"))
        budget = budget + 13
      end
      assert.same(timeless(whole), timeless(broken))
      for _, name in ipairs { "/episodes.jsonl", "/evaluations.jsonl" } do
        assert.equal(fs.read_file(whole .. name), fs.read_file(broken .. name))
      end
      assert.equal(fs.read_file(whole .. "/checkpoints/6/model/model.json"),
        fs.read_file(broken .. "/checkpoints/6/model/model.json"))
      fake.install()
    end)
  end

  it("does not depend on who finishes first", function()
    local settings = fake.recipe():resolve()
    trainer(work .. "/fast", settings):train()
    local delay = fake.delay
    fake.delay = function(request)
      return request.episode % 3 == 0 and 9 or 1
    end
    trainer(work .. "/slow", settings):train()
    fake.delay = delay
    assert.same(timeless(work .. "/fast"), timeless(work .. "/slow"))
  end)

  it("stops at a bad gradient and keeps the last good checkpoint", function()
    local dir = work .. "/poisoned"
    local t = trainer(dir, fake.recipe():resolve())
    fake.poison = 0 / 0
    local ok, err = pcall(t.train, t)
    fake.poison = nil
    assert.is_false(ok)
    assert.error_matches(function()
      error(err, 0)
    end, "update 1, epoch 1, minibatch 1: the gradient's norm is %-?nan; checkpoint 0 holds")
    assert.equal(0, (run.open(dir):latest()))
  end)

  it("takes a loss of the recipe's own", function()
    local ppo = require "rl4vlm.ppo"
    local function lines_of(name, loss)
      local dir = work .. "/" .. name
      trainer(dir, fake.recipe():with { algorithm = { loss = loss }, schedule = { env_steps = 64 } }:resolve()):train()
      return timeless(dir)
    end
    local plain_lines = lines_of("loss_default")
    assert.same(plain_lines, lines_of("loss_same", function(out, batch, o)
      return ppo.loss(out, batch, o)
    end))
    local other = lines_of("loss_other", function(out, batch, o)
      local loss, parts = ppo.loss(out, batch, o)
      return loss + 0.1 * out.values:square():mean(), parts
    end)
    assert.equal(plain_lines[1]["actor/pg_loss"], other[1]["actor/pg_loss"])
    assert.not_equal(plain_lines[2]["critic/vf_loss"], other[2]["critic/vf_loss"])
  end)

  it("says in which line a loss that gives something else stands", function()
    local ppo = require "rl4vlm.ppo"
    local function refuses(change, wanted)
      local function loss(out, batch, o)
        return change(out, ppo.loss(out, batch, o))
      end
      local settings = fake.recipe():with { algorithm = { loss = loss }, schedule = { env_steps = 32 } }:resolve()
      local _, err = pcall(function()
        trainer(work .. "/loss_bad" .. #wanted, settings):train()
      end)
      local at = debug.getinfo(loss, "S")
      assert.equal(("algorithm.loss (%s:%d): wanted %s; checkpoint 0 holds"):format(at.short_src, at.linedefined, wanted),
        err)
    end
    refuses(function(_, loss)
      return loss
    end, "the loss and a table of its parts, as ppo.loss gives them, got nil")
    refuses(function()
      return 3, {}
    end, "the loss first, a tensor of one element, got 3")
    refuses(function(out, _, parts)
      return out.values, parts
    end, "the loss first, a tensor of one element, got a tensor of 16 elements")
    refuses(function(_, loss, parts)
      return loss:detach(), parts
    end, "a loss that hangs on what the model says (its first argument), got a tensor of 1 elements that needs no gradient")
    refuses(function(_, loss)
      return loss, { policy = 1 }
    end, "parts.policy, a tensor of one element, got 1")
    refuses(function(_, loss, parts)
      parts.log_ratio = parts.policy
      return loss, parts
    end, "parts.log_ratio, a tensor of 16 elements, one a sample, got a tensor of 1 elements")
  end)

  it("says in which line a reward that is no finite number stands", function()
    for value, shown in pairs { [1 / 0] = "inf", ["3"] = '"3"' } do
      local function reward()
        return value
      end
      local at = debug.getinfo(reward, "S")
      local _, err = pcall(function()
        trainer(work .. "/reward" .. shown, fake.recipe():with { reward = reward }:resolve()):train()
      end)
      assert.equal(("recipe walk: reward (%s:%d): wanted a finite number, got %s"):format(at.short_src, at.linedefined,
        shown), err)
    end
  end)

  it("stops where scoring differs from sampling", function()
    local t = trainer(work .. "/differs", fake.recipe():resolve(), function(model)
      local real = model.logprobs
      model.logprobs = function(self, ids, answer, temperature)
        local list = real(self, ids, answer, temperature)
        list[1] = self.kept == nil and list[1] or -0.25
        return list
      end
    end)
    t.model.kept = nil
    local score = t.model.score
    t.model.score = function(self, samples, o)
      self.kept = {}
      return score(self, samples, o)
    end
    assert.error_matches(function()
      t:train()
    end, "update 1, epoch 1, minibatch 1: token probabilities of sampling and scoring differ by 0.221, "
      .. "the bound %(algorithm.max_probs_diff%) is 0")
  end)

  it("leaves nothing of a checkpoint that could not be written", function()
    local dir = work .. "/half"
    local folder = run.create(dir, {})
    assert.has_error(function()
      folder:checkpoint(1, {}, function(path)
        assert(fs.write_atomic(path .. "/some", "of it"))
        error("No space left on device", 0)
      end)
    end, "No space left on device")
    assert.is_false(fs.exists(dir .. "/.writing"))
    assert.same({}, fs.list(dir .. "/checkpoints"))
  end)

  it("refuses a recipe in which nothing learns", function()
    local settings = require("recipes.numberline"):with { train = {} }:resolve("cardling")
    assert.has_error(function()
      require("rl4vlm.load").model(settings, "cardling", { train = true })
    end, "train: wanted a part of the model that learns, or lora.r above 0, got neither")
  end)

  it("refuses a folder that holds a run", function()
    assert.has_error(function()
      run.create(work .. "/plain", {})
    end, ("%s/plain: holds a run already (go on with it: --resume %s/plain)"):format(work, work))
    assert.has_error(function()
      run.open(work .. "/nothing")
    end, ("%s/nothing: no run here (wanted %s/nothing/manifest.json)"):format(work, work))
  end)
end)
