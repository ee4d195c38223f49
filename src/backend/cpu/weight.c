// weight.c - the packed layouts of weight matrices.
//
// A matrix (N, K) is kept as panels of 32 outputs, [N/32][K][32], padded with zeros: the order in
// which the multiply-add kernels read it; dX turns blocks of it on the way (isa/turn.h). bf16
// x bf16 products take two k at a time: [N/32][ceil(K/2)][32][2]. Masters, gradients and optimiser
// states of every weight are fp32 panels.
#include "quant.h"

#include <string.h>

static int64_t panel_elems(int64_t n, int64_t k, bool paired) {
    return rv_panels(n) * RV_PANEL * (paired ? (k + 1) / 2 * 2 : k);
}

void rv_cpu_weight_size(rv_weight *w) {
    if (rv_quantised(w->store)) {
        rv_quant_size(w);
        return;
    }
    size_t size = rv_dtype_size(w->store);
    bool paired = rv_paired(w);
    w->fwd_bytes = (size_t)panel_elems(w->n, w->k, paired) * size;
}

int64_t rv_cpu_weight_elems(const rv_weight *w) { return panel_elems(w->n, w->k, false); }

// Where element (i, j) of a matrix with `steps` columns stands in its panels.
static inline int64_t at(int64_t i, int64_t j, int64_t steps, bool paired) {
    int64_t lane = i % RV_PANEL, panel = i / RV_PANEL * RV_PANEL;
    return paired ? panel * ((steps + 1) / 2 * 2) + j / 2 * 2 * RV_PANEL + lane * 2 + j % 2
                  : panel * steps + j * RV_PANEL + lane;
}

static inline float get(const void *src, rv_dtype t, int64_t i) {
    if (t == RV_F32) {
        return ((const float *)src)[i];
    }
    uint16_t x = ((const uint16_t *)src)[i];
    if (t == RV_F16) {
        return rv_f16_to_f32(x);
    }
    uint32_t bits = (uint32_t)x << 16; // in line: loading a model is this
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// A source of fp32 elements: row-major, or panels.
typedef struct {
    const void *data;
    rv_dtype type;
    bool packed;
    int64_t n, k;
    void *dst;
    rv_dtype store;
    bool paired;
} repack;

static inline float source(const repack *r, int64_t i, int64_t j) {
    return get(r->data, r->type, r->packed ? at(i, j, r->k, false) : i * r->k + j);
}

// Steps j0..j0+31 of outputs i0..i0+31 as (steps, outputs), zeros beyond the matrix.
static void load_block(float *block, const repack *r, int64_t i0, int64_t j0) {
    int64_t rows = r->k - j0 < RV_PANEL ? r->k - j0 : RV_PANEL;
    int64_t cols = r->n - i0 < RV_PANEL ? r->n - i0 : RV_PANEL;
    memset(block, 0, RV_PANEL * RV_PANEL * sizeof *block);
    for (int64_t i = 0; i < cols; i++) {
        for (int64_t j = 0; j < rows; j++) {
            block[j * RV_PANEL + i] = source(r, i0 + i, j0 + j);
        }
    }
}

// Writes the first `rows` steps of a block where they belong.
static void store_block(const repack *r, const float *block, int64_t first, int64_t rows) {
    if (r->store == RV_F32) {
        memcpy((float *)r->dst + first, block, (size_t)(rows * RV_PANEL) * sizeof *block);
        return;
    }
    uint16_t *dst = (uint16_t *)r->dst + first;
    for (int64_t e = 0; e < rows * RV_PANEL; e++) {
        int64_t j = e / RV_PANEL, lane = e % RV_PANEL;
        int64_t to = r->paired ? j / 2 * 2 * RV_PANEL + lane * 2 + j % 2 : e;
        dst[to] = r->store == RV_BF16 ? rv_f32_to_bf16(block[e]) : rv_f32_to_f16(block[e]);
    }
}

// Row-major 16-bit elements that are kept in their own type: their bits move.
static bool moves(const repack *r) {
    return !r->packed && r->type == r->store && rv_dtype_size(r->type) == 2;
}

static void move_block(const repack *r, int64_t i0, int64_t j0, int64_t first, int64_t rows) {
    int64_t inside = r->k - j0 < rows ? r->k - j0 : rows;
    int64_t cols = r->n - i0 < RV_PANEL ? r->n - i0 : RV_PANEL;
    uint16_t *dst = (uint16_t *)r->dst + first;
    if (inside < rows || cols < RV_PANEL) {
        memset(dst, 0, (size_t)(rows * RV_PANEL) * sizeof *dst);
    }
    for (int64_t i = 0; i < cols; i++) {
        const uint16_t *src = (const uint16_t *)r->data + (i0 + i) * r->k + j0;
        if (r->paired) {
            for (int64_t j = 0; j < inside; j++) {
                dst[j / 2 * 2 * RV_PANEL + i * 2 + j % 2] = src[j];
            }
        } else {
            for (int64_t j = 0; j < inside; j++) {
                dst[j * RV_PANEL + i] = src[j];
            }
        }
    }
}

// Fills panels lo..hi-1 of the destination, padding included.
static void repack_panels(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const repack *r = arg;
    float block[RV_PANEL * RV_PANEL];
    const int64_t all = r->paired ? (r->k + 1) / 2 * 2 : r->k;
    for (int64_t p = lo; p < hi; p++) {
        for (int64_t j = 0; j < all; j += RV_PANEL) {
            int64_t first = (p * all + j) * RV_PANEL;
            int64_t rows = all - j < RV_PANEL ? all - j : RV_PANEL;
            if (moves(r)) {
                move_block(r, p * RV_PANEL, j, first, rows);
            } else {
                load_block(block, r, p * RV_PANEL, j);
                store_block(r, block, first, rows);
            }
        }
    }
}

static void run(rv_ctx *c, repack r) {
    rv_for(c, rv_panels(r.n), r.k * RV_PANEL * 4, 1, repack_panels, &r);
}

static void refresh(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t, bool packed) {
    repack r = {src, t, packed, w->n, w->k, (void *)w->fwd.addr, w->store, rv_paired(w)};
    if (src != r.dst) {
        run(c, r);
    }
}

rv_status rv_cpu_weight_prepare(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t, rv_err *e) {
    if (t != RV_F32 && t != RV_BF16 && t != RV_F16) {
        return RV_FAIL(e, RV_ETYPE, "a weight must be f32, bf16 or f16, got %s", rv_dtype_name(t));
    }
    if (rv_quantised(w->store)) {
        rv_quant_prepare(c, w, src, t);
    } else {
        refresh(c, w, src, t, false);
    }
    return RV_OK;
}

void rv_cpu_weight_refresh(rv_ctx *c, rv_weight *w, rv_dev master) {
    refresh(c, w, (const void *)master.addr, RV_F32, true);
}

void rv_cpu_weight_pack(rv_ctx *c, const rv_weight *w, rv_dev master, const float *src) {
    run(c, (repack){src, RV_F32, false, w->n, w->k, (void *)master.addr, RV_F32, false});
}

static void unpack(const rv_weight *w, float *dst, const void *src, rv_dtype t, bool paired) {
    for (int64_t i = 0; i < w->n; i++) {
        for (int64_t j = 0; j < w->k; j++) {
            dst[i * w->k + j] = get(src, t, at(i, j, w->k, paired));
        }
    }
}

void rv_cpu_weight_unpack(rv_ctx *c, const rv_weight *w, float *dst, rv_dev master) {
    (void)c;
    unpack(w, dst, (const void *)master.addr, RV_F32, false);
}

void rv_cpu_weight_read(rv_ctx *c, const rv_weight *w, float *dst) {
    (void)c;
    if (rv_quantised(w->store)) {
        rv_quant_read(w, dst);
    } else {
        unpack(w, dst, (const void *)w->fwd.addr, w->store, rv_paired(w));
    }
}

// ---- embedding rows ----

typedef struct {
    float *y;
    const rv_weight *w;
    const int32_t *ids;
    int64_t m;
} embed_args;

static void embed_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const embed_args *a = arg;
    const rv_weight *w = a->w;
    bool paired = rv_paired(w);
    for (int64_t i = lo; i < hi; i++) {
        float *y = a->y + i * w->k;
        for (int64_t j = 0; j < w->k; j++) {
            y[j] = a->ids[i] < 0
                       ? 0
                       : get((const void *)w->fwd.addr, w->store, at(a->ids[i], j, w->k, paired));
        }
    }
}

void rv_cpu_embed(rv_ctx *c, rv_dev y, const rv_weight *w, const int32_t *ids, int64_t m) {
    embed_args a = {rv_f32(y), w, ids, m};
    const int64_t wait = 64; // each element lies in a line of its own
    rv_for(c, m, w->k * wait, 1, embed_rows, &a);
}

// Columns lo..hi-1 of all rows: each element's sum runs over i ascending on one thread.
static void embed_backward_columns(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const embed_args *a = arg; // y: dy
    float *dw = (float *)a->w->fwd.addr;
    for (int64_t i = 0; i < a->m; i++) {
        if (a->ids[i] >= 0) {
            for (int64_t j = lo; j < hi; j++) {
                dw[at(a->ids[i], j, a->w->k, false)] += a->y[i * a->w->k + j];
            }
        }
    }
}

void rv_cpu_embed_backward(rv_ctx *c, rv_dev dw, const rv_weight *w, rv_dev dy, const int32_t *ids,
                           int64_t m) {
    rv_weight target = {.n = w->n, .k = w->k, .fwd = dw};
    embed_args a = {rv_f32(dy), &target, ids, m};
    rv_for(c, w->k, m * 4, 1, embed_backward_columns, &a);
}
