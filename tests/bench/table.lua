-- table.lua - two files of JSON lines (ours, the peer's) as one table of ratios.
--
--   rl4vlm tests/bench/table.lua OURS PEER
local json = require "rl4vlm.json"

-- our measurement, the peer's it is held against
local ROWS = {
  { "generate", "generate/transformers" },
  { "generate", "generate/hand-written" },
  { "decode", "decode/hand-written" },
  { "update", "update/batched" },
  { "iteration", "iteration/careful" },
  { "iteration", "iteration/reference" },
  { "memory/peak", "memory/peak" },
}

local function read(path)
  local best = {}
  for line in io.lines(path) do
    local row = line:sub(1, 1) == "{" and json.decode(line)
    if row then
      local key = row.name .. " " .. row.dtype
      local better = not best[key] or row.value > best[key].value
      best[key] = better and row or best[key]
    end
  end
  return best
end

local ours, peer = read(arg[1]), read(arg[2])
print("| measurement | peer | dtype | ours | peer's best | ratio |")
print("|---|---|---|---|---|---|")
for _, dtype in ipairs { "fp32", "bf16" } do
  for _, row in ipairs(ROWS) do
    local a, b = ours[row[1] .. " " .. dtype], peer[row[2] .. " " .. dtype]
    if a and b then
      local scale = a.unit == "bytes" and 1e-6 or 1
      print(("| %s | %s | %s | %.1f %s | %.1f | %.2f |"):format(row[1], row[2], dtype, a.value * scale,
        a.unit == "bytes" and "MB" or a.unit, b.value * scale, a.value / b.value))
    end
  end
end
