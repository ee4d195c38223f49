-- The model against transformers' values of tests/golden (see make_golden.py there).
package.path = "tests/lua/?.lua;" .. package.path
local compare = require "support.compare"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"
local views = require "support.views"

local root = "tests/golden/"
local parts = { "vision", "connector", "language", "head" }

local floats, sum = compare.floats, compare.sum

local function golden(case)
  local file = safetensors.open(root .. case .. "/golden.safetensors")
  local config, prompts = json.decode(fs.read_file(root .. case .. "/config.json")), {}
  for k = 0, 2 do
    local pixels, all = file:get(("p%d.pixels"):format(k)), {}
    if pixels then
      local class = config.vision_feature_select_strategy == "full" and 1 or 0
      all = views.of_pixels(pixels, config.vision_config.patch_size, class)
    end
    prompts[k + 1] = { ids = file:get(("p%d.ids"):format(k)):list(), images = all,
      answer = file:get(("p%d.answer"):format(k)):list(), weights = floats(file:get(("p%d.weights"):format(k))),
      logits = floats(file:get(("p%d.logits"):format(k))), logprobs = floats(file:get(("p%d.logprobs"):format(k))),
      adapter_logprobs = floats(file:get(("adapter.p%d.logprobs"):format(k))),
      greedy = file:get(("p%d.greedy"):format(k)):list() }
  end
  return prompts, json.decode(fs.read_file(root .. case .. "/golden.json"))
end

-- Adds the gradient of the golden loss; returns the loss.
local function backward(model, prompts)
  local samples, weights = compare.samples_of(prompts)
  local loss = -(model.core:score(samples, { grad = true }).logprobs * weights):sum()
  loss:backward()
  return loss:item()
end

for _, case in ipairs { "mistral", "llama3" } do
  describe("transformers' " .. case, function()
    local prompts, index = golden(case)
    local model = vlm.load(root .. case, { threads = 1, train = parts, slots = 3, max_tokens = 128 })

    it("has the same end-of-sequence ids", function()
      assert.same({ 2, 5 }, model.eos)
    end)

    it("has the same logits", function()
      for _, p in ipairs(prompts) do
        local ids = table.move(p.answer, 1, #p.answer, #p.ids + 1, table.move(p.ids, 1, #p.ids, 1, {}))
        local worst, largest = compare.furthest(model.core:logits(ids, p.images):list(), p.logits)
        assert.is_true(worst <= 2e-5 * largest + 1e-4)
      end
    end)

    it("has the same log-probabilities, packed", function()
      local scores, all = model.core:score((compare.samples_of(prompts))), {}
      for _, p in ipairs(prompts) do
        table.move(p.logprobs, 1, #p.logprobs, #all + 1, all)
      end
      assert.is_true(compare.furthest(scores.logprobs:tolist(), all) <= 1e-4)
    end)

    it("has the same greedy tokens", function()
      local generator = require("rl4vlm.generator").new(model.core, { slots = 3, max_tokens = 128, chunk = 16,
        blocks = model.kv_blocks, banned = { model.image_token } })
      for i, p in ipairs(prompts) do
        local hashes = {}
        for k = 1, #p.images do
          hashes[k] = ("%15d%1d"):format(i, k)
        end
        assert.equal(i, generator:submit { ids = p.ids, images = p.images, hashes = hashes, max_new_tokens = #p.greedy,
          temperature = 0 })
      end
      for _ = 1, 200 do
        generator:step()
      end
      for i, p in ipairs(prompts) do
        assert.same(p.greedy, generator:take(i).answer)
      end
    end)

    it("has the same gradients and the same AdamW step", function()
      model:zero_grad()
      assert.is_true(math.abs(backward(model, prompts) - sum(index.losses)) <= 1e-4 * math.abs(sum(index.losses)))
      local gradient = {}
      local n = compare.check_gradients(index.gradients, function(name)
        gradient[name] = model.core:get(model.source.role_of[name], "grad"):list()
        return gradient[name]
      end)
      assert.is_true(n > 50)
      model:optimizer { weight_decay = 0.01 }:step { lr = 1e-3 }
      local after = safetensors.open(root .. case .. "/adamw.safetensors")
      assert.equal(n, #after:names())
      for _, name in ipairs(after:names()) do
        local ours = model.core:get(model.source.role_of[name]):list()
        local theirs, g = after:get(name):list(), gradient[name]
        local most = 0
        for _, x in ipairs(g) do
          most = math.max(most, math.abs(x))
        end
        for i, x in ipairs(ours) do
          local clear = math.abs(g[i]) > 1e-4 * most and most > 1e-4
          assert.is_true(math.abs(x - theirs[i]) <= (clear and 1e-6 or 2.1e-3), name)
        end
      end
      local samples, weights = compare.samples_of(prompts)
      local loss = -(model.core:score(samples).logprobs * weights):sum():item()
      assert.is_true(math.abs(loss - sum(index.losses_after)) <= 1e-3 * math.abs(sum(index.losses_after)))
    end)

    it("has the same adapter", function()
      local adapted = vlm.load(root .. case .. "/adapter", { threads = 1, train_adapter = true })
      local scores, all = adapted.core:score((compare.samples_of(prompts))), {}
      for _, p in ipairs(prompts) do
        table.move(p.adapter_logprobs, 1, #p.adapter_logprobs, #all + 1, all)
      end
      assert.is_true(compare.furthest(scores.logprobs:tolist(), all) <= 1e-4)
      backward(adapted, prompts)
      local role_of = {}
      for role, name in pairs(adapted.adapter.names) do
        role_of[name] = role
      end
      compare.check_gradients(index.adapter_gradients, function(name)
        return adapted.core:get(role_of[name], "grad"):list()
      end)
      adapted:close()
    end)
  end)
end
