-- stats.lua - figures of lists of numbers: means, intervals, spreads. Empty lists give nil.
local M = {}

---@param list number[]
---@return number|nil
function M.mean(list)
  if #list == 0 then
    return nil
  end
  local sum = 0.0
  for _, x in ipairs(list) do
    sum = sum + x
  end
  return sum / #list
end

---Standard deviation around the mean, divided by n.
---@param list number[]
---@return number|nil
function M.std(list)
  local mean = M.mean(list)
  if not mean then
    return nil
  end
  local sum = 0.0
  for _, x in ipairs(list) do
    sum = sum + (x - mean) ^ 2
  end
  return math.sqrt(sum / #list)
end

---Standard error of the mean (sample deviation over root n); nil below two numbers.
---@param list number[]
---@return number|nil
function M.sem(list)
  if #list < 2 then
    return nil
  end
  return M.std(list) / math.sqrt(#list - 1)
end

---Mean, maximum and minimum.
---@param list number[]
---@return number|nil mean, number|nil max, number|nil min
function M.spread(list)
  local max, min = list[1], list[1]
  for _, x in ipairs(list) do
    max, min = math.max(max, x), math.min(min, x)
  end
  return M.mean(list), max, min
end

---The Wilson score interval of a share at 95 %.
---@param hits integer
---@param n integer
---@return number low, number high
function M.wilson(hits, n)
  if n == 0 then
    return 0.0, 1.0
  end
  local z, p = 1.959963984540054, hits / n
  local centre = (p + z * z / (2 * n)) / (1 + z * z / n)
  local half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
  return math.max(0.0, centre - half), math.min(1.0, centre + half)
end

---Share of the variance of `truth` that `guess` explains; nil where truth does not vary.
---@param truth number[]
---@param guess number[]
---@return number|nil
function M.explained_variance(truth, guess)
  local spread = M.std(truth)
  if not spread or spread == 0 then
    return nil
  end
  local residual = {}
  for i, x in ipairs(truth) do
    residual[i] = x - guess[i]
  end
  return 1 - (M.std(residual) / spread) ^ 2
end

return M
