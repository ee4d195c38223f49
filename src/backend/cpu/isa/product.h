// product.h - one product y (M, n) = x (M, k) times panels, and its operands as copies that lie
// near: rows of x one after another, steps of a panel as the tiles read them.
#pragma once

#include "ahead.h"
#include "cpu.h"
#include "fn.h"
#include "tile.h"
#include "turn.h"

// Panels: a weight's, or (transposed) what turn.h makes of them.
typedef struct {
    const float *x;
    const char *panels;
    int64_t n, k;
    rv_dtype store;
    bool paired;
    const rv_weight *quantised; // or NULL
    bool transposed;
} product;

static inline product forward_of(const rv_weight *w, rv_dev x) {
    return (product){.x = rv_f32(x),
                     .panels = (const char *)w->fwd.addr,
                     .n = w->n,
                     .k = w->k,
                     .store = w->store,
                     .paired = rv_paired(w),
                     .quantised = rv_quantised(w->store) ? w : NULL};
}

static inline product backward_of(const rv_weight *w, rv_dev dy) {
    return (product){.x = rv_f32(dy),
                     .panels = (const char *)w->fwd.addr,
                     .n = w->k,
                     .k = w->n,
                     .store = w->store,
                     .paired = rv_paired(w),
                     .quantised = rv_quantised(w->store) ? w : NULL,
                     .transposed = true};
}

// Steps as the panels hold them.
static inline int64_t steps_of(const product *g) { return g->paired ? (g->k + 1) / 2 * 2 : g->k; }

enum {
    NEAR_STEPS = NC < 32 ? 256 : 128, // of a copy: 16 KiB of a tile's columns
    NEAR_ROW = NEAR_STEPS + 16 // floats of a copied row: rows do not crowd a part of the cache
};

// ---- rows of x ----

// VL numbers rounded to bf16, as fn_bf16 does.
RV_INLINE vu round_vector(vf x) {
    const vu u = (vu)x, rounded = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
    const vu nan = (vu)((vi)(u & 0x7fffffffu) > 0x7f800000);
    return (nan & ((u & 0xffff0000u) | 0x400000u)) | (~nan & rounded);
}

/// Rounds a row of activations to bf16 in the form that pair_fma reads; an odd number is padded
/// with zero.
static inline void round_row(pair_t *dst, const float *x, int64_t k) {
#if PAIR_WIDTH == 1
    for (int64_t j = 0; j < k / 2; j++) {
        dst[j] = fn_bf16(x[2 * j + 1]) | fn_bf16(x[2 * j]) >> 16;
    }
    if (k % 2) {
        dst[k / 2] = fn_bf16(x[k - 1]) >> 16;
    }
#else
    int64_t j = 0;
    for (; j + VL <= k; j += VL) {
        vstore(dst + j, (vf)round_vector(vload(x + j)));
    }
    for (; j < k; j++) {
        dst[j] = fn_bits((int32_t)fn_bf16(x[j]));
    }
    if (k % 2) {
        dst[k] = 0;
    }
#endif
}

/// Steps s0.. of rows row0.. of x, NEAR_ROW floats a row.
static inline void near_rows(float *dst, const product *g, int64_t row0, int64_t rows, int64_t s0,
                             int64_t steps) {
    const float *x = g->x + row0 * g->k + s0;
    const int64_t there = g->k - s0 < steps ? g->k - s0 : steps;
    for (int64_t i = 0; i < rows; i++, x += g->k, dst += NEAR_ROW) {
        if (g->paired) {
            round_row((pair_t *)(void *)dst, x, there);
        } else {
            memcpy(dst, x, (size_t)there * sizeof *dst);
        }
    }
}

// ---- panels ----

// Steps of a panel that is kept in 16 bits, as floats.
RV_INLINE void widen_steps(const tile_kind kind, float *dst, const void *src, int64_t steps) {
    for (int64_t i = 0; i < steps * RV_PANEL; i += VL) {
        vstore(dst + i, load_b(kind, src, i));
    }
}

/// Where outputs s0.. of panel p's inputs begin in the panels of a transposed product, bytes from
/// one panel of outputs to the next, and rows there.
typedef struct {
    const char *from;
    int64_t stride, rows;
} inputs;

static inline inputs inputs_of(const product *g, int64_t p, int64_t s0) {
    const int64_t per = g->paired ? 2 : 1, all = (g->n + per - 1) / per;
    const int64_t row = RV_PANEL * per * (int64_t)rv_dtype_size(g->store),
                  first = p * RV_PANEL / per;
    const int64_t rest = all - first, most = RV_PANEL / per;
    return (inputs){g->panels + (s0 / RV_PANEL * all + first) * row, all * row,
                    rest < most ? rest : most};
}

/// Where steps s0.. of panel p begin in the panels of a forward product.
static inline const char *steps_at(const product *g, int64_t p, int64_t s0) {
    return g->panels + (p * steps_of(g) + s0) * RV_PANEL * (int64_t)rv_dtype_size(g->store);
}

/// Steps s0.. of panel p as the tiles read them: where they are if they are floats, or words of
/// pairs, that need no turning, otherwise a copy.
static inline const void *near_steps(uint32_t *copy, const product *g, int64_t p, int64_t s0,
                                     int64_t steps) {
    if (!g->transposed) {
        const void *from = steps_at(g, p, s0);
        if (g->store == RV_F32 || g->paired) {
            return from;
        } else if (g->store == RV_BF16) {
            widen_steps(B_BF16, (float *)(void *)copy, from, steps);
        } else {
            widen_steps(B_F16, (float *)(void *)copy, from, steps);
        }
        return copy;
    }
    inputs in = inputs_of(g, p, s0);
    for (int64_t s = 0; s < steps; s += RV_PANEL, in.from += in.stride) {
        if (g->paired) {
            turn_pairs(copy + s / 2 * RV_PANEL, (const uint32_t *)(const void *)in.from, in.rows);
        } else {
            turn_panel((float *)(void *)(copy + s * RV_PANEL), in.from, g->store, in.rows);
        }
    }
    return copy;
}

/// What near_steps will read.
static inline ahead steps_ahead(const product *g, int64_t p, int64_t s0, int64_t steps) {
    const int64_t size = RV_PANEL * (int64_t)rv_dtype_size(g->store);
    if (g->transposed) {
        const inputs in = inputs_of(g, p, s0);
        return ahead_of(in.from, in.stride, (steps + RV_PANEL - 1) / RV_PANEL,
                        in.rows * size * (g->paired ? 2 : 1));
    }
    return ahead_of(steps_at(g, p, s0), 0, 1, steps * size);
}
