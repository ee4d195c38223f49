// index.h - gathering and scattering by position, sorting, cumulative and segment sums, products of
// matrices; on the tape.
//
// Index tensors are integers; positions count from `base`: 0 for C, 1 for Lua. Dims count from 0.
#pragma once

#include "tape.h"

/// Slices of x at positions idx (n) along `dim`. Errors: RV_ETYPE, RV_ESHAPE, RV_EARG naming the
/// first position out of range.
rv_status rv_tensor_index_select(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx, int base,
                                 rv_err *e);

/// y[.., j, ..] = x[.., idx[.., j, ..], ..]: idx has x's shape but for `dim`.
rv_status rv_tensor_gather(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx, int base,
                           rv_err *e);

/// x with src added at positions idx along `dim` (shape of src = shape of idx = x's but for `dim`).
/// Floating types; sums in fp64.
rv_status rv_tensor_scatter_add(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx,
                                rv_tensor *src, int base, rv_err *e);

/// The elements of x where mask (bool, broadcast) is true, in order, as one dim.
rv_status rv_tensor_masked_select(rv_tensor **out, rv_tensor *x, rv_tensor *mask, rv_err *e);

/// Positions from `base` of the true elements of mask, flat, i64.
rv_status rv_tensor_nonzero(rv_tensor **out, rv_tensor *mask, int base, rv_err *e);

/// Sorted along `dim`, stable, NaN as the largest; the first k of them (k < 0: all). positions
/// (i64) may be NULL. A floating sort is recorded.
rv_status rv_tensor_sort(rv_tensor **values, rv_tensor **positions, rv_tensor *x, int dim,
                         bool descending, int64_t k, int base, rv_err *e);

/// Sums of the elements so far along `dim`; integers give i64.
rv_status rv_tensor_cumsum(rv_tensor **out, rv_tensor *x, int dim, rv_err *e);

/// Sums (mean: means, 0 of nothing) of rows off[s] .. off[s + 1] - 1 along the first dim; off
/// (host, n + 1, ascending from >= 0 to <= rows). Errors: RV_EARG, RV_ETYPE.
rv_status rv_tensor_segment_sum(rv_tensor **out, rv_tensor *x, const int64_t *off, int64_t n,
                                bool mean, rv_err *e);

/// Product of matrices (.., m, k) (.., k, n); dims in front broadcast; a vector is a row (left) or
/// a column (right) and loses that dim again. Sums in fp64. Errors: RV_ESHAPE, RV_ETYPE.
rv_status rv_tensor_matmul(rv_tensor **out, rv_tensor *a, rv_tensor *b, rv_err *e);
