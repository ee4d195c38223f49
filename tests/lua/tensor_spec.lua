local tensor = require "rl4vlm.tensor"
local rng = require "rl4vlm.rng"

local function raises(message, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.equal(message, (tostring(err):gsub("^[^:]+:%d+: ", "")))
end

describe("making tensors", function()
  it("takes nested lists", function()
    local x = tensor.new { { 1, 2.5 }, { 3, 4 } }
    assert.same({ { 1, 2.5 }, { 3, 4 } }, x:to_table())
    assert.same({ 2, 2 }, x:shape())
    assert.equal("f32", x:dtype())
    assert.equal("i64", tensor.new({ 1, 2 }):dtype())
    assert.equal("bool", tensor.new({ true, false }):dtype())
    assert.equal("i64", tensor.new({ true, 2 }):dtype())
    assert.equal(3, tensor.new(3):item())
    assert.same({}, tensor.new(3):shape())
    assert.same({ 0 }, tensor.new({}):shape())
    assert.same({ 2, 0 }, tensor.new({ {}, {} }):shape())
    assert.same({ 1, 2 }, tensor.new({ 1.7, 2 }, "i32"):tolist())
    local copy = tensor.new(x)
    copy[1] = 0
    assert.equal(1, x[1][1]:item())
  end)
  it("takes sizes and options in every form", function()
    for _, x in ipairs {
      tensor.zeros(2, 3, "i32"), tensor.zeros({ 2, 3 }, "i32"), tensor.zeros({ 2, 3 }, { dtype = "i32" }),
      tensor.zeros(2, 3, { dtype = "i32", device = "cpu" }), tensor.full(0, 2, 3, "i32"),
    } do
      assert.same({ 2, 3 }, x:shape())
      assert.equal("i32", x:dtype())
    end
    assert.same({}, tensor.ones():shape())
    assert.same({}, tensor.ones({}):shape())
    assert.equal(2.5, tensor.full(2.5, {}):item())
  end)
  it("counts and spaces", function()
    assert.same({ 1, 2, 3 }, tensor.arange(3):tolist())
    assert.same({ 2, 4, 6 }, tensor.arange(2, 7, 2):tolist())
    assert.same({ 3, 2, 1 }, tensor.arange(3, 1, -1):tolist())
    assert.same({}, tensor.arange(3, 1):tolist())
    assert.same({ 0.5, 1, 1.5 }, tensor.arange(0.5, 1.5, 0.5):tolist())
    assert.equal("i64", tensor.arange(3):dtype())
    assert.same({ 0, 0.5, 1 }, tensor.linspace(0, 1, 3):tolist())
    assert.same({ 7 }, tensor.linspace(7, 9, 1):tolist())
    assert.same({ { 1, 0, 0 }, { 0, 1, 0 } }, tensor.eye(2, 3):to_table())
  end)
  it("draws from a stream, the same numbers for the same stream", function()
    local a, b = tensor.randn(rng.new(7), 3, 4), tensor.randn(rng.new(7), 12)
    assert.same(a:tolist(), b:tolist())
    local u = tensor.rand(rng.new(1), 10000)
    assert.is_true(u:ge(0):all():item() and u:lt(1):all():item())
    assert.near(0.5, u:mean():item(), 0.01)
    local n = tensor.randn(rng.new(2), 10000)
    assert.near(0, n:mean():item(), 0.04)
    assert.near(1, n:std():item(), 0.03)
  end)
  it("reads and writes safetensors files", function()
    local path = os.tmpname()
    local t = { a = tensor.new { 1, 2.5 }, ["b.c"] = tensor.arange(6):reshape(2, 3):transpose(),
      s = tensor.new(3), m = tensor.new { true, false }, h = tensor.new({ 0.5 }, "bf16"), e = tensor.zeros(0, 2) }
    tensor.save(path, t)
    local back = tensor.load(path)
    for name, x in pairs(t) do
      assert.same(x:to_table(), back[name]:to_table())
      assert.same(x:shape(), back[name]:shape())
      assert.equal(x:dtype(), back[name]:dtype())
    end
    local safetensors = require "rl4vlm.safetensors"
    safetensors.write(path, { h = { dtype = "F16", shape = { 2 }, data = string.pack("<I2I2", 0x3c00, 0xc000) } })
    assert.same({ 1, -2 }, tensor.load(path).h:tolist())
    safetensors.write(path, { h = { dtype = "I8", shape = { 1 }, data = "x" } })
    raises(path .. ": tensor 'h' is I8; tensors are F32, F16, F64, BF16, I32, I64, U8 or BOOL", tensor.load, path)
    os.remove(path)
    raises("cannot open " .. path .. ": No such file or directory", tensor.load, path)
    raises("save: wanted names and tensors, got a number with a userdata", tensor.save, path, { tensor.new(1) })
  end)
end)

describe("views", function()
  it("share elements", function()
    local x = tensor.arange(6):reshape(2, 3)
    x:transpose()[3]:copy_(tensor.new { 30, 60 })
    assert.same({ { 1, 2, 30 }, { 4, 5, 60 } }, x:to_table())
    x[2] = 0
    assert.same({ 0, 0, 0 }, x[2]:tolist())
    x:slice(2, 1, 2):add_(10)
    assert.same({ { 11, 12, 30 }, { 10, 10, 0 } }, x:to_table())
    assert.equal(30, x[1][3]:item())
    assert.equal(30, x[-2][-1]:item())
  end)
  it("copy overlapping rows through a buffer", function()
    local x = tensor.arange(5)
    x:slice(1, 2, 5):copy_(x:slice(1, 1, 4))
    assert.same({ 1, 1, 2, 3, 4 }, x:tolist())
    x:slice(1, 1, 4):add_(x:slice(1, 2, 5))
    assert.same({ 2, 3, 5, 7, 4 }, x:tolist())
  end)
  it("know their layout", function()
    local x = tensor.zeros(2, 3)
    assert.is_true(x:is_contiguous())
    assert.is_false(x:transpose():is_contiguous())
    assert.is_true(x:transpose():contiguous():is_contiguous())
    assert.equal(2, #x)
    assert.equal(3, x:size(-1))
    assert.same({ 2, 3 }, { x:size() })
    assert.equal(6, x:numel())
    assert.equal(2, x:dim())
  end)
end)

describe("softmax", function()
  it("adds up to 1 where the elements are so large that a logarithm beside them is lost", function()
    assert.same({ 0.5, 0.5, 0 }, tensor.new { 1e30, 1e30, -1e30 }:softmax(1):tolist())
    local logs = tensor.new { -1e30, -1e30 }:log_softmax(1):tolist()
    assert.near(-math.log(2), logs[1], 1e-7)
    assert.near(-math.log(2), logs[2], 1e-7)
  end)
end)

describe("plain numbers", function()
  it("beyond an integer type's range divide it and are powers of it, for those compute in floating point", function()
    local x = tensor.new({ 1, 200 }, "u8")
    assert.same({ -0.5, -100 }, (x / -2):tolist())
    assert.same({ 300, 1.5 }, (300 / x):tolist())
    assert.same({ 1, 1 / 256 }, (tensor.new({ 1, 16 }, "u8") ^ -2):tolist())
  end)
  it("beyond an integer type's range compare as what they are", function()
    local x, i = tensor.new({ 1, 44 }, "u8"), tensor.new({ -1, 0 }, "i32")
    assert.same({ true, true }, x:gt(-1):tolist())
    assert.same({ true, true }, x:lt(300):tolist())
    assert.same({ false, false }, x:eq(300):tolist())
    assert.same({ true, true }, x:ne(-212):tolist())
    assert.same({ false, false }, i:ge(1 << 40):tolist())
    assert.same({ true, true }, i:le(1 << 32):tolist())
  end)
end)

describe("misuse", function()
  it("of an assignment names the line", function()
    local x = tensor.zeros(2, 3)
    local line = debug.getinfo(1, "l").currentline
    local _, shapes = pcall(function() x[1] = tensor.zeros(4) end)
    local _, place = pcall(function() x[3] = 0 end)
    assert.matches("tensor_spec.lua:" .. line + 1 .. ": copy_: shapes %(3%) and %(4%) do not broadcast$", shapes)
    assert.matches("tensor_spec.lua:" .. line + 2 .. ": index 3 is outside 1..2 %(shape %(2, 3%)%)$", place)
  end)

  local x23, x4 = tensor.zeros(2, 3), tensor.zeros(4)
  local closed = tensor.zeros(1)
  closed:close()
  local shared = tensor.zeros(2):expand(3, 2)
  for _, case in ipairs {
    { "add: shapes (2, 3) and (4) do not broadcast", function() return x23 + x4 end },
    { "where: shapes (4), (2, 3) and () do not broadcast", function() return x4:gt(0):where(x23, 1) end },
    { "where: wanted a bool condition, got f32 of shape (4)", function() return x4:where(1, 2) end },
    { "floor_divide: integer division by zero at element 2", function() return tensor.new { 1, 1 } // tensor.new { 1, 0 } end },
    { "add: 300 does not fit into u8", function() return tensor.zeros(1, "u8") + 300 end },
    { "clamp: the lower bound 2.0 is above the upper bound 1.0", function() return x4:clamp(2, 1) end },
    { "add_: a floating result does not go into i64 (shape (1))", function() tensor.new({ 1 }):add_(0.5) end },
    { "add_: shapes (2, 3) and (4) do not broadcast", function() x23:add_(x4) end },
    { "add_: shape (2, 3) does not broadcast into (3)", function() tensor.zeros(3):add_(x23) end },
    { "copy_: cannot write into an expanded view of shape (3, 2): several elements share one place (clone it first)",
      function() shared:copy_(1) end },
    { "bad argument #1 to 'sum' (the tensor is closed)", function() closed.sum(closed) end },
    { "reshape: shape (2, 3) (6 elements) does not fit into (4, -1)", function() return x23:reshape(4, -1) end },
    { "split: size 2 (number 2) does not fit into dim 2 of shape (2, 3)", function() return x23:split({ 2, 2 }, 2) end },
    { "split: size -1 (number 1) does not fit into dim 2 of shape (2, 3)", function() return x23:split({ -1, 4 }, 2) end },
    { "expand: shape (2, 3) does not grow to (2, 4)", function() return x23:expand(2, 4) end },
    { "view: shape (3, 2) is not contiguous (use reshape)", function() return x23:transpose():view(6) end },
    { "slice: 1..4 is outside 1..3 (dim 2 of shape (2, 3))", function() return x23:slice(2, 1, 4) end },
    { "select: index 3 is outside 1..2 (dim 1 of shape (2, 3))", function() return x23:select(1, 3) end },
    { "index 0 is outside 1..2 (shape (2, 3))", function() return x23[0] end },
    { "permute: wanted each dim of shape (2, 3) once, got (1, 1)", function() return x23:permute(1, 1) end },
    { "cat: tensor 2 has shape (4), which does not join (2, 3) along dim 1", function()
      return tensor.cat { x23, x4 }
    end },
    { "stack: tensor 2 has shape (4), the first (2, 3)", function() return tensor.stack { x23, x4 } end },
    { "split: the sizes add up to 3, dim 1 of shape (4)", function() return x4:split { 1, 2 } end },
    { "matmul: shapes (2, 3) and (4) do not fit", function() return x23:matmul(x4) end },
    { "matmul: wanted floating types, got i64 and u8", function()
      return tensor.new({ 1 }):matmul(tensor.ones(1, "u8"))
    end },
    { "gather: positions of shape (4) for an input of (2, 3): all dims but 2 must agree",
      function() return x23:gather(2, tensor.arange(4)) end },
    { "gather: positions must be integers, got f32 of shape (4)", function() return x4:gather(1, x4) end },
    { "gather: dim 1 of shape (4): index 5 (element 2) is outside 1..4", function()
      return x4:gather(1, tensor.new { 1, 5 })
    end },
    { "index_select: dim 1 of shape (4): index 0 (element 1) is outside 1..4", function()
      return x4:index_select(1, tensor.new { 0 })
    end },
    { "masked_select: wanted a bool mask, got f32 of shape (4)", function() return x4:masked_select(x4) end },
    { "max: shape (2, 0) has no elements along dim 2", function() return tensor.zeros(2, 0):max() end },
    { "topk: 5 elements of dim 1 of shape (4)", function() return x4:topk(5) end },
    { "segment_sum: segment 2 goes from 3 to 5, but shape (4) has rows 0 to 4", function()
      return x4:segment_sum { 0, 3, 5 }
    end },
    { "item: wanted one element, got shape (4)", function() return x4:item() end },
    { "new: lists at level 2 have 2 and 1 elements", function() return tensor.new { { 1, 2 }, { 3 } } end },
    { "new: lists at level 2 have 2 elements, then there is a number", function()
      return tensor.new { { 1, 2 }, 3 }
    end },
    { "new: element 2 is a string; wanted a number or a boolean", function() return tensor.new { 1, "2" } end },
    { "from_bytes: f32 of shape (2) is 8 bytes, got 3", function() return tensor.from_bytes("abc", { 2 }) end },
    { "from_bytes: byte 1 is 97; a bool is 0 or 1", function() return tensor.from_bytes("a", { 1 }, "bool") end },
    { "zeros: wanted sizes of 0 or more, got (-1)", function() return tensor.zeros(-1) end },
    { "zeros: out of memory for a tensor of f32 of shape (4611686018427387904, 4)", function()
      return tensor.zeros(1 << 62, 4)
    end },
    { "a tensor has no field 'name' to set", function() x4.name = 1 end },
  } do
    it("says: " .. case[1], function()
      local ok, err = pcall(case[2])
      assert.is_false(ok)
      assert.equal(case[1], (err:gsub("^[^:]+:%d+: ", "")))
    end)
  end
  it("names unknown dtypes, devices, options and dims", function()
    for message, f in pairs {
      ["unknown dtype 'f16' %(f32, bf16, i32, i64, u8, bool%)"] = function() return tensor.zeros(2, "f16") end,
      ["device 'cuda' is not there %(cpu%)"] = function() return tensor.zeros(2, { device = "cuda" }) end,
      ["unknown option 'devce' %(did you mean 'device'%?%)"] = function() return tensor.zeros(2, { devce = 1 }) end,
      ["dim 3 of a tensor with 2 dims"] = function() return x23:sum(3) end,
      ["dim 0 of a tensor with 2 dims"] = function() return x23:softmax(0) end,
      ["wanted at most 8 dims, got 9"] = function() return tensor.zeros(1, 1, 1, 1, 1, 1, 1, 1, 1) end,
      ["rl4vlm.Tensor expected, got string"] = function() return x4 + "1" end,
    } do
      assert.error_matches(f, message)
    end
  end)
end)

describe("life", function()
  it("ends once, and views outlive what they view", function()
    local x = tensor.arange(3)
    local y = x:slice(1, 2, 3)
    x:close()
    x:close()
    assert.equal("tensor (closed)", tostring(x))
    assert.same({ 2, 3 }, y:tolist())
    assert.is_true(tensor.is_tensor(x))
    assert.is_false(tensor.is_tensor(3))
  end)
  it("closes at the end of a block", function()
    local before = tensor.memory()
    do
      local x <close> = tensor.zeros(1000)
      assert.equal(before + 4000, (tensor.memory()))
      assert.equal(1000, x:numel())
    end
    assert.equal(before, (tensor.memory()))
  end)
  it("lets the collector keep up with large tensors", function()
    collectgarbage()
    local before = tensor.memory()
    local most = 0
    for _ = 1, 400 do
      tensor.zeros(1 << 18)
      most = math.max(most, tensor.memory() - before)
    end
    assert.is_true(most < 64 << 20, most)
  end)
  it("frees a long graph without recursion", function()
    local x = tensor.new({ 1.0 }):requires_grad_()
    local y = x
    for _ = 1, 100000 do y = y + 1 end
    y:backward()
    assert.same({ 1 }, x.grad:tolist())
    y = x
    for _ = 1, 100000 do y = y + 1 end
    y:close()
    collectgarbage()
  end)
end)

describe("the tape", function()
  local function leaf(t) return tensor.new(t):requires_grad_() end

  it("adds up gradients over uses and passes", function()
    local x = leaf { 1, 2.0 }
    local y = x * x
    ;(y + y * 2 + x):sum():backward()
    assert.same({ 7, 13 }, x.grad:tolist())
    x:sum():backward()
    assert.same({ 8, 14 }, x.grad:tolist())
    x:zero_grad()
    assert.is_nil(x.grad)
  end)
  it("gives each leaf a gradient of its own", function()
    local a, b = leaf { 1.0 }, leaf { 2.0 }
    ;(a + b):backward()
    a.grad:mul_(5)
    assert.same({ 1 }, b.grad:tolist())
  end)
  it("sums gradients in fp32 for bf16 leaves", function()
    local x = tensor.ones(3, "bf16"):requires_grad_()
    ;(x * 1.01171875):sum():backward()
    assert.equal("f32", x.grad:dtype())
    assert.same({ 1.01171875, 1.01171875, 1.01171875 }, x.grad:tolist())
  end)
  it("stops at detach and no_grad", function()
    local x = leaf { 3.0 }
    ;(x * x:detach()):backward()
    assert.same({ 3 }, x.grad:tolist())
    local y, z = tensor.no_grad(function(s) return x * x, s end, "more")
    assert.is_false(y:requires_grad())
    assert.equal("more", z)
    assert.has_error(function() tensor.no_grad(error, "boom") end, "boom")
    assert.is_true((x * 1):requires_grad())
  end)
  it("walks once", function()
    local x = leaf { 3.0 }
    local y = x:exp()
    local l = y:sum()
    l:backward()
    raises("backward: the graph was already walked (sum); compute the loss again", l.backward, l)
    raises("backward: the graph was already walked (exp); compute the loss again", function() (y * 2):backward() end)
    raises("backward: the loss depends on nothing that requires a gradient", function() tensor.ones(1):backward() end)
    raises("backward: the loss has shape (2); reduce it to one element or give the gradient of its elements",
      function() (leaf { 1, 2.0 } * 2):backward() end)
    raises("backward: the loss has shape (1), its gradient (2)", function() (x * 2):backward(tensor.ones(2)) end)
  end)
  it("refuses writes that it would not see", function()
    local x = leaf { 3.0 }
    raises("add_: cannot write into a tensor that requires a gradient (inside no_grad it can)", x.add_, x, 1)
    tensor.no_grad(function() x:add_(1) end)
    assert.same({ 4 }, x:tolist())
    local data = tensor.new { 2.0 }
    local y = x * data
    raises("mul_: the backward pass still needs these elements (clone first)", data.mul_, data, 2)
    y:backward()
    data:mul_(2)
    raises("add_: cannot write into a tensor that requires a gradient (detach or clone it first)", function()
      y:add_(1)
    end)
    raises("add_: the tape does not record writes; the other operand requires a gradient (detach it)",
      data.add_, data, x)
    raises("requires_grad_: only f32 and bf16 have gradients, got i64", function()
      tensor.arange(2):requires_grad_()
    end)
    raises("requires_grad_: only a leaf can stop needing a gradient; use detach on the result of an operation",
      y.requires_grad_, y, false)
    assert.is_false(x:requires_grad_(false):requires_grad())
  end)
  it("hands a foreign operation all its gradients at once", function()
    local calls = {}
    local x = leaf { 1, 2.0 }
    local a, b, c = tensor.new { 5.0, 6 }, tensor.new(7.0), tensor.new { 8.0 }
    local out = tensor.custom({ a, b, c }, x, function(ga, gb, gc)
      calls[#calls + 1] = { ga:tolist(), gb:item(), gc }
      return ga * 10
    end)
    assert.equal(a, out[1])
    ;((a * a):sum() + b * 3 + a:sum()):backward()
    assert.same({ { { 11, 13 }, 3, nil } }, calls)
    assert.same({ 110, 130 }, x.grad:tolist())
  end)
  it("calls a foreign operation without inputs, and one that nothing uses not at all", function()
    local got
    local a = tensor.custom(tensor.new { 1.0 }, function(g) got = g:tolist() end)
    ;(a * 4):backward()
    assert.same({ 4 }, got)
    tensor.custom(tensor.new { 1.0 }, function() error("never") end)
    collectgarbage()
  end)
  it("passes on what a foreign backward raises, and stays usable", function()
    local x = leaf { 1, 2.0 }
    local function fail(f)
      local a = tensor.custom(tensor.new { 1.0 }, x, f)
      local ok, err = pcall(a.backward, a)
      assert.is_false(ok)
      return err
    end
    assert.matches("boom", fail(function() error("boom") end))
    assert.matches("custom: gradient 1 is a number; wanted a tensor or nil", fail(function() return 3 end))
    assert.matches("backward of custom: a gradient of shape %(3%) for an input of %(2%)",
      fail(function() return tensor.ones(3) end))
    assert.matches("backward: called from inside a backward pass", fail(function() (leaf { 1.0 } * 2):backward() end))
    raises("custom: output 1 already has a place on the tape", function() tensor.custom(x * 2, x, print) end)
    raises("custom: output 1 is i64; only f32 and bf16 have gradients", function()
      tensor.custom(tensor.new(1), print)
    end)
    ;(x * 2):sum():backward()
    assert.same({ 2, 2 }, x.grad:tolist())
  end)
  it("works inside coroutines", function()
    local x = leaf { 2.0 }
    coroutine.wrap(function()
      local a = tensor.custom(x * 1 and tensor.new { 1.0 }, x, function(g) return g * 3 end)
      a:backward()
    end)()
    assert.same({ 3 }, x.grad:tolist())
  end)
end)

describe("printing", function()
  it("aligns columns, as the field does", function()
    assert.equal("tensor([[ 1.0000,  2.5000],\n        [-3.0000, 40.0000]])",
      tostring(tensor.new { { 1, 2.5 }, { -3, 40 } }))
    assert.equal("tensor([1., 2.])", tostring(tensor.ones(2):cumsum(1)))
    assert.equal("tensor(3)", tostring(tensor.new(3)))
    assert.equal("tensor(2.5000)", tostring(tensor.new(2.5)))
    assert.equal("tensor([ true, false])", tostring(tensor.new { true, false }))
    assert.equal("tensor([1, 2], dtype=u8)", tostring(tensor.new({ 1, 2 }, "u8")))
    assert.equal("tensor([])", tostring(tensor.new {}))
    assert.equal("tensor([[],\n        []], size=(2, 0))", tostring(tensor.zeros(2, 0)))
    assert.equal("tensor([1.0000e-05, 1.0000e+00])", tostring(tensor.new { 1e-5, 1 }))
    assert.equal("tensor([nan, inf,  1.])", tostring(tensor.new { 0 / 0, math.huge, 1.0 }))
    assert.equal("tensor([[[1., 1.]],\n\n        [[1., 1.]]])", tostring(tensor.ones(2, 1, 2)))
    assert.equal("tensor([1.], requires_grad=true)", tostring(tensor.ones(1):requires_grad_()))
  end)
  it("shows the ends of large ones", function()
    assert.equal("tensor([   1,    2,    3, ..., 2998, 2999, 3000])", tostring(tensor.arange(3000)))
    local lines = select(2, tostring(tensor.zeros(1000, 1000)):gsub("\n", ""))
    assert.equal(6, lines)
  end)
end)
