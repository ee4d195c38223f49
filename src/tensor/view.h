// view.h - other views of the same elements, on the tape: no element is copied (but where reshape
// has to). Dims and positions count from 0 here.
#pragma once

#include "tape.h"

/// Elements start, start + step, ... (count of them) of `dim`; step > 0.
/// Errors: RV_EARG naming dim, range and size.
rv_status rv_tensor_slice(rv_tensor **out, rv_tensor *x, int dim, int64_t start, int64_t count,
                          int64_t step, rv_err *e);

/// The slice at one position, without the dim.
rv_status rv_tensor_select(rv_tensor **out, rv_tensor *x, int dim, int64_t at, rv_err *e);

/// Dims in another order: dim d of the result is dim order[d] of x.
rv_status rv_tensor_permute(rv_tensor **out, rv_tensor *x, const int *order, rv_err *e);

/// Another shape with the same number of elements; one size may be -1. A copy where x is not
/// contiguous. Errors: RV_ESHAPE with both shapes.
rv_status rv_tensor_reshape(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim, rv_err *e);

/// Dims of size 1 (or new ones in front) grow to `dim`; -1 keeps a size. Errors: RV_ESHAPE.
rv_status rv_tensor_expand(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim, rv_err *e);

/// The tensors behind one another along `dim` (a copy); dtypes meet as in arithmetic.
/// Errors: RV_EARG (none), RV_ESHAPE naming the first that does not fit and both shapes.
rv_status rv_tensor_cat(rv_tensor **out, rv_tensor *const *x, int n, int dim, rv_err *e);
