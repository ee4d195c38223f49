// elementwise.h - operations element by element, with broadcasting, common dtypes and the tape.
//
// Results are fresh contiguous tensors. The dtype rule is rv_loop_common_type's; arithmetic on bool
// gives i64, and operations that only floating types have turn integers into f32.
#pragma once

#include "tape.h"

/// y = op(x) for the operations of one input. Errors: RV_ENOMEM.
rv_status rv_tensor_unary(rv_tensor **out, rv_map_op op, rv_tensor *x, rv_err *e);

/// y = op(a, b). FLOORDIV and MOD round towards minus infinity, as Lua's; DIV and POW are floating.
/// Errors: RV_ESHAPE, RV_EARG (integer division by zero), RV_ENOMEM.
rv_status rv_tensor_binary(rv_tensor **out, rv_map_op op, rv_tensor *a, rv_tensor *b, rv_err *e);

/// y = x limited to [lo, hi]; the gradient passes where lo <= x <= hi. NaN stays. Integers keep
/// their dtype (bounds are cut to whole numbers).
rv_status rv_tensor_clamp(rv_tensor **out, rv_tensor *x, double lo, double hi, rv_err *e);

/// y = cond ? a : b. Errors: RV_ETYPE when cond is not bool.
rv_status rv_tensor_where(rv_tensor **out, rv_tensor *cond, rv_tensor *a, rv_tensor *b, rv_err *e);

/// x with another dtype (x itself when it has it): floating to integer truncates towards zero,
/// bool is x != 0.
rv_status rv_tensor_to(rv_tensor **out, rv_tensor *x, rv_dtype type, rv_err *e);

/// A contiguous copy; `compact` gives x itself where it is contiguous already.
rv_status rv_tensor_clone(rv_tensor **out, rv_tensor *x, rv_err *e);
rv_status rv_tensor_compact(rv_tensor **out, rv_tensor *x, rv_err *e);

/// dst = op(inputs) element by element, written into dst's view with its dtype; not recorded (the
/// caller asks rv_tape_check_write). Inputs broadcast to dst's shape.
/// Errors: RV_ESHAPE, RV_EARG (dst has several elements in one place), RV_ENOMEM.
rv_status rv_map_into(rv_tensor *dst, rv_map_op op, const rv_tensor *const *in, int n_in,
                      const char *name, rv_err *e);
rv_status rv_copy_into(rv_tensor *dst, const rv_tensor *src, const char *name, rv_err *e);

const char *rv_map_name(rv_map_op op);
