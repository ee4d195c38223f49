// loop.h - from tensors to the table's loops: broadcasting, common dtypes, dims merged.
#pragma once

#include "ops.h"
#include "tape.h"

/// The shape that all of `t` broadcast to (NumPy's rule). Errors: RV_ESHAPE with op and shapes.
rv_status rv_loop_broadcast(rv_shape *out, const char *op, const rv_tensor *const *t, int n,
                            rv_err *e);

/// The dtype that the elements of all of `t` have in common: bool < u8 < i32 < i64 < bf16 < f32.
/// A tensor without dims counts only when its kind (bool, integer, floating) is above that of the
/// others, a plain number after those.
rv_dtype rv_loop_common_type(const rv_tensor *const *t, int n);

/// Fills `l` for the output `out` and n - 1 inputs that broadcast to its shape; size-1 dims are
/// dropped and dims merged where every operand allows it.
void rv_loop_make(rv_loop *l, rv_dtype domain, const rv_tensor *out, const rv_tensor *const *in,
                  int n_in);

/// True when `a` and `b` may share elements without being the same view.
bool rv_loop_overlaps(const rv_tensor *a, const rv_tensor *b);
