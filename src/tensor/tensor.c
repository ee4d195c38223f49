#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "elementwise.h"
#include "mem.h"
#include "tape.h"

bool rv_dtype_is_float(rv_dtype t) { return t == RV_F32 || t == RV_BF16; }

bool rv_dtype_is_tensor(rv_dtype t) {
    return t == RV_F32 || t == RV_BF16 || t == RV_I32 || t == RV_I64 || t == RV_U8 || t == RV_BOOL;
}

rv_shape_text rv_shape_str(int ndim, const int64_t *dim) {
    rv_shape_text t = {"("};
    size_t at = 1;
    for (int i = 0; i < ndim; i++) {
        at +=
            (size_t)snprintf(t.s + at, sizeof t.s - at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    }
    snprintf(t.s + at, sizeof t.s - at, ")");
    return t;
}

rv_shape_text rv_tensor_shape_str(const rv_tensor *t) { return rv_shape_str(t->ndim, t->dim); }

// ---- buffers ----

static void *try_alloc(rv_tape *tape, size_t bytes) {
    if (tape->fail_after && --tape->fail_after == 0) {
        tape->fail_after = 1; // every later allocation fails too
        return NULL;
    }
    return tape->ops->alloc(bytes);
}

static rv_buf *buf_new(rv_tape *tape, size_t bytes) {
    rv_buf *b = rv_tape_calloc(tape, 1, sizeof *b);
    if (!b) {
        return NULL;
    }
    b->data = try_alloc(tape, bytes);
    if (!b->data && tape->pressure) {
        tape->pressure(tape->pressure_ctx);
        b->data = try_alloc(tape, bytes);
    }
    if (!b->data) {
        free(b);
        return NULL;
    }
    b->tape = tape;
    b->bytes = bytes;
    b->refs = 1;
    tape->bytes += bytes;
    tape->fresh += bytes;
    tape->peak = tape->bytes > tape->peak ? tape->bytes : tape->peak;
    return b;
}

static void buf_free(rv_buf *b) {
    if (--b->refs == 0) {
        b->tape->bytes -= b->bytes;
        b->tape->ops->free(b->data);
        free(b);
    }
}

// ---- tensors ----

static rv_status fail_memory(const char *what, int ndim, const int64_t *dim, rv_dtype type,
                             rv_err *e) {
    return RV_FAIL(e, RV_ENOMEM, "out of memory for %s %s of shape %s", what, rv_dtype_name(type),
                   rv_shape_str(ndim, dim).s);
}

rv_status rv_tensor_new(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim, const int64_t *dim,
                        rv_err *e) {
    *out = NULL;
    if (!rv_dtype_is_tensor(type)) {
        return RV_FAIL(e, RV_ETYPE, "tensors are f32, bf16, i32, i64, u8 or bool, not %s",
                       rv_dtype_name(type));
    }
    if (ndim < 0 || ndim > RV_MAXDIM) {
        return RV_FAIL(e, RV_ESHAPE, "wanted at most %d dims, got %d", RV_MAXDIM, ndim);
    }
    int64_t n = 1;
    size_t bytes = 0;
    bool fits = true;
    for (int i = 0; i < ndim && fits; i++) {
        if (dim[i] < 0) {
            return RV_FAIL(e, RV_ESHAPE, "wanted sizes of 0 or more, got %s",
                           rv_shape_str(ndim, dim).s);
        }
        fits = rv_mul_count(n, dim[i], &n);
    }
    fits = fits && rv_mul_size((size_t)n, rv_dtype_size(type), &bytes);
    if (!fits || bytes > PTRDIFF_MAX / 2) {
        return fail_memory("a tensor of", ndim, dim, type, e);
    }
    rv_tensor *t = rv_tape_calloc(tape, 1, sizeof *t);
    rv_buf *b = t ? buf_new(tape, bytes) : NULL;
    if (!b) {
        free(t);
        return fail_memory("a tensor of", ndim, dim, type, e);
    }
    t->buf = b;
    t->type = type;
    t->ndim = ndim;
    t->refs = 1;
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        t->dim[i] = dim[i];
        t->stride[i] = stride;
        stride *= dim[i] > 1 ? dim[i] : 1; // not 0 in empty tensors
    }
    *out = t;
    return RV_OK;
}

rv_status rv_tensor_from(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim,
                         const int64_t *dim, const void *elements, rv_err *e) {
    RV_TRY(rv_tensor_new(out, tape, type, ndim, dim, e));
    rv_tensor_write(*out, elements);
    return RV_OK;
}

rv_status rv_tensor_number(rv_tensor **out, rv_tape *tape, bool integer, int64_t i, double x,
                           rv_err *e) {
    float f = (float)x;
    RV_TRY(rv_tensor_from(out, tape, integer ? RV_I64 : RV_F32, 0, NULL,
                          integer ? (void *)&i : (void *)&f, e));
    (*out)->number = true;
    return RV_OK;
}

rv_status rv_tensor_full(rv_tensor **out, rv_tape *tape, rv_dtype type, int ndim,
                         const int64_t *dim, double value, rv_err *e) {
    rv_tensor *x = NULL;
    *out = NULL;
    RV_TRY(rv_tensor_number(&x, tape, !rv_dtype_is_float(type), (int64_t)value, value, e));
    rv_status s = rv_tensor_new(out, tape, type, ndim, dim, e);
    if (s == RV_OK) {
        s = rv_copy_into(*out, x, "full", e);
    }
    rv_tensor_free(x);
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

rv_tensor *rv_tensor_ref(rv_tensor *t) {
    t->refs++;
    return t;
}

void rv_tensor_free(rv_tensor *t) {
    if (t && --t->refs == 0) {
        rv_node_free(t->node);
        buf_free(t->buf);
        free(t);
    }
}

int64_t rv_tensor_numel(const rv_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) {
        n *= t->dim[i];
    }
    return n;
}

size_t rv_tensor_bytes(const rv_tensor *t) {
    return (size_t)rv_tensor_numel(t) * rv_dtype_size(t->type);
}

bool rv_tensor_contiguous(const rv_tensor *t) {
    int64_t want = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->dim[i] == 0) {
            return true;
        }
        if (t->dim[i] != 1 && t->stride[i] != want) {
            return false;
        }
        want *= t->dim[i];
    }
    return true;
}

bool rv_tensor_same_shape(const rv_tensor *a, const rv_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof a->dim[0]) == 0;
}

void *rv_tensor_data(const rv_tensor *t) {
    return (char *)t->buf->data + (size_t)t->offset * rv_dtype_size(t->type);
}

rv_status rv_tensor_read(const rv_tensor *t, void *dst, rv_err *e) {
    if (rv_tensor_numel(t) == 0) {
        return RV_OK;
    }
    if (rv_tensor_contiguous(t)) {
        t->buf->tape->ops->download(dst, rv_tensor_data(t), rv_tensor_bytes(t));
        return RV_OK;
    }
    rv_tensor *c = NULL;
    RV_TRY(rv_tensor_new(&c, t->buf->tape, t->type, t->ndim, t->dim, e));
    rv_status s = rv_copy_into(c, t, "read", e);
    if (s == RV_OK) {
        t->buf->tape->ops->download(dst, rv_tensor_data(c), rv_tensor_bytes(c));
    }
    rv_tensor_free(c);
    return s;
}

void rv_tensor_write(rv_tensor *t, const void *src) {
    if (rv_tensor_numel(t)) {
        t->buf->tape->ops->upload(rv_tensor_data(t), src, rv_tensor_bytes(t));
    }
}

rv_status rv_tensor_alias(rv_tensor **out, const rv_tensor *t, rv_err *e) {
    *out = NULL;
    rv_tensor *a = rv_tape_calloc(t->buf->tape, 1, sizeof *a);
    if (!a) {
        return fail_memory("a view of", t->ndim, t->dim, t->type, e);
    }
    *a = *t;
    a->node = NULL;
    a->slot = 0;
    a->refs = 1;
    a->buf->refs++;
    *out = a;
    return RV_OK;
}
