// attend.h - what attention's files share: keys and values in blocks, what a query sees of a block,
// scores, and the arguments of a call on packed sequences.
//
// Keys are taken in blocks of 64 counted from a sequence's own key 0, kept as K^T (D, 64) so that
// lanes run over keys, values as (64, P), P = D rounded up to 32.
#pragma once

#include "fn.h"
#include "isa.h"
#include "softmax.h"
#include "tile.h"

enum { KEYS = RV_KV_BLOCK };

static inline int64_t padded(int64_t d) { return (d + RV_PANEL - 1) / RV_PANEL * RV_PANEL; }
static inline int64_t blocks_of(int64_t n) { return (n + KEYS - 1) / KEYS; }
// Floats of one block of one key/value head.
static inline int64_t head_block(int64_t d) { return KEYS * (d + padded(d)); }

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
static inline void transpose_keys(float *dst, const float *src, int64_t stride, int64_t keys,
                                  int64_t d) {
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

// Rows of width d with the given stride, as (rows, P) padded with zeros.
static inline void copy_rows(float *dst, const float *src, int64_t stride, int64_t rows,
                             int64_t d) {
    for (int64_t i = 0; i < rows; i++) {
        memcpy(dst + i * padded(d), src + i * stride, (size_t)d * sizeof *src);
        memset(dst + i * padded(d) + d, 0, (size_t)(padded(d) - d) * sizeof *src);
    }
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

// Weights of hidden keys become exact zeros.
static inline void hide(float *p, span v) {
    for (int i = 0; i < v.lo; i++) {
        p[i] = 0;
    }
    for (int i = v.hi; i < KEYS; i++) {
        p[i] = 0;
    }
}

// Scores of queries against a block's keys.
static inline tile score_tile(float *s, const float *q, int64_t ldq, const float *keys, int64_t d) {
    return (tile){
        .c = s, .ldc = KEYS, .a = q, .ar = ldq, .at = 1, .b = keys, .ldb = KEYS, .steps = d};
}

// Columns of them when the keys before `end` are wanted.
static inline int64_t score_width(int64_t end) {
    return end < KEYS ? (end + NC - 1) / NC * NC : KEYS;
}

typedef struct {
    const rv_ctx *c;
    float *o, *lse;
    const float *q, *k, *v;
    float *dq, *dk, *dv;
    const float *d_o;
    int64_t q_stride, kv_stride, heads; // heads: of an item, forward
    const int32_t *cu, *q_cu;           // q_cu: NULL where every row is a query
    const rv_attn *a;
} packed;

// Keys and values of a sequence: rows row0 .. row0 + len - 1; its queries: rows q0 .. q0 + n - 1 of
// theirs, the first at position pos = len - n.
typedef struct {
    int64_t row0, len, q0, n, pos;
} sequence;

static inline sequence sequence_of(const packed *p, int64_t s) {
    const int32_t *q = p->q_cu ? p->q_cu : p->cu;
    int64_t len = p->cu[s + 1] - p->cu[s], n = q[s + 1] - q[s];
    return (sequence){p->cu[s], len, q[s], n, len - n};
}

// This thread's share of the reserved scratch.
static inline float *scratch_of(const rv_ctx *c, int tid, int64_t floats) {
    size_t share = c->scratch_bytes / (size_t)c->threads / 64 * 64;
    RV_ASSERT((size_t)floats * sizeof(float) <= share);
    return (float *)(void *)(c->scratch + (size_t)tid * share);
}

// Multiply-adds of an item of a sequence and a head, or so.
static inline int64_t cost_of(const packed *p, int64_t n_seq) {
    int64_t work = 0;
    for (int64_t s = 0; s < n_seq; s++) {
        sequence q = sequence_of(p, s);
        work += q.n * (q.len - q.n / 2) * 2;
    }
    return n_seq ? work / n_seq * p->a->head_dim : 0;
}
