-- Every operation against a reference in double precision, over layouts, shapes and dtypes, and
-- every gradient against central differences of that reference. The cases are data: see `cases`.
local tensor = require "rl4vlm.tensor"
local rng = require "rl4vlm.rng"

local unpack, huge = table.unpack, math.huge
local nan = 0 / 0

-- ---- arrays of doubles: { shape = {...}, flat list } ----

local function count(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

local function array(shape, fill)
  local a = { shape = shape }
  for i = 1, count(shape) do a[i] = fill(i) end
  return a
end

-- Calls f(positions) for every position of a shape, in row-major order.
local function each(shape, f)
  local at = {}
  for d = 1, #shape do at[d] = 1 end
  for _ = 1, count(shape) do
    f(at)
    for d = #shape, 1, -1 do
      at[d] = at[d] + 1
      if at[d] <= shape[d] then break end
      at[d] = 1
    end
  end
end

local function flat_index(shape, at, skip)
  local i, own = 0, 0
  for d = 1, #at do
    if d ~= skip then
      own = own + 1
      i = i * shape[own] + at[d] - 1
    end
  end
  return i + 1
end

local function broadcast(...)
  local shape = {}
  for _, a in ipairs { ... } do
    for back = 0, #a.shape - 1 do
      local size = a.shape[#a.shape - back]
      local have = shape[-back]
      if have == nil or have == 1 then shape[-back] = size end
    end
  end
  local out, nd = {}, 0
  while shape[-nd] do nd = nd + 1 end
  for d = 1, nd do out[d] = shape[d - nd] end
  return out
end

-- The element of `a` that meets position `at` of a broadcast shape.
local function meet(a, at)
  local i, extra = 0, #at - #a.shape
  for d = 1, #a.shape do
    local p = a.shape[d] == 1 and 1 or at[d + extra]
    i = i * a.shape[d] + p - 1
  end
  return a[i + 1]
end

local function map(f)
  return function(...)
    local args, shape = { ... }, broadcast(...)
    local out = { shape = shape }
    each(shape, function(at)
      local v = {}
      for k, a in ipairs(args) do v[k] = meet(a, at) end
      out[#out + 1] = f(unpack(v))
    end)
    return out
  end
end

-- f gets the list of elements along `dim`; gives one value (or a list of them, written back).
local function along(dim, f, whole)
  return function(a)
    local out = { shape = {} }
    for d, n in ipairs(a.shape) do
      if d ~= dim or whole then out.shape[#out.shape + 1] = n end
    end
    local rows, order = {}, {}
    local outer = { shape = {} }
    for d, n in ipairs(a.shape) do
      if d ~= dim then outer.shape[#outer.shape + 1] = n end
    end
    each(a.shape, function(at)
      local key = flat_index(outer.shape, at, dim)
      if not rows[key] then
        rows[key] = {}
        order[#order + 1] = key
      end
      table.insert(rows[key], a[flat_index(a.shape, at)])
    end)
    if whole then
      local done = {}
      each(a.shape, function(at)
        local key = flat_index(outer.shape, at, dim)
        done[key] = done[key] or f(rows[key])
        out[#out + 1] = done[key][at[dim]]
      end)
    else
      for i = 1, count(out.shape) do out[i] = f(rows[i] or {}) end
    end
    return out
  end
end

local function all(f)
  return function(a)
    local list = {}
    for i = 1, #a do list[i] = a[i] end
    return { shape = {}, f(list) }
  end
end

local function sum(v)
  local s = 0
  for _, x in ipairs(v) do s = s + x end
  return s
end
local function mean(v) return sum(v) / #v end
local function var(v)
  local m, s = mean(v), 0
  for _, x in ipairs(v) do s = s + (x - m) ^ 2 end
  return s / (#v - 1)
end
local function norm(v)
  local s = 0
  for _, x in ipairs(v) do s = s + x * x end
  return math.sqrt(s)
end
local function logsumexp(v)
  local m, s = -huge, 0
  for _, x in ipairs(v) do m = math.max(m, x) end
  if m == -huge then return m end
  for _, x in ipairs(v) do s = s + math.exp(x - m) end
  return m + math.log(s)
end
local function softmax(v)
  local l, out = logsumexp(v), {}
  for i, x in ipairs(v) do out[i] = math.exp(x - l) end
  return out
end
local function log_softmax(v)
  local l, out = logsumexp(v), {}
  for i, x in ipairs(v) do out[i] = x - l end
  return out
end
local function prod(v)
  local p = 1
  for _, x in ipairs(v) do p = p * x end
  return p
end
local function cumsum(v)
  local s, out = 0, {}
  for i, x in ipairs(v) do
    s = s + x
    out[i] = s
  end
  return out
end
local function tanh(x)
  if math.abs(x) < 0.01 then return x - x ^ 3 / 3 + 2 * x ^ 5 / 15 end -- 1 - 2/(e+1) cancels
  return 1 - 2 / (math.exp(2 * x) + 1)
end
local function sign(x) return x > 0 and 1 or x < 0 and -1 or 0 end
local function round(x)
  local f = math.floor(x)
  local d = x - f
  if d == 0.5 then return f % 2 == 0 and f or f + 1 end
  return d < 0.5 and f or f + 1
end

local function matmul(a, b)
  local m, k, n = a.shape[#a.shape - 1], a.shape[#a.shape], b.shape[#b.shape]
  local batch_a, batch_b = { shape = {} }, { shape = {} }
  for d = 1, #a.shape - 2 do batch_a.shape[d] = a.shape[d] end
  for d = 1, #b.shape - 2 do batch_b.shape[d] = b.shape[d] end
  for i = 1, count(batch_a.shape) do batch_a[i] = (i - 1) * m * k end
  for i = 1, count(batch_b.shape) do batch_b[i] = (i - 1) * k * n end
  local out = { shape = broadcast(batch_a, batch_b) }
  each({ unpack(out.shape) }, function(at)
    local pa, pb = meet(batch_a, at), meet(batch_b, at)
    for i = 0, m - 1 do
      for j = 1, n do
        local s = 0
        for p = 0, k - 1 do s = s + a[pa + i * k + p + 1] * b[pb + p * n + j] end
        out[#out + 1] = s
      end
    end
  end)
  table.insert(out.shape, m)
  table.insert(out.shape, n)
  return out
end

-- ---- numbers ----

local stream = rng.new(20240601)
local function f32(x) return (string.unpack("<f", string.pack("<f", x))) end
-- numbers that all dtypes' arithmetic can meet: bf16 has 8 bits
local function bf16(x)
  local bits = string.unpack("<I4", string.pack("<f", x))
  return (string.unpack("<f", string.pack("<I4", (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000)))
end
local function any_number() return bf16(stream:normal() * 1.5) end
local function positive() return bf16(math.abs(stream:normal()) + 0.25) end
local function apart() return bf16((stream:uniform() < 0.5 and -1 or 1) * (stream:uniform() * 2 + 0.13)) end
local drawn = 0
local function distinct() -- no two of 61 in a row are equal
  drawn = drawn + 1
  return (drawn * 37 % 61 - 30) / 8
end
-- half and quarter numbers, and divisors that never divide them evenly: away from the steps
local function halves() return stream:int(-9, 8) + 0.5 end
local function divisor() return stream:choice { -2, -1, 1, 2 } end

-- ---- layouts: the same elements in memory in different ways ----

local function plain(a, dtype)
  return tensor.from_bytes(string.pack("<" .. ("f"):rep(#a), unpack(a)), a.shape, "f32"):to(dtype)
end
local layouts = {
  contiguous = plain,
  transposed = function(a, dtype)
    local x = plain(a, dtype)
    if x:dim() < 2 then return x end
    return x:transpose(1, -1):clone():transpose(1, -1)
  end,
  strided = function(a, dtype)
    local x = plain(a, dtype)
    if x:dim() == 0 then return x end
    local both = tensor.stack({ x, tensor.zeros_like(x) }, x:dim() + 1):flatten()
    local shape = x:shape()
    shape[#shape] = shape[#shape] * 2
    return both:reshape(shape):slice(#shape, 1, -1, 2)
  end,
  offset = function(a, dtype)
    local x = plain(a, dtype)
    if x:dim() == 0 then return x end
    return tensor.cat { tensor.zeros_like(x), x }:slice(1, x:size(1) + 1, -1)
  end,
}

-- ---- comparing ----

local scale = tonumber(os.getenv("RV_TOL_SCALE") or 1)

-- Largest error in units of the tolerance: `ulp` spacings of the dtype at the expected value.
local eps = { f32 = 2 ^ -24, bf16 = 2 ^ -8 }
local function check(got, want, ulp, what, floor)
  assert.same(want.shape, got:shape(), what .. ": shape")
  local v, e = got:tolist(), eps[got:dtype()] or 0
  for i = 1, #want do
    local w, g = want[i], v[i]
    if type(g) == "boolean" then g = g and 1 or 0 end
    if type(w) == "boolean" then w = w and 1 or 0 end
    local fine = w == g or (w ~= w and g ~= g)
      or math.abs(w - g) <= scale * ulp * (2 * e) * math.max(math.abs(w), floor or 1e-38)
    if not fine then
      error(("%s: element %d is %.9g, wanted %.9g"):format(what, i, g, w), 2)
    end
  end
end

-- ---- the cases ----
-- op: on tensors; ref: on arrays; shapes: lists of the inputs' shapes; draw: a number generator (or
-- one for each input); ulp: tolerance (0.51: correctly rounded but for ties); flat: no gradient.

local one = { { {} }, { { 1 } }, { { 5 } }, { { 3, 4 } }, { { 2, 1, 3 } }, { { 0 } }, { { 2, 0, 3 } }, { { 7, 131 } } }
local two = {
  { {}, {} }, { { 3 }, { 3 } }, { { 3, 4 }, { 4 } }, { { 3, 1 }, { 1, 4 } }, { { 2, 3, 2 }, { 3, 1 } },
  { {}, { 2, 2 } }, { { 0, 3 }, { 3 } }, { { 1 }, { 0 } }, { { 5, 129 }, { 5, 1 } },
}
local three = { { { 2, 3 }, { 2, 3 }, { 3 } }, { { 3, 1 }, { 4 }, {} }, { { 600 }, { 1 }, { 600 } } }
local rows = { { { 4 } }, { { 1 } }, { { 3, 5 } }, { { 2, 3, 2 } }, { { 3, 1 } }, { { 2, 600 } } }

local function unary(name) return function(x) return x[name](x) end end
local function binary(name) return function(a, b) return a[name](a, b) end end

local cases = {
  neg = { op = function(x) return -x end, ref = map(function(x) return -x end), shapes = one },
  abs = { op = unary "abs", ref = map(math.abs), shapes = one, draw = apart },
  sign = { op = unary "sign", ref = map(sign), shapes = one, draw = apart },
  relu = { op = unary "relu", ref = map(function(x) return math.max(x, 0) end), shapes = one, draw = apart },
  square = { op = unary "square", ref = map(function(x) return x * x end), shapes = one },
  floor = { op = unary "floor", ref = map(math.floor), shapes = one, draw = halves, flat = true },
  ceil = { op = unary "ceil", ref = map(math.ceil), shapes = one, draw = halves, flat = true },
  round = { op = unary "round", ref = map(round), shapes = one, flat = true,
    draw = function() return stream:int(-9, 8) + stream:choice { 0.25, 0.75 } end },
  exp = { op = unary "exp", ref = map(math.exp), shapes = one, ulp = 0.51 },
  log = { op = unary "log", ref = map(math.log), shapes = one, draw = positive, ulp = 0.51 },
  sqrt = { op = unary "sqrt", ref = map(math.sqrt), shapes = one, draw = positive },
  tanh = { op = unary "tanh", ref = map(tanh), shapes = one, ulp = 0.51 },
  sigmoid = { op = unary "sigmoid", ref = map(function(x) return 1 / (1 + math.exp(-x)) end),
    shapes = one, ulp = 0.51 },
  sin = { op = unary "sin", ref = map(math.sin), shapes = one, ulp = 1 },
  cos = { op = unary "cos", ref = map(math.cos), shapes = one, ulp = 1, draw = apart },
  clamp = {
    op = function(x) return x:clamp(-0.5, 0.75) end, draw = apart, shapes = one,
    ref = map(function(x) return math.min(math.max(x, -0.5), 0.75) end),
  },
  clamp_below = { op = function(x) return x:clamp(nil, 0.3) end, draw = apart, shapes = one,
    ref = map(function(x) return math.min(x, f32(0.3)) end) },
  add = { op = function(a, b) return a + b end, ref = map(function(a, b) return a + b end), shapes = two },
  sub = { op = function(a, b) return a - b end, ref = map(function(a, b) return a - b end), shapes = two },
  mul = { op = function(a, b) return a * b end, ref = map(function(a, b) return a * b end), shapes = two },
  div = { op = function(a, b) return a / b end, ref = map(function(a, b) return a / b end),
    shapes = two, draw = apart },
  pow = { op = function(a, b) return a ^ b end, ref = map(function(a, b) return a ^ b end), shapes = two,
    draw = { positive, any_number }, ulp = 1 },
  mod = { op = function(a, b) return a % b end, ref = map(function(a, b) return a % b end), shapes = two,
    draw = { halves, divisor } },
  floor_divide = { op = function(a, b) return a // b end, ref = map(function(a, b) return a // b end), shapes = two,
    draw = { halves, divisor }, flat = true },
  maximum = { draw = distinct, op = binary "maximum", ref = map(math.max), shapes = two },
  minimum = { draw = distinct, op = binary "minimum", ref = map(math.min), shapes = two },
  add_number = { op = function(x) return x + 0.5 end, ref = map(function(x) return x + 0.5 end), shapes = one },
  rsub_number = { op = function(x) return 1 - x end, ref = map(function(x) return 1 - x end), shapes = one },
  rdiv_number = { op = function(x) return 2 / x end, ref = map(function(x) return 2 / x end),
    shapes = one, draw = apart },
  pow2 = { op = function(x) return x ^ 2 end, ref = map(function(x) return x ^ 2 end), shapes = one },
  pow3 = { op = function(x) return x ^ 3 end, ref = map(function(x) return x ^ 3 end), shapes = one,
    ulp = 1, draw = apart },
  rpow = { op = function(x) return 2 ^ x end, ref = map(function(x) return 2 ^ x end), shapes = one, ulp = 1 },
  where = {
    op = function(c, a, b) return c:gt(0):where(a, b) end, shapes = three,
    ref = map(function(c, a, b) return c > 0 and a or b end), no_grad = { true }, draw = apart,
  },
  masked_fill = {
    op = function(x) return x:masked_fill(x:lt(0), -1) end, draw = apart, shapes = one,
    ref = map(function(x) return x < 0 and -1 or x end),
  },
  sum = { op = unary "sum", ref = all(sum), shapes = one, ulp = 0.51, floor = 1e-3 },
  mean = { op = unary "mean", ref = all(mean), shapes = rows, ulp = 0.51, floor = 1e-3 },
  prod = { op = unary "prod", ref = all(prod), shapes = { { { 4 } }, { {} }, { { 2, 3 } }, { { 0 } } }, ulp = 0.51 },
  max = { draw = distinct, op = unary "max", ref = all(function(v) return math.max(unpack(v)) end), shapes = rows },
  min = { draw = distinct, op = unary "min", ref = all(function(v) return math.min(unpack(v)) end), shapes = rows },
  var = { op = unary "var", ref = all(var), shapes = { { { 4 } }, { { 3, 5 } }, { { 700 } } }, ulp = 0.51 },
  std = { op = unary "std", ref = all(function(v) return math.sqrt(var(v)) end),
    shapes = { { { 4 } }, { { 3, 5 } } }, ulp = 1.1 },
  norm = { op = unary "norm", ref = all(norm), shapes = rows, ulp = 0.51 },
  logsumexp = { op = unary "logsumexp", ref = all(logsumexp), shapes = rows, ulp = 0.51, floor = 1e-3 },
  sum_1 = { op = function(x) return x:sum(1) end, ref = along(1, sum), shapes = rows, ulp = 0.51, floor = 1e-3 },
  sum_last = { op = function(x) return x:sum(-1) end, ref = function(a) return along(#a.shape, sum)(a) end,
    shapes = rows, ulp = 0.51, floor = 1e-3 },
  mean_2 = { op = function(x) return x:mean(2) end, ref = along(2, mean),
    shapes = { { { 3, 5 } }, { { 2, 3, 2 } }, { { 2, 600 } } }, ulp = 0.51, floor = 1e-3 },
  sum_13 = { op = function(x) return x:sum { 1, 3 } end, shapes = { { { 2, 3, 4 } }, { { 1, 2, 1 } } },
    ulp = 0.51, floor = 1e-3,
    ref = function(a) return along(1, sum)(along(3, sum)(a)) end },
  max_2 = { draw = distinct, op = function(x) return (x:max(2)) end,
    ref = along(2, function(v) return math.max(unpack(v)) end),
    shapes = { { { 3, 5 } }, { { 2, 3, 2 } } } },
  min_1 = { draw = distinct, op = function(x) return (x:min(1)) end,
    ref = along(1, function(v) return math.min(unpack(v)) end),
    shapes = { { { 3, 5 } }, { { 4 } } } },
  prod_2 = { op = function(x) return x:prod(2) end, ref = along(2, prod), shapes = { { { 3, 4 } } }, ulp = 0.51 },
  var_1 = { op = function(x) return x:var(1) end, ref = along(1, var), shapes = { { { 4, 3 } } }, ulp = 0.51 },
  norm_2 = { op = function(x) return x:norm(2) end, ref = along(2, norm), shapes = { { { 4, 3 } } }, ulp = 0.51 },
  logsumexp_2 = { op = function(x) return x:logsumexp(2) end, ref = along(2, logsumexp),
    shapes = { { { 4, 3 } }, { { 2, 5, 2 } } }, ulp = 0.51, floor = 1e-2 },
  softmax_last = { op = function(x) return x:softmax(-1) end, ulp = 0.51, shapes = rows, grad_floor = 0.1,
    ref = function(a) return along(#a.shape, softmax, true)(a) end },
  log_softmax_1 = { op = function(x) return x:log_softmax(1) end, ulp = 0.51, shapes = rows,
    floor = 1e-2, grad_floor = 0.1,
    ref = along(1, log_softmax, true) },
  masked_sum = { op = function(x) return x:masked_sum(x:gt(0)) end, shapes = rows, ulp = 0.51, draw = apart,
    ref = all(function(v)
      local s = 0
      for _, x in ipairs(v) do s = s + (x > 0 and x or 0) end
      return s
    end) },
  masked_mean_2 = { op = function(x) return x:masked_mean(x:gt(0), 2) end, shapes = { { { 6, 4 } } },
    ulp = 1.1, draw = apart,
    ref = along(2, function(v)
      local s, n = 0, 0
      for _, x in ipairs(v) do
        if x > 0 then s, n = s + x, n + 1 end
      end
      return n > 0 and s / n or 0
    end) },
  cumsum_1 = { op = function(x) return x:cumsum(1) end, ref = along(1, cumsum, true), shapes = rows,
    ulp = 0.51, floor = 1e-3 },
  cumsum_last = { op = function(x) return x:cumsum(-1) end, shapes = rows, ulp = 0.51, floor = 1e-3,
    ref = function(a) return along(#a.shape, cumsum, true)(a) end },
  segment_sum = { op = function(x) return x:segment_sum { 0, 2, 2, 5 } end,
    shapes = { { { 5 } }, { { 7 } } }, ulp = 0.51, floor = 1e-3,
    ref = function(a) return { shape = { 3 }, a[1] + a[2], 0, a[3] + a[4] + a[5] } end },
  segment_mean = { op = function(x) return x:segment_mean { 1, 3, 3 } end, shapes = { { { 3, 2 } } },
    ulp = 0.51, floor = 1e-3,
    ref = function(a) return { shape = { 2, 2 }, (a[3] + a[5]) / 2, (a[4] + a[6]) / 2, 0, 0 } end },
  sort = { draw = distinct, op = function(x) return (x:sort(1, true)) end, shapes = { { { 6 } }, { { 1 } } },
    ref = along(1, function(v)
      local s = { unpack(v) }
      table.sort(s, function(a, b) return a > b end)
      return s
    end, true) },
  topk = { draw = distinct, op = function(x) return (x:topk(2)) end, shapes = { { { 3, 5 } } },
    ref = function(a)
      local s = along(2, function(v)
        table.sort(v, function(p, q) return p > q end)
        return v
      end, true)(a)
      return { shape = { 3, 2 }, s[1], s[2], s[6], s[7], s[11], s[12] }
    end },
  gather = { op = function(x) return x:gather(2, tensor.new { { 1, 1, 3 }, { 3, 2, 1 } }) end,
    shapes = { { { 2, 3 } } },
    ref = function(a) return { shape = { 2, 3 }, a[1], a[1], a[3], a[6], a[5], a[4] } end },
  index_select = { op = function(x) return x:index_select(2, tensor.new { 3, 1, 3, 3 }) end,
    shapes = { { { 2, 3 } } },
    ref = function(a) return { shape = { 2, 4 }, a[3], a[1], a[3], a[3], a[6], a[4], a[6], a[6] } end },
  scatter_add = { op = function(x, s) return x:scatter_add(1, tensor.new { 2, 2, 1, 2 }, s) end,
    ulp = 0.51, floor = 1e-3,
    shapes = { { { 3 }, { 4 } } },
    ref = function(a, s) return { shape = { 3 }, a[1] + s[3], a[2] + s[1] + s[2] + s[4], a[3] } end },
  masked_select = { op = function(x) return x:masked_select(tensor.new { { true }, { false }, { true } }) end,
    shapes = { { { 3, 2 } } }, ref = function(a) return { shape = { 4 }, a[1], a[2], a[5], a[6] } end },
  slice = { op = function(x) return x:slice(2, 2, -1, 2) end, shapes = { { { 2, 5 } } },
    ref = function(a) return { shape = { 2, 2 }, a[2], a[4], a[7], a[9] } end },
  select = { op = function(x) return x:select(1, -1) end, shapes = { { { 3, 2 } } },
    ref = function(a) return { shape = { 2 }, a[5], a[6] } end },
  row = { op = function(x) return x[2] end, shapes = { { { 3, 2 } } },
    ref = function(a) return { shape = { 2 }, a[3], a[4] } end },
  transpose = { op = function(x) return x:transpose() end, shapes = { { { 2, 3 } } },
    ref = function(a) return { shape = { 3, 2 }, a[1], a[4], a[2], a[5], a[3], a[6] } end },
  permute = { op = function(x) return x:permute(3, 1, 2) end, shapes = { { { 2, 1, 3 } } },
    ref = function(a) return { shape = { 3, 2, 1 }, a[1], a[4], a[2], a[5], a[3], a[6] } end },
  reshape = { op = function(x) return x:transpose():reshape(-1, 2) end, shapes = { { { 2, 3 } } },
    ref = function(a) return { shape = { 3, 2 }, a[1], a[4], a[2], a[5], a[3], a[6] } end },
  expand = { op = function(x) return x:expand(2, 3) end, shapes = { { { 2, 1 } } },
    ref = function(a) return { shape = { 2, 3 }, a[1], a[1], a[1], a[2], a[2], a[2] } end },
  squeeze = { op = function(x) return x:squeeze():unsqueeze(1) end, shapes = { { { 1, 3, 1 } } },
    ref = function(a) return { shape = { 1, 3 }, a[1], a[2], a[3] } end },
  cat = { op = function(a, b) return tensor.cat({ a, b, a }, 2) end, shapes = { { { 2, 1 }, { 2, 2 } } },
    ref = function(a, b) return { shape = { 2, 4 }, a[1], b[1], b[2], a[1], a[2], b[3], b[4], a[2] } end },
  stack = { op = function(a, b) return tensor.stack({ a, b }, 2) end, shapes = { { { 3 }, { 3 } } },
    ref = function(a, b) return { shape = { 3, 2 }, a[1], b[1], a[2], b[2], a[3], b[3] } end },
  split = { op = function(x) return x:split({ 1, 2 }, 2)[2] end, shapes = { { { 2, 3 } } },
    ref = function(a) return { shape = { 2, 2 }, a[2], a[3], a[5], a[6] } end },
  matmul = { op = binary "matmul", ref = matmul, ulp = 0.51, floor = 1e-2,
    shapes = { { { 2, 3 }, { 3, 4 } }, { { 1, 1 }, { 1, 1 } }, { { 2, 0 }, { 0, 3 } }, { { 2, 2, 3 }, { 3, 2 } },
      { { 3, 1, 2, 2 }, { 2, 2, 1 } }, { { 3, 70 }, { 70, 67 } } } },
  dot = { op = binary "matmul", ulp = 0.51, floor = 1e-2, shapes = { { { 3 }, { 3 } } },
    ref = function(a, b) return { shape = {}, a[1] * b[1] + a[2] * b[2] + a[3] * b[3] } end },
  matvec = { op = binary "matmul", ulp = 0.51, floor = 1e-2, shapes = { { { 2, 2 }, { 2 } } },
    ref = function(a, b) return { shape = { 2 }, a[1] * b[1] + a[2] * b[2], a[3] * b[1] + a[4] * b[2] } end },
  to_bf16 = { op = function(x) return x:to "bf16":to "f32" end, ref = function(a) return a end, shapes = one },
}

local names = {}
for name in pairs(cases) do names[#names + 1] = name end
table.sort(names)

local function inputs_of(case, shapes)
  local list = {}
  for k, shape in ipairs(shapes) do
    local draw = case.draw or any_number
    if type(draw) == "table" then draw = draw[k] end
    list[k] = array(shape, draw)
  end
  return list
end

local function label(name, shapes, layout)
  local text = {}
  for k, s in ipairs(shapes) do text[k] = "(" .. table.concat(s, ",") .. ")" end
  return name .. " " .. table.concat(text, " ") .. " " .. layout
end

describe("tensor operations equal a double-precision reference", function()
  for _, name in ipairs(names) do
    it(name, function()
      local case = cases[name]
      for _, shapes in ipairs(case.shapes) do
        local inputs = inputs_of(case, shapes)
        local want = case.ref(unpack(inputs))
        for layout, make in pairs(layouts) do
          for _, dtype in ipairs { "f32", "bf16" } do
            local x = {}
            for k, a in ipairs(inputs) do x[k] = make(a, dtype) end
            local got = case.op(unpack(x))
            assert.equal(name == "to_bf16" and "f32" or dtype, got:dtype(), name)
            check(got, want, case.ulp or 0.5, label(name, shapes, layout) .. " " .. dtype, case.floor)
          end
        end
      end
    end)
  end
end)

-- d ref / d input k, element i, by central differences of the double reference, weighted by w
local function difference(case, inputs, k, i, w)
  local a, h = inputs[k], 1e-5
  local keep = a[i]
  local function weighted(v)
    a[i] = v
    local out, s = case.ref(unpack(inputs)), 0
    for j = 1, #out do s = s + out[j] * w[j] end
    return s
  end
  local up, down = weighted(keep + h), weighted(keep - h)
  a[i] = keep
  return (up - down) / (2 * h)
end

describe("gradients equal central differences of the reference", function()
  for _, name in ipairs(names) do
    it(name, function()
      local case = cases[name]
      for _, shapes in ipairs(case.shapes) do
        local inputs = inputs_of(case, shapes)
        local want = case.ref(unpack(inputs))
        local w = array(want.shape, any_number)
        for layout, make in pairs(layouts) do
          local leaves, x = {}, {}
          for k, a in ipairs(inputs) do
            leaves[k] = make(a, "f32")
            if not (case.no_grad and case.no_grad[k]) then leaves[k]:requires_grad_() end
            x[k] = leaves[k]
          end
          local y = case.op(unpack(x))
          assert.is_true(y:requires_grad(), name)
          y:backward(plain(w, "f32"))
          for k, a in ipairs(inputs) do
            if leaves[k]:requires_grad() and #a > 0 then
              local g = leaves[k].grad
              local got = g and g:tolist() or {}
              if g then assert.same(a.shape, g:shape()) end
              for i = 1, #a, math.max(1, #a // 7) do
                local expect = difference(case, inputs, k, i, w)
                local near = 2e-6 * math.max(math.abs(expect), case.grad_floor or 1) * scale
                if math.abs(expect - (got[i] or 0)) > near * 5 then
                  error(("%s: d/d%d[%d] is %s, wanted %.8g"):format(label(name, shapes, layout), k, i,
                    tostring(got[i]), expect))
                end
              end
            end
          end
        end
      end
    end)
  end
end)

-- ---- all dtypes ----

local dtypes = { "bool", "u8", "i32", "i64", "bf16", "f32" }
local rank = {}
for i, t in ipairs(dtypes) do rank[t] = i end

describe("dtypes", function()
  local values = { bool = { 1, 0, 1 }, u8 = { 3, 200, 0 }, i32 = { -7, 3, 0 }, i64 = { 5, -2, 1 << 40 },
    bf16 = { 1.5, -2, 0 }, f32 = { 0.25, -3, 7 } }
  local function make(t) return tensor.new(values[t]):to(t) end

  it("meet at the higher rank, bool arithmetic in i64", function()
    for _, a in ipairs(dtypes) do
      for _, b in ipairs(dtypes) do
        local want = dtypes[math.max(rank[a], rank[b])]
        local y = make(a) + make(b)
        assert.equal(want == "bool" and "i64" or want, y:dtype())
        assert.equal("bool", make(a):lt(make(b)):dtype())
        assert.equal(rank[want] < 5 and "f32" or want, (make(a) / make(b)):dtype())
        assert.equal(want, make(a):maximum(make(b)):dtype())
      end
    end
  end)

  it("are not widened by numbers or tensors without dims of their kind", function()
    for _, t in ipairs(dtypes) do
      local x = make(t)
      assert.equal(t == "bool" and "i64" or t, (x + 1):dtype())
      assert.equal(rank[t] >= 5 and t or "f32", (x + 0.5):dtype())
      assert.equal(rank[t] >= 5 and t or "f32", (0.5 + x):dtype())
      assert.equal(t == "bool" and "i64" or t, (x * tensor.new(1)):dtype())
    end
    assert.equal("f32", (tensor.new(1) + tensor.new(0.5)):dtype())
  end)

  it("compare and compute integers exactly", function()
    local big = (1 << 62) + 1
    local x = tensor.new { big, -big, 7, -7 }
    assert.same({ big + 1, -big + 1, 8, -6 }, (x + 1):tolist())
    assert.same({ big // 2, -big // 2, 3, -4 }, (x // 2):tolist())
    assert.same({ big % 3, -big % 3, 1, 2 }, (x % 3):tolist())
    assert.same({ true, false, false, false }, x:gt(big - 1):tolist())
    assert.same({ big * 3, -big * 3, 21, -21 }, (x * 3):tolist()) -- wraps as Lua's
    assert.same({ math.mininteger }, (tensor.new { math.mininteger } // -1):tolist())
    assert.same({ 0 }, (tensor.new { math.mininteger } % -1):tolist())
    assert.equal(big, x:max():item())
    assert.equal("i64", tensor.new({ 1, 2 }, "u8"):sum():dtype())
    assert.equal(510, tensor.new({ 255, 255 }, "u8"):sum():item())
  end)

  it("convert: floats to integers towards zero, at the ends, NaN as 0", function()
    local x = tensor.new { 2.9, -2.9, 300, -1, 1e30, -1e30, nan }
    assert.same({ 2, -2, 300, -1, math.maxinteger, math.mininteger, 0 }, x:to "i64":tolist())
    assert.same({ 2, -2, 300, -1, 2 ^ 31 - 1 | 0, -(1 << 31), 0 }, x:to "i32":tolist())
    assert.same({ 2, 0, 255, 0, 255, 0, 0 }, x:to "u8":tolist())
    assert.same({ true, true, true, true, true, true, true }, x:to "bool":tolist())
    assert.same({ false, true }, tensor.new { 0.0, 0.5 }:to "bool":tolist())
    assert.same({ 1, 0 }, tensor.new { true, false }:to "f32":tolist())
  end)

  it("round to bf16 to the nearest even, NaN and infinities stay", function()
    local x = tensor.new { 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, 3.4e38, huge, -huge, nan }:to "bf16":tolist()
    assert.same({ 1, 1 + 2 ^ -6 }, { x[1], x[2] })
    assert.same({ huge, huge, -huge }, { x[3], x[4], x[5] })
    assert.is_true(x[6] ~= x[6])
  end)

  it("reduce, sort and index in every dtype", function()
    for _, t in ipairs(dtypes) do
      local x, v = make(t), make(t):tolist()
      local n = {}
      for i, e in ipairs(v) do n[i] = e == true and 1 or e == false and 0 or e end
      assert.equal(n[1] + n[2] + n[3], x:sum():item())
      local hi = math.max(unpack(n))
      local got = x:max():item()
      assert.equal(hi, got == true and 1 or got == false and 0 or got)
      assert.same({ v[3], v[1] }, x:index_select(1, tensor.new { 3, 1 }):tolist())
      assert.equal(t, (x:sort()):dtype())
      assert.equal(n[1] ~= 0 or n[2] ~= 0 or n[3] ~= 0, x:any():item())
      assert.equal(n[1] ~= 0 and n[2] ~= 0 and n[3] ~= 0, x:all():item())
      assert.same(v, tensor.from_bytes(x:to_bytes(), { 3 }, t):tolist())
      assert.same({ n[1], n[1] + n[2], n[1] + n[2] + n[3] }, x:cumsum(1):tolist())
    end
  end)
end)

describe("special values", function()
  local function list(t) return t:tolist() end
  it("pass through the functions", function()
    assert.same({ 0, 1, huge }, list(tensor.new { -huge, 0.0, huge }:exp()))
    assert.same({ -huge, 0, huge }, list(tensor.new { 0.0, 1, huge }:log()))
    assert.same({ -1, 0, 1 }, list(tensor.new { -huge, 0, huge }:tanh()))
    assert.same({ 0, 0.5, 1 }, list(tensor.new { -huge, 0, huge }:sigmoid()))
    for _, f in ipairs { "exp", "log", "tanh", "sigmoid", "sqrt", "abs", "neg", "relu", "floor" } do
      local v = tensor.new { nan }[f](tensor.new { nan }):item()
      assert.is_true(v ~= v, f)
    end
    assert.is_true(tensor.new { -1.0 }:log():isnan():item())
    assert.same({ f32(1e-40) }, list(tensor.new { f32(1e-40) }:log():exp():sub(0)))
  end)
  it("make NaN win extremes, sort last", function()
    local x = tensor.new { 1, nan, 3.0 }
    assert.is_true(x:max():isnan():item())
    assert.equal(2, x:argmin():item())
    assert.is_true(x:maximum(0):isnan():tolist()[2])
    assert.is_true(tensor.new { 1.0 }:minimum(tensor.new { nan }):isnan():item())
    local _, at = x:sort()
    assert.same({ 1, 3, 2 }, list(at))
    _, at = x:sort(1, true)
    assert.same({ 2, 3, 1 }, list(at))
    assert.is_true(x:clamp(0, 1):isnan():tolist()[2])
  end)
  it("of empty and infinite reductions", function()
    local e = tensor.zeros(0)
    assert.equal(0, e:sum():item())
    assert.equal(1, e:prod():item())
    assert.is_true(e:mean():isnan():item())
    assert.equal(-huge, e:logsumexp():item())
    assert.equal(false, e:any():item())
    assert.equal(true, e:all():item())
    assert.equal(-huge, tensor.new { -huge, -huge }:logsumexp():item())
    assert.equal(huge, tensor.new { huge, 1 }:logsumexp():item())
    assert.same({ 0, 0 }, tensor.zeros(2, 0):sum(2):tolist())
    local g = tensor.new { -huge, -huge }:requires_grad_()
    g:logsumexp():backward()
    assert.same({ 0, 0 }, list(g.grad))
  end)
  it("sort stably", function()
    local _, at = tensor.new { 2, 1, 2, 1, 2 }:sort()
    assert.same({ 2, 4, 1, 3, 5 }, list(at))
    _, at = tensor.new { 2, 1, 2, 1, 2 }:sort(1, true)
    assert.same({ 1, 3, 5, 2, 4 }, list(at))
  end)
  it("share the gradient among equal extremes and products with zeros", function()
    local x = tensor.new { 3, 1, 3.0 }:requires_grad_()
    x:max():backward()
    assert.same({ 0.5, 0, 0.5 }, list(x.grad))
    local p = tensor.new { 2, 0, 3.0 }:requires_grad_()
    p:prod():backward()
    assert.same({ 0, 6, 0 }, list(p.grad))
    p = tensor.new { 0, 0, 3.0 }:requires_grad_()
    p:prod():backward()
    assert.same({ 0, 0, 0 }, list(p.grad))
    local n = tensor.new { 0, 0.0 }:requires_grad_()
    n:norm():backward()
    assert.same({ 0, 0 }, list(n.grad))
  end)
  it("sums in fp64", function()
    local x = tensor.cat { tensor.new { 1e8 }, tensor.ones(1000), tensor.new { -1e8 } }
    assert.equal(1000, x:sum():item())
    assert.equal(1000, x:segment_sum { 0, 1002 }:item())
    assert.equal(1000, x:cumsum(1):tolist()[1002])
    assert.equal(1000, x:matmul(tensor.ones(1002)):item())
  end)
end)
