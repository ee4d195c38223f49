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

-- The largest figure of each name.
local function read(path)
  local best = {}
  for line in io.lines(path) do
    local row = line:sub(1, 1) == "{" and json.decode(line)
    if row and not (best[row.name] and best[row.name].value >= row.value) then
      best[row.name] = row
    end
  end
  return best
end

local function print_row(what, peer_name, a, b)
  local scale, unit = 1, a.unit
  if unit == "bytes" then
    scale, unit = 1e-6, "MB"
  end
  local value = b and ("%.1f"):format(b.value * scale) or "-"
  local ratio = b and ("%.2f"):format(a.value / b.value) or "-"
  print(("| %s | %s | %.1f %s | %s | %s |"):format(what, peer_name, a.value * scale, unit, value, ratio))
end

local ours, peer = read(arg[1]), read(arg[2])
print("| measurement | peer | ours | peer's best | ratio |")
print("|---|---|---|---|---|")
for _, row in ipairs(ROWS) do
  if ours[row[1]] then
    print_row(row[1], row[2], ours[row[1]], peer[row[2]])
  end
end
local share = ours.update and ours.update.share
if share then
  print(("an update reaches %.0f %% of the measured multiply-add peak"):format(100 * share))
end
