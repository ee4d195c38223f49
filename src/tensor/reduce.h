// reduce.h - sums, means, extremes and softmax over dims, on the tape.
//
// `dims` is a bit set of dims counted from 0; RV_ALL_DIMS takes all. With `keep` reduced dims stay
// with size 1. Accumulators are fp64, in index order, rounded once.
#pragma once

#include "tape.h"

#define RV_ALL_DIMS UINT32_MAX

/// y = op(x) over `dims`. SUM and PROD of integers give i64, MEAN, VAR, NORM and LOGSUMEXP floating
/// results, ANY and ALL bool, ARGMAX and ARGMIN i64 positions from 0. `param`: see rv_reduce_op.
/// Errors: RV_ESHAPE (an extreme of nothing), RV_EARG (ARGMAX over more than one dim but not all),
/// RV_ENOMEM.
rv_status rv_tensor_reduce(rv_tensor **out, rv_reduce_op op, rv_tensor *x, uint32_t dims, bool keep,
                           double param, rv_err *e);

/// Square root of VAR.
rv_status rv_tensor_std(rv_tensor **out, rv_tensor *x, uint32_t dims, bool keep, double correction,
                        rv_err *e);

/// Softmax of x over `dim`, or its logarithm. Integers become f32.
rv_status rv_tensor_softmax(rv_tensor **out, rv_tensor *x, int dim, bool log, rv_err *e);

/// Sums x over the dims that were broadcast from `dim` (ndim sizes): the gradient of broadcasting.
/// A smaller x is expanded. Errors: RV_ESHAPE naming `op`.
rv_status rv_tensor_sum_to(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim,
                           const char *op, rv_err *e);
