// tile.h - the one multiply-add loop of the program.
//
// C[i][j] (+)= sum over t of A[i][t] B[t][j], each element one chain of fused multiply-adds, t
// ascending, on accumulators held in registers. Forward products, dX, dW and attention are all this
// loop with other strides, so an element's bits never depend on the tile it fell into.
#pragma once

#include "vec.h"

// How the elements of B are kept.
typedef enum {
    B_F32,
    B_BF16,
    B_F16,
    B_PAIR // two bf16 a step; A holds rounded activations, see pair.h
} tile_kind;

typedef struct {
    float *c;
    const void *a; // floats; for B_PAIR pair_t
    const void *b;
    int64_t ldc;    // of C's rows
    int64_t ar, at; // strides of A along rows and steps
    int64_t ldb;    // of B's steps, in elements (pairs)
    int64_t steps;
    bool load;        // start from C instead of zero
    bool near;        // B is in the first caches
    const void *next; // what B will be next time, or NULL: fetched while this one is multiplied
} tile;

// A register tile is MR rows by NC columns.
#define NC (2 * VL)
enum { MAX_NV = 8 }; // vectors of columns at once, of a single row
#if VL == 16
#define MR 12
#else
#define MR 6
#endif

#if (defined(__AVX512BF16__) && VL == 16) || defined(RV_WORDS)
// One 32-bit word holds the bf16 of steps 2t (low half) and 2t + 1. RV_WORDS: a test builds it so
// where the instruction is missing.
typedef uint32_t pair_t;
#define PAIR_WIDTH 1
#else
// Two floats, rounded to bf16.
typedef float pair_t;
#define PAIR_WIDTH 2
#endif

RV_INLINE vf load_b(const tile_kind kind, const void *b, int64_t i) {
    switch (kind) {
    case B_BF16:
        return vload_bf16((const uint16_t *)b + i);
    case B_F16:
        return vload_f16((const uint16_t *)b + i);
    default:
        return vload((const float *)b + i);
    }
}

// Steps that B is asked for ahead of its use; a panel's next steps follow in memory, and asking
// beyond its end is harmless.
enum { AHEAD = 16 };

// Where a tile asks from: its own steps further on, or, when these are near already, a part of what
// comes next, spread over the tiles so that memory has time.
typedef struct {
    uintptr_t from;
    int shift; // a step's share of `next`'s steps: 1, 1/2, 1/4 ...
} fetch;

RV_INLINE void prefetch_b(const tile_kind kind, const fetch *f, int64_t s, int64_t ldb,
                          const int nv) {
    const int size = kind == B_BF16 || kind == B_F16 ? 2 : 4;
    const char *p = (const char *)(f->from + (uintptr_t)((s >> f->shift) * ldb * size));
    RV_UNROLL
    for (int at = 0; at < nv * VL * size; at += 64) {
        __builtin_prefetch(p + at, 0, 3);
    }
}

#if PAIR_WIDTH == 1
// acc += odd product, then acc += even product.
RV_INLINE vf pair_fma(pair_t a, vu b, vf acc) {
#if defined(__AVX512BF16__) && VL == 16
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#else
    acc = vfma((vf)((vu){0} + (a & 0xffff0000u)), (vf)(b & 0xffff0000u), acc);
    return vfma((vf)((vu){0} + (a << 16)), (vf)(b << 16), acc);
#endif
}
#endif

// Strides of up to 12 rows from few base pointers: fewer registers than one a row.
#define ROW(i) (((i) / 4 == 0 ? a0 : (i) / 4 == 1 ? a1 : a2) + (i) % 4 * ar)

// acc[v] += *a b[v] for nv vectors. Left to itself, gcc moves sums from register to register, takes
// factors early and has one register too few.
RV_INLINE void vfma_row(const int nv, vf *acc, const float *a, const vf *b) {
#if VL == 8 && defined(__FMA__)
    vf av;
    if (nv == 2) {
        __asm__("vbroadcastss %3, %2\n\tvfmadd231ps %4, %2, %0\n\tvfmadd231ps %5, %2, %1"
                : "+x"(acc[0]), "+x"(acc[1]), "=&x"(av)
                : "m"(*a), "x"(b[0]), "x"(b[1]));
        return;
    }
    av = vsplat(*a);
    RV_UNROLL
    for (int v = 0; v < nv; v++) {
        __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc[v]) : "x"(av), "x"(b[v]));
    }
#else
    RV_UNROLL
    for (int v = 0; v < nv; v++) {
        acc[v] = vfma(vsplat(*a), b[v], acc[v]);
    }
#endif
}

#if PAIR_WIDTH == 2
// One half of a step's pairs, times the same half of A's: acc += a b.
RV_INLINE void half_pair(const int mr, const int nv, const bool odd, vf acc[][MAX_NV],
                         const pair_t *a0, int64_t ar, const uint32_t *b) {
    const pair_t *a1 = a0 + 4 * ar, *a2 = a0 + 8 * ar;
    vf bv[MAX_NV];
    RV_UNROLL
    for (int v = 0; v < nv; v++) {
        vu raw;
        memcpy(&raw, b + v * VL, sizeof raw);
        bv[v] = (vf)(odd ? raw & 0xffff0000u : raw << 16);
    }
    RV_UNROLL
    for (int i = 0; i < mr; i++) {
        vfma_row(nv, acc[i], ROW(i), bv);
    }
}
#endif

// acc += a[odd] b[odd], then a[even] b[even]: the order of vdpbf16ps, each a fused multiply-add.
// The instruction also flushes subnormals, so other machines may differ in the last bits.
RV_INLINE void step_pair(const int mr, const int nv, vf acc[][MAX_NV], const pair_t *a0, int64_t ar,
                         const uint32_t *b) {
#if PAIR_WIDTH == 2
    half_pair(mr, nv, true, acc, a0 + 1, ar, b);
    __asm__ volatile("" ::: "memory"); // b is loaded again rather than kept in registers
    half_pair(mr, nv, false, acc, a0, ar, b);
#else
    const pair_t *a1 = a0 + 4 * ar, *a2 = a0 + 8 * ar;
    vu bv[MAX_NV];
    RV_UNROLL
    for (int v = 0; v < nv; v++) {
        memcpy(&bv[v], b + v * VL, sizeof bv[v]);
    }
    RV_UNROLL
    for (int i = 0; i < mr; i++) {
        RV_UNROLL
        for (int v = 0; v < nv; v++) {
            acc[i][v] = pair_fma(*ROW(i), bv[v], acc[i][v]);
        }
    }
#endif
}

RV_INLINE void steps_pair(const int mr, const int nv, const bool far, vf acc[][MAX_NV],
                          const tile *t, const pair_t *a0, int64_t col, const fetch *f) {
    const uint32_t *b = (const uint32_t *)t->b + col;
    const int64_t ar = t->ar, at = t->at, ldb = t->ldb, steps = t->steps;
    for (int64_t s = 0; s < steps; s++) {
        if (far) {
            prefetch_b(B_PAIR, f, s, ldb, nv);
        }
        step_pair(mr, nv, acc, a0 + s * at, ar, b + s * ldb);
    }
}

// acc += A's rows of one step times nv vectors of B's. Three rows to a pointer: addresses need no
// arithmetic.
RV_INLINE void step_single(const int mr, const int nv, const tile_kind kind, vf acc[][MAX_NV],
                           const float *const a[4], int64_t ar, const char *b) {
    vf bv[MAX_NV];
    RV_UNROLL
    for (int v = 0; v < nv; v++) {
        bv[v] = load_b(kind, b, v * VL);
    }
    RV_UNROLL
    for (int i = 0; i < mr; i++) {
        vf av = vsplat(a[i / 3][i % 3 * ar]);
        RV_UNROLL
        for (int v = 0; v < nv; v++) {
            acc[i][v] = vfma(av, bv[v], acc[i][v]);
        }
    }
}

RV_INLINE void steps_single(const int mr, const int nv, const tile_kind kind, const bool far,
                            vf acc[][MAX_NV], const tile *t, const float *a0, int64_t col,
                            const fetch *f) {
    const int64_t ar = t->ar, at = t->at, ldb = t->ldb, steps = t->steps;
    const int size = kind == B_BF16 || kind == B_F16 ? 2 : 4;
    const char *b = (const char *)t->b + col * size;
    const float *a[4] = {a0, a0 + 3 * ar, a0 + 6 * ar, a0 + 9 * ar};
    if (far) {
        for (int64_t s = 0; s < steps; s++, b += ldb * size) {
            prefetch_b(kind, f, s, ldb, nv);
            step_single(mr, nv, kind, acc, a, ar, b);
            a[0] += at, a[1] += at, a[2] += at, a[3] += at;
        }
        return;
    }
    RV_UNROLL_4
    for (int64_t s = 0; s < steps; s++, b += ldb * size) {
        step_single(mr, nv, kind, acc, a, ar, b);
        a[0] += at, a[1] += at, a[2] += at, a[3] += at;
    }
}

// mr rows, nv vectors of columns; mr, nv, kind and far are constants of each inlined copy. `far`:
// B is not in the first cache yet, or not for many rows, and is asked for ahead.
RV_INLINE void tile_one(const int mr, const int nv, const tile_kind kind, const bool far,
                        const tile *t, int64_t row, int64_t col, fetch f) {
    vf acc[MR][MAX_NV];
    const int64_t ldc = t->ldc;
    float *c = t->c + row * ldc + col;
    if (t->load) {
        RV_UNROLL
        for (int i = 0; i < mr * nv; i++) {
            acc[i / nv][i % nv] = vload(c + i / nv * ldc + i % nv * VL);
        }
    } else {
        RV_UNROLL
        for (int i = 0; i < mr * nv; i++) {
            acc[i / nv][i % nv] = (vf){0};
        }
    }
    if (kind == B_PAIR) {
        steps_pair(mr, nv, far, acc, t, (const pair_t *)t->a + row * t->ar, col, &f);
    } else {
        steps_single(mr, nv, kind, far, acc, t, (const float *)t->a + row * t->ar, col, &f);
    }
    RV_UNROLL
    for (int i = 0; i < mr * nv; i++) {
        vstore(c + i / nv * ldc + i % nv * VL, acc[i / nv][i % nv]);
    }
}

static inline fetch fetch_ahead(const tile_kind kind, const tile *t, int64_t col) {
    const int64_t size = kind == B_BF16 || kind == B_F16 ? 2 : 4;
    return (fetch){(uintptr_t)t->b + (uintptr_t)((AHEAD * t->ldb + col) * size), 0};
}

// What tile number i of n in a column asks for: the last ones share the same column of what comes
// next, or the next column.
static inline fetch fetch_next(const tile_kind kind, const tile *t, int64_t col, int64_t cols,
                               int64_t i, int64_t n) {
    const int64_t size = kind == B_BF16 || kind == B_F16 ? 2 : 4;
    int shift = n > 8 ? 3 : n > 4 ? 2 : n > 2 ? 1 : 0;
    int64_t part = i - (n - ((int64_t)1 << shift));
    if (part < 0 || (!t->next && (n == 1 || col + NC >= cols))) {
        return fetch_ahead(kind, t, col);
    }
    uintptr_t from = t->next ? (uintptr_t)t->next + (uintptr_t)(col * size)
                             : (uintptr_t)t->b + (uintptr_t)((col + NC) * size);
    return (fetch){from + (uintptr_t)((part * t->steps >> shift) * t->ldb * size), shift};
}

// Rows of the next tile when `left` are to come: as even as they can be, since tiles of four rows
// and fewer have too few chains in flight.
static inline int64_t tile_height(int64_t left) {
#if MR > 8
    return left >= MR ? MR : left >= 8 ? 8 : left >= 4 ? 4 : left;
#else
    int64_t tiles = (left + MR - 1) / MR;
    return left > MR * MR - 2 * MR ? MR : left > 0 ? (left + tiles - 1) / tiles : 0;
#endif
}

// A tile of a height that tile_height gives.
RV_INLINE void tile_high(const tile_kind kind, const bool far, const tile *t, int64_t high,
                         int64_t row, int64_t col, fetch f) {
    switch (high) {
    case MR:
        tile_one(MR, 2, kind, far, t, row, col, f);
        break;
#if MR > 8
    case 8:
        tile_one(8, 2, kind, far, t, row, col, f);
        break;
#else
    case 5:
        tile_one(5, 2, kind, far, t, row, col, f);
        break;
#endif
    case 4:
        tile_one(4, 2, kind, far, t, row, col, f);
        break;
    case 3:
        tile_one(3, 2, kind, far, t, row, col, f);
        break;
    case 2:
        tile_one(2, 2, kind, far, t, row, col, f);
        break;
    case 1:
        tile_one(1, 2, kind, far, t, row, col, f);
        break;
    default:
        __builtin_unreachable();
    }
}

enum { FEW = 4 }; // tiles in a column; more of them need no fetching: the first brings B near

// Tiles of four rows and more; returns the first row left over.
RV_INLINE int64_t tile_column(const tile_kind kind, const tile *t, int64_t rows, int64_t col,
                              int64_t cols) {
    int64_t row = 0, i = 0, high, n = (rows + MR - 1) / MR;
    const bool near = t->near || n > FEW;
    for (; (high = tile_height(rows - row)) >= 4; row += high) {
        if (near) {
            tile_high(kind, false, t, high, row, col, (fetch){0, 0});
        } else {
            tile_high(kind, true, t, high, row, col, fetch_next(kind, t, col, cols, i++, n));
        }
    }
    return row;
}

static inline fetch fetch_rest(const tile_kind kind, const tile *t, int64_t row, int64_t col) {
    const int64_t size = kind == B_BF16 || kind == B_F16 ? 2 : 4;
    return t->next && row == 0 ? (fetch){(uintptr_t)t->next + (uintptr_t)(col * size), 0}
                               : fetch_ahead(kind, t, col);
}

// One to three rows: more columns at once keep enough chains in flight.
RV_INLINE void tile_rest(const tile_kind kind, const tile *t, int64_t row, int64_t rows,
                         int64_t cols) {
    if (rows == 1 && cols % (4 * NC) == 0) {
        for (int64_t col = 0; col < cols; col += 4 * NC) {
            tile_one(1, 8, kind, true, t, row, col, fetch_ahead(kind, t, col));
        }
        return;
    }
    for (int64_t col = 0; col < cols; col += 2 * NC) {
        switch (rows) {
        case 3:
            if (kind != B_F32) { // four vectors would be one register too many
                tile_one(3, 2, kind, true, t, row, col, fetch_rest(kind, t, row, col));
                tile_one(3, 2, kind, true, t, row, col + NC, fetch_rest(kind, t, row, col + NC));
            } else {
                tile_one(3, 4, kind, true, t, row, col, fetch_rest(kind, t, row, col));
            }
            break;
        case 2:
            tile_one(2, 4, kind, true, t, row, col, fetch_rest(kind, t, row, col));
            break;
        case 1:
            tile_one(1, 4, kind, true, t, row, col, fetch_rest(kind, t, row, col));
            break;
        default:
            break;
        }
    }
}

// Any number of rows; columns a multiple of NC.
RV_INLINE void tile_block(const tile_kind kind, const tile *t, int64_t rows, int64_t cols) {
    int64_t rest = 0;
    for (int64_t col = 0; col < cols; col += NC) {
        rest = tile_column(kind, t, rows, col, cols);
    }
    if (VL < 16 && cols % (2 * NC) == 0) {
        tile_rest(kind, t, rest, rows - rest, cols);
        return;
    }
    for (int64_t col = 0; col < cols; col += NC) {
        int64_t row = rest;
        for (; row + 2 <= rows; row += 2) {
            tile_one(2, 2, kind, true, t, row, col, fetch_ahead(kind, t, col));
        }
        for (; row < rows; row++) {
            tile_one(1, 2, kind, true, t, row, col, fetch_ahead(kind, t, col));
        }
    }
}

// Out of line: one copy per file and kind.
static __attribute__((noinline, unused)) void tile_f32(const tile *t, int64_t rows, int64_t cols) {
    tile_block(B_F32, t, rows, cols);
}
