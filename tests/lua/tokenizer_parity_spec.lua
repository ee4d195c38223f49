-- The real vocabularies in $RL4VLM_TOKENIZERS against the answers in $RL4VLM_PARITY/tokenizers.
local hash = require "rl4vlm.hash"
local json = require "rl4vlm.json"
local tokenizer = require "rl4vlm.tokenizer"

local vocabularies, parity = os.getenv "RL4VLM_TOKENIZERS", os.getenv "RL4VLM_PARITY"

local function read(path)
  local f = io.open(path, "rb")
  local text = f and f:read "a"
  if f then
    f:close()
  end
  return text
end

local function digest(ids)
  local parts = {}
  for i, id in ipairs(ids) do
    parts[i] = ("<I4"):pack(id)
  end
  return hash.sha256(table.concat(parts))
end

local function check_encode(tok, case)
  local text = case.text or case["repeat"]:rep(case.times)
  local ids = tok:encode(text)
  if case.ids then
    assert.same(case.ids, ids, text)
  else
    assert.equal(case.n, #ids)
    assert.equal(case.sha256, digest(ids))
  end
  if case.bare then
    assert.same(case.bare, tok:encode(text, { special = false }), text)
  end
end

local function check_decode(tok, case)
  assert.equal(case.text, tok:decode(case.ids))
  assert.equal(case.text_skip_special, tok:decode(case.ids, { skip_special = true }))
  local stream, parts = tok:stream(), {}
  for i, id in ipairs(case.ids) do
    parts[i] = stream:push(id)
  end
  parts[#parts + 1] = stream:finish()
  assert.equal(case.text, table.concat(parts))
end

describe("the tokenizer of", function()
  for _, family in ipairs { "llava-1.5", "llava-next-mistral", "mistral-v0.1", "qwen2-vl", "qwen2.5-vl", "smolvlm" } do
    local golden = parity and vocabularies and read(parity .. "/tokenizers/" .. family .. ".json")
    if not golden then
      pending(family .. " (RL4VLM_TOKENIZERS and RL4VLM_PARITY name its folders)")
    else
      it(family .. " equals Hugging Face's", function()
        golden = json.decode(golden)
        local tok = tokenizer.load(vocabularies .. "/" .. family)
        for _, case in ipairs(golden.encode) do
          check_encode(tok, case)
        end
        for _, case in ipairs(golden.decode) do
          check_decode(tok, case)
        end
      end)
    end
  end
end)

describe("llama.cpp's vectors for", function()
  for name, family in pairs { ["llama-spm"] = "llava-1.5", qwen2 = "qwen2-vl" } do
    local folder = (vocabularies or "") .. "/llama.cpp-vectors/"
    local inputs = vocabularies and read(folder .. name .. ".inp")
    if not inputs then
      pending(family .. " (RL4VLM_TOKENIZERS names their folder)")
    else
      it(family .. " hold", function()
        local tok = tokenizer.load(vocabularies .. "/" .. family)
        local next_line = read(folder .. name .. ".out"):gmatch "([^\n]*)\n"
        local count = 0
        for text in (inputs .. "\n__ggml_vocab_test__\n"):gmatch "(.-)\n__ggml_vocab_test__\n" do
          local wanted = {}
          for id in (next_line() or ""):gmatch "%d+" do
            wanted[#wanted + 1] = math.tointeger(id)
          end
          assert.same(wanted, tok:encode(text, { special = false }), text)
          count = count + 1
        end
        assert.is_true(count >= 46)
      end)
    end
  end
end)
