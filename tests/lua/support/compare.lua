-- compare.lua - our numbers beside those of golden files: lists, gradients, losses.
local assert = require "luassert"
local tensor = require "rl4vlm.tensor"

local M = {}

-- The numbers of a slice.
function M.floats(slice)
  return slice:convert("F32"):list()
end

-- The largest distance of two lists, and the largest number of the second.
function M.furthest(a, b)
  assert.equal(#b, #a)
  local worst, largest = 0, 0
  for i = 1, #a do
    worst, largest = math.max(worst, math.abs(a[i] - b[i])), math.max(largest, math.abs(b[i]))
  end
  return worst, largest
end

-- The prompts of a case as samples, and the weights of all their answer tokens behind one another.
function M.samples_of(prompts)
  local samples, weights = {}, {}
  for i, p in ipairs(prompts) do
    samples[i] = { ids = p.ids, answer = p.answer, images = p.images }
    table.move(p.weights, 1, #p.weights, #weights + 1, weights)
  end
  return samples, tensor.new(weights, { dtype = "f32" })
end

-- The fixed vector of make_golden.py: a list's norm, and its dot product with that.
function M.figures(list)
  local norm, dot = 0, 0
  for i, x in ipairs(list) do
    norm = norm + x * x
    dot = dot + x * (((i - 1) * 2654435761 + 12345 & 0xffffffff) / 2 ^ 31 - 1)
  end
  return norm ^ 0.5, dot
end

-- Judges gradients by name: relative to their own norm, tiny ones to the largest.
function M.check_gradients(wanted, gradient)
  local largest, count = 0, 0
  for _, pair in pairs(wanted) do
    largest = math.max(largest, pair[1])
  end
  for name, pair in pairs(wanted) do
    local norm, dot = M.figures(gradient(name))
    local scale = math.max(pair[1], 1e-4 * largest)
    assert.is_true(math.abs(norm - pair[1]) <= 1e-4 * scale, name .. ": norm")
    assert.is_true(math.abs(dot - pair[2]) <= 2e-4 * scale, name .. ": dot product")
    count = count + 1
  end
  return count
end

function M.sum(list)
  local total = 0
  for _, x in ipairs(list) do
    total = total + x
  end
  return total
end

return M
