-- Training small vocabularies: what must be one token is, what must stay single does, and any text
-- comes back.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local rng = require "rl4vlm.rng"
local tokenizer = require "rl4vlm.tokenizer"

local numbers = {}
for n = 0, 100 do
  numbers[#numbers + 1] = tostring(n)
end

local function texts()
  local r, list = rng.new(3), {}
  for i = 1, 400, 2 do
    list[i] = ("The cards show %d and %d. Legal actions: + - * / ( ) =. Formula: %d+"):format(
      r:int(1, 10), r:int(1, 10), r:int(1, 10))
    list[i + 1] = ('{"cards": [%d, %d], "thoughts": "%d is %s", "action": "%s"}'):format(
      r:int(1, 10), r:int(1, 10), r:int(0, 100), r:choice { "small", "large", "fine" }, r:choice { "+", "hit" })
  end
  return list
end

local function train(change)
  local o = {
    texts = texts(), size = 420, special = { "<pad>", "<s>", "</s>", "<image>" }, whole = numbers,
    single = "+-*/()=|", bos = "<s>", eos = "</s>", pad = "<pad>", image = "<image>",
  }
  for key, value in pairs(change or {}) do
    o[key] = value
  end
  return tokenizer.train(o)
end

describe("a trained tokenizer", function()
  it("has whole strings, single characters and phrases", function()
    local tok = train()
    assert.is_true(tok:size() <= 420)
    for n = 0, 100 do
      assert.equal(1, #tok:encode(tostring(n), { special = false }))
    end
    for c in ("+-*/()=|"):gmatch "." do
      assert.equal(1, #tok:encode(c, { special = false }))
    end
    assert.equal(3, #tok:encode "1001") -- <s>, 100, 1
    local ids = tok:encode "The cards show 7 and 10. Legal actions: "
    assert.equal(6, #ids) -- <s>, phrase, 7, phrase, 10, phrase
    assert.equal("<s>", tok:token(ids[1]))
    assert.same({ 3 }, tok:encode("<image>", { special = false }))
  end)

  it("writes any text", function()
    local tok = train()
    for _, text in ipairs { "", "(5+7)*2=24", "Grüße, 日本語 😀\n\t", "007 1000 99.5", ("x"):rep(500), "\0\1" } do
      assert.equal(text, tok:decode(tok:encode(text), { skip_special = true }))
    end
  end)

  it("is the same file every time, and readable from its folder", function()
    local folder = os.tmpname()
    os.remove(folder)
    local tok, files = train { out = folder }
    local _, again = train()
    assert.same(files, again)
    local loaded = tokenizer.load(folder)
    for _, text in ipairs(texts()) do
      assert.same(tok:encode(text), loaded:encode(text))
    end
    local config = json.decode(files["tokenizer_config.json"])
    assert.same({ "<s>", "</s>", "<pad>" }, { config.bos_token, config.eos_token, config.pad_token })
    assert.is_true(fs.exists(folder .. "/tokenizer_config.json"))
    os.remove(folder .. "/tokenizer.json")
    os.remove(folder .. "/tokenizer_config.json")
    os.remove(folder)
  end)

  it("needs no special tokens, whole strings or texts that teach", function()
    local tok = tokenizer.train { texts = { "abc" }, size = 300 }
    assert.equal(256, tok:size())
    assert.same(3, #tok:encode "abc")
  end)

  it("refuses what makes no sense", function()
    local cases = {
      { { sise = 3 }, "train: unknown option 'sise' (did you mean 'size'?)" },
      { { size = 300 }, "train: 'size' is 300, but special tokens, bytes and whole strings are 351 already" },
      { { bos = "<bos>" }, "train: 'bos' is \"<bos>\", which is not in 'special'" },
      { { texts = { "a", "\xFF" } }, "train: texts[2] is not UTF-8" },
      { { whole = { "" } }, "train: 'whole' and 'single' want UTF-8 strings that are not empty, got \"\"" },
      { { texts = "abc" }, "train: wanted 'texts', a list of strings, and 'size', an integer" },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(train, case[1])
      assert.is_false(ok)
      assert.equal(case[2], err)
    end
  end)
end)
