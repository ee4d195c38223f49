package.path = "tests/lua/?.lua;" .. package.path
local fake = require "support.fake"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"

describe("the command", function()
  local cli, work, real_vlm, streams
  local out, err

  -- Runs the verb as the host does; gives its status, keeps what it wrote.
  local function run(words, recipe)
    local parts = { stdout = {}, stderr = {} }
    for name, list in pairs(parts) do
      streams.replace(name, {
        write = function(_, ...)
          for _, text in ipairs { ... } do
            list[#list + 1] = tostring(text)
          end
        end,
        flush = function() end,
      })
    end
    local args = {}
    for word in words:gmatch("%S+") do
      args[#args + 1] = word
    end
    local ok, status = pcall(cli.run, recipe or fake.recipe(), args)
    streams.replace("stdout", streams.stdout)
    streams.replace("stderr", streams.stderr)
    out, err = table.concat(parts.stdout), table.concat(parts.stderr)
    assert(ok, status)
    return status
  end

  local function result()
    return json.decode(out:match("([^\n]+)\n$"))
  end

  lazy_setup(function()
    streams = { stdout = io.stdout, stderr = io.stderr }
    function streams.replace(name, stream)
      rawset(io, name, stream)
    end
    fake.install()
    real_vlm = package.loaded["rl4vlm.vlm"]
    package.loaded["rl4vlm.vlm"] = {
      open = function()
        return fake.model()
      end,
      load = function(name)
        return fake.model(name:match("checkpoints") and name or nil)
      end,
    }
    cli = require "rl4vlm.cli"
    work = assert(fs.tempdir("cli_spec"))
  end)
  lazy_teardown(function()
    package.loaded["rl4vlm.vlm"] = real_vlm
    fs.remove_tree(work)
  end)

  local wrong = {
    { "trian", "unknown verb 'trian' (did you mean 'train'?)" },
    { "evaluate", "unknown verb 'evaluate' (known: train, sft, eval, play, report, describe)" },
    { "--seed 9223372036854775807",
      "recipe walk: seed: wanted at most 9007199254740992, got 9223372036854775807" },
    { "--threads 1025", "recipe walk: threads: wanted at most 1024, got 1025" },
    { "eval --slots 0", "slots: wanted a whole number of 1 or more, got 0" },
    { "--out=", "--out wants some text, got ''" },
    { "--set name=", 'recipe walk: name: wanted a name that a folder can have, got ""' },
    { "--set name=../x", 'recipe walk: name: wanted a name that a folder can have, got "../x"' },
    { "--sed 3", "unknown option '--sed' (did you mean '--seed'?)" },
    { "--seed x", "--seed wants a whole number, got 'x'" },
    { "--set algorithm.clp=1", "recipe walk: unknown field 'algorithm.clp' (did you mean 'algorithm.clip'?)" },
    { "--set algorithm.clip", "--set wants KEY=VALUE, got 'algorithm.clip'" },
    { "--set algorithm.clip=big", 'recipe walk: algorithm.clip: wanted a number above 0, got "big"' },
    { "--temperature 0", "sampling.temperature: wanted a number above 0 for training, got 0" },
    { "--slots 5", "recipe walk: slots: wanted a divisor of schedule.rollout (32), got 5" },
    { "--device cuda", 'recipe walk: device: wanted "auto" or "cpu", got "cuda"' },
    { "--dtype fp15", 'recipe walk: dtype: wanted "auto" or "fp32" or "bf16" or "fp16", got "fp15" '
      .. '(did you mean "fp16"?)' },
    { "--samples 5", "--samples does not go with train" },
    { "--model cardlin", "no model 'cardlin' (did you mean 'cardling'?): wanted a folder, a run, or a built-in model "
      .. "(cardling)" },
    { "eval --adapter none", "no adapter 'none': wanted a folder with adapter_config.json in it, or a run that learned "
      .. "an adapter" },
    { "sft --env-steps 5", "--env-steps does not go with sft" },
    { "--resume DIR --samples 5", "--samples does not go with --resume" },
    { "--set env=walk", "recipe walk: env: wanted one of its members, such as env.rules" },
    { "eval --env-steps 5", "--env-steps does not go with eval" },
    { "eval twice", "unknown word 'twice' after eval" },
    { "report", "report wants a run's folder: report DIR" },
    { "eval --resume DIR", "--resume does not go with eval" },
    { "--resume DIR --seed 4", "--seed does not go with --resume" },
  }
  for _, case in ipairs(wrong) do
    it("refuses " .. case[1], function()
      assert.equal(2, run(case[1]))
      assert.equal("rl4vlm: " .. case[2] .. "\n", err)
      assert.equal("", out)
    end)
  end

  it("plays episodes that hang on one another in one slot, and refuses more", function()
    package.loaded["envs.bound"] = { new = function()
      local env = package.loaded["envs.walk"].new()
      env.one_slot = true
      return env
    end }
    local bound = fake.recipe { env = { "bound" } }
    assert.equal(2, run("eval --slots 4 --episodes 3", bound))
    assert.equal("rl4vlm: slots: with these rules an episode depends on the one before it in its slot: "
      .. "wanted --slots 1, got 4\n", err)
    assert.equal(0, run("eval --episodes 3 --json", bound))
    assert.equal(0, run("eval --slots 1 --episodes 3 --json", bound))
  end)

  it("says what it can do", function()
    assert.equal(0, run "-h")
    assert.is_truthy(out:find("train|sft|eval|play|report|describe", 1, true))
    assert.is_truthy(out:find("--env-steps N", 1, true))
  end)

  it("evaluates, whatever the number of slots", function()
    local before = fs.list("runs")
    local wanted = "task rules model seed episodes success_rate success_ci95 return_mean return_sem "
      .. "steps_mean invalid_rate temperature env_steps seconds"
    assert.equal(0, run "eval --episodes 40 --seed 7 --json")
    local a = result()
    for key in wanted:gmatch("%S+") do
      assert.is_not_nil(a[key], key)
    end
    assert.equal(40, a.episodes)
    assert.equal(0, a.temperature)
    assert.equal(0, run "eval --episodes 40 --seed 7 --json --slots 3")
    local b = result()
    a.seconds, b.seconds = nil, nil
    assert.same(a, b)
    assert.equal(0, run "eval --episodes 40 --seed 8 --temperature 1 --json")
    assert.not_same(a.return_mean, result().return_mean)
    assert.same(before, fs.list("runs"))
  end)

  it("goes on with a stopped evaluation", function()
    local dir = work .. "/eval"
    assert.equal(0, run("eval --episodes 30 --json --out " .. dir))
    local whole = result()
    local lines = fs.read_file(dir .. "/episodes.jsonl")
    local _, half = lines:find(("[^\n]*\n"):rep(11))
    assert(fs.truncate(dir .. "/episodes.jsonl", half + 5))
    assert.equal(0, run("eval --episodes 30 --json --out " .. dir))
    local again = result()
    whole.seconds, again.seconds = nil, nil
    assert.same(whole, again)
    local function sorted(text)
      local list = {}
      for line in text:gmatch("[^\n]+") do
        list[#list + 1] = line
      end
      table.sort(list)
      return list
    end
    assert.same(sorted(lines), sorted(fs.read_file(dir .. "/episodes.jsonl"))) -- the half line is gone
    assert.equal(1, run("eval --episodes 30 --seed 2 --out " .. dir))
    assert.equal(("rl4vlm: %s: holds another evaluation, with other seed (--force begins anew)\n"):format(dir),
      err)
  end)

  it("trains, resumes, goes on longer, refuses what has changed", function()
    local dir = work .. "/run"
    assert.equal(0, run("--env-steps 64 --json --out " .. dir))
    assert.equal(64, result().env_steps)
    assert.is_number(result().before.success_rate)
    assert.is_number(result().after.success_rate)
    assert.is_true(fs.exists(dir .. "/report.html"))
    local metrics = fs.read_file(dir .. "/metrics.jsonl")
    assert.equal(0, run("--resume " .. dir))
    assert.is_truthy(err:find("is finished: 2 updates, 64 steps", 1, true))
    assert.equal(metrics, fs.read_file(dir .. "/metrics.jsonl"))
    local manifest = fs.read_file(dir .. "/manifest.json")
    assert.equal(0, run(("--resume %s --env-steps 32 --threads 1"):format(dir)))
    assert.equal(manifest, fs.read_file(dir .. "/manifest.json")) -- a finished run stays as it is
    assert.equal(2, run("--out " .. dir))
    assert.is_truthy(err:find("holds a run already", 1, true))
    assert.equal(2, run("eval --out " .. dir))
    assert.is_truthy(err:find("holds a run; give the evaluation a folder of its own", 1, true))
    assert.equal(0, run(("--resume %s --env-steps 96 --json"):format(dir)))
    assert.equal(96, result().env_steps)
    local other = fake.recipe { thought_weight = 0.1 }
    assert.equal(1, run(("--resume %s --env-steps 128"):format(dir), other))
    assert.equal(("rl4vlm: %s: the recipe has changed since this run began: thought_weight (--force goes "
      .. "on with the recipe of now)\n"):format(dir), err)
    assert.equal(0, run(("--resume %s --env-steps 128 --force --json"):format(dir), other))
    assert.equal(128, result().env_steps)
  end)

  it("goes on longer than one short rollout", function()
    local dir = work .. "/short"
    assert.equal(0, run("--env-steps 16 --out " .. dir))
    assert.equal(0, run(("--resume %s --env-steps 48 --json"):format(dir)), err)
    assert.same({ 48, 3 }, { result().env_steps, result().update })
  end)

  it("starts again where there is no complete checkpoint", function()
    local dir = work .. "/early"
    assert.equal(0, run("--env-steps 32 --json --out " .. dir))
    local metrics = fs.read_file(dir .. "/metrics.jsonl"):gsub('"timing.-,', ""):gsub('"perf.-,', "")
    assert(fs.remove_tree(dir .. "/checkpoints"))
    assert(fs.mkdirs(dir .. "/checkpoints/1/model"))
    assert.equal(0, run("--resume " .. dir))
    local again = fs.read_file(dir .. "/metrics.jsonl"):gsub('"timing.-,', ""):gsub('"perf.-,', "")
    assert.equal(metrics, again)
  end)

  it("goes back to the checkpoint before a torn one", function()
    local dir = work .. "/torn"
    assert.equal(0, run("--env-steps 96 --out " .. dir))
    local metrics = fs.read_file(dir .. "/metrics.jsonl"):gsub('"timing.-,', ""):gsub('"perf.-,', "")
    assert(fs.truncate(dir .. "/checkpoints/3/optimizer.safetensors", 5))
    assert.equal(0, run("--resume " .. dir))
    assert.is_truthy(err:find(("%s: checkpoint 3 cannot be read, going back: %s/checkpoints/3/optimizer.safetensors: ")
      :format(dir, dir), 1, true))
    assert.is_truthy(err:find("from update 2", 1, true))
    local again = fs.read_file(dir .. "/metrics.jsonl"):gsub('"timing.-,', ""):gsub('"perf.-,', "")
    assert.equal(metrics, again)
    assert(fs.write_atomic(dir .. "/manifest.json", "{}"))
    assert.equal(1, run("--resume " .. dir))
    assert.equal(("rl4vlm: %s/manifest.json: wanted a run's manifest with kind, recipe and changes\n"):format(dir), err)
  end)

  it("learns from demonstrations, and resumes that", function()
    local changes = { sft = { samples = 64, batch = 16, checkpoint_every = 2 } }
    local dir = work .. "/sft"
    assert.equal(0, run("sft --json --out " .. dir, fake.recipe(changes)))
    assert.equal(64, result().samples)
    local first = result()
    assert.equal(0, run(("sft --json --resume %s"):format(dir), fake.recipe(changes)))
    assert.is_truthy(err:find("is finished: 64 samples", 1, true))
    assert.same(first, result())
    assert.equal(2, run("train --resume " .. dir, fake.recipe(changes)))
    assert.is_truthy(err:find("is a run of sft: go on with it by `sft --resume`", 1, true))
  end)

  it("shows an expert's game", function()
    assert.equal(0, run "play --model expert --episodes 2 --json")
    assert.equal(1, result().success_rate)
  end)
end)
