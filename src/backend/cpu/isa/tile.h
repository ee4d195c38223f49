// tile.h - the one multiply-add loop of the program.
//
// C[i][j] (+)= sum over t of A[i][t] B[t][j], each element one chain of fused multiply-adds, t
// ascending, on accumulators held in registers. Forward products, dX, dW and attention are all this
// loop with other strides, so an element's bits never depend on the tile it fell into.
#pragma once

#include "ahead.h"
#include "cpu.h"
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
    const void *next; // what a B far away will be next time, one line after another
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

RV_INLINE int size_of(const tile_kind kind) { return kind == B_BF16 || kind == B_F16 ? 2 : 4; }

// Asks for the next lines; a constant number of them at every four steps, so that memory has time.
RV_INLINE void ask_lines(const int lines, uintptr_t *from) {
    RV_UNROLL
    for (int i = 0; i < lines; i++) {
        __builtin_prefetch((const char *)*from + i * LINE, 0, 3);
    }
    *from += (uintptr_t)(lines * LINE);
}

// Steps in one turn of a loop. With more vectors than two, gcc would move sums from register to
// register; without a fused multiply-add every one of them is a page of code.
RV_INLINE int group_of(const int nv) { return nv == 2 && VL > 4 ? 4 : 1; }

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

RV_INLINE void steps_pair(const int mr, const int nv, const int lines, vf acc[][MAX_NV],
                          const tile *t, const pair_t *a, int64_t col, uintptr_t next) {
    const uint32_t *b = (const uint32_t *)t->b + col;
    const int64_t ar = t->ar, at = t->at, ldb = t->ldb;
    const int group = group_of(nv);
    int64_t s = 0;
    for (; s + group <= t->steps; s += group) {
        ask_lines((lines * group + 3) / 4, &next);
        RV_UNROLL
        for (int u = 0; u < group; u++, a += at, b += ldb) {
            step_pair(mr, nv, acc, a, ar, b);
        }
    }
    for (; s < t->steps; s++, a += at, b += ldb) {
        step_pair(mr, nv, acc, a, ar, b);
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
        const float *ai = a[i / 3] + i % 3 * ar;
        if (nv == 2) {
            vfma_row(nv, acc[i], ai, bv);
            continue;
        }
        const vf av = vsplat(*ai); // some of bv may stay in memory
        RV_UNROLL
        for (int v = 0; v < nv; v++) {
            acc[i][v] = vfma(av, bv[v], acc[i][v]);
        }
    }
}

RV_INLINE void steps_single(const int mr, const int nv, const tile_kind kind, const int lines,
                            vf acc[][MAX_NV], const tile *t, const float *a0, int64_t col,
                            uintptr_t next) {
    const int64_t ar = t->ar, at = t->at, ldb = t->ldb * size_of(kind);
    const char *b = (const char *)t->b + col * size_of(kind);
    const float *a[4] = {a0, a0 + 3 * ar, a0 + 6 * ar, a0 + 9 * ar};
    const int group = group_of(nv);
    int64_t s = 0;
    for (; s + group <= t->steps; s += group) {
        ask_lines((lines * group + 3) / 4, &next);
        RV_UNROLL
        for (int u = 0; u < group; u++, b += ldb) {
            step_single(mr, nv, kind, acc, a, ar, b);
            a[0] += at, a[1] += at, a[2] += at, a[3] += at;
        }
    }
    for (; s < t->steps; s++, b += ldb) {
        step_single(mr, nv, kind, acc, a, ar, b);
        a[0] += at, a[1] += at, a[2] += at, a[3] += at;
    }
}

// mr rows, nv vectors of columns; mr, nv, kind and lines, those to ask for from `next` on at every
// four steps, are constants of each inlined copy.
RV_INLINE void tile_one(const int mr, const int nv, const tile_kind kind, const int lines,
                        const tile *t, int64_t row, int64_t col, uintptr_t next) {
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
        steps_pair(mr, nv, lines, acc, t, (const pair_t *)t->a + row * t->ar, col, next);
    } else {
        steps_single(mr, nv, kind, lines, acc, t, (const float *)t->a + row * t->ar, col, next);
    }
    RV_UNROLL
    for (int i = 0; i < mr * nv; i++) {
        vstore(c + i / nv * ldc + i % nv * VL, acc[i / nv][i % nv]);
    }
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
RV_INLINE void tile_high(const tile_kind kind, const int lines, const tile *t, int64_t high,
                         int64_t row, int64_t col, uintptr_t next) {
    switch (high) {
    case MR:
        tile_one(MR, 2, kind, lines, t, row, col, next);
        break;
#if MR > 8
    case 8:
        tile_one(8, 2, kind, lines, t, row, col, next);
        break;
#else
    case 5:
        tile_one(5, 2, kind, lines, t, row, col, next);
        break;
#endif
    case 4:
        tile_one(4, 2, kind, lines, t, row, col, next);
        break;
    case 3:
        tile_one(3, 2, kind, lines, t, row, col, next);
        break;
    case 2:
        tile_one(2, 2, kind, lines, t, row, col, next);
        break;
    case 1:
        tile_one(1, 2, kind, lines, t, row, col, next);
        break;
    default:
        __builtin_unreachable();
    }
}

// Sanitizers check no asking, and every copy of a tile takes them seconds to compile.
#if defined(RV_SANITIZED)
enum { ASKS = 0 };
#else
enum { ASKS = 1 };
#endif

// Lines of what comes next, as wide as a panel, to ask for at every four steps when `tiles` pass
// over each of its columns: all of them, or some more.
RV_INLINE int lines_each(const tile_kind kind, const int tiles) {
    const int all = 4 * RV_PANEL * size_of(kind) / LINE;
    const int parts = tiles * (RV_PANEL / NC);
    return (all + parts - 1) / parts;
}

// Tiles of four rows and more, each of which asks for a part of what comes next. Returns the first
// row left over.
RV_INLINE int64_t column_asking(const tile_kind kind, const int lines, const tile *t, int64_t rows,
                                int64_t col) {
    const int64_t part = t->steps / 4 * lines * LINE;
    uintptr_t next = (uintptr_t)t->next + (uintptr_t)(col / NC * part);
    int64_t row = 0;
    for (int64_t high; (high = tile_height(rows - row)) >= 4; row += high) {
        tile_high(kind, lines, t, high, row, col, next);
        next += (uintptr_t)(RV_PANEL / NC * part);
    }
    return row;
}

RV_INLINE int64_t tile_column(const tile_kind kind, const bool far, const tile *t, int64_t rows,
                              int64_t col) {
    if (ASKS && far && rows <= MR) {
        return column_asking(kind, lines_each(kind, 1), t, rows, col);
    } else if (ASKS && far && rows <= 2 * MR) {
        return column_asking(kind, lines_each(kind, 2), t, rows, col);
    } else if (ASKS && far && rows <= 4 * MR) {
        return column_asking(kind, lines_each(kind, 3), t, rows, col);
    }
    return column_asking(kind, 0, t, rows, col); // the first of many tiles brings B near
}

// One to three rows, nv vectors of columns.
RV_INLINE void tile_low(const int nv, const tile_kind kind, const int lines, const tile *t,
                        int64_t row, int64_t rows, int64_t col, uintptr_t next) {
    switch (rows) {
    case 3:
        if (kind != B_F32 && nv > 2) { // one register too many
            tile_one(3, 2, kind, lines, t, row, col, next);
            tile_one(3, 2, kind, 0, t, row, col + NC, 0);
        } else {
            tile_one(3, nv, kind, lines, t, row, col, next);
        }
        break;
    case 2:
        tile_one(2, nv, kind, lines, t, row, col, next);
        break;
    case 1:
        tile_one(1, nv, kind, lines, t, row, col, next);
        break;
    default:
        break;
    }
}

// The rows that are left, one to three: more columns at once keep enough chains in flight. They ask
// for what no tile before them asked for.
RV_INLINE void tile_rest(const tile_kind kind, const int lines, const tile *t, int64_t row,
                         int64_t rows, int64_t cols) {
    const int64_t size = t->steps * RV_PANEL * size_of(kind);
    uintptr_t next = (uintptr_t)t->next + (uintptr_t)(row ? size / 2 : 0);
    if (VL < 16 && cols % (2 * NC) == 0) {
        for (int64_t col = 0; col < cols; col += 2 * NC) {
            tile_low(4, kind, 2 * lines, t, row, rows, col, next);
            next += (uintptr_t)(t->steps / 4 * 2 * lines * LINE);
        }
        return;
    }
    for (int64_t col = 0; col < cols; col += NC) {
        tile_low(2, kind, lines, t, row, rows, col, next);
        next += (uintptr_t)(t->steps / 4 * lines * LINE);
    }
}

// Any number of rows; columns a multiple of NC. Where B is far away, in memory, its next lines are
// asked for meanwhile: then `cols` are a panel's.
RV_INLINE void tile_block(const tile_kind kind, const bool far, const tile *t, int64_t rows,
                          int64_t cols) {
    int64_t row = 0;
    for (int64_t col = 0; col < cols; col += NC) {
        row = tile_column(kind, far, t, rows, col);
    }
    if (ASKS && far && row == 0) {
        tile_rest(kind, lines_each(kind, 1), t, row, rows - row, cols);
    } else if (ASKS && far) {
        tile_rest(kind, lines_each(kind, 2), t, row, rows - row, cols);
    } else {
        tile_rest(kind, 0, t, row, rows - row, cols);
    }
}

// Out of line: one copy per file that has B near.
static __attribute__((noinline, unused)) void tile_f32(const tile *t, int64_t rows, int64_t cols) {
    tile_block(B_F32, false, t, rows, cols);
}
