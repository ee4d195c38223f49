-- Quantised bases: cardling learns by LoRA on them, samples score as they were drawn, and what a frozen
-- base cannot do is refused.
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local prompt = "Read the cards, then answer."

-- Loss of an answer before and after a few steps of LoRA on the base.
local function learn(base)
  local model <close> = vlm.load("cardling", { threads = 1, base = base, lora = { r = 4, alpha = 8, seed = 1 } })
  local optimizer = model:optimizer()
  local sample = { ids = model:prompt(prompt), answer = model.tokenizer:encode('{"cards": [2, 3, 10, 4]}',
    { special = false }) }
  local losses = {}
  for i = 1, 5 do
    local loss = -model:score({ sample }, { grad = true }).logprobs:mean()
    losses[i] = loss:item()
    model:zero_grad()
    loss:backward()
    optimizer:step { lr = 3e-3, max_norm = 1 }
  end
  return losses, model
end

describe("a quantised base", function()
  for _, base in ipairs { "int8", "nf4" } do
    it("in " .. base .. " learns by LoRA", function()
      local losses = learn(base)
      for i = 2, #losses do
        assert.is_true(losses[i] < losses[i - 1], table.concat(losses, " "))
      end
      assert.is_true(losses[5] < 0.8 * losses[1], table.concat(losses, " "))
    end)

    it("in " .. base .. " scores what it drew with the same bits", function()
      local model <close> = vlm.load("cardling", { threads = 2, base = base, slots = 5, max_tokens = 128 })
      local generator <close> = model:generator {}
      local requests, replies = {}, {}
      for i = 1, 5 do
        requests[i] = { key = i, ids = model:prompt(prompt .. (" again"):rep(i)), max_new_tokens = 8 + i,
          temperature = 0.7, seed = 3, episode = i, step = 0, eos = {} }
        generator:submit(requests[i])
      end
      while generator:busy() do
        for _, reply in ipairs(generator:step()) do
          replies[reply.key] = reply
        end
      end
      local samples, drawn = {}, {}
      for i = 1, 5 do
        samples[i] = { ids = requests[i].ids, answer = replies[i].answer }
        table.move(replies[i].logprobs, 1, #replies[i].logprobs, #drawn + 1, drawn)
      end
      assert.same(drawn, model:score(samples, { temperature = 0.7 }).logprobs:tolist())
    end)
  end

  it("carries every family: adapters on all layers learn, drawn is scored", function()
    for _, name in ipairs { "llava", "next", "qwen2", "qwen2.5", "smolvlm" } do
      local root = "tests/golden/families/"
      local golden = safetensors.open(root .. name .. "/golden.safetensors")
      local prompts, images = json.decode(fs.read_file(root .. name .. "/golden.json")).prompts, {}
      for i, file in ipairs(prompts[2].images) do
        images[i] = image.load(root .. "images/" .. file .. ".png")
      end
      local ids, answer = golden:get("p1.ids"):list(), golden:get("p1.answer"):list()
      local model <close> = vlm.load(root .. name, { threads = 2, base = "nf4", max_tokens = 400, slots = 1,
        lora = { r = 3, targets = "all-linear", bias = true } })
      local optimizer, losses = model:optimizer(), {}
      for i = 1, 3 do
        local loss = -model:score({ { ids = ids, answer = answer, images = images } }, { grad = true }).logprobs:mean()
        losses[i] = loss:item()
        loss:backward()
        optimizer:step { lr = 5e-3 }
        model:zero_grad()
      end
      assert.is_true(losses[3] < losses[2] and losses[2] < losses[1], name)
      local generator <close> = model:generator {}
      generator:submit { key = 1, ids = ids, images = images, max_new_tokens = 6, temperature = 1, seed = 1, episode = 1,
        step = 0, eos = {} }
      local reply
      repeat
        reply = generator:step()[1]
      until reply
      assert.same(reply.logprobs, model:score({ { ids = ids, answer = reply.answer, images = images } }).logprobs:tolist(),
        name)
    end
  end)

  it("is counted in the plan", function()
    local bytes = {}
    for i, base in ipairs { "none", "int8", "nf4" } do
      bytes[i] = vlm.open("cardling"):plan_for({ base = base }).weights
    end
    assert.is_true(bytes[1] > bytes[2] and bytes[2] > bytes[3])
  end)

  it("does not learn in full, and is no whole model to write", function()
    assert.has_error(function() vlm.load("cardling", { base = "nf4", train = { "language" } }) end,
      "base nf4: the language part's weights are frozen, but train names them: learn an adapter beside them "
        .. "(lora.r = 16), or leave out the base")
    assert.has_error(function() vlm.load("cardling", { base = "int4" }) end,
      "base: wanted none, int8 or nf4, came int4")
    local model <close> = vlm.load("cardling", { base = "nf4" })
    assert.has_error(function() model:save(os.tmpname()) end,
      "the base is kept in nf4, which is no whole model to write: save_adapter writes what was learned")
  end)
end)
