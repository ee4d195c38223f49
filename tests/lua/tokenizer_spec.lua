-- Encoding and decoding: small vocabularies of our own against Hugging Face's answers, hostile text,
-- broken files.
local json = require "rl4vlm.json"
local tokenizer = require "rl4vlm.tokenizer"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local golden = json.decode(read "tests/golden/tokenizers.json")

-- The tokenizer.json text of a variant: its base with some parts exchanged.
local function file_of(variant)
  local file = json.decode(json.encode(golden.bases[variant.base]))
  for key, value in pairs(variant.set) do
    local inner = key:match "^model%.(.*)"
    if inner then
      file.model[inner] = value
    else
      file[key] = value
    end
  end
  return json.encode(file)
end

local function load(base, change)
  local file = json.decode(json.encode(golden.bases[base]))
  if change then
    change(file)
  end
  return tokenizer.parse(json.encode(file), "t.json")
end

local function streamed(tok, ids, options)
  local stream, parts = tok:stream(options), {}
  for i, id in ipairs(ids) do
    parts[i] = stream:push(id)
    assert.is_truthy(utf8.len(parts[i]), "half a character came out")
  end
  parts[#parts + 1] = stream:finish()
  return table.concat(parts)
end

describe("tokenizer", function()
  for _, variant in ipairs(golden.variants) do
    it("encodes and decodes as Hugging Face: " .. variant.name, function()
      local tok = tokenizer.parse(file_of(variant), variant.name)
      for _, case in ipairs(variant.encode) do
        local text, with, bare = case[1], case[2], case[3] or case[2]
        assert.same(with, tok:encode(text), text)
        assert.same(bare, tok:encode(text, { special = false }), text)
      end
      for _, case in ipairs(variant.decode) do
        assert.equal(case[2], tok:decode(case[1]))
        assert.equal(case[3], tok:decode(case[1], { skip_special = true }))
        assert.equal(case[2], streamed(tok, case[1]))
        assert.equal(case[3], streamed(tok, case[1], { skip_special = true }))
      end
    end)
  end

  it("gives back any text, byte-level", function()
    local tok = load "qwen"
    for _, text in ipairs { "", "\0", "a\0b", ("x"):rep(1000), "🏳️‍🌈 né", "\u{10FFFF}\u{FFFF}\u{200B}", "  \n\t " } do
      assert.equal(text, tok:decode(tok:encode(text)))
    end
  end)

  it("is quick on one long piece", function()
    for _, base in ipairs { "qwen", "llama" } do
      local tok = load(base)
      for _, piece in ipairs { "ab", " ", "é", "Hello" } do
        local text = piece:rep(100000 // #piece)
        local start = os.clock()
        local ids = tok:encode(text, { special = false })
        assert.is_true(os.clock() - start < 2, "too slow")
        assert.equal(text, tok:decode(ids))
      end
    end
  end)

  it("knows its tokens", function()
    local tok = load "llama"
    assert.equal(1, tok:id "<s>")
    assert.is_nil(tok:id "no such token")
    assert.equal("<s>", tok:token(1))
    assert.is_nil(tok:token(-1))
    assert.is_nil(tok:token(1 << 40))
    assert.is_true(tok:is_special(1))
    assert.is_false(tok:is_special(3))
    assert.equal(tok:id "<pad>" + 1, tok:size())
    assert.equal("tokenizer of " .. tok:size() .. " ids", tostring(tok))
  end)

  it("gives the bytes of a token", function()
    local tok = load "llama"
    assert.equal("A", tok:token_bytes(tok:id "<0x41>"))
    assert.equal("\xE6", tok:token_bytes(tok:id "<0xE6>"))
    assert.equal(" the", tok:token_bytes(tok:id "▁the"))
    assert.equal("", tok:token_bytes(1 << 20))
    tok = load "qwen"
    assert.equal(" ", tok:token_bytes(tok:id "Ġ"))
    assert.equal("\n", tok:token_bytes(tok:id "Ċ"))
    assert.equal("<|im_end|>", tok:token_bytes(tok:id "<|im_end|>"))
    local parts = {}
    for i, id in ipairs(tok:encode "日本語 and 😀!") do
      parts[i] = tok:token_bytes(id)
    end
    assert.equal("日本語 and 😀!", table.concat(parts))
  end)

  it("holds back bytes until they are a character", function()
    local tok = load "qwen"
    local b = {}
    for i, byte in ipairs { 0xF0, 0x9F, 0x98, 0x80 } do
      b[i] = tok:id(({ [0xF0] = "ð", [0x9F] = "Ł", [0x98] = "ĺ", [0x80] = "Ģ" })[byte])
    end
    local s = tok:stream()
    assert.equal("", s:push(b[1]))
    assert.equal("", s:push(b[2]))
    assert.equal("", s:push(b[3]))
    assert.equal("😀", s:push(b[4]))
    assert.equal("", s:push(b[1]))
    assert.equal("\u{FFFD}a", s:push(tok:id "a"))
    assert.equal("", s:push(b[1]))
    assert.equal("\u{FFFD}", s:finish())
    assert.equal("", s:finish())
    assert.has_error(function() s:push(1) end, "calling 'push' on bad self (the stream is finished)")
  end)

  it("streams what the batch decodes, whatever the ids", function()
    local rng = require("rl4vlm.rng").new(7)
    for _, base in ipairs { "qwen", "llama" } do
      local tok = load(base)
      for _ = 1, 300 do
        local ids = {}
        for i = 1, rng:int(0, 30) do
          ids[i] = rng:int(0, tok:size() + 3)
        end
        assert.equal(tok:decode(ids), streamed(tok, ids))
      end
    end
  end)

  it("refuses text that is not UTF-8, naming the byte", function()
    local tok = load "qwen"
    local bad = {
      ["ab\xFF"] = "byte 3 (0xFF)", ["\xC0\x80"] = "byte 1 (0xC0)", ["a\xED\xA0\x80"] = "byte 2 (0xED)",
      ["日\xE6\x97"] = "byte 4 (0xE6)", ["\xF4\x90\x80\x80"] = "byte 1 (0xF4)",
    }
    for text, where in pairs(bad) do
      local ok, err = pcall(tok.encode, tok, text)
      assert.is_false(ok)
      assert.equal("cannot encode text: " .. where .. " is not UTF-8", err)
    end
  end)

  it("refuses wrong arguments", function()
    local tok = load "qwen"
    local bad = {
      { function() tok:encode() end, "bad argument #1 to 'encode' (string expected, got no value)" },
      { function() tok:encode("a", { specials = true }) end,
        "bad argument #2 to 'encode' (unknown option 'specials' (did you mean 'special'?))" },
      { function() tok:encode("a", { special = 1 }) end,
        "bad argument #2 to 'encode' ('special': wanted true or false)" },
      { function() tok:decode { 1, "x" } end, "ids[2]: wanted an integer, got string" },
      { function() tok:decode(3) end, "bad argument #1 to 'decode' (table expected, got number)" },
    }
    for _, case in ipairs(bad) do
      local ok, err = pcall(case[1])
      assert.is_false(ok)
      assert.equal(case[2], (err:gsub("^[^ ]+:%d+: ", "")))
    end
  end)
end)

describe("a tokenizer.json with an unknown part", function()
  it("is loaded, and refused only where the part is needed", function()
    local cases = {
      { function(f) f.normalizer = { type = "Nmt" } end,
        'cannot encode text with t.json: normalizer "Nmt" is not known' },
      { function(f) f.pre_tokenizer = { type = "Bert" } end,
        'cannot encode text with t.json: pre-tokenizer "Bert" is not known' },
      { function(f) f.model.type = "WordPiece" end,
        'cannot encode text with t.json: tokenizer model "WordPiece" is not known; BPE is' },
      { function(f) f.model.dropout = 0.1 end, 'cannot encode text with t.json: BPE with "dropout" is not supported' },
      { function(f) f.post_processor = { type = "Roberta" } end,
        'cannot encode text with t.json: post-processor "Roberta" is not known', { special = false } },
      { function(f) f.pre_tokenizer.pretokenizers[1].pattern.Regex = "(a" end,
        'cannot encode text with t.json: pattern "(a": missing closing parenthesis' },
    }
    for _, case in ipairs(cases) do
      local tok = load("qwen", case[1])
      local ok, err = pcall(tok.encode, tok, "a")
      assert.is_false(ok)
      assert.equal(case[2], err)
      assert.equal("a", tok:decode { tok:id "a" })
      if case[3] then
        assert.same({ tok:id "a" }, tok:encode("a", case[3]))
      end
    end
    local tok = load("qwen", function(f) f.decoder = { type = "CTC" } end)
    assert.same({ tok:id "a" }, tok:encode "a")
    for _, call in ipairs { "decode", "stream", "token_bytes" } do
      local ok, err = pcall(tok[call], tok, call == "decode" and { 1 } or call == "token_bytes" and 1 or nil)
      assert.is_false(ok)
      assert.equal('cannot decode ids with t.json: decoder "CTC" is not known', err)
    end
  end)
end)

describe("a broken tokenizer.json", function()
  it("is refused with its name and the place", function()
    local cases = {
      { "", "t.json:1:0: not JSON: '[' or '{' expected near end of file" },
      { "[]", "t.json: wanted a JSON object, got a list" },
      { "{}", "t.json: model: wanted an object, got nothing" },
      { '{"version":"2.0"}', 't.json: version: wanted "1.0", got "2.0"' },
      { '{"model":{}}', "t.json: model.vocab: wanted an object, got nothing" },
      { '{"model":{"vocab":{"a":"b"}}}', 't.json: model.vocab: "a": wanted an id, got a string' },
      { '{"model":{"vocab":{"a":-1}}}', 't.json: model.vocab: id -1 of "a": wanted 0 to 16777215' },
      { '{"model":{"vocab":{"a":99999999999}}}', 't.json: model.vocab: id 99999999999 of "a": wanted 0 to 16777215' },
      { '{"model":{"vocab":{"a":0}}}', "t.json: model.merges: wanted a list" },
      { '{"model":{"vocab":{"a":0},"merges":["a"]}}', 't.json: model.merges[0]: wanted "a b" or ["a", "b"]' },
      { '{"model":{"vocab":{"a":0},"merges":["a b c"]}}', 't.json: model.merges[0]: wanted "a b" or ["a", "b"]' },
      { '{"model":{"vocab":{"a":0,"b":1},"merges":[["a","b"]]}}',
        't.json: model.merges[0]: token "ab" is not in the vocabulary' },
      { '{"model":{"vocab":{"a":0},"merges":[],"unk_token":"u"}}',
        't.json: model.unk_token: "u" is not in the vocabulary' },
      { '{"model":{"vocab":{},"merges":[]},"added_tokens":[{"id":0}]}',
        't.json: added_tokens[0]: "content": wanted a string, got nothing' },
      { '{"model":{"vocab":{},"merges":[]},"added_tokens":[{"content":"a"}]}',
        't.json: added_tokens[0]: "id": wanted an integer' },
      { '{"model":{"vocab":{},"merges":[]},"added_tokens":[{"content":"a","id":1,"lstrip":3}]}',
        't.json: added_tokens[0]: "lstrip": wanted true or false, got a number' },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(tokenizer.parse, case[1], "t.json")
      assert.is_false(ok)
      assert.equal(case[2], err)
    end
    local ok, err = pcall(tokenizer.load, "/no/such/folder")
    assert.is_false(ok)
    assert.equal("/no/such/folder: wanted tokenizer.json, tokenizer.model, or vocab.json and merges.txt", err)
  end)

  it("never crashes, however it is broken", function()
    local rng = require("rl4vlm.rng").new(11)
    for _, base in ipairs { "qwen", "llama" } do
      local file = json.decode(json.encode(golden.bases[base]))
      local kept = 0 -- a small vocabulary: every mutation hits something that matters
      for token, id in pairs(file.model.vocab) do
        if id > 300 then
          file.model.vocab[token] = nil
        else
          kept = kept + 1
        end
      end
      file.model.merges = { file.model.merges[1] }
      local text = json.encode(file)
      for _ = 1, 400 do
        local bytes = text
        for _ = 1, rng:int(1, 3) do
          local at = rng:int(1, #bytes)
          local what = rng:choice { "", "{", "}", '"', "null", "0", "-1", "[", "]", ",", "true", "\\", "\xFF" }
          bytes = bytes:sub(1, at - 1) .. what .. bytes:sub(at + rng:int(0, 4))
        end
        local ok, tok = pcall(tokenizer.parse, bytes)
        if ok then
          pcall(tok.encode, tok, "Hello <s> wörld 日本 1 2 <|im_end|>")
          pcall(tok.decode, tok, { 0, 1, 2, 3, 50, 100, 299 })
        end
      end
    end
  end)
end)
