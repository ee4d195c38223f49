-- Speed of encoding and decoding on one core, per vocabulary and kind of text, in MB/s.
--
--   rl4vlm tests/bench/tokenizer.lua DIR...     folders with a tokenizer.json
--
-- In CPU seconds. Cold: the first pass over a text by a fresh tokenizer. Warm: the best of the passes after it.
local fs = require "rl4vlm.fs"
local tokenizer = require "rl4vlm.tokenizer"

local SIZE = 1 << 20

-- Texts by kind, a megabyte each: the program's own documents and sources, and Chinese, Japanese and Korean between
-- English, drawn from the alphabets by a fixed rule.
local function repeated(files)
  local parts, n = {}, 0
  for _, path in ipairs(files) do
    local text = fs.read_file(path) or ""
    parts[#parts + 1], n = text, n + #text
  end
  local text = table.concat(parts)
  return text:rep(SIZE // #text + 1):sub(1, SIZE)
end

local function listed(folder, pattern)
  local list = {}
  for _, name in ipairs(fs.list(folder) or {}) do
    if name:find(pattern) then
      list[#list + 1] = folder .. "/" .. name
    end
  end
  return list
end

local function mixed()
  local seed, parts, n = 12345, {}, 0
  local function draw(m)
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed // 65536 % m
  end
  local words = { "card", "the number", "action", "10", "look", "Model", "in" }
  while n < SIZE - 64 do
    local kind, first, count = draw(4), 0x4E00, 2500
    if kind == 2 then
      first, count = 0x3041, 80
    elseif kind == 3 then
      first, count = 0xAC00, 1500
    end
    local piece = {}
    for i = 1, 2 + draw(12) do
      piece[i] = utf8.char(first + draw(count))
    end
    piece[#piece + 1] = draw(3) == 0 and " " .. words[1 + draw(#words)] .. " " or draw(2) == 0 and "。" or "，"
    parts[#parts + 1] = table.concat(piece)
    n = n + #parts[#parts]
  end
  return table.concat(parts)
end

local kinds = {
  { "English", repeated(listed("docs", "%.md$")) },
  { "code", repeated(listed("src/vlm", "%.[ch]$")) },
  { "mixed CJK", mixed() },
  { "one line", (repeated(listed("docs", "%.md$")):gsub("%s+", " ")) },
  { "one letter", ("a"):rep(SIZE) },
}

local function timed(f)
  local start = os.clock()
  local result = f()
  return os.clock() - start, result
end

for _, dir in ipairs(arg) do
  for _, kind in ipairs(kinds) do
    local name, text = kind[1], kind[2]
    local tok = tokenizer.load(dir)
    local cold, ids = timed(function() return tok:encode(text) end)
    local warm, back = math.huge, math.huge
    for _ = 1, 4 do
      warm = math.min(warm, (timed(function() return tok:encode(text) end)))
      back = math.min(back, (timed(function() return tok:decode(ids) end)))
    end
    local mb = #text / 1e6
    print(("%-20s %-10s %8d ids  cold %6.1f  warm %6.1f  decode %6.1f MB/s"):format(dir:match("[^/]*$"), name, #ids,
      mb / cold, mb / warm, mb / back))
  end
end
