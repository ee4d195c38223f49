// attention.c - attention over packed sequences and over the cache, and its backward pass.
//
// Keys are taken in blocks of 64 counted from a sequence's own key 0, kept as K^T (D, 64) so that
// lanes run over keys, values as (64, P), P = D rounded up to 32. The packed call brings its keys
// into the same blocks first, so that one routine, `attend`, serves scoring, prefill and decoding,
// and every element is the same chain of operations: scores one chain over d, softmax with a
// running maximum by block, outputs one chain over keys, in which masked keys add exact zeros.
#include "fn.h"
#include "isa.h"
#include "softmax.h"
#include "tile.h"

enum { KEYS = RV_KV_BLOCK, ROWS = 12, BACK_ROWS = 48 };

static inline int64_t padded(int64_t d) { return (d + RV_PANEL - 1) / RV_PANEL * RV_PANEL; }
static inline int64_t blocks_of(int64_t n) { return (n + KEYS - 1) / KEYS; }
// Floats of one block of one key/value head.
static inline int64_t head_block(int64_t d) { return KEYS * (d + padded(d)); }

// Keys and values of one head: block b begins at base + (table ? table[b] : b) * stride.
typedef struct {
    const float *base;
    const int32_t *table;
    int64_t stride;
} key_blocks;

static inline const float *block_at(const key_blocks *kb, int64_t b) {
    return kb->base + (kb->table ? kb->table[b] : b) * kb->stride;
}

typedef float v4 __attribute__((vector_size(16)));

RV_INLINE void transpose_4x4(float *dst, int64_t ldd, const float *src, int64_t lds) {
    v4 r[4], c[4];
    RV_UNROLL
    for (int i = 0; i < 4; i++) {
        memcpy(&r[i], src + i * lds, sizeof r[i]);
    }
    v4 a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    v4 b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    c[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    c[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    a = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    b = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    c[2] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    c[3] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    RV_UNROLL
    for (int i = 0; i < 4; i++) {
        memcpy(dst + i * ldd, &c[i], sizeof c[i]);
    }
}

// Rows of `keys` <= 64 tokens as (D, 64), columns behind the last zero.
static void transpose_keys(float *dst, const float *src, int64_t stride, int64_t keys, int64_t d) {
    const int64_t fours = keys / 4 * 4;
    for (int64_t j = 0; j < d; j++) {
        bool apart = j % 4 == 0 && j + 4 <= d;
        for (int64_t i = 0; apart && i < fours; i += 4) {
            transpose_4x4(dst + j * KEYS + i, KEYS, src + i * stride + j, stride);
        }
        for (int64_t i = j < d / 4 * 4 ? fours : 0; i < KEYS; i++) {
            dst[j * KEYS + i] = i < keys ? src[i * stride + j] : 0;
        }
    }
}

// Puts one token's key and value into its block.
static void put_key(float *block, int64_t slot, const float *k, const float *v, int64_t d) {
    float *values = block + KEYS * d + slot * padded(d);
    for (int64_t i = 0; i < d; i++) {
        block[i * KEYS + slot] = k[i];
    }
    memcpy(values, v, (size_t)d * sizeof *v);
    memset(values + d, 0, (size_t)(padded(d) - d) * sizeof *v);
}

// The keys that query position p sees: [lo, hi).
static inline int64_t first_key(const rv_attn *a, int64_t p) {
    return a->window > 0 && p - a->window + 1 > 0 ? p - a->window + 1 : 0;
}
static inline int64_t end_key(const rv_attn *a, int64_t p, int64_t len) {
    return a->causal && p + 1 < len ? p + 1 : len;
}

// Of a block's keys, those that a query sees: [lo, hi).
typedef struct {
    int lo, hi;
} span;

static inline int within(int64_t i) { return i < 0 ? 0 : i > KEYS ? KEYS : (int)i; }

static inline span seen(const rv_attn *a, int64_t p, int64_t len, int64_t first) {
    return (span){within(first_key(a, p) - first), within(end_key(a, p, len) - first)};
}

static inline bool whole(span v) { return v.lo == 0 && v.hi == KEYS; }

// Softmax state of the rows of one tile.
typedef struct {
    float max[ROWS], sum[ROWS];
} running;

enum { SET = LANES / VL }; // vectors of 16 lanes

// Folds 16 lanes in a fixed tree.
#define FOLD(name, op)                                                                             \
    static inline float name(const vf set[SET]) {                                                  \
        float x[LANES];                                                                            \
        memcpy(x, set, sizeof x);                                                                  \
        RV_UNROLL                                                                                  \
        for (int w = LANES / 2; w > 0; w /= 2) {                                                   \
            for (int i = 0; i < w; i++) {                                                          \
                x[i] = op(x[i], x[i + w]);                                                         \
            }                                                                                      \
        }                                                                                          \
        return x[0];                                                                               \
    }
RV_INLINE float fn_add(float a, float b) { return a + b; }
FOLD(fold_sum, fn_add)
FOLD(fold_max, fn_max)

// Sum of 64 weights: four to a lane.
static inline float weight_sum(const float *p) {
    vf lane[SET];
    RV_UNROLL
    for (int v = 0; v < SET; v++) {
        const float *x = p + v * VL;
        lane[v] = (vload(x) + vload(x + LANES)) + (vload(x + 2 * LANES) + vload(x + 3 * LANES));
    }
    return fold_sum(lane);
}

static inline float weight_max(const float *p) {
    vf lane[SET];
    RV_UNROLL
    for (int v = 0; v < SET; v++) {
        const float *x = p + v * VL;
        lane[v] = vmax(vmax(vload(x), vload(x + LANES)),
                       vmax(vload(x + 2 * LANES), vload(x + 3 * LANES)));
    }
    return fold_max(lane);
}

static const float HIDDEN = -3.0e38f; // in place of a score that may not be seen

// Raw scores of one row become scaled ones, HIDDEN outside its span.
static inline void scale_scores(float *s, float scale, span v) {
    for (int i = 0; i < v.hi; i += VL) {
        vstore(s + i, vload(s + i) * scale);
    }
    for (int i = 0; i < v.lo; i++) {
        s[i] = HIDDEN;
    }
    for (int i = v.hi; i < KEYS; i++) {
        s[i] = HIDDEN;
    }
}

// Weights of hidden keys become exact zeros.
static inline void hide(float *p, span v) {
    for (int i = 0; i < v.lo; i++) {
        p[i] = 0;
    }
    for (int i = v.hi; i < KEYS; i++) {
        p[i] = 0;
    }
}

// The rows' scaled scores of one block become weights; `factor` receives what the sums before must
// be multiplied by. Step by step for all rows, so that rows overlap.
static void soften(float *s, int64_t rows, const span *v, running *run, float *factor) {
    float top[ROWS];
    for (int64_t r = 0; r < rows; r++) {
        top[r] = fn_max(weight_max(s + r * KEYS), run->max[r]);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *p = s + r * KEYS;
        for (int i = 0; i < v[r].hi; i += VL) {
            vstore(p + i, fn_vexp(vload(p + i) - top[r]));
        }
        if (!whole(v[r])) {
            hide(p, v[r]);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        factor[r] = run->max[r] == top[r] ? 1 : fn_exp(run->max[r] - top[r]); // e^0 is 1
        run->sum[r] = __builtin_fmaf(run->sum[r], factor[r], weight_sum(s + r * KEYS));
        run->max[r] = top[r];
    }
}

// Scores of rows against block b of the keys, of which those before `end` are wanted.
static void score_block(float *s, const float *q, int64_t ldq, int64_t rows, const float *keys,
                        int64_t d, int64_t end) {
    int64_t cols = rows > 1 && end < KEYS ? (end + NC - 1) / NC * NC : KEYS;
    tile t = {.c = s,
              .ldc = KEYS,
              .a = q,
              .ar = ldq,
              .at = 1,
              .b = keys,
              .ldb = KEYS,
              .steps = d,
              .near = true};
    tile_f32(&t, rows, cols);
}

// Attends rows (at most ROWS) of one head; the first stands at position pos of len keys.
static void attend_tile(float *o, int64_t ldo, float *lse, int64_t ldl, const float *q, int64_t ldq,
                        int64_t rows, int64_t pos, int64_t len, const key_blocks *kb,
                        const rv_attn *a) {
    _Alignas(64) float s[ROWS * KEYS], acc[ROWS * RV_MAX_HEAD_DIM];
    const int64_t d = a->head_dim, p = padded(d);
    float factor[ROWS];
    span v[ROWS];
    running run;
    for (int64_t r = 0; r < rows; r++) {
        run.max[r] = HIDDEN;
        run.sum[r] = 0;
    }
    memset(acc, 0, (size_t)(rows * p) * sizeof *acc);
    int64_t end = end_key(a, pos + rows - 1, len);
    for (int64_t b = first_key(a, pos) / KEYS; b * KEYS < end; b++) {
        const float *keys = block_at(kb, b), *values = keys + KEYS * d;
        score_block(s, q, ldq, rows, keys, d, end - b * KEYS);
        for (int64_t r = 0; r < rows; r++) {
            v[r] = seen(a, pos + r, len, b * KEYS);
            scale_scores(s + r * KEYS, a->scale, v[r]);
        }
        soften(s, rows, v, &run, factor);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; factor[r] != 1 && i < p; i += VL) {
                vstore(acc + r * p + i, vload(acc + r * p + i) * factor[r]);
            }
        }
        tile pv = {.c = acc,
                   .ldc = p,
                   .a = s,
                   .ar = KEYS,
                   .at = 1,
                   .b = values,
                   .ldb = p,
                   .steps = end - b * KEYS < KEYS ? end - b * KEYS : KEYS,
                   .load = true,
                   .near = true};
        tile_f32(&pv, rows, p);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < d; i++) {
            o[r * ldo + i] = acc[r * p + i] / run.sum[r];
        }
        if (lse) {
            lse[r * ldl] = (float)((double)run.max[r] + rv_log((double)run.sum[r]));
        }
    }
}

static void attend(float *o, int64_t ldo, float *lse, int64_t ldl, const float *q, int64_t ldq,
                   int64_t rows, int64_t pos, int64_t len, const key_blocks *kb, const rv_attn *a) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        attend_tile(o + r * ldo, ldo, lse ? lse + r * ldl : NULL, ldl, q + r * ldq, ldq,
                    rows - r < ROWS ? rows - r : ROWS, pos + r, len, kb, a);
    }
}

// ---- packed sequences ----

typedef struct {
    const rv_ctx *c;
    float *o, *lse;
    const float *q, *k, *v;
    float *dq, *dk, *dv;
    const float *d_o;
    int64_t q_stride, kv_stride;
    const int32_t *cu;
    const rv_attn *a;
} packed;

// This thread's share of the reserved scratch.
static float *scratch_of(const rv_ctx *c, int tid, int64_t floats) {
    size_t share = c->scratch_bytes / (size_t)c->threads / 64 * 64;
    RV_ASSERT((size_t)floats * sizeof(float) <= share);
    return (float *)(void *)(c->scratch + (size_t)tid * share);
}

static int64_t back_floats(int64_t len, int64_t d) {
    return blocks_of(len) * KEYS * (2 * d + 3 * padded(d)) + 2 * BACK_ROWS * padded(d) + len;
}

size_t ISA(rv_attention_scratch)(const rv_ctx *c, const rv_attn *a, int64_t max_len) {
    return (size_t)c->threads * ((size_t)back_floats(max_len, a->head_dim) * sizeof(float) + 64);
}

// Rows of width d with the given stride, as (rows, P) padded with zeros.
static void copy_rows(float *dst, const float *src, int64_t stride, int64_t rows, int64_t d) {
    for (int64_t i = 0; i < rows; i++) {
        memcpy(dst + i * padded(d), src + i * stride, (size_t)d * sizeof *src);
        memset(dst + i * padded(d) + d, 0, (size_t)(padded(d) - d) * sizeof *src);
    }
}

static void load_keys(float *blocks, const packed *p, int64_t row0, int64_t len, int64_t g) {
    int64_t d = p->a->head_dim, w = padded(d);
    for (int64_t j = 0; j < len; j += KEYS, blocks += head_block(d)) {
        int64_t keys = len - j < KEYS ? len - j : KEYS, at = (row0 + j) * p->kv_stride + g * d;
        float *values = blocks + KEYS * d;
        transpose_keys(blocks, p->k + at, p->kv_stride, keys, d);
        copy_rows(values, p->v + at, p->kv_stride, keys, d);
        memset(values + keys * w, 0, (size_t)((KEYS - keys) * w) * sizeof *values);
    }
}

// One item: (sequence, query head).
static void packed_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    const packed *p = arg;
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, h = item % a->n_head, s = item / a->n_head;
    int64_t row0 = p->cu[s], len = p->cu[s + 1] - row0, width = a->n_head * d;
    if (len <= 0) {
        return;
    }
    float *blocks = scratch_of(p->c, tid, blocks_of(len) * head_block(d));
    load_keys(blocks, p, row0, len, h / (a->n_head / a->n_kv));
    key_blocks kb = {blocks, NULL, head_block(d)};
    attend(p->o + row0 * width + h * d, width, p->lse ? p->lse + row0 * a->n_head + h : NULL,
           a->n_head, p->q + row0 * p->q_stride + h * d, p->q_stride, len, 0, len, &kb, a);
}

static int64_t cost_of(const int32_t *cu, int64_t n_seq, const rv_attn *a) {
    int64_t rows = n_seq ? cu[n_seq] - cu[0] : 0;
    return n_seq ? rows * (rows / n_seq + 1) * a->head_dim / n_seq : 0;
}

void ISA(rv_attention)(rv_ctx *c, rv_dev o, rv_dev lse, rv_dev q, rv_dev k, rv_dev v,
                       int64_t q_stride, int64_t kv_stride, const int32_t *cu, int64_t n_seq,
                       const rv_attn *a) {
    RV_ASSERT(a->head_dim <= RV_MAX_HEAD_DIM);
    packed p = {.c = c,
                .o = rv_f32(o),
                .lse = rv_f32(lse),
                .q = rv_f32(q),
                .k = rv_f32(k),
                .v = rv_f32(v),
                .q_stride = q_stride,
                .kv_stride = kv_stride,
                .cu = cu,
                .a = a};
    rv_for_each(c, n_seq * a->n_head, cost_of(cu, n_seq, a), packed_item, &p);
}

// ---- backward ----
//
// P = exp(S - lse), dV = P^T dO, dP = dO V^T, dS = P (dP - dot(dO, O)), dQ = scale dS K,
// dK = scale dS^T Q (Dao, FlashAttention-2, 2023, section 2.3). One item is one (sequence,
// key/value head): its query heads one after another, rows ascending.

typedef struct {
    float *kt, *vt, *k; // (blocks, D, 64), (blocks, D, 64), (blocks * 64, P)
    float *dk, *dv;     // (blocks * 64, P)
    float *q, *d_o;     // (BACK_ROWS, P)
    float *delta;       // (len): dot(dO, O)
} back;

static back carve(float *s, int64_t len, int64_t d) {
    int64_t keys = blocks_of(len) * KEYS, p = padded(d);
    back b;
    b.kt = s;
    b.vt = b.kt + keys * d;
    b.k = b.vt + keys * d;
    b.dk = b.k + keys * p;
    b.dv = b.dk + keys * p;
    b.q = b.dv + keys * p;
    b.d_o = b.q + BACK_ROWS * p;
    b.delta = b.d_o + BACK_ROWS * p;
    return b;
}

static void load_back(const back *b, const packed *p, int64_t row0, int64_t len, int64_t g) {
    int64_t d = p->a->head_dim, w = padded(d), from = row0 * p->kv_stride + g * d;
    for (int64_t j = 0; j < len; j += KEYS) {
        int64_t keys = len - j < KEYS ? len - j : KEYS, at = from + j * p->kv_stride;
        transpose_keys(b->kt + j * d, p->k + at, p->kv_stride, keys, d);
        transpose_keys(b->vt + j * d, p->v + at, p->kv_stride, keys, d);
    }
    copy_rows(b->k, p->k + from, p->kv_stride, len, d);
    memset(b->dk, 0, (size_t)(len * w) * sizeof *b->dk);
    memset(b->dv, 0, (size_t)(len * w) * sizeof *b->dv);
}

// P and dS of one row in one block; hidden keys get 0.
static inline void row_gradient(float *s, float *dp, float scale, float lse, float delta, span v) {
    for (int i = 0; i < v.hi; i += VL) {
        vf e = fn_vexp(vload(s + i) * scale - lse);
        vstore(s + i, e);
        vstore(dp + i, e * (vload(dp + i) - delta));
    }
    if (!whole(v)) {
        hide(s, v);
        hide(dp, v);
    }
}

// d(keys) (+)= s^T x over rows first.. of a block: x (rows, w).
static void add_keys(float *dkeys, const float *s, const float *x, int64_t w, int64_t first,
                     int64_t rows, int64_t keys) {
    tile t = {.c = dkeys,
              .ldc = w,
              .a = s + first * KEYS,
              .ar = 1,
              .at = KEYS,
              .b = x + first * w,
              .ldb = w,
              .steps = rows - first,
              .load = true,
              .near = true};
    tile_f32(&t, keys, w);
}

// Rows r0.. of one head against block j0 / 64.
static void block_gradient(const back *b, const packed *p, float *dq, const float *lse, int64_t r0,
                           int64_t rows, int64_t len, int64_t j0) {
    _Alignas(64) float s[BACK_ROWS * KEYS], ds[BACK_ROWS * KEYS];
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, w = padded(d), end = end_key(a, r0 + rows - 1, len) - j0;
    int64_t keys = end < KEYS ? end : KEYS; // no row sees more
    score_block(s, b->q, w, rows, b->kt + j0 * d, d, end);
    score_block(ds, b->d_o, w, rows, b->vt + j0 * d, d, end);
    for (int64_t r = 0; r < rows; r++) {
        row_gradient(s + r * KEYS, ds + r * KEYS, a->scale, lse[r * a->n_head], b->delta[r0 + r],
                     seen(a, r0 + r, len, j0));
    }
    int64_t first = a->causal && j0 > r0 ? j0 - r0 : 0; // no row above sees the block
    add_keys(b->dv + j0 * w, s, b->d_o, w, first, rows, keys);
    add_keys(b->dk + j0 * w, ds, b->q, w, first, rows, keys);
    tile dx = {.c = dq,
               .ldc = w,
               .a = ds,
               .ar = KEYS,
               .at = 1,
               .b = b->k + j0 * w,
               .ldb = w,
               .steps = keys,
               .load = true,
               .near = true};
    tile_f32(&dx, rows, w);
}

static void head_gradient(const back *b, const packed *p, int64_t row0, int64_t len, int64_t h) {
    _Alignas(64) float dq[BACK_ROWS * RV_MAX_HEAD_DIM];
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, w = padded(d), width = a->n_head * d;
    const float *o = p->o + row0 * width + h * d, *d_o = p->d_o + row0 * width + h * d;
    for (int64_t r = 0; r < len; r++) {
        SUM(dot, d, (double)o[r * width + i] * (double)d_o[r * width + i])
        b->delta[r] = (float)dot;
    }
    for (int64_t r0 = 0; r0 < len; r0 += BACK_ROWS) {
        int64_t rows = len - r0 < BACK_ROWS ? len - r0 : BACK_ROWS;
        int64_t at = (row0 + r0) * p->q_stride + h * d;
        copy_rows(b->q, p->q + at, p->q_stride, rows, d);
        copy_rows(b->d_o, d_o + r0 * width, width, rows, d);
        memset(dq, 0, (size_t)(rows * w) * sizeof *dq);
        int64_t end = end_key(a, r0 + rows - 1, len);
        for (int64_t j0 = first_key(a, r0) / KEYS * KEYS; j0 < end; j0 += KEYS) {
            block_gradient(b, p, dq, p->lse + (row0 + r0) * a->n_head + h, r0, rows, len, j0);
        }
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; i < d; i++) {
                p->dq[at + r * p->q_stride + i] = dq[r * w + i] * a->scale;
            }
        }
    }
}

static void backward_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    const packed *p = arg;
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, w = padded(d), g = item % a->n_kv, s = item / a->n_kv;
    int64_t row0 = p->cu[s], len = p->cu[s + 1] - row0, group = a->n_head / a->n_kv;
    if (len <= 0) {
        return;
    }
    back b = carve(scratch_of(p->c, tid, back_floats(len, d)), len, d);
    load_back(&b, p, row0, len, g);
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        head_gradient(&b, p, row0, len, h);
    }
    for (int64_t r = 0; r < len; r++) {
        int64_t at = (row0 + r) * p->kv_stride + g * d;
        for (int64_t i = 0; i < d; i++) {
            p->dk[at + i] = b.dk[r * w + i] * a->scale;
            p->dv[at + i] = b.dv[r * w + i];
        }
    }
}

void ISA(rv_attention_backward)(rv_ctx *c, rv_dev dq, rv_dev dk, rv_dev dv, rv_dev d_o, rv_dev q,
                                rv_dev k, rv_dev v, rv_dev o, rv_dev lse, int64_t q_stride,
                                int64_t kv_stride, const int32_t *cu, int64_t n_seq,
                                const rv_attn *a) {
    RV_ASSERT(a->head_dim <= RV_MAX_HEAD_DIM);
    packed p = {.c = c,
                .o = rv_f32(o),
                .lse = rv_f32(lse),
                .q = rv_f32(q),
                .k = rv_f32(k),
                .v = rv_f32(v),
                .dq = rv_f32(dq),
                .dk = rv_f32(dk),
                .dv = rv_f32(dv),
                .d_o = rv_f32(d_o),
                .q_stride = q_stride,
                .kv_stride = kv_stride,
                .cu = cu,
                .a = a};
    int64_t cost = cost_of(cu, n_seq, a) * 3 * (a->n_head / a->n_kv);
    rv_for_each(c, n_seq * a->n_kv, cost, backward_item, &p);
}

// ---- the cache: blocks of [G][head_block] floats ----

size_t ISA(rv_kv_block_bytes)(const rv_attn *a) {
    return (size_t)(a->n_kv * head_block(a->head_dim)) * sizeof(float);
}

typedef struct {
    float *pool, *o;
    const float *k, *v, *q;
    int64_t q_stride, kv_stride;
    const rv_attn_seq *seqs;
    const rv_attn *a;
} cached;

// One item: a sequence.
static void write_item(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const cached *p = arg;
    int64_t d = p->a->head_dim, size = head_block(d);
    for (int64_t s = lo; s < hi; s++) {
        const rv_attn_seq *q = p->seqs + s;
        for (int64_t i = 0; i < q->n; i++) {
            int64_t pos = q->pos0 + i;
            float *block = p->pool + q->table[pos / KEYS] * p->a->n_kv * size;
            for (int64_t g = 0; g < p->a->n_kv; g++) {
                int64_t at = (q->row0 + i) * p->kv_stride + g * d;
                put_key(block + g * size, pos % KEYS, p->k + at, p->v + at, d);
            }
        }
    }
}

static int64_t rows_of(const rv_attn_seq *seqs, int64_t n_seq) {
    int64_t rows = 0;
    for (int64_t i = 0; i < n_seq; i++) {
        rows += seqs[i].n;
    }
    return rows;
}

void ISA(rv_kv_write)(rv_ctx *c, rv_dev pool, rv_dev k, rv_dev v, int64_t kv_stride,
                      const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a) {
    cached p = {.pool = rv_f32(pool),
                .k = rv_f32(k),
                .v = rv_f32(v),
                .kv_stride = kv_stride,
                .seqs = seqs,
                .a = a};
    int64_t each = n_seq ? rows_of(seqs, n_seq) / n_seq + 1 : 0;
    rv_for(c, n_seq, each * a->n_kv * a->head_dim, 1, write_item, &p);
}

// One item: (sequence, query head).
static void cached_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    (void)tid;
    const cached *p = arg;
    const rv_attn *a = p->a;
    const rv_attn_seq *s = p->seqs + item / a->n_head;
    int64_t d = a->head_dim, h = item % a->n_head, width = a->n_head * d, size = head_block(d);
    int64_t g = h / (a->n_head / a->n_kv);
    key_blocks kb = {p->pool + g * size, s->table, a->n_kv * size};
    attend(p->o + s->row0 * width + h * d, width, NULL, 0, p->q + s->row0 * p->q_stride + h * d,
           p->q_stride, s->n, s->pos0, s->pos0 + s->n, &kb, a);
}

void ISA(rv_attention_cached)(rv_ctx *c, rv_dev o, rv_dev q, int64_t q_stride, rv_dev pool,
                              const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a) {
    RV_ASSERT(a->head_dim <= RV_MAX_HEAD_DIM);
    cached p = {.pool = rv_f32(pool),
                .o = rv_f32(o),
                .q = rv_f32(q),
                .q_stride = q_stride,
                .seqs = seqs,
                .a = a};
    int64_t work = 0;
    for (int64_t i = 0; i < n_seq; i++) {
        work += seqs[i].n * (seqs[i].pos0 + seqs[i].n) * a->head_dim;
    }
    rv_for_each(c, n_seq * a->n_head, n_seq ? work / n_seq : 0, cached_item, &p);
}
