-- tokenizer_trainer.lua - small byte-level vocabularies for small models.
--
-- A split isolates the caller's `whole` strings and `single` characters (numbers, operators); the
-- stretches between them are pieces, spaces and all. Every whole string, and every stretch that is
-- worth it, is one token of its own (the model's "ignore_merges" makes that hold without merges that
-- lead there); ordinary byte-pair merges, learned on the other stretches, encode the rest. So the
-- fixed phrases of a prompt take one token each, and any text can still be written.
--
-- What varies inside a phrase and carries a choice (numbers, ranks, action words) belongs in `whole`,
-- else it is learned as a part of the phrase. Prompts and answers are encoded apart, so they are
-- texts apart.
--
-- `rl4vlm.tokenizer.train` is `M.train`.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local tokenizer = require "rl4vlm.tokenizer"

local M = {}

-- ---- what is isolated ----

-- Whole strings and single characters, by first byte and then the longest first, as the split finds
-- them.
local function isolated(whole, single)
  local seen, list = {}, {}
  local function add(s)
    if s == "" or not utf8.len(s) then
      error(("train: 'whole' and 'single' want UTF-8 strings that are not empty, got %q"):format(s), 0)
    end
    if not seen[s] then
      seen[s] = true
      list[#list + 1] = s
    end
  end
  for _, s in ipairs(whole) do
    add(s)
  end
  for c in single:gmatch(utf8.charpattern) do
    add(c)
  end
  table.sort(list, function(a, b)
    if #a ~= #b then
      return #a > #b
    end
    return a < b
  end)
  return list
end

local function regex(list)
  local parts = {}
  for i, s in ipairs(list) do
    parts[i] = s:gsub("[%^%$%.%[%]|%(%)%?%*%+%{%}\\%-&#~]", "\\%0")
  end
  return table.concat(parts, "|")
end

-- Calls `each` with every stretch of `text` between isolated strings.
local function stretches(text, by_first, each)
  local start, at = 1, 1
  while at <= #text do
    local hit
    for _, s in ipairs(by_first[text:byte(at)] or {}) do
      if text:sub(at, at + #s - 1) == s then
        hit = s
        break
      end
    end
    if hit then
      if at > start then
        each(text:sub(start, at - 1))
      end
      at = at + #hit
      start = at
    else
      at = at + 1
    end
  end
  if start <= #text then
    each(text:sub(start))
  end
end

-- Number of times each stretch occurs in all texts.
local function count_stretches(texts, list)
  local by_first, counts = {}, {}
  for _, s in ipairs(list) do
    local b = s:byte()
    by_first[b] = by_first[b] or {}
    table.insert(by_first[b], s)
  end
  for i, text in ipairs(texts) do
    if not utf8.len(text) then
      error(("train: texts[%d] is not UTF-8"):format(i), 0)
    end
    stretches(text, by_first, function(s)
      counts[s] = (counts[s] or 0) + 1
    end)
  end
  return counts
end

-- The `n` stretches that save the most tokens when each becomes one.
local function choose_phrases(counts, n)
  local list = {}
  for s, count in pairs(counts) do
    if count > 1 and #s > 1 then
      list[#list + 1] = { text = s, worth = count * (#s - 1) }
    end
  end
  table.sort(list, function(a, b)
    if a.worth ~= b.worth then
      return a.worth > b.worth
    end
    return a.text < b.text
  end)
  local phrases = {}
  for i = 1, math.min(n, #list) do
    phrases[i] = list[i].text
  end
  return phrases
end

-- ---- merges ----

-- Symbols are numbers: bytes are 0 to 255, merged ones follow; equal strings are equal symbols.
local function new_symbols()
  local symbols = { name = {}, number = {}, count = 0 }
  function symbols:of(name)
    if not self.number[name] then
      self.number[name] = self.count
      self.name[self.count] = name
      self.count = self.count + 1
    end
    return self.number[name]
  end
  for b = 0, 255 do
    symbols:of(string.char(b))
  end
  return symbols
end

-- Stretches as lists of symbols, in a fixed order.
local function to_words(counts, skip)
  local words = {}
  for s, count in pairs(counts) do
    if not skip[s] then
      local symbols = {}
      for i = 1, #s do
        symbols[i] = s:byte(i)
      end
      words[#words + 1] = { text = s, count = count, symbols = symbols }
    end
  end
  table.sort(words, function(a, b)
    return a.text < b.text
  end)
  return words
end

local SHIFT = 1 << 20 -- a pair as one number: left * SHIFT + right

-- The most frequent pair of neighbours, the lowest numbers among equals; nil: none occurs twice.
local function best_pair(words)
  local total, best, most = {}, nil, 1
  for _, w in ipairs(words) do
    local symbols, count = w.symbols, w.count
    for i = 1, #symbols - 1 do
      local key = symbols[i] * SHIFT + symbols[i + 1]
      total[key] = (total[key] or 0) + count
    end
  end
  for key, n in pairs(total) do
    if n > most or (n == most and best and key < best) then
      best, most = key, n
    end
  end
  if best then
    return best // SHIFT, best % SHIFT
  end
end

local function find_pair(symbols, a, b)
  for i = 1, #symbols - 1 do
    if symbols[i] == a and symbols[i + 1] == b then
      return i
    end
  end
end

local function merge_pair(words, a, b, merged)
  for _, w in ipairs(words) do
    local from = w.symbols
    local i = find_pair(from, a, b)
    if i then
      local out = table.move(from, 1, i - 1, 1, {})
      while i <= #from do
        local hit = from[i] == a and from[i + 1] == b
        out[#out + 1] = hit and merged or from[i]
        i = i + (hit and 2 or 1)
      end
      w.symbols = out
    end
  end
end

-- ---- the files ----

-- Bytes in the alphabet of byte-level vocabularies: printable Latin-1 for itself, the others from
-- U+0100 on.
local alphabet = {}
do
  local next_code = 0x100
  for b = 0, 255 do
    local printable = (b >= 0x21 and b <= 0x7E) or (b >= 0xA1 and b ~= 0xAD)
    alphabet[string.char(b)] = utf8.char(printable and b or next_code)
    next_code = next_code + (printable and 0 or 1)
  end
end

local function written(bytes)
  return (bytes:gsub(".", alphabet))
end

local function added_token(id, content)
  return {
    id = id, content = content, special = true,
    single_word = false, lstrip = false, rstrip = false, normalized = false,
  }
end

local function template(name, id)
  return {
    type = "TemplateProcessing",
    single = { { SpecialToken = { id = name, type_id = 0 } }, { Sequence = { id = "A", type_id = 0 } } },
    pair = { { SpecialToken = { id = name, type_id = 0 } }, { Sequence = { id = "A", type_id = 0 } },
      { Sequence = { id = "B", type_id = 1 } } },
    special_tokens = { [name] = { id = name, ids = { id }, tokens = { name } } },
  }
end

local function byte_level()
  return { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = false }
end

local function pre_tokenizer(list)
  if #list == 0 then
    return byte_level()
  end
  local split = { type = "Split", pattern = { Regex = regex(list) }, behavior = "Isolated", invert = false }
  return { type = "Sequence", pretokenizers = { split, byte_level() } }
end

local function tokenizer_json(v, o, list)
  local added = json.list {}
  for i, name in ipairs(o.special) do
    added[i] = added_token(v.ids[name], name)
  end
  return {
    version = "1.0", truncation = json.null, padding = json.null, normalizer = json.null,
    added_tokens = added, pre_tokenizer = pre_tokenizer(list), decoder = byte_level(),
    post_processor = o.bos and template(o.bos, v.ids[o.bos]) or json.null,
    model = {
      type = "BPE", dropout = json.null, unk_token = json.null, continuing_subword_prefix = json.null,
      end_of_word_suffix = json.null, fuse_unk = false, byte_fallback = false, ignore_merges = true,
      vocab = v.ids, merges = v.merges,
    },
  }
end

local function config_json(o)
  return {
    tokenizer_class = "PreTrainedTokenizerFast", clean_up_tokenization_spaces = false,
    model_max_length = o.max_length, bos_token = o.bos, eos_token = o.eos, pad_token = o.pad,
    extra_special_tokens = o.image and { image_token = o.image } or nil,
    image_token = o.image, chat_template = o.chat_template,
  }
end

-- ---- training ----

local known = {
  "texts", "size", "special", "whole", "single", "phrases", "bos", "eos", "pad", "image",
  "max_length", "chat_template", "out",
}

local function check_keys(o)
  for key in pairs(o) do
    local nearest = host.nearest(tostring(key), known)
    if nearest ~= key then
      error(("train: unknown option '%s'%s"):format(key,
        nearest and (" (did you mean '%s'?)"):format(nearest) or ""), 0)
    end
  end
end

local function check(o)
  check_keys(o)
  o = setmetatable({}, { __index = o })
  o.special, o.whole, o.single = o.special or {}, o.whole or {}, o.single or ""
  o.max_length = o.max_length or 4096
  if type(o.texts) ~= "table" or math.type(o.size) ~= "integer" then
    error("train: wanted 'texts', a list of strings, and 'size', an integer", 0)
  end
  local is_special = {}
  for _, name in ipairs(o.special) do
    is_special[name] = true
  end
  for _, role in ipairs { "bos", "eos", "pad", "image" } do
    if o[role] and not is_special[o[role]] then
      error(("train: '%s' is %q, which is not in 'special'"):format(role, o[role]), 0)
    end
  end
  return o
end

-- Special tokens, the 256 bytes, whole strings: what every vocabulary of these options begins with.
local function start_vocabulary(o, list)
  local v = { ids = {}, size = 0, merges = json.list {} }
  function v:add(token)
    if not self.ids[token] then
      self.ids[token] = self.size
      self.size = self.size + 1
    end
  end
  for _, name in ipairs(o.special) do
    v:add(name)
  end
  for b = 0, 255 do
    v:add(alphabet[string.char(b)])
  end
  for _, s in ipairs(list) do
    v:add(written(s))
  end
  if v.size > o.size then
    error(("train: 'size' is %d, but special tokens, bytes and whole strings are %d already"):format(o.size, v.size), 0)
  end
  return v
end

-- Adds merges and what they make until the vocabulary is full or nothing occurs twice.
local function learn_merges(v, words, size)
  local symbols = new_symbols()
  while v.size < size do
    local a, b = best_pair(words)
    if not a then
      return
    end
    local left, right = symbols.name[a], symbols.name[b]
    merge_pair(words, a, b, symbols:of(left .. right))
    table.insert(v.merges, { written(left), written(right) })
    v:add(written(left .. right))
  end
end

---Trains a byte-level vocabulary and writes it as tokenizer.json and tokenizer_config.json.
---
---`texts`: list of strings to learn from. `size`: tokens at most (fewer when the texts hold no more to
---learn). `special`: names of special tokens, which get the first ids. `whole`: strings that are one
---token wherever they occur, the longest first. `single`: characters that never merge. `phrases`: how
---many stretches between those become tokens whole (default: half of what is left after bytes and
---whole strings). `bos`, `eos`, `pad`, `image`: which special tokens play these parts; texts begin
---with `bos`. `chat_template`, `max_length`: copied to tokenizer_config.json. `out`: folder to write.
---@param o table
---@return rl4vlm.Tokenizer tokenizer
---@return table files {["tokenizer.json"] = text, ["tokenizer_config.json"] = text}
function M.train(o)
  o = check(o)
  local list = isolated(o.whole, o.single)
  local v = start_vocabulary(o, list)
  local counts = count_stretches(o.texts, list)
  local is_phrase = {}
  for _, s in ipairs(choose_phrases(counts, o.phrases or (o.size - v.size) // 2)) do
    is_phrase[s] = true
    v:add(written(s))
  end
  learn_merges(v, to_words(counts, is_phrase), o.size)
  local files = {
    ["tokenizer.json"] = json.encode(tokenizer_json(v, o, list)) .. "\n",
    ["tokenizer_config.json"] = json.encode(config_json(o)) .. "\n",
  }
  for name, text in pairs(o.out and files or {}) do
    assert(fs.mkdirs(o.out))
    assert(fs.write_atomic(o.out .. "/" .. name, text))
  end
  return tokenizer.parse(files["tokenizer.json"], "trained tokenizer"), files
end

return M
