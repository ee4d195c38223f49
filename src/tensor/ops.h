// ops.h - the table of operations on tensors that a device fills; ops_cpu.c is the first.
//
// The functions above it (elementwise.h, reduce.h, index.h, ...) check shapes and dtypes, make the
// results and record the tape; an entry of this table only computes. Its rules:
// - An entry gets addresses that only the device follows, shapes and strides in elements, and an
//   output that overlaps no input, unless it is exactly the same view as one.
// - Elements are widened to the call's `domain` (F32 for floating types, I64 for the others),
//   computed there and rounded once when stored.
// - Sums, means, cumulative and segment sums and products of matrices accumulate in fp64 in index
//   order. No result depends on a number of threads.
// - Errors that only the data show (an index out of range, an integer division by zero) are
//   returned, naming the element; the output's content is then undefined.
#pragma once

#include "tensor.h"

enum { RV_OPERANDS = 4 };

typedef struct {
    void *data; // first element
    rv_dtype type;
    int64_t stride[RV_MAXDIM]; // 0 where the operand is broadcast
} rv_operand;

// A walk over an index space, last dim fastest: at[0] is the output, at[1..n-1] the inputs.
typedef struct {
    int ndim, n;
    int64_t dim[RV_MAXDIM];
    rv_operand at[RV_OPERANDS];
    rv_dtype domain; // RV_F32 or RV_I64
    double param[2];
} rv_loop;

// Elementwise operations: name, inputs, domain (N: any, F: floating, I: integer), result (S: the
// inputs' common type, B: bool). Those of the second group are the gradients of the first: their
// first input is the upstream gradient g.
#define RV_MAP_OPS(X)                                                                              \
    X(COPY, copy, 1, N, S)                                                                         \
    X(NEG, neg, 1, N, S)                                                                           \
    X(ABS, abs, 1, N, S)                                                                           \
    X(SIGN, sign, 1, N, S)                                                                         \
    X(RELU, relu, 1, N, S)                                                                         \
    X(SQUARE, square, 1, N, S)                                                                     \
    X(FLOOR, floor, 1, N, S)                                                                       \
    X(CEIL, ceil, 1, N, S)                                                                         \
    X(ROUND, round, 1, N, S)                                                                       \
    X(EXP, exp, 1, F, S)                                                                           \
    X(LOG, log, 1, F, S)                                                                           \
    X(SQRT, sqrt, 1, F, S)                                                                         \
    X(TANH, tanh, 1, F, S)                                                                         \
    X(SIGMOID, sigmoid, 1, F, S)                                                                   \
    X(SIN, sin, 1, F, S)                                                                           \
    X(COS, cos, 1, F, S)                                                                           \
    X(CLAMP, clamp, 1, N, S)                                                                       \
    X(NOT, logical_not, 1, N, B)                                                                   \
    X(ISNAN, isnan, 1, N, B)                                                                       \
    X(ISINF, isinf, 1, N, B)                                                                       \
    X(ISFINITE, isfinite, 1, N, B)                                                                 \
    X(ADD, add, 2, N, S)                                                                           \
    X(SUB, sub, 2, N, S)                                                                           \
    X(MUL, mul, 2, N, S)                                                                           \
    X(DIV, div, 2, F, S)                                                                           \
    X(FLOORDIV, floor_divide, 2, N, S)                                                             \
    X(MOD, mod, 2, N, S)                                                                           \
    X(POW, pow, 2, F, S)                                                                           \
    X(MAXIMUM, maximum, 2, N, S)                                                                   \
    X(MINIMUM, minimum, 2, N, S)                                                                   \
    X(EQ, eq, 2, N, B)                                                                             \
    X(NE, ne, 2, N, B)                                                                             \
    X(LT, lt, 2, N, B)                                                                             \
    X(LE, le, 2, N, B)                                                                             \
    X(GT, gt, 2, N, B)                                                                             \
    X(GE, ge, 2, N, B)                                                                             \
    X(AND, logical_and, 2, N, B)                                                                   \
    X(OR, logical_or, 2, N, B)                                                                     \
    X(XOR, logical_xor, 2, N, B)                                                                   \
    X(WHERE, where, 3, N, S)                                                                       \
    X(ABS_GRAD, abs_grad, 2, F, S)                                                                 \
    X(RELU_GRAD, relu_grad, 2, F, S)                                                               \
    X(SQUARE_GRAD, square_grad, 2, F, S)                                                           \
    X(SQRT_GRAD, sqrt_grad, 2, F, S)                                                               \
    X(TANH_GRAD, tanh_grad, 2, F, S)                                                               \
    X(SIGMOID_GRAD, sigmoid_grad, 2, F, S)                                                         \
    X(SIN_GRAD, sin_grad, 2, F, S)                                                                 \
    X(COS_GRAD, cos_grad, 2, F, S)                                                                 \
    X(CLAMP_GRAD, clamp_grad, 2, F, S)                                                             \
    X(POW_GRAD_BASE, pow_grad_base, 3, F, S)                                                       \
    X(POW_GRAD_EXP, pow_grad_exp, 3, F, S)                                                         \
    X(GREATER_GRAD, greater_grad, 3, F, S)

#define RV_MAP_ENUM(id, name, n, domain, result) RV_MAP_##id,
typedef enum { RV_MAP_OPS(RV_MAP_ENUM) RV_NMAPS } rv_map_op;

// Reductions. The loop's first `keep` dims are the output's; the rest are reduced, in index order.
// param[0] of VAR: what is taken from the count (1: unbiased). ARGMAX and ARGMIN give the first
// position counted from 0 along the one reduced dim; a NaN counts as the largest (smallest).
#define RV_REDUCE_OPS(X)                                                                           \
    X(SUM, sum)                                                                                    \
    X(MEAN, mean)                                                                                  \
    X(PROD, prod)                                                                                  \
    X(MAX, max)                                                                                    \
    X(MIN, min)                                                                                    \
    X(ARGMAX, argmax)                                                                              \
    X(ARGMIN, argmin)                                                                              \
    X(ANY, any)                                                                                    \
    X(ALL, all)                                                                                    \
    X(VAR, var)                                                                                    \
    X(NORM, norm)                                                                                  \
    X(LOGSUMEXP, logsumexp)

#define RV_REDUCE_ENUM(id, name) RV_REDUCE_##id,
typedef enum { RV_REDUCE_OPS(RV_REDUCE_ENUM) RV_NREDUCES } rv_reduce_op;

// The place of one dim in a contiguous array: (outer, n, inner).
typedef struct {
    int64_t outer, n, inner;
} rv_axis;

typedef struct rv_tensor_ops {
    const char *name; // "cpu"

    // ---- memory ----
    void *(*alloc)(size_t bytes); // 64-byte aligned, content undefined; NULL: none left
    void (*free)(void *p);
    void (*upload)(void *dst, const void *src, size_t bytes);   // src: host
    void (*download)(void *dst, const void *src, size_t bytes); // dst: host; waits

    // ---- strided ----
    /// Elementwise operation. Errors: RV_EARG (integer division by zero).
    rv_status (*map)(rv_map_op op, const rv_loop *l, rv_err *e);
    /// Reduction of at[1] into at[0]; see RV_REDUCE_OPS.
    void (*reduce)(rv_reduce_op op, const rv_loop *l, int keep);
    /// Softmax (log: its logarithm) of at[1] over the last dim, fp64 sums.
    void (*softmax)(const rv_loop *l, bool log);

    // ---- contiguous; `size` bytes an element, idx i64 counted from 0 ----
    /// y[o, j, i] = x[o, idx[j], i] for `count` positions along the axis `a` of x.
    /// Errors: RV_EARG naming the first index out of range, as the caller counts (from 1).
    rv_status (*index_select)(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                              size_t size, rv_err *e);
    /// y[o, j, i] = x[o, idx[o, j, i], i].
    rv_status (*gather)(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                        size_t size, rv_err *e);
    /// y[o, idx[o, j, i], i] += src[o, j, i] (fp32; sums in fp64, j ascending, rounded once);
    /// with `flat` idx is (count): one for a whole slice. y holds what is added to.
    rv_status (*scatter_add)(float *y, const float *src, const int64_t *idx, bool flat, rv_axis a,
                             int64_t count, rv_err *e);
    /// Positions (from 0) of the true elements of mask (n); returns their number, which a first
    /// call with idx NULL gives.
    int64_t (*nonzero)(int64_t *idx, const uint8_t *mask, int64_t n);
    /// Cumulative sums along the axis; reverse: from the end. Domain RV_F32 or RV_I64 elements.
    void (*cumsum)(void *y, const void *x, rv_axis a, bool reverse, rv_dtype domain);
    /// y[s, i] = sum of rows off[s] .. off[s + 1] - 1 of x (rows, inner), fp32; mean: divided by
    /// their number (0 for none). off: host, checked by the caller.
    void (*segment_sum)(float *y, const float *x, const int64_t *off, int64_t n, int64_t inner,
                        bool mean);
    /// y[r, i] = g[s, i] for the rows of segment s (mean: divided by their number), other rows 0.
    void (*segment_spread)(float *y, const float *g, const int64_t *off, int64_t n, int64_t rows,
                           int64_t inner, bool mean);
    /// Stable sort along the axis (elements of `domain`); idx receives positions from 0. NaN counts
    /// as the largest. Errors: RV_ENOMEM.
    rv_status (*sort)(void *y, int64_t *idx, const void *x, rv_axis a, bool descending,
                      rv_dtype domain, rv_err *e);
    /// y (m, n) = a (m, k) b (k, n), strides in elements; k ascending in fp64, rounded once.
    void (*matmul)(float *y, const float *a, const float *b, int64_t m, int64_t n, int64_t k,
                   const int64_t stride_a[2], const int64_t stride_b[2]);
} rv_tensor_ops;

/// The CPU's table.
const rv_tensor_ops *rv_tensor_ops_cpu(void);
