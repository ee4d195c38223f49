-- Every family against transformers' values of tests/golden/families (see make_families.py there): messages to ids,
-- files to pixels, logits, greedy tokens, gradients, adapters; and that sampling and scoring give the same bits.
package.path = "tests/lua/?.lua;" .. package.path
local compare = require "support.compare"
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local root = "tests/golden/families/"
local parts = { "vision", "connector", "language", "head" }

local floats, sum = compare.floats, compare.sum

local function join(a, b)
  return table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {}))
end

-- The prompts of a case with their images, and what transformers says of them.
local function golden(case)
  local file = safetensors.open(root .. case .. "/golden.safetensors")
  local index = json.decode(fs.read_file(root .. case .. "/golden.json"))
  for k, p in ipairs(index.prompts) do
    local function get(name)
      return file:get(("p%d.%s"):format(k - 1, name))
    end
    for i, name in ipairs(p.images) do
      p.images[i] = assert(image.load(root .. "images/" .. name .. ".png"))
    end
    p.ids, p.answer, p.greedy, p.weights = get("ids"):list(), get("answer"):list(), get("greedy"):list(), floats(get("weights"))
    p.logits, p.logprobs = floats(get("logits")), floats(get("logprobs"))
    p.adapter_logprobs = floats(file:get(("adapter.p%d.logprobs"):format(k - 1)))
  end
  return index.prompts, index
end

local function backward(model, prompts)
  local samples, weights = compare.samples_of(prompts)
  local loss = -(model:score(samples, { grad = true }).logprobs * weights):sum()
  loss:backward()
  return loss:item()
end

-- All replies of some requests.
local function generate(model, requests, options)
  local replies, generator, waiting = {}, model:generator(options), 1
  while waiting <= #requests or generator:busy() do
    while waiting <= #requests and generator:free() > 0 do
      generator:submit(requests[waiting])
      waiting = waiting + 1
    end
    for _, reply in ipairs(generator:step()) do
      replies[reply.key] = reply
    end
  end
  generator:close()
  return replies
end

for _, case in ipairs { "llava", "next", "next-llama", "qwen2", "qwen2-nested", "qwen2.5", "qwen2.5-nested", "smolvlm",
  "smolvlm2" } do
  describe("transformers' " .. case, function()
    local prompts, index = golden(case)
    local model = vlm.load(root .. case, { threads = 1, train = parts, slots = 3, max_tokens = 300 })

    it("writes the same prompts", function()
      for _, p in ipairs(prompts) do
        assert.equal(p.text, (model:chat(p.messages)))
        assert.same(p.ids, model:prompt(p.text, p.images))
        assert.same(p.answer, join(model.tokenizer:encode(index.answer, { special = false }), { model.eos[1] }))
      end
    end)

    it("sees the same pixels", function()
      for _, p in ipairs(prompts) do
        local pixels = {}
        for _, picture in ipairs(p.images) do
          pixels = join(pixels, model.views.processor:pixels(picture):list())
        end
        if p.pixels then
          -- transformers pads the tiles of a batch's images to as many with zeros: behind, or where they are no norm
          local norm, dot = compare.figures(pixels)
          assert.is_true(math.abs(norm - p.pixels[1]) <= 1e-6 * p.pixels[1])
          if #pixels == p.pixels[3] then
            assert.is_true(math.abs(dot - p.pixels[2]) <= 1e-5 * p.pixels[1])
          end
        end
      end
    end)

    it("has the same logits", function()
      for _, p in ipairs(prompts) do
        local ours, ids = {}, join(p.ids, p.answer)
        local all, width = model:logits(ids, p.images):list(), model.arch.text.vocab
        for row = #ids, 1, -index.every do
          table.move(all, (row - 1) * width + 1, row * width, #ours + 1, ours)
        end
        local worst, largest = compare.furthest(ours, p.logits)
        assert.is_true(worst <= 2e-5 * largest + 1e-4)
      end
    end)

    it("has the same log-probabilities, packed", function()
      local scores, all = model:score((compare.samples_of(prompts))), {}
      for _, p in ipairs(prompts) do
        all = join(all, p.logprobs)
      end
      assert.is_true(compare.furthest(scores.logprobs:tolist(), all) <= 1e-4)
    end)

    it("has the same greedy tokens", function()
      local requests = {}
      for i, p in ipairs(prompts) do
        requests[i] = { key = i, ids = p.ids, images = p.images, max_new_tokens = #p.greedy, temperature = 0, eos = {} }
      end
      for i, reply in ipairs(generate(model, requests)) do
        assert.same(prompts[i].greedy, reply.answer)
      end
    end)

    it("scores what it drew with the same bits, whatever else runs", function()
      local requests = {}
      for i = 1, 5 do
        local p = prompts[(i - 1) % 3 + 1]
        requests[i] = { key = i, ids = p.ids, images = p.images, max_new_tokens = 5 + i, seed = i, eos = {} }
      end
      local replies, samples, drawn = generate(model, requests), {}, {}
      for i, request in ipairs(requests) do
        samples[i], drawn = { ids = request.ids, images = request.images, answer = replies[i].answer },
          join(drawn, replies[i].logprobs)
        local alone = generate(model, { request })[i]
        assert.same(replies[i].answer, alone.answer)
        assert.same(replies[i].logprobs, alone.logprobs)
      end
      assert.same(drawn, model:score(samples).logprobs:tolist())
    end)

    it("shares beginnings, cut inside images too, without changing a bit", function()
      local requests = {}
      for i, p in ipairs(prompts) do
        for cut = 1, 2 do -- the same prompt, and one that differs in its last quarter
          local ids = { table.unpack(p.ids) }
          for k = cut == 1 and #ids + 1 or #ids * 3 // 4, #ids do
            ids[k] = ids[k] ~= model.image_token and ids[k] == p.ids[1] and p.ids[2] or ids[k]
          end
          requests[#requests + 1] = { key = #requests + 1, ids = ids, images = p.images, max_new_tokens = 4, seed = i,
            eos = {} }
        end
        requests[#requests + 1] = { key = #requests + 1, ids = p.ids, images = p.images, max_new_tokens = 3, seed = 9,
          eos = {} }
      end
      local shared = generate(model, requests, { chunk = 7 })
      local apart = generate(model, requests, { share = false })
      local cached = 0
      for i, reply in ipairs(shared) do
        assert.same(apart[i].answer, reply.answer)
        assert.same(apart[i].logprobs, reply.logprobs)
        assert.equal(0, apart[i].cached)
        cached = cached + reply.cached
      end
      assert.is_true(cached > 0)
    end)

    it("samples and scores alike in 16 bits", function()
      for _, dtype in ipairs { "bf16", "fp16" } do
        local half <close> = vlm.load(root .. case, { threads = 2, slots = 2, max_tokens = 300, dtype = dtype })
        local p = prompts[2]
        local reply = generate(half, { { key = 1, ids = p.ids, images = p.images, max_new_tokens = 9, eos = {} } })[1]
        local scores = half:score { { ids = p.ids, images = p.images, answer = reply.answer } }
        assert.same(reply.logprobs, scores.logprobs:tolist())
      end
    end)

    it("has the same gradients", function()
      model:zero_grad()
      assert.is_true(math.abs(backward(model, prompts) - sum(index.losses)) <= 1e-4 * math.abs(sum(index.losses)))
      local n = compare.check_gradients(index.gradients, function(name)
        return model.core:get(model.source.role_of[name], "grad"):list()
      end)
      assert.is_true(n > 40)
    end)

    it("has the same adapter", function()
      local adapted = vlm.load(root .. case .. "/adapter", { threads = 1, train_adapter = true, max_tokens = 300 })
      local scores, all = adapted:score((compare.samples_of(prompts))), {}
      for _, p in ipairs(prompts) do
        all = join(all, p.adapter_logprobs)
      end
      assert.is_true(compare.furthest(scores.logprobs:tolist(), all) <= 1e-4)
      backward(adapted, prompts)
      local role_of = {}
      for role, name in pairs(adapted.adapter.names) do
        role_of[name] = role
      end
      assert.is_true(compare.check_gradients(index.adapter_gradients, function(name)
        return adapted.core:get(role_of[name], "grad"):list()
      end) > 10)
      adapted:close()
    end)

    it("has the same gradient where only the patches' convolution learns beside an adapter", function()
      local whole = case:match("qwen") and "patch_embed" or "patch_embedding"
      local one <close> = vlm.load(root .. case, { threads = 1, max_tokens = 300,
        lora = { r = 2, targets = { "q_proj", "qkv" }, save = { whole } } })
      backward(one, prompts)
      local name = one.source.name_of["vision.patch.weight"]
      compare.check_gradients({ [name] = index.gradients[name] }, function()
        return one.core:get("vision.patch.weight", "grad"):list()
      end)
    end)

    it("is written as it was read", function()
      local dir = assert(fs.tempdir())
      local plain <close> = vlm.load(root .. case, { threads = 1, max_tokens = 300 })
      local p = prompts[2]
      assert.equal(model:logits(p.ids, p.images):data(), plain:logits(p.ids, p.images):data()) -- learning or not
      plain:save(dir .. "/saved")
      for _, file in ipairs(fs.list(root .. case)) do
        if file:match("^model") or file == "config.json" or file == "tokenizer.json" then
          local ours, theirs = dir .. "/saved/" .. file, root .. case .. "/" .. file
          if file:match("%.safetensors$") then
            local a, b = safetensors.open(ours), safetensors.open(theirs)
            assert.same(b:names(), a:names())
            for _, name in ipairs(b:names()) do
              assert.same(b:info(name).shape, a:info(name).shape)
              assert.equal(b:get(name):dtype(), a:get(name):dtype())
              assert.equal(b:get(name):data(), a:get(name):data())
            end
          elseif not file:match("index") then
            assert.equal(fs.read_file(theirs), fs.read_file(ours))
          end
        end
      end
      fs.remove_tree(dir)
    end)
  end)
end
