package.path = "tests/lua/?.lua;" .. package.path
local conversations = require "rl4vlm.conversations"
local demos = require "rl4vlm.demos"
local fake = require "support.fake"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local sft = require "rl4vlm.sft"

local function take(source, count)
  local list = {}
  for i = 1, count do
    local sample = source:next()
    list[i] = ("%s|%s|%s"):format(sample.before, sample.after, sample.answer)
  end
  return list
end

describe("demonstrations", function()
  local work
  lazy_setup(function()
    fake.install()
    work = assert(fs.tempdir("demos_spec"))
    require("rl4vlm.canvas").new(8, 8, "#ff0000"):image():save(work .. "/red.png")
  end)
  lazy_teardown(function()
    fs.remove_tree(work)
  end)

  local function file(lines)
    assert(fs.write_atomic(work .. "/data.jsonl", lines))
    return work .. "/data.jsonl"
  end

  local function line(question, answer)
    return json.encode {
      id = "x",
      image = "red.png",
      conversations = { { from = "human", value = question }, { from = "gpt", value = answer } },
    } .. "\n"
  end

  it("of the expert label every state with its answer", function()
    local list = take(demos.expert(fake.recipe():resolve()), 40)
    for _, text in ipairs(list) do
      assert.is_truthy(text:find('"action": "+"}', 1, true))
      assert.is_truthy(text:find("Walk. -, + ", 1, true))
    end
  end)

  it("go on where they were saved", function()
    local settings = fake.recipe { sft = { random_moves = 0.5 } }:resolve()
    local whole = take(demos.expert(settings), 30)
    local first = demos.expert(settings)
    take(first, 13)
    local saved = json.decode(json.encode(first:save()))
    local second = demos.expert(settings)
    second:restore(saved)
    assert.same(table.move(whole, 14, 30, 1, {}), take(second, 17))
  end)

  it("mix tasks by weight", function()
    local function part(name)
      return {
        next = function()
          return { before = name, after = "", answer = "" }
        end,
      }
    end
    local source = demos.mixture({ { source = part "a", weight = 3 }, { source = part "b", weight = 1 } }, 5)
    local count = 0
    for _, text in ipairs(take(source, 2000)) do
      count = count + (text:sub(1, 1) == "a" and 1 or 0)
    end
    assert.is_true(count > 1400 and count < 1600, count)
  end)

  it("come from LLaVA conversations, each once a pass", function()
    local path = file(line("<image>\nWhat?", "a") .. "\n" .. line("Look: <image> so?", "b") .. line("No mark", "c"))
    local source = conversations.open(path, 3)
    local pass = take(source, 3)
    table.sort(pass)
    assert.same({ "Look: | so?|b", "|No mark|c", "|What?|a" }, pass)
    local width = source:next().image:size()
    assert.equal(8, width)
    local resumed = conversations.open(path, 3)
    resumed:restore(source:save())
    assert.same(take(source, 5), take(resumed, 5))
  end)

  it("come from every turn of a conversation, and from text alone", function()
    local turns = {}
    for i, text in ipairs { "Hi", "yes", "Look <image>!", "red", "Sure?", "sure" } do
      turns[i] = { from = i % 2 == 1 and "human" or "gpt", value = text }
    end
    local source = conversations.open(file(json.encode { image = "red.png", conversations = turns } .. "\n"
      .. json.encode { conversations = { turns[1], turns[2] } }), 3)
    local seen = {}
    for i = 1, 4 do
      local sample = source:next()
      local words = {}
      for _, message in ipairs(sample.history) do
        for _, part in ipairs(message.content) do
          words[#words + 1] = part.text or "[image]"
        end
      end
      seen[i] = ("%s|%s|%s|%s|%s"):format(table.concat(words, ","), sample.before, sample.image and "[image]" or "",
        sample.after, sample.answer)
    end
    table.sort(seen)
    assert.same({ "Hi,yes,Look ,[image],!,red|||Sure?|sure", "Hi,yes|Look |[image]|!|red", "|||Hi|yes", "|||Hi|yes" },
      seen)
  end)

  local bad = {
    { "nonsense\n", "line 1: wanted a JSON object, got" },
    { '\n{"image": "red.png"}\n', 'line 2: wanted "conversations" in turns, from "human" and from "gpt", got null' },
    { '{"conversations": [{"from": "gpt", "value": "x"}]}\n', 'line 1: wanted "conversations" in turns' },
    { '{"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]}\n',
      'line 1: wanted a path under "image", got null' },
    { '{"image": "none.png", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "x"}]}\n',
      "/none.png, which is not there" },
    { "\n\n", "no demonstrations in it" },
  }
  for _, case in ipairs(bad) do
    it("refuse: " .. case[2], function()
      assert.error_matches(function()
        conversations.open(file(case[1]), 1)
      end, case[2], 1, true)
    end)
  end
  it("refuse two images, and a picture that is not there", function()
    assert.error_matches(function()
      conversations.open(file(line("<image> <image>", "a")), 1)
    end, "line 1: wanted one <image>, got 2", 1, true)
    assert.error_matches(function()
      conversations.open(work .. "/none.jsonl", 1)
    end, "none.jsonl", 1, true)
    assert(fs.write_atomic(work .. "/torn.png", "no picture"))
    local source = conversations.open(file((line("q", "a"):gsub("red", "torn"))), 1)
    assert.error_matches(function()
      source:next()
    end, "data.jsonl, line 1: ", 1, true)
  end)
end)

describe("sft", function()
  it("asks for the answer's tokens alone, and an end", function()
    local sample = sft.encode(fake.model(), {
      before = "Walk. ", after = "go", image = { state = 2 }, answer = '{"action": "+"}',
    })
    assert.equal(50, sample.ids[#sample.ids])
    assert.equal(256, sample.answer[#sample.answer])
    assert.equal(#'{"action": "+"}' + 1, #sample.answer)
  end)
  it("names a demonstration that is too long", function()
    assert.has_error(function()
      sft.encode(fake.model(), { before = "", after = ("x"):rep(4090), image = { state = 2 }, answer = "12345",
        where = "data.jsonl, line 7" })
    end, "data.jsonl, line 7: wanted at most the model's 4096 positions, got 4097 tokens")
  end)
  it("lowers the loss", function()
    fake.install()
    local model, losses = fake.model(), {}
    sft.run {
      model = model,
      optimizer = model:optimizer(),
      source = demos.expert(fake.recipe():resolve()),
      samples = 640,
      batch = 32,
      lr = require("rl4vlm").linear(20, 0),
      warmup = 0.1,
      max_grad_norm = 1,
      on_step = function(row)
        losses[#losses + 1] = row["sft/loss"]
      end,
    }
    assert.equal(20, #losses)
    assert.is_true(losses[20] < losses[1] / 2)
  end)
  it("stops where the loss is no number", function()
    local model = fake.model()
    model.theta = { 0 / 0, 0 / 0, 0 / 0, 0 / 0, 0 / 0, 0 / 0 }
    assert.error_matches(function()
      sft.run { model = model, optimizer = model:optimizer(), source = demos.expert(fake.recipe():resolve()),
        samples = 8, batch = 8, lr = require("rl4vlm").constant(1), warmup = 0, max_grad_norm = 1 }
    end, "step 1: the loss is %-?nan")
  end)
end)
