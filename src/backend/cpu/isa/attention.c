// attention.c - attention over packed sequences and over the cache.
//
// The packed call brings its keys into the cache's blocks first, so that one routine,
// `attend_block`, serves scoring, prefill and decoding, and every element is the same chain of
// operations: scores one chain over d, softmax with a running maximum by block, outputs one chain
// over keys, in which masked keys add exact zeros.
#include "attend.h"

enum {
    ROWS = 12,          // of one tile of queries
    HEAD_TILES = 32,    // of one row
    HEADS_FLOATS = 8192 // outputs of one row's heads
};

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

// Queries that share a key/value head: rows of a sequence, one position after the other (step 1),
// or the heads of one row (step 0).
typedef struct {
    const float *q;
    float *acc; // (rows, P): outputs so far
    int64_t ldq, rows, pos, step;
    running run;
} queries;

static void begin(queries *t, const rv_attn *a) {
    for (int64_t r = 0; r < t->rows; r++) {
        t->run.max[r] = HIDDEN;
        t->run.sum[r] = 0;
    }
    memset(t->acc, 0, (size_t)(t->rows * padded(a->head_dim)) * sizeof *t->acc);
}

static inline int64_t end_of(const queries *t, int64_t len, const rv_attn *a) {
    return end_key(a, t->pos + (t->rows - 1) * t->step, len);
}

// One row of a product with what still lies in memory, line after line. The machine foresees that
// better than we could ask.
static void pass_over(const tile *t, int64_t cols) {
    for (int64_t col = 0, n; col < cols; col += n) {
        n = cols - col < 4 * NC ? cols - col : 4 * NC;
        switch (n / NC) {
        case 1:
            tile_one(1, 2, B_F32, 0, t, 0, col, 0);
            break;
        case 2:
            tile_one(1, 4, B_F32, 0, t, 0, col, 0);
            break;
        case 3:
            tile_one(1, 6, B_F32, 0, t, 0, col, 0);
            break;
        default:
            tile_one(1, 8, B_F32, 0, t, 0, col, 0);
            break;
        }
    }
}

// Rows of a product with what lies in a block. The heads of a single row are the first to see it:
// one of them brings it near for the others.
static void multiply(tile *t, bool far, int64_t rows, int64_t cols) {
    if (far) {
        pass_over(t, cols);
        t->c += t->ldc;
        t->a = (const float *)t->a + t->ar;
        rows--;
    }
    if (rows > 0) {
        tile_f32(t, rows, cols);
    }
}

// Takes in block b of len keys.
static void attend_block(queries *t, const float *keys, int64_t b, int64_t len, const rv_attn *a) {
    _Alignas(64) float s[ROWS * KEYS];
    const int64_t d = a->head_dim, p = padded(d), end = end_of(t, len, a) - b * KEYS;
    const bool far = t->step == 0;
    float factor[ROWS];
    span v[ROWS];
    tile qk = score_tile(s, t->q, t->ldq, keys, d), pv = {.c = t->acc,
                                                          .ldc = p,
                                                          .a = s,
                                                          .ar = KEYS,
                                                          .at = 1,
                                                          .b = keys + KEYS * d,
                                                          .ldb = p,
                                                          .steps = end < KEYS ? end : KEYS,
                                                          .load = true};
    multiply(&qk, far, t->rows, score_width(end));
    for (int64_t r = 0; r < t->rows; r++) {
        v[r] = seen(a, t->pos + r * t->step, len, b * KEYS);
        scale_scores(s + r * KEYS, a->scale, v[r]);
    }
    soften(s, t->rows, v, &t->run, factor);
    for (int64_t r = 0; r < t->rows; r++) {
        float *acc = t->acc + r * p;
        for (int64_t i = 0; factor[r] != 1 && i < p; i += VL) {
            vstore(acc + i, vload(acc + i) * factor[r]);
        }
    }
    multiply(&pv, far, t->rows, p);
}

static void finish(const queries *t, float *o, int64_t ldo, float *lse, int64_t ldl,
                   const rv_attn *a) {
    for (int64_t r = 0; r < t->rows; r++) {
        const float *acc = t->acc + r * padded(a->head_dim);
        for (int64_t i = 0; i < a->head_dim; i++) {
            o[r * ldo + i] = acc[i] / t->run.sum[r];
        }
        if (lse) {
            lse[r * ldl] = (float)((double)t->run.max[r] + rv_log((double)t->run.sum[r]));
        }
    }
}

// Attends rows of one head; the first stands at position pos of len keys.
static void attend_rows(float *o, int64_t ldo, float *lse, int64_t ldl, const float *q, int64_t ldq,
                        int64_t rows, int64_t pos, int64_t len, const key_blocks *kb,
                        const rv_attn *a) {
    _Alignas(64) float acc[ROWS * RV_MAX_HEAD_DIM];
    for (int64_t r = 0; r < rows; r += ROWS) {
        int64_t n = rows - r < ROWS ? rows - r : ROWS;
        queries t = {q + r * ldq, acc, ldq, n, pos + r, 1, {{0}, {0}}};
        begin(&t, a);
        int64_t end = end_of(&t, len, a);
        for (int64_t b = first_key(a, pos + r) / KEYS; b * KEYS < end; b++) {
            attend_block(&t, block_at(kb, b), b, len, a);
        }
        finish(&t, o + r * ldo, ldo, lse ? lse + r * ldl : NULL, ldl, a);
    }
}

// ---- packed sequences ----

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

// One item: query heads of a sequence that share keys and values.
static void packed_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    const packed *p = arg;
    const rv_attn *a = p->a;
    const int64_t d = a->head_dim, parts = a->n_head / p->heads, h0 = item % parts * p->heads;
    const int64_t width = a->n_head * d;
    const sequence s = sequence_of(p, item / parts);
    if (s.n <= 0) {
        return;
    }
    float *blocks = scratch_of(p->c, tid, blocks_of(s.len) * head_block(d));
    load_keys(blocks, p, s.row0, s.len, h0 / (a->n_head / a->n_kv));
    key_blocks kb = {blocks, NULL, head_block(d)};
    for (int64_t h = h0; h < h0 + p->heads; h++) {
        attend_rows(p->o + s.q0 * width + h * d, width,
                    p->lse ? p->lse + s.q0 * a->n_head + h : NULL, a->n_head,
                    p->q + s.q0 * p->q_stride + h * d, p->q_stride, s.n, s.pos, s.len, &kb, a);
    }
}

void ISA(rv_attention)(rv_ctx *c, rv_dev o, rv_dev lse, rv_dev q, rv_dev k, rv_dev v,
                       int64_t q_stride, int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                       int64_t n_seq, const rv_attn *a) {
    RV_ASSERT(a->head_dim <= RV_MAX_HEAD_DIM);
    packed p = {.c = c,
                .o = rv_f32(o),
                .lse = rv_f32(lse),
                .q = rv_f32(q),
                .k = rv_f32(k),
                .v = rv_f32(v),
                .q_stride = q_stride,
                .kv_stride = kv_stride,
                .heads = 1,
                .cu = cu,
                .q_cu = q_cu,
                .a = a};
    if (n_seq * a->n_kv >= 4 * c->threads) { // items enough: bring keys into blocks once
        p.heads = a->n_head / a->n_kv;
    }
    rv_for_each(c, n_seq * (a->n_head / p.heads), cost_of(&p, n_seq) * p.heads, packed_item, &p);
}

// ---- the cache: blocks of [G][head_block] floats ----

size_t ISA(rv_kv_block_bytes)(const rv_attn *a) {
    return (size_t)(a->n_kv * head_block(a->head_dim)) * sizeof(float);
}

typedef struct {
    float *pool, *o;
    const float *k, *v, *q;
    int64_t q_stride, kv_stride;
    int64_t heads, single; // query heads of an item, and of one whose sequence has a single row
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
    const int64_t wait = 64; // each element of a key lies in a line of its own
    rv_for(c, n_seq, each * a->n_kv * a->head_dim * wait, 1, write_item, &p);
}

// The heads h0 .. h1 - 1 of one row, the last of its keys: block by block through all of them, as
// they follow each other in memory.
static void attend_heads(const cached *p, const rv_attn_seq *s, int64_t h0, int64_t h1) {
    _Alignas(64) float acc[HEADS_FLOATS];
    const rv_attn *a = p->a;
    const int64_t d = a->head_dim, w = padded(d), size = head_block(d), group = a->n_head / a->n_kv;
    const float *q = p->q + s->row0 * p->q_stride;
    queries t[HEAD_TILES];
    int64_t n = 0, of[HEAD_TILES];
    for (int64_t h = h0; h < h1; h += t[n++].rows) {
        int64_t left = (h / group + 1) * group - h; // of the group
        left = left < h1 - h ? left : h1 - h;
        t[n] = (queries){q + h * d, acc + (h - h0) * w, d, left < ROWS ? left : ROWS, s->pos0,
                         0,         {{0}, {0}}};
        of[n] = h / group * size;
        begin(&t[n], a);
    }
    for (int64_t b = first_key(a, s->pos0) / KEYS; b * KEYS <= s->pos0; b++) {
        const float *block = p->pool + s->table[b] * a->n_kv * size;
        for (int64_t i = 0; i < n; i++) {
            attend_block(&t[i], block + of[i], b, s->pos0 + 1, a);
        }
    }
    float *o = p->o + (s->row0 * a->n_head + h0) * d;
    for (int64_t i = 0; i < n; o += t[i++].rows * d) {
        finish(&t[i], o, d, NULL, 0, a);
    }
}

// One item: `heads` query heads of a sequence.
static void cached_item(void *arg, int64_t item, int64_t hi, int tid) {
    (void)hi;
    (void)tid;
    const cached *p = arg;
    const rv_attn *a = p->a;
    const int64_t parts = a->n_head / p->heads, d = a->head_dim, width = a->n_head * d;
    const rv_attn_seq *s = p->seqs + item / parts;
    const int64_t h = item % parts * p->heads, g = h / (a->n_head / a->n_kv);
    if (s->n > 1) { // heads is 1
        key_blocks kb = {p->pool + g * head_block(d), s->table, a->n_kv * head_block(d)};
        attend_rows(p->o + s->row0 * width + h * d, width, NULL, 0,
                    p->q + s->row0 * p->q_stride + h * d, p->q_stride, s->n, s->pos0,
                    s->pos0 + s->n, &kb, a);
    } else if (h % p->single == 0) {
        attend_heads(p, s, h, h + p->single);
    }
}

// Query heads of a row that are taken together: all while there are rows enough for every thread,
// or those of some key/value heads, so that keys are read once; single ones where that would leave
// threads idle.
static int64_t heads_together(const rv_ctx *c, int64_t n_seq, const rv_attn *a) {
    const int64_t group = a->n_head / a->n_kv, most = HEADS_FLOATS / padded(a->head_dim);
    for (int64_t n = a->n_kv; n > 0; n--) {
        int64_t tiles = n * ((group + ROWS - 1) / ROWS), items = n_seq * (a->n_kv / n);
        if (a->n_kv % n == 0 && tiles <= HEAD_TILES && n * group <= most &&
            items >= (n > 1 ? 4 : 1) * c->threads) {
            return n * group;
        }
    }
    return 1;
}

void ISA(rv_attention_cached)(rv_ctx *c, rv_dev o, rv_dev q, int64_t q_stride, rv_dev pool,
                              const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a) {
    RV_ASSERT(a->head_dim <= RV_MAX_HEAD_DIM);
    const int64_t single = heads_together(c, n_seq, a);
    bool rows = false; // more than one of some sequence
    int64_t work = 0;
    for (int64_t i = 0; i < n_seq; i++) {
        rows |= seqs[i].n > 1;
        work += seqs[i].n * (seqs[i].pos0 + seqs[i].n) * a->head_dim;
    }
    cached p = {.pool = rv_f32(pool),
                .o = rv_f32(o),
                .q = rv_f32(q),
                .q_stride = q_stride,
                .heads = rows ? 1 : single,
                .single = single,
                .seqs = seqs,
                .a = a};
    rv_for_each(c, n_seq * (a->n_head / p.heads), n_seq ? 2 * work / n_seq * p.heads : 0,
                cached_item, &p);
}
