-- summary.lua - sums the tests in a log of ctest: cmocka's and busted's own counts, and one for each
-- program that ends badly without having said so.  rl4vlm tests/summary.lua LastTest.log

-- Counts of one program's output (cmocka's standard form, or TAP from busted).
local function count(output)
  local passed, failed, skipped = 0, 0, 0
  for line in output:gmatch("[^\n]+") do
    if line:match("^%[       OK %]") then
      passed = passed + 1
    elseif line:match("^%[  SKIPPED %] %D") or line:match("^ok %d+ %- # SKIP") then
      skipped = skipped + 1
    elseif line:match("^%[  FAILED  %] %D") or line:match("^not ok ") then
      failed = failed + 1
    elseif line:match("^ok %d+ ") then
      passed = passed + 1
    end
  end
  return passed, failed, skipped
end

local file = assert(io.open(arg[1], "r"))
local log = file:read("a")
file:close()

local passed, failed, skipped = 0, 0, 0
for name, rest in log:gmatch("\n%d+/%d+ Test: ([^\n]+)(.-)\n\"[^\n]+\" end time") do
  local p, f, s = count(rest)
  local ok = rest:match("\nTest time = [^\n]+\n%-+\nTest Pass") ~= nil
  if name:match("^runner_") then -- a test of the test runner: its program fails on purpose
    p, f, s = ok and 1 or 0, ok and 0 or 1, 0
  elseif not ok and f == 0 then
    f = 1
  end
  passed, failed, skipped = passed + p, failed + f, skipped + s
end
print(("%d passed, %d failed, %d skipped"):format(passed, failed, skipped))
os.exit(failed == 0 and passed > 0)
