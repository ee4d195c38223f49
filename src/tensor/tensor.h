// tensor.h - arrays: buffers that own memory, and tensors, which are views of them.
//
// A tensor is a dtype, a shape and strides (in elements) on a buffer. Shapes are row-major; a view
// shares its buffer. Tensors and buffers are counted references: whoever receives one through an
// `out` argument owns one reference and drops it with rv_tensor_free. One program thread works on
// a tape and its tensors. Functions that can fail leave `*out` NULL.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "err.h"

enum { RV_MAXDIM = 8 };

typedef struct rv_tape rv_tape; // tape.h
typedef struct rv_node rv_node;

// Memory on one device. `saved` counts the tape's nodes that will read it in the backward pass:
// while it is not 0, writing in place is an error.
typedef struct rv_buf {
    rv_tape *tape;
    void *data; // only the tape's table of operations follows it
    size_t bytes;
    int refs, saved;
} rv_buf;

typedef struct rv_tensor {
    rv_buf *buf;
    rv_dtype type; // F32, BF16, I32, I64, U8 or BOOL
    int ndim;
    int64_t dim[RV_MAXDIM], stride[RV_MAXDIM];
    int64_t offset; // first element, counted in elements from the start of the buffer
    rv_node *node;  // who made it on the tape; NULL: needs no gradient
    int slot;       // which of the node's outputs it is
    int refs;
    bool number; // stands for a plain number: its dtype never decides a result's
} rv_tensor;

/// Makes a tensor with undefined content. Errors: RV_ETYPE, RV_ESHAPE, RV_ENOMEM.
rv_status rv_tensor_new(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim, const int64_t *dim,
                        rv_err *e);
/// Makes a tensor filled with `value`.
rv_status rv_tensor_full(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim,
                         const int64_t *dim, double value, rv_err *e);
/// Makes the tensor without dims that a plain number stands for: i64 of `i`, or f32 of `x`.
rv_status rv_tensor_number(rv_tensor **out, rv_tape *tape, bool integer, int64_t i, double x,
                           rv_err *e);
/// Makes a contiguous tensor of host elements, copied.
rv_status rv_tensor_from(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim,
                         const int64_t *dim, const void *elements, rv_err *e);

rv_tensor *rv_tensor_ref(rv_tensor *t);
void rv_tensor_free(rv_tensor *t); // accepts NULL

int64_t rv_tensor_numel(const rv_tensor *t);
size_t rv_tensor_bytes(const rv_tensor *t);
bool rv_tensor_contiguous(const rv_tensor *t);
bool rv_tensor_same_shape(const rv_tensor *a, const rv_tensor *b);
bool rv_dtype_is_float(rv_dtype t);  // F32, BF16
bool rv_dtype_is_tensor(rv_dtype t); // one that tensors may have
/// Address of the first element, for entries of the table.
void *rv_tensor_data(const rv_tensor *t);

/// Copies all elements to the host in row-major order: rv_tensor_bytes(t) bytes.
rv_status rv_tensor_read(const rv_tensor *t, void *dst, rv_err *e);
/// Copies host elements over a contiguous tensor. Only for a tensor that no one else has seen yet.
void rv_tensor_write(rv_tensor *t, const void *src);

// A shape as text, "(2, 3)", for messages.
typedef struct {
    char s[192];
} rv_shape_text;
rv_shape_text rv_shape_str(int ndim, const int64_t *dim);
rv_shape_text rv_tensor_shape_str(const rv_tensor *t);

/// A view of the same buffer with the same shape and no place on the tape.
rv_status rv_tensor_alias(rv_tensor **out, const rv_tensor *t, rv_err *e);
