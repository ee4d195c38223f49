-- Folders without a tokenizer.json: SentencePiece models, vocab.json with merges.txt, tokens that are added.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local tokenizer = require "rl4vlm.tokenizer"

local golden = json.decode(fs.read_file "tests/golden/spm.json")
local dir

-- ---- a protobuf writer ----

local function varint(n)
  local bytes = {}
  repeat
    bytes[#bytes + 1] = string.char(n & 0x7F | (n > 0x7F and 0x80 or 0))
    n = n >> 7
  until n == 0
  return table.concat(bytes)
end

local function number(field, n)
  return varint(field << 3) .. varint(n)
end

local function bytes(field, s)
  return varint(field << 3 | 2) .. varint(#s) .. s
end

local function piece(p)
  return bytes(1, bytes(1, p[1]) .. varint(2 << 3 | 5) .. ("<f"):pack(p[2]) .. number(3, p[3]))
end

-- A tokenizer.model: the golden pieces, with the trainer's and the normalizer's fields given.
local function model(trainer, normalizer, pieces)
  local parts = {}
  for i, p in ipairs(pieces or golden.pieces) do
    parts[i] = piece(p)
  end
  return table.concat(parts) .. bytes(2, trainer or number(3, 2) .. number(35, 1))
    .. bytes(3, normalizer or bytes(1, "identity") .. number(3, 1) .. number(4, 0))
end

local function write(name, content)
  assert(fs.write_atomic(dir .. "/" .. name, type(content) == "string" and content or json.encode(content)))
end

local function check(cases, tok, options)
  for _, case in ipairs(cases) do
    assert.same(json.encode(json.list(case[2])), json.encode(json.list(tok:encode(case[1], options))), case[1])
  end
end

before_each(function()
  dir = fs.tempdir "tokenizer"
end)
after_each(function()
  fs.remove_tree(dir)
end)

local added = { ["<pad>"] = #golden.pieces, ["<x>"] = #golden.pieces + 1 }

describe("a SentencePiece model", function()
  it("gives sentencepiece's ids", function()
    write("tokenizer.model", model())
    local tok = tokenizer.load(dir)
    check(golden.spm, tok, { special = false })
    for _, case in ipairs(golden.decode) do
      assert.equal(case[2], tok:decode(case[1]))
    end
    assert.equal(1, tok:encode("a")[1])
    assert.is_true(tok:is_special(1))
    assert.is_false(tok:is_special(tok:id "<image>"))
  end)

  it("gives transformers' ids, legacy and not, with added tokens", function()
    write("tokenizer.model", model())
    write("added_tokens.json", added)
    write("special_tokens_map.json", { pad_token = { content = "<pad>" } })
    local flags = { [tostring(added["<x>"])] = { content = "<x>", lstrip = true, rstrip = true, normalized = false } }
    write("tokenizer_config.json", { legacy = true, added_tokens_decoder = flags })
    local tok = tokenizer.load(dir)
    check(golden.legacy, tok)
    assert.is_true(tok:is_special(added["<pad>"]))
    assert.is_false(tok:is_special(added["<x>"]))
    write("tokenizer_config.json", { legacy = false, added_tokens_decoder = flags })
    check(golden.new, tokenizer.load(dir))
  end)

  it("follows the configuration", function()
    write("tokenizer.model", model())
    local function ids(config)
      write("tokenizer_config.json", config)
      return tokenizer.load(dir):encode "a"
    end
    local a, bare = ids {}, ids { add_bos_token = false, add_prefix_space = false }
    assert.equal(1, a[1])
    assert.same({ tokenizer.load(dir):id "a" }, bare)
    assert.same({ 1, bare[1], 2 }, ids { add_eos_token = true, add_prefix_space = false })
  end)

  it("that is not BPE, or broken, is refused by name", function()
    local function refused(message, content)
      write("tokenizer.model", content)
      local ok, err = pcall(tokenizer.load, dir)
      assert.is_false(ok)
      assert.equal(dir .. "/tokenizer.model: " .. message, err)
    end
    refused("a SentencePiece model of kind unigram is not supported; BPE is", model "")
    refused("a SentencePiece model of kind word is not supported; BPE is", model(number(3, 3)))
    refused("a SentencePiece model that removes extra spaces is not supported", model(nil, ""))
    refused("a SentencePiece model with a table of normal forms (precompiled_charsmap) is not supported",
      model(nil, bytes(2, "abc") .. number(4, 0)))
    refused("a SentencePiece model with unused pieces (1) is not supported",
      model(nil, nil, { { "<unk>", 0, 2 }, { "a", 0, 5 } }))
    refused('piece 1: "a" is there twice', model(nil, nil, { { "a", 0, 2 }, { "a", 0, 1 } }))
    refused("piece 0: wanted a text in UTF-8 of a known type", model(nil, nil, { { "\xFF", 0, 2 } }))
    refused("not a SentencePiece model: no pieces", "")
    refused("not a SentencePiece model: broken at byte 2", "hello")
    refused("unk_id: wanted a piece, got 99999", model(number(3, 2) .. number(40, 99999)))
  end)

  it("never crashes, however it is broken", function()
    local rng = require("rl4vlm.rng").new(5)
    local whole = model(nil, nil, table.move(golden.pieces, 1, 300, 1, {}))
    for _ = 1, 150 do
      local at = rng:int(1, #whole)
      local cut = rng:int(0, 3)
      write("tokenizer.model", whole:sub(1, at - 1) .. string.char(rng:int(0, 255)) .. whole:sub(at + cut))
      local ok, tok = pcall(tokenizer.load, dir)
      if ok then
        pcall(tok.encode, tok, "Hello <s> wörld 日本 1 2")
      end
    end
  end)
end)

describe("vocab.json and merges.txt", function()
  local base = json.decode(fs.read_file "tests/golden/tokenizers.json").bases.qwen
  local lines = {}
  for i, m in ipairs(base.model.merges) do
    lines[i] = type(m) == "table" and table.concat(m, " ") or m
  end

  local function tokens()
    local list = {}
    for _, t in ipairs(base.added_tokens) do
      list[tostring(t.id)] = t
    end
    return list
  end

  it("are read with the class's splitting", function()
    write("vocab.json", base.model.vocab)
    write("merges.txt", "#version: 0.2\n" .. table.concat(lines, "\r\n") .. "\n")
    write("tokenizer_config.json", { tokenizer_class = "Qwen2Tokenizer", added_tokens_decoder = tokens() })
    local tok, whole = tokenizer.load(dir), tokenizer.parse(json.encode(base))
    for _, case in ipairs(golden.legacy) do
      local text = "<|im_start|>" .. case[1] .. " 12345 I'm e\u{301}"
      assert.same(whole:encode(text), tok:encode(text), text)
      assert.equal(whole:decode(whole:encode(text)), tok:decode(tok:encode(text)))
    end
    write("tokenizer_config.json", { tokenizer_class = "GPT2TokenizerFast" })
    base.normalizer, base.added_tokens = json.null, json.list {}
    base.pre_tokenizer = { type = "ByteLevel", add_prefix_space = false, use_regex = true }
    tok, whole = tokenizer.load(dir), tokenizer.parse(json.encode(base))
    for _, case in ipairs(golden.legacy) do
      assert.same(whole:encode(case[1]), tok:encode(case[1]), case[1])
    end
  end)

  it("that cannot be read are refused by name", function()
    local function refused(message)
      local ok, err = pcall(tokenizer.load, dir)
      assert.is_false(ok)
      assert.equal((message:gsub("DIR", dir)), err)
    end
    refused "DIR: wanted tokenizer.json, tokenizer.model, or vocab.json and merges.txt"
    write("vocab.json", { a = 0 })
    refused("DIR/tokenizer_config.json: tokenizer_class: wanted Qwen2Tokenizer or GPT2Tokenizer beside a vocab.json, got none")
    write("tokenizer_config.json", { tokenizer_class = "T5Tokenizer" })
    refused("DIR/tokenizer_config.json: tokenizer_class: wanted Qwen2Tokenizer or GPT2Tokenizer beside a vocab.json, got T5Tokenizer")
    write("tokenizer_config.json", { tokenizer_class = "GPT2Tokenizer" })
    refused("cannot open DIR/merges.txt: No such file or directory")
    write("merges.txt", "")
    write("tokenizer_config.json", { tokenizer_class = "GPT2Tokenizer", added_tokens_decoder = { x = 1 } })
    refused('DIR/tokenizer_config.json: added_tokens_decoder: "x": wanted an id and an object')
    write("tokenizer_config.json", { tokenizer_class = "GPT2Tokenizer" })
    write("added_tokens.json", { ["<x>"] = "y" })
    refused('DIR/added_tokens.json: "<x>": wanted an id, got a string')
  end)
end)
