---@meta rl4vlm.tensor
---Arrays of numbers on the CPU with a reverse-mode tape: what losses, advantages and metrics are
---computed with. Dtypes: "f32" (the default), "bf16", "i32", "i64", "u8", "bool". Row-major.
---Dims, positions and index tensors count from 1, negative dims and positions from the end; ids of
---tokens or classes are data and stay as they are (a position is an id + 1). Operations never change
---their inputs, but for those whose name ends in "_". Shapes broadcast as in NumPy. dtypes meet at
---the highest of bool < u8 < i32 < i64 < bf16 < f32; plain numbers, and tensors without dims, only
---raise the kind (bool, integer, floating). Sums are in fp64, in index order, rounded once. Misuse
---raises an error that names the operation and the shapes or dtypes.
---
---How this file is made, as all of lua/meta: it is valid Lua that returns a table with the module's
---functions, bodies empty, a comment above each; a type of userdata is a local table below its
---`---@class`, and M.__types names it. tests/lua/tensor_meta_spec.lua holds it against the module.
---One file for one class, longer than others: it is a reference page, without a line that runs.

---@class rl4vlm.Tensor
---@operator add(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator sub(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator mul(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator div(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator mod(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator idiv(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator pow(rl4vlm.Tensor|number): rl4vlm.Tensor
---@operator unm: rl4vlm.Tensor
---@operator band(rl4vlm.Tensor|boolean): rl4vlm.Tensor
---@operator bor(rl4vlm.Tensor|boolean): rl4vlm.Tensor
---@operator bxor(rl4vlm.Tensor|boolean): rl4vlm.Tensor
---@operator bnot: rl4vlm.Tensor
---@operator len: integer
---@field grad rl4vlm.Tensor?  of a leaf: the gradient summed so far (f32), nil before the first
---@field [integer] rl4vlm.Tensor  x[i] is the view at position i of the first dim; x[i] = v writes it
local Tensor = {}

---@class rl4vlm.tensor: rl4vlm.Tensor  every method is a function too: tensor.exp(x)
local M = {}

---@alias rl4vlm.dtype "f32"|"bf16"|"i32"|"i64"|"u8"|"bool"

---@class rl4vlm.tensor.Options
---@field dtype? rl4vlm.dtype
---@field device? "cpu"

---Makes a tensor of a number, boolean or nested list of them (rows of equal length); or a copy of a
---tensor. Without a dtype: bool of booleans, i64 of integers, else f32.
---@param list number|boolean|table|rl4vlm.Tensor
---@param dtype? rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.new(list, dtype) end

---Makes a tensor of zeros: zeros(2, 3), zeros({2, 3}), zeros(2, 3, "i32"), zeros({2, 3}, {dtype = "i32"}).
---@param ... integer|integer[]|rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.zeros(...) end

---Makes a tensor of ones: ones(2, 3), ones({2, 3}), ones(2, 3, "i32"), ones({2, 3}, {dtype = "i32"}).
---@param ... integer|integer[]|rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.ones(...) end

---Makes a tensor with one value everywhere; sizes and dtype as in zeros.
---@param value number
---@param ... integer|integer[]|rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.full(value, ...) end

---Makes (first, first + step, ..., last), the last included, as Lua's for does; arange(n) counts from 1
---to n. i64 of integers, else f32.
---@param first number
---@param last? number
---@param step? number
---@param dtype? rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.arange(first, last, step, dtype) end

---Makes n numbers with equal steps, both ends included.
---@param first number
---@param last number
---@param n integer
---@param dtype? rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.linspace(first, last, n, dtype) end

---Makes an (n, m) matrix with ones on the diagonal; m is n when left out.
---@param n integer
---@param m? integer
---@param dtype? rl4vlm.dtype|rl4vlm.tensor.Options
---@return rl4vlm.Tensor
function M.eye(n, m, dtype) end

---Makes uniform random numbers in [0, 1) from a stream, which moves on by one word an element.
---@param stream rl4vlm.Rng  of rl4vlm.rng
---@param ... integer|integer[]|rl4vlm.dtype
---@return rl4vlm.Tensor
function M.rand(stream, ...) end

---Makes standard normal random numbers from a stream.
---@param stream rl4vlm.Rng  of rl4vlm.rng
---@param ... integer|integer[]|rl4vlm.dtype
---@return rl4vlm.Tensor
function M.randn(stream, ...) end

---Makes a tensor of elements as they lie in memory: little-endian, row-major.
---@param bytes string
---@param shape integer[]
---@param dtype? rl4vlm.dtype
---@return rl4vlm.Tensor
function M.from_bytes(bytes, shape, dtype) end

---Joins tensors along a dim (the first when left out). All other sizes must agree.
---@param list rl4vlm.Tensor[]
---@param dim? integer
---@return rl4vlm.Tensor
function M.cat(list, dim) end

---Joins tensors of one shape along a new dim, which becomes `dim` (the first when left out).
---@param list rl4vlm.Tensor[]
---@param dim? integer
---@return rl4vlm.Tensor
function M.stack(list, dim) end

---Calls f(...) with nothing recorded on the tape, and returns what it returns.
---@param f function
---@param ... any
---@return any ...
function M.no_grad(f, ...) end

---Makes tensors the results of a foreign operation: backward gets the gradients of all outputs at
---once, when all are complete (nil for those that the loss does not use), and returns one gradient
---(or nil) for each input. Without inputs, custom(outputs, backward), the outputs always need a
---gradient. Gives back the outputs.
---@param outputs rl4vlm.Tensor|rl4vlm.Tensor[]
---@param inputs? rl4vlm.Tensor|rl4vlm.Tensor[]
---@param backward fun(...: rl4vlm.Tensor?): rl4vlm.Tensor? ...
---@return rl4vlm.Tensor|rl4vlm.Tensor[] outputs
function M.custom(outputs, inputs, backward) end

---Writes a safetensors file, whole or not at all. Dtypes stay as they are.
---@param path string
---@param tensors table<string, rl4vlm.Tensor>
function M.save(path, tensors) end

---Reads a safetensors file (or a .json index of several). F16 and F64 become f32; other dtypes stay.
---@param path string
---@return table<string, rl4vlm.Tensor>
function M.load(path) end

---True for a tensor, open or closed.
---@param x any
---@return boolean
function M.is_tensor(x) end

---Bytes that all tensors hold now, and the most they ever held.
---@return integer now
---@return integer peak
function M.memory() end

-- ---- elements and shape ----

---Zeros of the same shape and dtype.
---@return rl4vlm.Tensor
function Tensor:zeros_like() end

---Ones of the same shape and dtype.
---@return rl4vlm.Tensor
function Tensor:ones_like() end

---The elements as nested lists; a plain value for a tensor without dims.
---@return table|number|boolean
function Tensor:to_table() end

---The elements as one flat list, row-major.
---@return (number|boolean)[]
function Tensor:tolist() end

---The only element, as a Lua value. Error: more elements than one.
---@return number|boolean
function Tensor:item() end

---The elements as they lie in memory: little-endian, row-major.
---@return string
function Tensor:to_bytes() end

---The sizes of all dims, as a list.
---@return integer[]
function Tensor:shape() end

---The size of one dim; without an argument, all sizes as several values.
---@param dim? integer
---@return integer ...
function Tensor:size(dim) end

---The number of dims, at most 8.
---@return integer
function Tensor:dim() end

---The number of elements.
---@return integer
function Tensor:numel() end

---The dtype's name.
---@return rl4vlm.dtype
function Tensor:dtype() end

---True when the elements lie in memory in row-major order without gaps.
---@return boolean
function Tensor:is_contiguous() end

---Gives the memory back now (views of it keep it). Closing twice is fine; any other use is an error.
---`local x <close> = ...` does it at the end of a block.
function Tensor:close() end

-- ---- views: no element is copied ----

---Positions first, first + step, ..., last of a dim, the last included, as string.sub counts.
---@param dim integer
---@param first? integer  1
---@param last? integer  -1
---@param step? integer  1
---@return rl4vlm.Tensor
function Tensor:slice(dim, first, last, step) end

---The view at one position of a dim, without that dim.
---@param dim integer
---@param i integer
---@return rl4vlm.Tensor
function Tensor:select(dim, i) end

---Two dims change places; the last two when left out.
---@param d1? integer
---@param d2? integer
---@return rl4vlm.Tensor
function Tensor:transpose(d1, d2) end

---Dims in another order: permute(3, 1, 2) makes the third the first.
---@param ... integer|integer[]
---@return rl4vlm.Tensor
function Tensor:permute(...) end

---Another shape with as many elements; one size may be -1. Copies where the layout asks for it.
---@param ... integer|integer[]
---@return rl4vlm.Tensor
function Tensor:reshape(...) end

---As reshape, but an error where it would have to copy.
---@param ... integer|integer[]
---@return rl4vlm.Tensor
function Tensor:view(...) end

---All elements as one dim.
---@return rl4vlm.Tensor
function Tensor:flatten() end

---Without one dim of size 1, or without all of them.
---@param dim? integer
---@return rl4vlm.Tensor
function Tensor:squeeze(dim) end

---With a new dim of size 1 that becomes `dim`.
---@param dim integer
---@return rl4vlm.Tensor
function Tensor:unsqueeze(dim) end

---Dims of size 1, and new ones in front, grow to these sizes; -1 keeps a size.
---@param ... integer|integer[]
---@return rl4vlm.Tensor
function Tensor:expand(...) end

---The same as expand.
---@param ... integer|integer[]
---@return rl4vlm.Tensor
function Tensor:broadcast_to(...) end

---A list of views along a dim (the first when left out), each of `size` (the last may be smaller), or of
---the sizes of a list, which must add up.
---@param size integer|integer[]
---@param dim? integer
---@return rl4vlm.Tensor[]
function Tensor:split(size, dim) end

-- ---- elementwise ----

----x.
---@return rl4vlm.Tensor
function Tensor:neg() end

---The magnitude; gradient 0 at 0.
---@return rl4vlm.Tensor
function Tensor:abs() end

----1, 0 or 1.
---@return rl4vlm.Tensor
function Tensor:sign() end

---max(x, 0); gradient 0 at 0.
---@return rl4vlm.Tensor
function Tensor:relu() end

---x * x.
---@return rl4vlm.Tensor
function Tensor:square() end

---The integer below.
---@return rl4vlm.Tensor
function Tensor:floor() end

---The integer above.
---@return rl4vlm.Tensor
function Tensor:ceil() end

---The nearest integer, ties to even.
---@return rl4vlm.Tensor
function Tensor:round() end

---e^x. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:exp() end

---The natural logarithm; NaN below 0. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:log() end

---The square root. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:sqrt() end

---The hyperbolic tangent. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:tanh() end

---1 / (1 + e^-x). Integers become f32.
---@return rl4vlm.Tensor
function Tensor:sigmoid() end

---The sine. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:sin() end

---The cosine. Integers become f32.
---@return rl4vlm.Tensor
function Tensor:cos() end

---True where x is 0 or false; also ~x.
---@return rl4vlm.Tensor
function Tensor:logical_not() end

---True where x is NaN.
---@return rl4vlm.Tensor
function Tensor:isnan() end

---True where x is infinite.
---@return rl4vlm.Tensor
function Tensor:isinf() end

---True where x is neither NaN nor infinite.
---@return rl4vlm.Tensor
function Tensor:isfinite() end

---x + other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:add(other) end

---x - other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:sub(other) end

---x * other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:mul(other) end

---x / other, floating.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:div(other) end

---x // other, towards minus infinity. Error: an integer zero.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:floor_divide(other) end

---x % other, with the sign of other. Error: an integer zero.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:mod(other) end

---x ^ other, floating.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:pow(other) end

---The larger of the two; NaN wins; equal ones share the gradient.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:maximum(other) end

---The smaller of the two; NaN wins; equal ones share the gradient.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:minimum(other) end

---x == other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:eq(other) end

---x ~= other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:ne(other) end

---x < other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:lt(other) end

---x <= other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:le(other) end

---x > other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:gt(other) end

---x >= other, bool.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:ge(other) end

---Both true (not 0); also x & other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:logical_and(other) end

---One or both true; also x | other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:logical_or(other) end

---One of both true; also x ~ other.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:logical_xor(other) end

---x limited to [lo, hi]; nil is no bound. The gradient passes where lo <= x <= hi.
---@param lo? number
---@param hi? number
---@return rl4vlm.Tensor
function Tensor:clamp(lo, hi) end

---self is a bool condition: a where it is true, b elsewhere.
---@param a rl4vlm.Tensor|number
---@param b rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:where(a, b) end

---x with `value` where mask is true.
---@param mask rl4vlm.Tensor  bool
---@param value rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:masked_fill(mask, value) end

---x with another dtype (x itself when it has it). Floating to integer goes towards zero and stops at the
---ends of the range, NaN is 0; bool is x ~= 0.
---@param dtype rl4vlm.dtype
---@return rl4vlm.Tensor
function Tensor:to(dtype) end

---A copy, contiguous, on the tape.
---@return rl4vlm.Tensor
function Tensor:clone() end

---x itself where it is contiguous, else a copy.
---@return rl4vlm.Tensor
function Tensor:contiguous() end

-- ---- in place: an error where the backward pass needs the old elements ----

---x becomes other. Keeps x's shape and dtype; gives x back.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:copy_(other) end

---x becomes x + other. Keeps x's shape and dtype; gives x back.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:add_(other) end

---x becomes x - other. Keeps x's shape and dtype; gives x back.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:sub_(other) end

---x becomes x * other. Keeps x's shape and dtype; gives x back.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:mul_(other) end

---x becomes x / other. Keeps x's shape and dtype; gives x back.
---@param other rl4vlm.Tensor|number
---@return rl4vlm.Tensor
function Tensor:div_(other) end

-- ---- reductions: over all dims, one, or a list of them; keepdim leaves them with size 1 ----

---The sum; integers give i64.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:sum(dims, keepdim) end

---The mean; integers give f32.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:mean(dims, keepdim) end

---The product; integers give i64.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:prod(dims, keepdim) end

---True where any element is not 0.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:any(dims, keepdim) end

---True where all elements are not 0.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:all(dims, keepdim) end

---The square root of the sum of squares.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:norm(dims, keepdim) end

---log of the sum of e^x.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:logsumexp(dims, keepdim) end

---The largest element, NaN before all; for one dim also where it first stands.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor values
---@return rl4vlm.Tensor? positions  i64, when `dims` is one integer
function Tensor:max(dims, keepdim) end

---The smallest element, NaN before all; for one dim also where it first stands.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor values
---@return rl4vlm.Tensor? positions  i64, when `dims` is one integer
function Tensor:min(dims, keepdim) end

---Where the largest element first stands along a dim, or among all elements (row-major). i64.
---@param dim? integer
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:argmax(dim, keepdim) end

---Where the smallest element first stands along a dim, or among all elements (row-major). i64.
---@param dim? integer
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:argmin(dim, keepdim) end

---The variance: squares over the number of elements less `correction`.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@param correction? number  1
---@return rl4vlm.Tensor
function Tensor:var(dims, keepdim, correction) end

---The standard deviation: squares over the number of elements less `correction`.
---@param dims? integer|integer[]
---@param keepdim? boolean
---@param correction? number  1
---@return rl4vlm.Tensor
function Tensor:std(dims, keepdim, correction) end

---The sum of the elements where mask is true. mask broadcasts with x.
---@param mask rl4vlm.Tensor  bool
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:masked_sum(mask, dims, keepdim) end

---The mean of the elements where mask is true; 0 where none is. mask broadcasts with x.
---@param mask rl4vlm.Tensor  bool
---@param dims? integer|integer[]
---@param keepdim? boolean
---@return rl4vlm.Tensor
function Tensor:masked_mean(mask, dims, keepdim) end

---e^x over its sum along a dim.
---@param dim integer
---@return rl4vlm.Tensor
function Tensor:softmax(dim) end

---The logarithm of softmax.
---@param dim integer
---@return rl4vlm.Tensor
function Tensor:log_softmax(dim) end

-- ---- along a dim ----

---Sums of the elements so far.
---@param dim integer
---@return rl4vlm.Tensor
function Tensor:cumsum(dim) end

---Sums of the rows of each segment, (n, ...).
---@param offsets integer[]|rl4vlm.Tensor  n + 1 of them: segment s owns rows offsets[s] + 1 to offsets[s + 1]
---@return rl4vlm.Tensor
function Tensor:segment_sum(offsets) end

---Means of the rows of each segment, 0 for one without rows, (n, ...).
---@param offsets integer[]|rl4vlm.Tensor  n + 1 of them: segment s owns rows offsets[s] + 1 to offsets[s + 1]
---@return rl4vlm.Tensor
function Tensor:segment_mean(offsets) end

---Sorted along a dim (the last when left out), stable, NaN as the largest.
---@param dim? integer
---@param descending? boolean
---@return rl4vlm.Tensor values
---@return rl4vlm.Tensor positions  i64
function Tensor:sort(dim, descending) end

---The k largest (smallest) along a dim (the last when left out), in order.
---@param k integer
---@param dim? integer
---@param smallest? boolean
---@return rl4vlm.Tensor values
---@return rl4vlm.Tensor positions  i64
function Tensor:topk(k, dim, smallest) end

---y[..][j][..] = x[..][positions[..][j][..]][..]: positions has x's shape but for `dim`.
---@param dim integer
---@param positions rl4vlm.Tensor  integers, from 1
---@return rl4vlm.Tensor
function Tensor:gather(dim, positions) end

---The slices at these positions, in their order.
---@param dim integer
---@param positions rl4vlm.Tensor  integers of one dim, from 1
---@return rl4vlm.Tensor
function Tensor:index_select(dim, positions) end

---x with each element of source added at its position along a dim.
---@param dim integer
---@param positions rl4vlm.Tensor  integers from 1, in source's shape
---@param source rl4vlm.Tensor  x's shape but for `dim`
---@return rl4vlm.Tensor
function Tensor:scatter_add(dim, positions, source) end

---The elements where mask is true, as one dim.
---@param mask rl4vlm.Tensor  bool
---@return rl4vlm.Tensor
function Tensor:masked_select(mask) end

---Positions of the true elements of a bool tensor, counted through all of it (row-major). i64.
---@return rl4vlm.Tensor
function Tensor:nonzero() end

---The product of matrices (.., m, k) and (.., k, n); dims in front broadcast; a vector on the left is a
---row, on the right a column.
---@param other rl4vlm.Tensor
---@return rl4vlm.Tensor
function Tensor:matmul(other) end

-- ---- gradients ----

---Makes x a leaf whose gradient backward sums up in x.grad (or, with false, no longer one). Gives x back.
---@param on? boolean  true
---@return rl4vlm.Tensor
function Tensor:requires_grad_(on) end

---True for a leaf and for what was computed from one.
---@return boolean
function Tensor:requires_grad() end

---The same elements without a place on the tape.
---@return rl4vlm.Tensor
function Tensor:detach() end

---Forgets a leaf's gradient.
function Tensor:zero_grad() end

---Walks the tape back from x and adds to the gradient of every leaf. x has one element, or `gradient`
---(x's shape) is given. The graph is spent afterwards.
---@param gradient? rl4vlm.Tensor
function Tensor:backward(gradient) end

local own = { close = true } -- methods that are no functions of the module
for name, method in pairs(Tensor) do
  if not own[name] then
    M[name] = method
  end
end
M.__types = { ["rl4vlm.Tensor"] = Tensor }

return M
