#include "ops_cpu.h"

#include <string.h>

#include "mem.h"
#include "ops_cpu_math.h"

// ---- widening and narrowing runs of elements ----

// Truncation towards zero that is defined for every float.
static int64_t to_int(float x) {
    if (!(x > -0x1p63f)) {
        return x != x ? 0 : INT64_MIN;
    }
    return x < 0x1p63f ? (int64_t)x : INT64_MAX;
}

static int64_t limit(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }

#define RUN(to, ctype, expr)                                                                       \
    for (int64_t j = 0; j < n; j++) {                                                              \
        ctype v = ((const ctype *)src)[j * stride];                                                \
        (to)[j] = expr;                                                                            \
    }                                                                                              \
    return

static void load_floats(float *to, const void *src, rv_dtype type, int64_t stride, int64_t n) {
    switch (type) {
    case RV_F32:
        RUN(to, float, v);
    case RV_BF16:
        RUN(to, uint16_t, rv_widen_bf16(v));
    case RV_I32:
        RUN(to, int32_t, (float)v);
    case RV_I64:
        RUN(to, int64_t, (float)v);
    default: // U8, BOOL
        RUN(to, uint8_t, (float)v);
    }
}

static void load_ints(int64_t *to, const void *src, rv_dtype type, int64_t stride, int64_t n) {
    switch (type) {
    case RV_F32:
        RUN(to, float, to_int(v));
    case RV_BF16:
        RUN(to, uint16_t, to_int(rv_widen_bf16(v)));
    case RV_I32:
        RUN(to, int32_t, v);
    case RV_I64:
        RUN(to, int64_t, v);
    default:
        RUN(to, uint8_t, v);
    }
}
#undef RUN

#define RUN(ctype, expr)                                                                           \
    for (int64_t j = 0; j < n; j++) {                                                              \
        ((ctype *)to)[j * stride] = (ctype)(expr);                                                 \
    }                                                                                              \
    return

static void store_floats(void *to, const float *from, rv_dtype type, int64_t stride, int64_t n) {
    switch (type) {
    case RV_F32:
        RUN(float, from[j]);
    case RV_BF16:
        RUN(uint16_t, rv_narrow_bf16(from[j]));
    case RV_I32:
        RUN(int32_t, limit(to_int(from[j]), INT32_MIN, INT32_MAX));
    case RV_I64:
        RUN(int64_t, to_int(from[j]));
    case RV_BOOL:
        RUN(uint8_t, from[j] != 0);
    default:
        RUN(uint8_t, limit(to_int(from[j]), 0, 255));
    }
}

static void store_ints(void *to, const int64_t *from, rv_dtype type, int64_t stride, int64_t n) {
    switch (type) {
    case RV_F32:
        RUN(float, from[j]);
    case RV_BF16:
        RUN(uint16_t, rv_narrow_bf16((float)from[j]));
    case RV_I32:
        RUN(int32_t, from[j]);
    case RV_I64:
        RUN(int64_t, from[j]);
    case RV_BOOL:
        RUN(uint8_t, from[j] != 0);
    default:
        RUN(uint8_t, from[j]);
    }
}
#undef RUN

static void load(void *to, const void *src, rv_dtype type, int64_t stride, int64_t n,
                 rv_dtype domain) {
    if (domain == RV_F32) {
        load_floats(to, src, type, stride, n);
    } else {
        load_ints(to, src, type, stride, n);
    }
}

// ---- cursors ----

rv_cursor rv_cursor_make(const rv_loop *l, int k, int first, int ndim, rv_dtype domain) {
    const rv_operand *op = &l->at[k];
    rv_cursor c = {.base = op->data, .at = op->data, .ndim = ndim};
    c.dim = l->dim + first;
    c.stride = op->stride + first;
    c.type = op->type;
    c.domain = domain;
    c.size = rv_dtype_size(op->type);
    c.straight = op->type == domain;
    c.constant = true;
    int64_t dense = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        c.straight = c.straight && c.stride[d] == dense;
        c.constant = c.constant && c.stride[d] == 0;
        dense *= c.dim[d];
    }
    return c;
}

void rv_cursor_start(rv_cursor *c, void *base) {
    c->base = c->at = base;
    c->filled = false;
    memset(c->index, 0, sizeof c->index);
}

// Goes `run` elements along the last dim, which does not pass its end; carries when it gets there.
static void advance(rv_cursor *c, int64_t run) {
    int d = c->ndim - 1;
    if (d < 0) {
        return;
    }
    c->index[d] += run;
    c->at += run * c->stride[d] * (int64_t)c->size;
    while (d > 0 && c->index[d] == c->dim[d]) {
        c->at -= c->dim[d] * c->stride[d] * (int64_t)c->size;
        c->index[d--] = 0;
        c->index[d]++;
        c->at += c->stride[d] * (int64_t)c->size;
    }
}

// The elements that are left in the last dim, at most n; and their stride.
static int64_t run_length(const rv_cursor *c, int64_t n, int64_t *stride) {
    if (c->ndim == 0) {
        *stride = 0;
        return n;
    }
    int d = c->ndim - 1;
    int64_t left = c->dim[d] - c->index[d];
    *stride = c->stride[d];
    return left < n ? left : n;
}

const void *rv_cursor_read(rv_cursor *c, rv_tile *tile, int64_t n) {
    if (c->straight) {
        const void *here = c->at;
        c->at += n * (int64_t)c->size;
        return here;
    }
    size_t wide = c->domain == RV_F32 ? sizeof(float) : sizeof(int64_t);
    if (c->constant) {
        if (!c->filled) {
            load(tile, c->at, c->type, 0, n, c->domain);
            c->filled = true; // later reads are never longer than the first
        }
        return tile;
    }
    for (int64_t done = 0; done < n;) {
        int64_t stride, run = run_length(c, n - done, &stride);
        load((char *)tile + (size_t)done * wide, c->at, c->type, stride, run, c->domain);
        advance(c, run);
        done += run;
    }
    return tile;
}

void *rv_cursor_target(rv_cursor *c, rv_tile *tile) { return c->straight ? (void *)c->at : tile; }

void rv_cursor_write(rv_cursor *c, const void *values, int64_t n) {
    if (c->straight) {
        c->at += n * (int64_t)c->size;
        return;
    }
    for (int64_t done = 0; done < n;) {
        int64_t stride, run = run_length(c, n - done, &stride);
        if (c->domain == RV_F32) {
            store_floats(c->at, (const float *)values + done, c->type, stride, run);
        } else if (c->domain == RV_I64) {
            store_ints(c->at, (const int64_t *)values + done, c->type, stride, run);
        } else {
            const uint8_t *from = (const uint8_t *)values + done;
            for (int64_t j = 0; j < run; j++) {
                ((uint8_t *)c->at)[j * stride] = from[j];
            }
        }
        advance(c, run);
        done += run;
    }
}

void rv_cpu_store(void *at, rv_dtype type, rv_dtype domain, double f, int64_t i) {
    float narrow = (float)f;
    if (domain == RV_F32) {
        store_floats(at, &narrow, type, 1, 1);
    } else {
        store_ints(at, &i, type, 1, 1);
    }
}

// ---- the table ----

static void copy_bytes(void *dst, const void *src, size_t bytes) { memcpy(dst, src, bytes); }

static const rv_tensor_ops table = {
    .name = "cpu",
    .alloc = rv_aligned_alloc,
    .free = rv_aligned_free,
    .upload = copy_bytes,
    .download = copy_bytes,
    .map = rv_cpu_map,
    .reduce = rv_cpu_reduce,
    .softmax = rv_cpu_softmax,
    .index_select = rv_cpu_index_select,
    .gather = rv_cpu_gather,
    .scatter_add = rv_cpu_scatter_add,
    .nonzero = rv_cpu_nonzero,
    .cumsum = rv_cpu_cumsum,
    .segment_sum = rv_cpu_segment_sum,
    .segment_spread = rv_cpu_segment_spread,
    .sort = rv_cpu_sort,
    .matmul = rv_cpu_matmul,
};

const rv_tensor_ops *rv_tensor_ops_cpu(void) { return &table; }
