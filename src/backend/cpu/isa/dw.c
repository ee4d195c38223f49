// dw.c - gradients of weights: dW += dY^T X in the order of the master.
//
// Chunks of rows are copied into the order in which the tiles read them, X in strips of MR columns,
// dY in strips of NC, for each piece of a grid by itself. Each element of dW is one chain
// over the rows, ascending, that begins at the value already there.
//
// For bf16 layers (round_x) both sides are rounded to bf16 and rows are taken two by two, counted
// from the call's first row.
#include "ahead.h"
#include "isa.h"
#include "tile.h"

#include "fn.h"

enum {
    PIECES = 1,              // of the grid for each thread
    CHUNK = 256,             // rows copied at a time, even
    STRIP = CHUNK * MR + 16, // floats of a strip of X, not a multiple of the caches' ways
    NEAR = 320 << 10         // bytes of strips that stay in the second cache
};

typedef struct {
    const rv_ctx *c;
    float *dw, *db;
    const float *dy, *x;
    float scale; // of dY
    int64_t m, n, k;
    bool paired;
    int panel_parts, k_parts;
} dw_args;

static inline int64_t strips(int64_t k) { return (k + MR - 1) / MR; }

// Row s of a strip: columns k MR.. of `src`, zeros beyond the last. Whole vectors are written; what
// is too much is overwritten by the next row.
static inline void copy_strip_row(float *d, const dw_args *a, const float *src, int64_t k) {
    enum { WIDE = (MR + VL - 1) / VL * VL };
    int64_t left = a->k - k * MR;
    if (left >= WIDE) {
        RV_UNROLL
        for (int i = 0; i < WIDE; i += VL) {
            vstore(d + i, vload(src + k * MR + i));
        }
    } else {
        int64_t n = left < MR ? left : MR;
        memcpy(d, src + k * MR, (size_t)n * sizeof *d);
        memset(d + n, 0, (size_t)(MR - n) * sizeof *d);
    }
}

// X rows m0.. as strips k0..k1-1 of (steps, MR), a few rows at a time, so that the lines that they
// share are written while near.
static void copy_x(float *dst, const dw_args *a, int64_t k0, int64_t k1, int64_t m0,
                   int64_t steps) {
    enum { ROWS = 8 };
    for (int64_t s0 = 0; s0 < steps; s0 += ROWS) {
        const int64_t end = steps - s0 < ROWS ? steps : s0 + ROWS;
        for (int64_t k = k0; k < k1; k++) {
            for (int64_t s = s0; s < end; s++) {
                copy_strip_row(dst + (k - k0) * STRIP + s * MR, a, a->x + (m0 + s) * a->k, k);
            }
        }
    }
}

// NC columns of dY rows m0.. as (steps, NC), times scale, padded with zeros.
static void copy_dy(float *dst, const dw_args *a, int64_t col, int64_t m0, int64_t steps) {
    int64_t n = a->n - col < NC ? a->n - col : NC;
    const float *src = a->dy + m0 * a->n + col;
    for (int64_t s = 0; s < steps; s++, src += a->n, dst += NC) {
        if (n == NC) {
            for (int j = 0; j < NC; j += VL) {
                vstore(dst + j, vload(src + j) * a->scale);
            }
        } else {
            for (int64_t j = 0; j < NC; j++) {
                dst[j] = j < n ? src[j] * a->scale : 0;
            }
        }
    }
}

#if PAIR_WIDTH == 1
// Rows of a strip become pairs of bf16 in place: (steps / 2, width) words.
static void round_strip(float *strip, int width, int64_t steps) {
    uint32_t *dst = (uint32_t *)(void *)strip;
    for (int64_t s = 0; s < steps; s += 2) {
        for (int j = 0; j < width; j++) {
            float even = strip[s * width + j], odd = strip[(s + 1) * width + j];
            uint32_t word = fn_bf16(odd) | fn_bf16(even) >> 16;
            memcpy(dst + s / 2 * width + j, &word, sizeof word);
        }
    }
}
#else
// Rows are rounded and each pair swapped: the odd row is added first.
static void round_strip(float *strip, int width, int64_t steps) {
    for (int64_t s = 0; s < steps; s += 2) {
        for (int j = 0; j < width; j++) {
            float even = strip[s * width + j], odd = strip[(s + 1) * width + j];
            strip[s * width + j] = fn_bits((int32_t)fn_bf16(odd));
            strip[(s + 1) * width + j] = fn_bits((int32_t)fn_bf16(even));
        }
    }
}
#endif

// Brings a strip of bf16 layers into pairs; returns the steps that the tiles take.
static int64_t finish_strip(const dw_args *a, float *strip, int width, int64_t steps) {
    if (!a->paired) {
        return steps;
    }
    if (steps % 2) {
        memset(strip + steps * width, 0, (size_t)width * sizeof *strip);
        steps++;
    }
    round_strip(strip, width, steps);
    return steps / (PAIR_WIDTH == 1 ? 2 : 1);
}

// What to ask for at every strip: of the next columns of dY, and of the next rows of X.
typedef struct {
    ahead dy, *x;
    int64_t dy_lines, x_lines;
} plan;

// Whole strips of X one after another against the NC columns at t->b.
RV_INLINE void whole_strips(const tile_kind kind, tile t, int64_t n, plan *next) {
    for (int64_t k = 0; k < n; k++) {
        for (int i = 0; i < MR; i++) { // the next strip's sums, needed as soon as it begins
            __builtin_prefetch(t.c + (MR + i) * RV_PANEL, 1, 3);
        }
        ask(&next->dy, next->dy_lines);
        ask(next->x, next->x_lines);
        tile_one(MR, 2, kind, 0, &t, 0, 0, 0);
        t.a = (const float *)t.a + STRIP;
        t.c += MR * RV_PANEL;
    }
}

static __attribute__((noinline)) void strips_f32(const tile *t, int64_t n, plan *next) {
    whole_strips(B_F32, *t, n, next);
}

#if PAIR_WIDTH == 1
static const tile_kind WORDS = B_PAIR;
static __attribute__((noinline)) void strips_words(const tile *t, int64_t n, plan *next) {
    whole_strips(B_PAIR, *t, n, next);
}
#else
static const tile_kind WORDS = B_F32; // rounded floats
#define strips_words strips_f32
#endif

static __attribute__((noinline)) void rest_words(const tile *t, int64_t rows) {
    tile_block(WORDS, false, t, rows, NC);
}

// Strips k0..k1-1 of X against NC columns of dY, all in place.
static void multiply(const dw_args *a, const float *x, const float *dy, int64_t col, int64_t k0,
                     int64_t k1, int64_t steps, plan *next) {
    int64_t panel = col / RV_PANEL * RV_PANEL, whole = (a->k / MR < k1 ? a->k / MR : k1) - k0;
    tile t = {.c = a->dw + panel * a->k + k0 * MR * RV_PANEL + col % RV_PANEL,
              .ldc = RV_PANEL,
              .a = x,
              .ar = 1,
              .at = MR,
              .b = dy,
              .ldb = NC,
              .steps = steps,
              .load = true};
    if (a->paired) {
        strips_words(&t, whole, next);
    } else {
        strips_f32(&t, whole, next);
    }
    if (k0 + whole < k1) { // the last strip is narrow
        t.a = x + whole * STRIP;
        t.c += whole * MR * RV_PANEL;
        if (a->paired) {
            rest_words(&t, a->k % MR);
        } else {
            tile_f32(&t, a->k % MR, NC);
        }
    }
}

static void add_columns(const dw_args *a, int64_t col, int64_t m0, int64_t steps) {
    int64_t n = a->n - col < RV_PANEL ? a->n - col : RV_PANEL;
    for (int64_t s = m0; s < m0 + steps; s++) {
        for (int64_t j = col; j < col + n; j++) {
            a->db[j] += a->dy[s * a->n + j];
        }
    }
}

// The columns of dY that follow `col`: of the same rows, or the first ones of the next chunk.
static ahead next_dy(const dw_args *a, int64_t p0, int64_t p1, int64_t m0, int64_t col) {
    int64_t end = p1 * RV_PANEL < a->n ? p1 * RV_PANEL : a->n;
    if (col + NC >= end) {
        m0 += CHUNK;
        col = p0 * RV_PANEL - NC;
    }
    int64_t rows = a->m - m0 < CHUNK ? a->m - m0 : CHUNK;
    return ahead_of(a->dy + m0 * a->n + col + NC, a->n * 4, rows, NC * 4);
}

// Panels p0.. and strips k0.. of one chunk of rows.
static void dw_chunk(const dw_args *a, float *work, int64_t p0, int64_t p1, int64_t k0, int64_t k1,
                     int64_t m0) {
    _Alignas(64) float dy[CHUNK * NC];
    const int64_t rows = a->m - m0 < CHUNK ? a->m - m0 : CHUNK, left = a->m - m0 - rows;
    const int64_t tiles = (p1 - p0) * (RV_PANEL / NC) * (k1 - k0);
    ahead x = ahead_of(a->x + (m0 + rows) * a->k + k0 * MR, a->k * 4, left < CHUNK ? left : CHUNK,
                       (k1 - k0) * MR * 4);
    plan next = {
        .x = &x, .x_lines = x.rows * x.lines / tiles + 1, .dy_lines = 2 * rows / (k1 - k0) + 1};
    if (a->dw) {
        copy_x(work, a, k0, k1, m0, rows);
    }
    for (int64_t k = k0; a->dw && a->paired && k < k1; k++) {
        finish_strip(a, work + (k - k0) * STRIP, MR, rows);
    }
    for (int64_t col = p0 * RV_PANEL; col < p1 * RV_PANEL; col += NC) {
        if (a->dw && col < a->n) {
            next.dy = next_dy(a, p0, p1, m0, col);
            copy_dy(dy, a, col, m0, rows);
            multiply(a, work, dy, col, k0, k1, finish_strip(a, dy, NC, rows), &next);
        }
        if (a->db && k0 == 0 && col % RV_PANEL == 0) {
            add_columns(a, col, m0, rows);
        }
    }
}

// A piece of the grid.
static void dw_piece(void *arg, int64_t piece, int64_t hi, int who) {
    (void)hi;
    const dw_args *a = arg;
    int64_t panels = rv_panels(a->n), pp = piece / a->k_parts, pk = piece % a->k_parts;
    int64_t p0 = panels * pp / a->panel_parts, p1 = panels * (pp + 1) / a->panel_parts;
    int64_t k0 = strips(a->k) * pk / a->k_parts, k1 = strips(a->k) * (pk + 1) / a->k_parts;
    const int64_t most = NEAR / (STRIP * (int64_t)sizeof(float));
    for (int64_t k = k0; k < k1; k += most) {
        for (int64_t m0 = 0; m0 < a->m; m0 += CHUNK) {
            dw_chunk(a, rv_work(a->c, who), p0, p1, k, k1 - k < most ? k1 : k + most, m0);
        }
    }
}

static void run_dw(rv_ctx *c, dw_args a) {
    const int64_t panels = rv_panels(a.n), all = a.m * a.n * a.k;
    rv_grid(PIECES * rv_team(c, all), panels, strips(a.k), &a.panel_parts, &a.k_parts);
    const int64_t pieces = a.panel_parts * a.k_parts;
    rv_for_each(c, pieces, all / pieces, dw_piece, &a);
}

void ISA(rv_linear_dw)(rv_ctx *c, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, int64_t m,
                       const rv_weight *w) {
    run_dw(c, (dw_args){.c = c,
                        .dw = rv_f32(dw),
                        .db = rv_f32(db),
                        .dy = rv_f32(dy),
                        .x = rv_f32(x),
                        .scale = 1,
                        .m = m,
                        .n = w->n,
                        .k = w->k,
                        .paired = rv_paired(w)});
}

void ISA(rv_lora_dw)(rv_ctx *c, rv_dev da, rv_dev db, rv_dev dy, rv_dev x, rv_dev lora_g, int64_t m,
                     const rv_linear *l) {
    const rv_weight *a = l->lora->a, *b = l->lora->b;
    run_dw(c, (dw_args){.c = c,
                        .dw = rv_f32(da),
                        .dy = rv_f32(lora_g),
                        .x = rv_f32(x),
                        .scale = 1,
                        .m = m,
                        .n = a->n,
                        .k = a->k,
                        .paired = rv_paired(a)});
    run_dw(c, (dw_args){.c = c,
                        .dw = rv_f32(db),
                        .dy = rv_f32(dy),
                        .x = rv_f32(l->lora_h),
                        .scale = l->lora->scale,
                        .m = m,
                        .n = b->n,
                        .k = b->k,
                        .paired = rv_paired(b)});
}
