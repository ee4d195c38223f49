-- model:generator and the tools, on a small model with a tokenizer of its own.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local tensor = require "rl4vlm.tensor"
local tiny = require "tests.lua.support.tiny"
local vlm = require "rl4vlm.vlm"

local dir, folder, model, pictures

setup(function()
  dir = assert(fs.tempdir())
  folder = tiny.make(dir, { "What is this?", "Say more.", "red", "blue" })
  model = vlm.load(folder, { threads = 1, slots = 4, max_tokens = 120, value_head = true })
  pictures = {}
  for i, grey in ipairs { 40, 200 } do
    pictures[i] = ("%s/%d.png"):format(dir, i)
    image.new(20 + i, 30, { grey, 90, 255 - grey }):save(pictures[i])
  end
end)

teardown(function()
  model:close()
  fs.remove_tree(dir)
end)

local function requests()
  local list = {}
  for i = 1, 9 do
    local images = i % 3 == 0 and {} or { image.load(pictures[i % 2 + 1]) }
    local text, items = model:chat { { role = "user", content = { images[1] and { type = "image", image = images[1] }
      or { type = "text", text = "Hm." }, { type = "text", text = i % 2 == 0 and "What is this?" or "Say more." } } } }
    list[i] = { key = i, ids = model:prompt(text, items), images = items, max_new_tokens = 5 + 3 * i, seed = 7,
      temperature = i % 4 == 0 and 0 or 1.3, episode = i, step = 2 }
  end
  return list
end

-- Runs all requests; replies by key.
local function run(generator, list)
  local replies, next_one = {}, 1
  while list[next_one] or generator:busy() do
    while list[next_one] and generator:free() > 0 do
      generator:submit(list[next_one])
      next_one = next_one + 1
    end
    for _, reply in ipairs(generator:step()) do
      replies[reply.key] = reply
    end
  end
  return replies
end

describe("model:generator", function()
  it("records what scoring gives, bit for bit, however requests are batched", function()
    local list, first = requests(), nil
    for _, options in ipairs { { slots = 1, share = false }, { slots = 4 }, { slots = 3, chunk = 5 } } do
      local generator <close> = model:generator(options)
      for _ = 1, 2 do
        local replies = run(generator, list)
        first = first or replies
        for i, reply in ipairs(replies) do
          assert.same(first[i].answer, reply.answer)
          assert.same(first[i].logprobs, reply.logprobs)
          assert.same(first[i].filtered, reply.filtered)
          assert.equal(first[i].value, reply.value)
          assert.equal(first[i].text, reply.text)
        end
      end
    end
    for _, temperature in ipairs { 1, 1.3 } do
      local samples = {}
      for i, request in ipairs(list) do
        if (request.temperature == 0 and 1 or request.temperature) == temperature then
          samples[#samples + 1] = { ids = request.ids, images = request.images, answer = first[i].answer, key = i }
        end
      end
      local scores = model:score(samples, { temperature = temperature, values = true })
      local logprobs, values = scores.logprobs:tolist(), scores.values:tolist()
      for i, sample in ipairs(samples) do
        local n = scores.offsets[i + 1] - scores.offsets[i]
        assert.same(first[sample.key].logprobs, table.move(logprobs, scores.offsets[i] + 1, scores.offsets[i] + n, 1, {}))
        assert.equal(first[sample.key].value, values[i])
      end
    end
  end)

  it("computes what is alike once", function()
    local generator <close> = model:generator()
    local request = requests()[1]
    run(generator, { request })
    local before = generator:stats()
    request.episode = 99
    local reply = run(generator, { request })[1]
    local after = generator:stats()
    assert.equal(#request.ids - 1, reply.cached)
    assert.equal(1, after.prompt_rows - before.prompt_rows)
    assert.equal(before.images, after.images)
  end)

  it("stops behind a text, also one that spans tokens", function()
    local generator <close> = model:generator()
    local request = requests()[1]
    request.max_new_tokens, request.eos = 60, {}
    local whole = run(generator, { request })[1]
    assert.equal("length", whole.finish)
    local text = whole.text
    for at = 2, math.min(#text - 3, 40), 5 do
      local stop = text:sub(at, at + 2)
      if utf8.len(stop) then
        request.stop = { "never comes", stop }
        local reply = run(generator, { request })[1]
        assert.equal("stop", reply.finish)
        local first = text:find(stop, 1, true)
        assert.is_truthy(reply.text:find(stop, 1, true))
        assert.is_true(#reply.text >= first + 2)
        assert.same(table.move(whole.answer, 1, #reply.answer, 1, {}), reply.answer)
        local shorter = model.tokenizer:decode(table.move(reply.answer, 1, #reply.answer - 1, 1, {}),
          { skip_special = true })
        assert.is_nil(shorter:find(stop, 1, true))
      end
    end
  end)

  it("refuses wrong requests by name", function()
    local generator <close> = model:generator()
    local cases = {
      { { ids = {} }, "request: wanted a prompt and max_new_tokens >= 1, came 0 and 256 tokens" },
      { { ids = { 1 }, temprature = 1 }, "unknown field of a request 'temprature' (did you mean 'temperature'?)" },
      { { ids = { 1 }, max_new_tokens = 200 },
        "request: a prompt of 1 tokens and an answer of up to 200 are more than max_tokens 120" },
      { { ids = { 1, 3 }, max_new_tokens = 2 },
        "request: 1 image placeholders in the prompt, but 0 rows of 0 images" },
      { { ids = { 1, "x" } }, "ids: entry 2: wanted an id, came x" },
      { { ids = { 1 }, max_new_tokens = 2, top_k = 1.5 }, "top_k: wanted a whole number, came 1.5" },
      { { ids = { 1 }, top_k = -1 }, "top_k: wanted 0 (off) or more, came -1" },
      { { ids = { 1 }, temperature = -1 }, "temperature: wanted a number from 0.0 to 1000000.0, came -1.0" },
      { { ids = { 1 }, top_p = 2 }, "top_p: wanted a number from 0.0 to 1.0, came 2.0" },
      { { ids = { 1 }, min_p = -0.5 }, "min_p: wanted a number from 0.0 to 1.0, came -0.5" },
      { { ids = { 1 }, repetition_penalty = 0 }, "repetition_penalty: wanted a number from 0.01 to 100.0, came 0.0" },
      { { ids = { 1 }, stop = "x" }, "stop: wanted a list of texts, came x" },
      { { ids = { 1 }, stop = { "x", "" } }, "stop[2]: wanted some text, came none" },
      { { ids = { 1 }, images = { "a.png" } }, "images: wanted an image (rl4vlm.image.load), came 'a.png'" },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(generator.submit, generator, case[1])
      assert.is_false(ok)
      assert.equal(case[2], (err:gsub("^%S+%.lua:%d+: ", "")))
    end
    local ok, err = pcall(generator.submit, generator, { ids = { 1 }, temperature = 0 / 0 })
    assert.is_false(ok)
    assert.matches("temperature: wanted a number from 0.0 to 1000000.0, came %-?nan$", err)
    assert.is_false(generator:busy())
  end)

  it("and loading refuse wrong options by name", function()
    for _, case in ipairs {
      { "unknown option of a generator 'slotz' (did you mean 'slots'?)", model.generator, model, { slotz = 1 } },
      { "model: wanted a folder or a name, came 5", vlm.load, 5 },
      { "slots: wanted a whole number from 0, came -1", vlm.load, "cardling", { slots = -1 } },
      { "max_tokens: wanted a whole number from 2, came many", vlm.load, "cardling", { max_tokens = "many" } },
    } do
      local ok, err = pcall(table.unpack(case, 2))
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^%S+%.lua:%d+: ", "")))
    end
  end)
end)

describe("the tools", function()
  local function write(lines)
    local texts = {}
    for i, line in ipairs(lines) do
      texts[i] = type(line) == "string" and line or json.encode(line)
    end
    assert(fs.write_atomic(dir .. "/q.jsonl", table.concat(texts, "\n") .. "\n"))
  end

  -- Runs the program; its exit status and what it printed.
  local function tool(words, before)
    local pipe = io.popen(("%s'%s' -m %s 2>&1"):format(before or "", host.exe, (words:gsub("DIR", dir))))
    local text = pipe:read("a")
    local _, _, status = pipe:close()
    return status, (text:gsub(dir:gsub("%p", "%%%0"), "DIR"))
  end

  local function replies()
    local list = {}
    for line in io.lines(dir .. "/a.jsonl") do
      list[#list + 1] = json.decode(line)
    end
    return list
  end

  it("generate, then score, and agree", function()
    local lines = {}
    for i = 1, 7 do
      lines[i] = { id = "q" .. i, prompt = "USER: <image>\nWhat is this? ASSISTANT:", images = { (i % 2 + 1) .. ".png" } }
    end
    lines[8] = { id = 8, messages = { { role = "user", content = { { type = "text", text = "Say more." } } } } }
    write(lines)
    assert.same({ 0, "" }, { tool "generate DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --max-new-tokens 12 --threads 1" })
    local answers, again = replies(), {}
    for i, reply in ipairs(answers) do
      assert.equal(lines[i].id, reply.id)
      assert.equal(#reply.answer_ids, #reply.logprobs)
      again[i] = { id = reply.id, prompt_ids = json.list(reply.prompt_ids), answer_ids = json.list(reply.answer_ids),
        images = lines[i].images }
    end
    assert.not_same(answers[1].answer_ids, answers[3].answer_ids) -- the same prompt, another draw
    write(again)
    assert.same({ 0, "" }, { tool("score DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --threads 1"
      .. " --logits DIR/l.safetensors --grads DIR/g.safetensors") })
    local logits = require("rl4vlm.safetensors").open(dir .. "/l.safetensors")
    for i, reply in ipairs(replies()) do
      assert.same(answers[i].logprobs, reply.logprobs)
      assert.same(answers[i].text, reply.text)
      local n, k = #reply.prompt_ids, #reply.answer_ids
      assert.same({ n + k, model.arch.text.vocab }, logits:info(tostring(reply.id)).shape)
      local all = tensor.from_bytes(logits:get(tostring(reply.id)):data(), { n + k, model.arch.text.vocab })
      local logp = all:slice(1, n, n):log_softmax(2):tolist()[reply.answer_ids[1] + 1]
      assert.is_true(math.abs(logp - reply.logprobs[1]) < 1e-4)
    end
  end)

  it("are the same for any number of slots", function()
    assert.same({ 0, "" }, { tool "generate DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --max-new-tokens 9 --slots 1" })
    local one = fs.read_file(dir .. "/a.jsonl")
    assert.same({ 0, "" }, { tool "generate DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --max-new-tokens 9 --slots 5" })
    assert.equal(one, fs.read_file(dir .. "/a.jsonl"))
  end)

  it("give nothing for no answer, and read a file with a byte order mark", function()
    write { "\xEF\xBB\xBF" .. json.encode { id = "a", prompt_ids = { 1, 5 }, answer_ids = json.list {} },
      { id = "b", prompt_ids = { 1, 5 }, answer_ids = { 7 } },
      { id = "c", prompt_ids = { 1 }, answer_ids = json.list {}, weights = json.list {} } }
    for _, more in ipairs { "", " --grads DIR/g.safetensors --logits DIR/l.safetensors" } do
      assert.same({ 0, "" }, { tool("score DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --threads 1" .. more) })
      local list = replies()
      assert.same({ {}, {}, "length", "" }, { list[1].answer_ids, list[1].logprobs, list[1].finish, list[1].text })
      assert.same({ 1, 0 }, { #list[2].logprobs, #list[3].logprobs })
    end
    local file = require("rl4vlm.safetensors").open(dir .. "/l.safetensors")
    assert.same({ 2, model.arch.text.vocab }, file:info("a").shape)
    write {}
    assert.same({ 0, "" }, { tool "score DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --grads DIR/g.safetensors" })
    assert.same({}, replies())
  end)

  it("make no longer answers than fit", function()
    local most, ids = model.arch.text.max_positions, { 1 }
    for i = 2, most - 3 do
      ids[i] = 5
    end
    write { { prompt_ids = ids } }
    local words = "generate DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --threads 1 --ignore-eos"
    assert.same({ 0, "" }, { tool(words) })
    assert.same({ 3, "length" }, { #replies()[1].answer_ids, replies()[1].finish })
    assert.same({ 1, ("rl4vlm: generate: DIR/q.jsonl:1: a prompt of %d tokens and --max-new-tokens 4 are more than the "
      .. "model's %d positions\n"):format(most - 3, most) }, { tool(words .. " --max-new-tokens 4") })
    table.move({ 5, 5, 5 }, 1, 3, most - 2, ids)
    write { { prompt_ids = ids } }
    assert.same({ 1, ("rl4vlm: generate: DIR/q.jsonl:1: a prompt of %d tokens leaves no room for an answer in the "
      .. "model's %d positions\n"):format(most, most) }, { tool(words) })
  end)

  it("turn pictures as EXIF says, when asked to", function()
    local picture = image.new(40, 40)
    for x = 0, 39 do
      picture:set(x, 3, { 255, 255, 255 })
    end
    local text, mark = picture:png(), "eXIfII*\0\8\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0"
    local crc = 0xFFFFFFFF
    for byte in mark:gmatch "." do
      crc = crc ~ byte:byte()
      for _ = 1, 8 do
        crc = crc >> 1 ~ (crc & 1) * 0xEDB88320
      end
    end
    assert(fs.write_atomic(dir .. "/plain.png", text))
    assert(fs.write_atomic(dir .. "/turned.png", text:sub(1, 33) .. (">I4"):pack(#mark - 4) .. mark
      .. (">I4"):pack(crc ~ 0xFFFFFFFF) .. text:sub(34)))
    local function score(name, words)
      write { { prompt = "<image>\nWhat?", images = { name }, answer = "this" } }
      assert.same({ 0, "" }, { tool("score DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --threads 1" .. words) })
      return replies()[1].logprobs
    end
    local plain = score("plain.png", "")
    assert.same(plain, score("turned.png", ""))
    assert.not_same(plain, score("turned.png", " --exif"))
  end)

  it("write to a device as it is, and to no folder", function()
    write { { id = 1, prompt_ids = { 1, 2 }, answer_ids = { 3 } } }
    local full = "score DIR/model --in DIR/q.jsonl --threads 1 "
    assert.same({ 1, "rl4vlm: score: cannot write /dev/full: No space left on device\n" }, { tool(full .. "--out /dev/full") })
    assert.same({ 1, "rl4vlm: score: /dev/full: cannot write /dev/full: No space left on device\n" },
      { tool(full .. "--out DIR/a.jsonl --grads /dev/full") })
    assert.equal("other", fs.stat("/dev/full").type)
    assert.same({ 1, "rl4vlm: score: cannot write DIR: Is a directory\n" }, { tool(full .. "--out DIR") })
  end)

  it("refuse requests from a pipe, which cannot be read twice", function()
    local status, text = tool("score DIR/model --in /dev/stdin --out DIR/piped.jsonl", "echo | ")
    assert.same({ 1, "rl4vlm: score: /dev/stdin: wanted a file, for it is read twice, came a pipe\n" }, { status, text })
    assert.is_false(fs.exists(dir .. "/piped.jsonl"))
  end)

  it("name file, line and field of what is wrong, and leave no file", function()
    local many, most = {}, model.arch.text.max_positions -- images that leave no room
    for i = 1, most do
      many[i] = "1.png"
    end
    local cases = {
      { "{", "line: wanted a JSON object, came " },
      { "[1]", "line: wanted a JSON object, came a list" },
      { '{"prompt": "a\xff"}', "line: wanted UTF-8 text, came byte 0xFF at 14" },
      { { promt = "x" }, "unknown field 'promt' (did you mean 'prompt'?)" },
      { { id = 1 }, "prompt_ids: wanted one of prompt_ids, prompt, messages, came none" },
      { { prompt = "x", prompt_ids = { 1 } }, "prompt: wanted only one of prompt_ids, prompt, messages, came "
        .. "prompt_ids as well" },
      { { prompt_ids = { 1, 9999 } }, "prompt_ids[2]: wanted an id from 0 to " },
      { { prompt_ids = { 1, 2.5 } }, "prompt_ids[2]: wanted an id from 0 to " },
      { { prompt_ids = 7 }, "prompt_ids: wanted a list, came 7" },
      { { prompt_ids = json.list {} }, "prompt_ids: wanted at least one id, came none" },
      { { prompt = 7 }, "prompt: wanted text, came 7" },
      { { prompt = "<image> x" }, "images: wanted 1, as often as the prompt has <image>, came 0" },
      { { prompt = "x", images = { "1.png" } }, "images: wanted 0, as often as the prompt has <image>, came 1" },
      { { prompt_ids = { 1, 5 }, images = { "1.png" } }, "images: wanted 4 image tokens in the prompt, by the 1 images, "
        .. "came 0" },
      { { prompt = ("<image>"):rep(most), images = many, answer_ids = { 5 } }, ("prompt: wanted at most %d tokens, came "
        .. "%d, of them %d for %d images"):format(most, 4 * most + 2, 4 * most, most) },
      { { prompt = "<image>", images = { "none.png" } },
        "images[1]: wanted an image file, came DIR/none.png, which is not there" },
      { { prompt = "<image>", images = { "q.jsonl" }, answer = "x" }, "images[1]: " },
      { { prompt = "x", answer = "y", weights = { 1 } }, "weights: wanted 2 numbers, one an answer token, came 1" },
      { '{"prompt": "x", "answer_ids": [5], "weights": [1e999]}', "weights[1]: wanted a finite number, came inf" },
      { { prompt = "x", answer_ids = { "a" } }, "answer_ids[1]: wanted an id from 0 to " },
      { { prompt = "x" }, "answer_ids: wanted one of answer_ids, answer, came none" },
      { { messages = { { role = "user" } } }, 'messages[1]: wanted an object with role and content, came {"role":"user"}' },
      { { messages = { { role = "user", content = { { type = "video" } } } } }, "messages[1].content[1]: wanted an "
        .. 'object with type "image", or type "text" and text, came {"type":"video"}' },
      { { messages = { { role = "user", content = { { type = "image" } } } } },
        "images: wanted a path for every image in messages, came 0" },
      { { messages = { { role = "user", content = "an <image>" } } },
        "DIR/model/tokenizer_config.json: wrote 1 times <image>, but the messages have 0 images" },
    }
    fs.remove(dir .. "/a.jsonl")
    local before = fs.list(dir)
    for _, case in ipairs(cases) do
      write { "", case[1] }
      local status, text = tool "score DIR/model --in DIR/q.jsonl --out DIR/a.jsonl --threads 1"
      local wanted = "rl4vlm: score: DIR/q.jsonl:2: " .. case[2]
      assert.equal(wanted, text:sub(1, #wanted))
      assert.equal(1, status)
      assert.same(before, fs.list(dir))
    end
  end)

  it("say what is wrong with a model without a traceback", function()
    assert(fs.mkdirs(dir .. "/torn"))
    for _, name in ipairs(fs.list(folder)) do
      assert(fs.copy_file(folder .. "/" .. name, dir .. "/torn/" .. name))
    end
    assert(fs.truncate(dir .. "/torn/model.safetensors", 100))
    write { { prompt = "x", answer = "y" } }
    local status, text = tool "score DIR/torn --in DIR/q.jsonl --out DIR/a.jsonl"
    assert.equal(1, status)
    assert.matches("^rl4vlm: score: DIR/torn/model.safetensors: header of %d+ bytes in a file of 100: "
      .. "the file is cut off\n$", text)
  end)

  it("name wrong options with the nearest right one", function()
    local cases = {
      { "generate DIR/model --in q", "--out is needed" },
      { "generate --in q --out a", "which model? (a folder, a run, or a built-in model)" },
      { "generate DIR/model --in q --out a --temprature 1",
        "unknown option '--temprature' (did you mean '--temperature'?)" },
      { "generate DIR/model --in q --out a --top-p 2", "--top-p wants a number from 0 to 1, got 2" },
      { "generate DIR/model --in q --out a --device cuda", "--device wants one of auto, cpu, got 'cuda'" },
      { "score DIR/model --in q --out a --dtype fp8", "--dtype wants one of fp32, bf16, fp16" },
      { "inspect DIR/model --slots 0", "--slots wants a number from 1 to 1024, got 0" },
      { "inspect DIR/model --slots 99999999999999", "--slots wants a number from 1 to 1024, got 99999999999999" },
      { "inspect DIR/model --threads 1025", "--threads wants a number from 0 to 1024, got 1025" },
      { "score DIR/model --in q --out q", "--out wants a file of its own, got that of --in: q" },
      { "score DIR/model --in q --out a --logits a", "--logits wants a file of its own, got that of --out: a" },
      { "inspect DIR/model --max-tokens 99999", ("--max-tokens wants at most the model's %d positions, got 99999"):format(
        model.arch.text.max_positions) },
      { "inspect cardlin", "no model 'cardlin' (did you mean 'cardling'?): wanted a folder, a run, or a built-in model" },
      { "score DIR/model --in q --out a --adapter DIR/none",
        "no adapter 'DIR/none': wanted a folder with adapter_config.json in it, or a run that learned an adapter" },
      { "score DIR/model --in q --out a --adapter DIR/model",
        "no adapter in 'DIR/model': wanted a folder with adapter_config.json in it, or a run that learned an adapter" },
    }
    for _, case in ipairs(cases) do
      local status, text = tool(case[1])
      local wanted = ("rl4vlm: %s: %s"):format(case[1]:match("^%w+"), case[2])
      assert.equal(wanted, text:sub(1, #wanted))
      assert.equal(2, status)
    end
  end)

  it("inspect counts parameters and bytes", function()
    local status, text = tool "inspect DIR/model --json --slots 2 --max-tokens 100"
    local d = json.decode(text)
    assert.equal(0, status)
    assert.equal(d.parameters.total, d.parameters.used)
    assert.equal(0, d.bytes.inference.optimizer)
    assert.equal(2 * d.bytes.full.gradients, d.bytes.full.optimizer)
    assert.equal(2, d.slots)
    assert.same({ 2 }, d.eos)
  end)
end)
