// attention_back.c - the backward pass of attention over packed sequences.
//
// P = exp(S - lse), dV = P^T dO, dP = dO V^T, dS = P (dP - dot(dO, O)), dQ = scale dS K,
// dK = scale dS^T Q (Dao, FlashAttention-2, 2023, section 2.3). One item is one (sequence,
// key/value head): its query heads one after another, rows ascending.
#include "attend.h"

enum { BACK_ROWS = 48, PIECE = 12 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t back_floats(int64_t len, int64_t d) {
    return blocks_of(len) * KEYS * (2 * d + 3 * padded(d)) + 2 * BACK_ROWS * padded(d);
}

size_t ISA(rv_attention_scratch)(const rv_ctx *c, const rv_attn *a, int64_t max_len) {
    return (size_t)c->threads * ((size_t)back_floats(max_len, a->head_dim) * sizeof(float) + 64);
}

typedef struct {
    float *kt, *vt, *k; // (blocks, D, 64), (blocks, D, 64), (blocks * 64, P)
    float *dk, *dv;     // (blocks * 64, P)
    float *q, *d_o;     // (BACK_ROWS, P)
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

// Rows (rows, P), scaled, to where they lie a stride apart.
static void put_rows(float *restrict dst, int64_t stride, const float *restrict src, float scale,
                     int64_t rows, int64_t d) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < d; i++) {
            dst[r * stride + i] = src[r * padded(d) + i] * scale;
        }
    }
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

// The rows of a tile against one block of keys.
typedef struct {
    int64_t rows, keys; // keys of the block that some row sees
    int64_t lag;        // row r sees keys r + lag and before; KEYS where all see all
} area;

// Products with a causal block go piece by piece, as the diagonal cuts off a part of each.
static inline int64_t piece(const area *w, int64_t n) { return w->lag < KEYS ? PIECE : n; }
// Keys that rows r .. r + n - 1 see.
static inline int64_t keys_of(const area *w, int64_t r, int64_t n) {
    return most(0, least(w->keys, w->lag + r + n));
}

// x (rows, D) times the block's columns.
static void score_rows(const area *w, float *s, const float *x, const float *columns, int64_t d) {
    for (int64_t r = 0, n = piece(w, w->rows); r < w->rows; r += n) {
        int64_t some = least(n, w->rows - r);
        tile t = score_tile(s + r * KEYS, x + r * padded(d), padded(d), columns, d);
        tile_f32(&t, some, score_width(keys_of(w, r, some)));
    }
}

// d(keys) += s^T x: x (rows, width).
static void add_keys(const area *w, float *dkeys, const float *s, const float *x, int64_t width) {
    for (int64_t k = 0, n = piece(w, w->keys); k < w->keys; k += n) {
        int64_t first = most(0, k - w->lag); // no row above sees these keys
        tile t = {.c = dkeys + k * width,
                  .ldc = width,
                  .a = s + first * KEYS + k,
                  .ar = 1,
                  .at = KEYS,
                  .b = x + first * width,
                  .ldb = width,
                  .steps = w->rows - first,
                  .load = true};
        tile_f32(&t, least(n, w->keys - k), width);
    }
}

// d(queries) += s keys: keys (64, width).
static void add_queries(const area *w, float *dq, const float *s, const float *keys,
                        int64_t width) {
    for (int64_t r = 0, n = piece(w, w->rows); r < w->rows; r += n) {
        int64_t some = least(n, w->rows - r);
        tile t = {.c = dq + r * width,
                  .ldc = width,
                  .a = s + r * KEYS,
                  .ar = KEYS,
                  .at = 1,
                  .b = keys,
                  .ldb = width,
                  .steps = keys_of(w, r, some),
                  .load = true};
        tile_f32(&t, some, width);
    }
}

// Rows from position r0 on of one head against block j0 / 64.
static void block_gradient(const back *b, const packed *p, float *dq, const float *lse,
                           const float *delta, int64_t r0, int64_t rows, int64_t len, int64_t j0) {
    _Alignas(64) float s[BACK_ROWS * KEYS], ds[BACK_ROWS * KEYS];
    const rv_attn *a = p->a;
    const int64_t d = a->head_dim, w = padded(d);
    const area seen_by = {rows, least(KEYS, end_key(a, r0 + rows - 1, len) - j0),
                          a->causal && r0 + 1 < j0 + KEYS ? r0 - j0 : KEYS};
    score_rows(&seen_by, s, b->q, b->kt + j0 * d, d);
    score_rows(&seen_by, ds, b->d_o, b->vt + j0 * d, d);
    for (int64_t r = 0; r < rows; r++) {
        row_gradient(s + r * KEYS, ds + r * KEYS, a->scale, lse[r * a->n_head], delta[r],
                     seen(a, r0 + r, len, j0));
    }
    add_keys(&seen_by, b->dv + j0 * w, s, b->d_o, w);
    add_keys(&seen_by, b->dk + j0 * w, ds, b->q, w);
    add_queries(&seen_by, dq, ds, b->k + j0 * w, w);
}

// Queries r0 .. r0 + rows - 1 of one head of a sequence.
static void rows_gradient(const back *b, const packed *p, const sequence *s, int64_t h, int64_t r0,
                          int64_t rows) {
    _Alignas(64) float dq[BACK_ROWS * RV_MAX_HEAD_DIM];
    float delta[BACK_ROWS]; // dot(dO, O)
    const rv_attn *a = p->a;
    const int64_t d = a->head_dim, w = padded(d), width = a->n_head * d, pos = s->pos + r0;
    const int64_t at = (s->q0 + r0) * p->q_stride + h * d, end = end_key(a, pos + rows - 1, s->len);
    const float *lse = p->lse + (s->q0 + r0) * a->n_head + h;
    const float *o = p->o + (s->q0 + r0) * width + h * d;
    copy_rows(b->q, p->q + at, p->q_stride, rows, d);
    copy_rows(b->d_o, p->d_o + (s->q0 + r0) * width + h * d, width, rows, d);
    for (int64_t r = 0; r < rows; r++) {
        SUM(dot, d, (double)o[r * width + i] * (double)b->d_o[r * w + i])
        delta[r] = (float)dot;
    }
    memset(dq, 0, (size_t)(rows * w) * sizeof *dq);
    for (int64_t j0 = first_key(a, pos) / KEYS * KEYS; j0 < end; j0 += KEYS) {
        block_gradient(b, p, dq, lse, delta, pos, rows, s->len, j0);
    }
    put_rows(p->dq + at, p->q_stride, dq, a->scale, rows, d);
}

static void head_gradient(const back *b, const packed *p, const sequence *s, int64_t h) {
    for (int64_t r0 = 0; r0 < s->n; r0 += BACK_ROWS) {
        rows_gradient(b, p, s, h, r0, least(s->n - r0, BACK_ROWS));
    }
}

static void backward_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    const packed *p = arg;
    const rv_attn *a = p->a;
    int64_t d = a->head_dim, g = item % a->n_kv, group = a->n_head / a->n_kv;
    const sequence s = sequence_of(p, item / a->n_kv);
    if (s.len <= 0) {
        return;
    }
    back b = carve(scratch_of(p->c, tid, back_floats(s.len, d)), s.len, d);
    load_back(&b, p, s.row0, s.len, g);
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        head_gradient(&b, p, &s, h);
    }
    int64_t at = s.row0 * p->kv_stride + g * d;
    put_rows(p->dk + at, p->kv_stride, b.dk, a->scale, s.len, d);
    put_rows(p->dv + at, p->kv_stride, b.dv, 1, s.len, d);
}

void ISA(rv_attention_backward)(rv_ctx *c, rv_dev dq, rv_dev dk, rv_dev dv, rv_dev d_o, rv_dev q,
                                rv_dev k, rv_dev v, rv_dev o, rv_dev lse, int64_t q_stride,
                                int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                                int64_t n_seq, const rv_attn *a) {
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
                .q_cu = q_cu,
                .a = a};
    int64_t cost = cost_of(&p, n_seq) * 3 * (a->n_head / a->n_kv);
    rv_for_each(c, n_seq * a->n_kv, cost, backward_item, &p);
}
