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

enum { KEYS = RV_KV_BLOCK, ROWS = 12, BACK_ROWS = 32 };

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

// Softmax state of the rows of one tile.
typedef struct {
    float max[ROWS], sum[ROWS];
} running;

RV_INLINE float larger(float a, float b) { return a > b ? a : b; }

// Sum of 64 weights: four to a lane, then a tree over 16 lanes.
static inline float weight_sum(const float *p) {
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = (p[l] + p[l + LANES]) + (p[l + 2 * LANES] + p[l + 3 * LANES]);
    }
    float a[8], b[4];
    for (int l = 0; l < 8; l++) {
        a[l] = lane[l] + lane[l + 8];
    }
    for (int l = 0; l < 4; l++) {
        b[l] = a[l] + a[l + 4];
    }
    return (b[0] + b[2]) + (b[1] + b[3]);
}

static inline float weight_max(const float *p) {
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = larger(larger(p[l], p[l + LANES]), larger(p[l + 2 * LANES], p[l + 3 * LANES]));
    }
    float a[8], b[4];
    for (int l = 0; l < 8; l++) {
        a[l] = larger(lane[l], lane[l + 8]);
    }
    for (int l = 0; l < 4; l++) {
        b[l] = larger(a[l], a[l + 4]);
    }
    return larger(larger(b[0], b[2]), larger(b[1], b[3]));
}

static const float HIDDEN = -3.0e38f; // in place of a score that may not be seen

// Raw scores of one row become scaled ones, HIDDEN outside [lo, hi).
static inline void scale_scores(float *s, float scale, int64_t lo, int64_t hi) {
    if (lo <= 0 && hi >= KEYS) {
        for (int i = 0; i < KEYS; i++) {
            s[i] *= scale;
        }
        return;
    }
    int l = lo < 0 ? 0 : lo > KEYS ? KEYS : (int)lo, h = hi < 0 ? 0 : hi > KEYS ? KEYS : (int)hi;
    for (int i = 0; i < KEYS; i++) {
        s[i] = i >= l && i < h ? s[i] * scale : HIDDEN;
    }
}

// The rows' scores of one block become weights, hidden ones exact zeros; `factor` receives what
// the sums before must be multiplied by. Step by step for all rows, so that rows overlap.
static void soften(float *s, int64_t rows, running *run, float *factor) {
    float top[ROWS];
    for (int64_t r = 0; r < rows; r++) {
        top[r] = larger(weight_max(s + r * KEYS), run->max[r]);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *p = s + r * KEYS;
        const float t = top[r];
        for (int i = 0; i < KEYS; i++) {
            float e = fn_exp(p[i] - t);
            p[i] = p[i] == HIDDEN ? 0 : e;
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        factor[r] = run->max[r] == top[r] ? 1 : fn_exp(run->max[r] - top[r]); // e^0 is 1
        run->sum[r] = __builtin_fmaf(run->sum[r], factor[r], weight_sum(s + r * KEYS));
        run->max[r] = top[r];
    }
}

// Attends rows (at most ROWS) of one head; the first stands at position pos of len keys.
static void attend_tile(float *o, int64_t ldo, float *lse, int64_t ldl, const float *q, int64_t ldq,
                        int64_t rows, int64_t pos, int64_t len, const key_blocks *kb,
                        const rv_attn *a) {
    _Alignas(64) float s[ROWS * KEYS], acc[ROWS * RV_MAX_HEAD_DIM];
    const int64_t d = a->head_dim, p = padded(d);
    float factor[ROWS];
    running run;
    for (int64_t r = 0; r < rows; r++) {
        run.max[r] = HIDDEN;
        run.sum[r] = 0;
    }
    memset(acc, 0, (size_t)(rows * p) * sizeof *acc);
    int64_t end = end_key(a, pos + rows - 1, len);
    for (int64_t b = first_key(a, pos) / KEYS; b * KEYS < end; b++) {
        const float *keys = block_at(kb, b), *values = keys + KEYS * d;
        tile t = {
            .c = s, .ldc = KEYS, .a = q, .ar = ldq, .at = 1, .b = keys, .ldb = KEYS, .steps = d};
        tile_f32(&t, rows, KEYS);
        for (int64_t r = 0; r < rows; r++) {
            scale_scores(s + r * KEYS, a->scale, first_key(a, pos + r) - b * KEYS,
                         end_key(a, pos + r, len) - b * KEYS);
        }
        soften(s, rows, &run, factor);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; factor[r] != 1 && i < p; i++) {
                acc[r * p + i] *= factor[r];
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
                   .load = true};
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

static void load_keys(float *blocks, const packed *p, int64_t row0, int64_t len, int64_t g) {
    int64_t d = p->a->head_dim, size = head_block(d);
    int64_t last = blocks_of(len) - 1;
    memset(blocks + last * size, 0, (size_t)size * sizeof *blocks); // no stale NaN behind the end
    for (int64_t i = 0; i < len; i++) {
        int64_t at = (row0 + i) * p->kv_stride + g * d;
        put_key(blocks + i / KEYS * size, i % KEYS, p->k + at, p->v + at, d);
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

// Rows of width d with the given stride, as (rows, P) padded with zeros.
static void copy_rows(float *dst, const float *src, int64_t stride, int64_t rows, int64_t d) {
    for (int64_t i = 0; i < rows; i++) {
        memcpy(dst + i * padded(d), src + i * stride, (size_t)d * sizeof *src);
        memset(dst + i * padded(d) + d, 0, (size_t)(padded(d) - d) * sizeof *src);
    }
}

static void load_back(const back *b, const packed *p, int64_t row0, int64_t len, int64_t g) {
    int64_t d = p->a->head_dim, keys = blocks_of(len) * KEYS;
    memset(b->kt, 0, (size_t)(keys * (2 * d + 3 * padded(d))) * sizeof(float));
    for (int64_t i = 0; i < len; i++) {
        int64_t at = (row0 + i) * p->kv_stride + g * d, slot = i / KEYS * KEYS * d + i % KEYS;
        for (int64_t j = 0; j < d; j++) {
            b->kt[slot + j * KEYS] = p->k[at + j];
            b->vt[slot + j * KEYS] = p->v[at + j];
        }
        memcpy(b->k + i * padded(d), p->k + at, (size_t)d * sizeof(float));
    }
}

// P and dS of one row in one block; keys outside [lo, hi) get 0.
static void row_gradient(float *s, float *dp, float scale, float lse, float delta, int64_t lo,
                         int64_t hi) {
    for (int i = 0; i < KEYS; i++) {
        float e = fn_exp(s[i] * scale - lse);
        s[i] = i >= lo && i < hi ? e : 0;
        dp[i] = s[i] * (dp[i] - delta);
    }
}

// Rows r0.. of one head against block j0 / 64.
static void block_gradient(const back *b, const packed *p, float *dq, const float *lse, int64_t r0,
                           int64_t rows, int64_t len, int64_t j0) {
    _Alignas(64) float s[BACK_ROWS * KEYS], ds[BACK_ROWS * KEYS];
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, w = padded(d);
    tile t = {.c = s,
              .ldc = KEYS,
              .a = b->q,
              .ar = w,
              .at = 1,
              .b = b->kt + j0 * d,
              .ldb = KEYS,
              .steps = d};
    tile_f32(&t, rows, KEYS);
    t.c = ds;
    t.a = b->d_o;
    t.b = b->vt + j0 * d;
    tile_f32(&t, rows, KEYS);
    for (int64_t r = 0; r < rows; r++) {
        row_gradient(s + r * KEYS, ds + r * KEYS, a->scale, lse[r * a->n_head], b->delta[r0 + r],
                     first_key(a, r0 + r) - j0, end_key(a, r0 + r, len) - j0);
    }
    int64_t keys = len - j0 < KEYS ? len - j0 : KEYS;
    tile dv = {.c = b->dv + j0 * w,
               .ldc = w,
               .a = s,
               .ar = 1,
               .at = KEYS,
               .b = b->d_o,
               .ldb = w,
               .steps = rows,
               .load = true};
    tile_f32(&dv, keys, w);
    tile dk = {.c = b->dk + j0 * w,
               .ldc = w,
               .a = ds,
               .ar = 1,
               .at = KEYS,
               .b = b->q,
               .ldb = w,
               .steps = rows,
               .load = true};
    tile_f32(&dk, keys, w);
    tile dx = {.c = dq,
               .ldc = w,
               .a = ds,
               .ar = KEYS,
               .at = 1,
               .b = b->k + j0 * w,
               .ldb = w,
               .steps = keys,
               .load = true};
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
