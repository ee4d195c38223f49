// dw.c - gradients of weights: dW += dY^T X in the order of the master.
//
// Chunks of rows are copied into the order in which the tiles read them, X in strips of MR columns,
// dY in strips of NC, each thread for its own part of the grid. Each element of dW is one chain
// over the rows, ascending, that begins at the value already there.
//
// For bf16 layers (round_x) both sides are rounded to bf16 and rows are taken two by two, counted
// from the call's first row.
#include "isa.h"
#include "tile.h"

#include "fn.h"

enum { CHUNK = 256 }; // rows copied at a time, even

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

// Columns col.. of rows m0.. as a strip (steps, width), times scale, padded with zeros.
static void copy_strip(float *dst, int width, const float *src, int64_t ld, int64_t col, int64_t m0,
                       int64_t steps, float scale) {
    int64_t n = ld - col < width ? ld - col : width;
    src += m0 * ld + col;
    for (int64_t s = 0; s < steps; s++, src += ld, dst += width) {
        if (n == width) {
            for (int j = 0; j < width; j++) {
                dst[j] = src[j] * scale;
            }
        } else {
            for (int64_t j = 0; j < width; j++) {
                dst[j] = j < n ? src[j] * scale : 0;
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

// A strip ready for the tiles; returns its steps.
static int64_t load_strip(const dw_args *a, float *dst, int width, const float *src, int64_t ld,
                          int64_t col, int64_t m0, int64_t steps, float scale) {
    copy_strip(dst, width, src, ld, col, m0, steps, scale);
    if (!a->paired) {
        return steps;
    }
    if (steps % 2) {
        memset(dst + steps * width, 0, (size_t)width * sizeof *dst);
        steps++;
    }
    round_strip(dst, width, steps);
    return steps / (PAIR_WIDTH == 1 ? 2 : 1);
}

static __attribute__((noinline)) void tile_words(const tile *t, int64_t rows) {
    tile_block(PAIR_WIDTH == 1 ? B_PAIR : B_F32, t, rows, NC);
}

// Strips k0..k1-1 of X against NC columns of dY, all in place.
static void multiply(const dw_args *a, const float *x, const float *dy, int64_t col, int64_t k0,
                     int64_t k1, int64_t steps) {
    int64_t panel = col / RV_PANEL * RV_PANEL;
    for (int64_t k = k0; k < k1; k++) {
        tile t = {.c = a->dw + panel * a->k + k * MR * RV_PANEL + col % RV_PANEL,
                  .ldc = RV_PANEL,
                  .a = x + (k - k0) * CHUNK * MR,
                  .ar = 1,
                  .at = MR,
                  .b = dy,
                  .ldb = NC,
                  .steps = steps,
                  .load = true};
        int64_t rows = a->k - k * MR < MR ? a->k - k * MR : MR;
        if (a->paired) {
            tile_words(&t, rows);
        } else {
            tile_f32(&t, rows, NC);
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

// Panels p0.. and strips k0.. of one chunk of rows.
static void dw_chunk(const dw_args *a, float *work, int64_t p0, int64_t p1, int64_t k0, int64_t k1,
                     int64_t m0) {
    _Alignas(64) float dy[CHUNK * NC];
    int64_t rows = a->m - m0 < CHUNK ? a->m - m0 : CHUNK, steps = 0;
    for (int64_t k = k0; k < k1; k++) {
        load_strip(a, work + (k - k0) * CHUNK * MR, MR, a->x, a->k, k * MR, m0, rows, 1);
    }
    for (int64_t col = p0 * RV_PANEL; col < p1 * RV_PANEL; col += NC) {
        if (col < a->n) {
            steps = load_strip(a, dy, NC, a->dy, a->n, col, m0, rows, a->scale);
            multiply(a, work, dy, col, k0, k1, steps);
        }
        if (a->db && k0 == 0 && col % RV_PANEL == 0) {
            add_columns(a, col, m0, rows);
        }
    }
}

static void dw_part(void *arg, int tid, int team) {
    (void)team;
    const dw_args *a = arg;
    int64_t panels = rv_panels(a->n), pp = tid / a->k_parts, pk = tid % a->k_parts;
    int64_t p0 = panels * pp / a->panel_parts, p1 = panels * (pp + 1) / a->panel_parts;
    int64_t k0 = strips(a->k) * pk / a->k_parts, k1 = strips(a->k) * (pk + 1) / a->k_parts;
    const int64_t most = RV_WORK_BYTES / (CHUNK * MR * (int64_t)sizeof(float));
    for (int64_t k = k0; k < k1; k += most) {
        for (int64_t m0 = 0; m0 < a->m; m0 += CHUNK) {
            dw_chunk(a, rv_work(a->c, tid), p0, p1, k, k1 - k < most ? k1 : k + most, m0);
        }
    }
}

static void run_dw(rv_ctx *c, dw_args a) {
    rv_grid(rv_team(c, a.m * a.n * a.k), rv_panels(a.n), strips(a.k), &a.panel_parts, &a.k_parts);
    rv_together(c, a.panel_parts * a.k_parts, dw_part, &a);
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
