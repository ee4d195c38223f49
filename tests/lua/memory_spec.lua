-- The memory plan: what it counts, and what is said where it does not fit.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local memory = require "rl4vlm.memory"
local sizes = require "rl4vlm.sizes"
local tiny = require "tests.lua.support.tiny"
local vlm = require "rl4vlm.vlm"

local dir, folder

setup(function()
  dir = assert(fs.tempdir())
  folder = tiny.make(dir, { "What is this?" })
end)

teardown(function()
  fs.remove_tree(dir)
end)

-- A process that plans, does what training does, and prints what was planned and measured.
local PEAK = [[
local host = require "rl4vlm.host"
local vlm = require "rl4vlm.vlm"
local options = { slots = 4, max_tokens = 448, threads = 1, value_head = true,
  batch = { samples = 4, tokens = 448, image_share = 0.01 }, train = { "vision", "connector", "language", "head" } }
local opened = vlm.open(arg[1])
local plan = opened:plan_for(options)
local model = vlm.load(arg[1], options)
local generator, samples = model:generator {}, {}
for i = 1, 4 do
  local ids, answer = {}, {}
  for k = 1, 384 do
    ids[k], answer[k % 64 + 1] = 4 + (7 * i + k) % 200, 4 + k % 200
  end
  samples[i] = { ids = ids, answer = answer, images = {} }
  generator:submit { ids = ids, max_new_tokens = 4, eos = {}, seed = i }
end
while generator:busy() do
  generator:step()
end
local optimizer = model:optimizer {}
optimizer:save(arg[2] .. "/before")
model:score(samples, { grad = true }).logprobs:sum():backward()
optimizer:step { lr = 1e-5 }
model:save(arg[2] .. "/after", { dtype = "F32" })
optimizer:save(arg[2] .. "/after/optimizer.safetensors")
print(plan.total, host.peak_rss())
]]

describe("a memory plan", function()
  it("adds up, and tells adapters, generator, images and the program apart", function()
    local model = vlm.open(folder)
    local plan = model:plan_for { slots = 3, max_tokens = 100, lora = { r = 4 }, value_head = true }
    local sum = 0
    for _, name in ipairs(memory.names) do
      sum = sum + (plan[name] or 0)
    end
    assert.equal(plan.total, sum)
    for _, name in ipairs { "weights", "adapters", "gradients", "optimizer", "activations", "kv_cache", "generation",
      "host", "images", "saving", "program" } do
      assert.is_true(plan[name] > 0, name)
    end
    local frozen = model:plan_for { slots = 0, max_tokens = 100 }
    assert.same({ 0, 0, 0, 0, 0 }, { frozen.adapters, frozen.gradients, frozen.optimizer, frozen.kv_cache,
      frozen.generation })
  end)

  it("has activations kept and recomputed, for the same rows", function()
    local model = vlm.open(folder)
    local plan = model:plans_for { max_tokens = 100, train = { "language" } }
    assert.equal(plan.activations, plan.activations_kept)
    assert.is_true(plan.activations_recomputed < plan.activations_kept)
    local again = model:plans_for { max_tokens = 100, train = { "language" }, recompute = true, max_rows = 1024 }
    assert.equal(again.activations, again.activations_recomputed)
  end)

  it("says by how much it does not fit, and what would help", function()
    local model = vlm.open(folder)
    local options = { slots = 8, max_tokens = 100, train = { "language", "head" }, value_head = true }
    local plan = model:plan_for(options)
    local lines = sizes.advice(model, options, plan.total, plan.total // 2)
    local text = table.concat(lines, "\n")
    for _, name in ipairs { "max_rows = 100", "recompute = true" } do
      assert.is_truthy(text:match("with " .. name .. " it needs [%d.]+ %wi?B"), name .. " in\n" .. text)
    end
    local ok, err = pcall(memory.refuse, { weights = 3 << 30, host = 1 << 20, total = (3 << 30) + (1 << 20) }, 1 << 30,
      { "with --dtype bf16 it needs 1.5 GiB" })
    assert.is_false(ok)
    assert.equal("the model needs 3.0 GiB, 2.0 GiB more than is free (weights 3.0 GiB, host 1.0 MiB)\n"
      .. "  with --dtype bf16 it needs 1.5 GiB", err)
  end)

  it("is checked before memory is taken", function()
    local available = memory.available
    memory.available = function() return 1000 end
    local ok, err = pcall(vlm.load, folder, { slots = 2, max_tokens = 100, train = { "language" } })
    memory.available = available
    assert.is_false(ok)
    assert.is_truthy(err:match("^the model needs [%d.]+ MiB, [%d.]+ MiB more than is free %(weights "), err)
    assert.is_truthy(err:match("\n  with recompute = true it needs "), err)
  end)

  it("is what a process of its own takes to generate, learn and save", function()
    if tonumber(fs.read_file("/proc/self/status"):match("VmSize:%s*(%d+)")) > 1 << 30 then
      return -- a sanitizer's shadow memory
    end
    local config = json.decode(fs.read_file(folder .. "/config.json"))
    for key, value in pairs { hidden_size = 384, intermediate_size = 1024, num_hidden_layers = 5 } do
      config.text_config[key] = value
    end
    local large, script = dir .. "/large", dir .. "/peak.lua"
    local model <close> = vlm.new { config = config, files = folder, seed = 1, max_tokens = 64 }
    model:save(large)
    model:close()
    assert(fs.write_atomic(script, PEAK))
    local pipe <close> = assert(io.popen(("'%s' '%s' '%s' '%s'"):format(host.exe, script, large, dir)))
    local planned, peak = pipe:read("n", "n")
    assert.is_true(math.abs(planned / peak - 1) <= 0.05, ("planned %d, measured %d"):format(planned, peak))
  end)
end)
