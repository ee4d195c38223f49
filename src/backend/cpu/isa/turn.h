// turn.h - blocks of a forward panel, turned: dX reads the one copy of a weight across.
//
// A forward panel holds 32 outputs as [K][32]. dX multiplies by the transposed matrix, whose panel
// of 32 inputs is [N][32]: a block of 32 steps of it is the transpose of 32 consecutive rows of a
// forward panel, so it is turned on its way into the first cache, and no second copy is kept.
#pragma once

#include "cpu.h"
#include "vec.h"

typedef float turn_row __attribute__((vector_size(32)));
typedef uint32_t turn_words __attribute__((vector_size(32)));

// dst[j * stride + i] = src[i * 32 + j] of an 8 x 8 corner.
RV_INLINE void turn_8x8(float *dst, int64_t stride, const float *src) {
    turn_row r[8], s[8];
    RV_UNROLL
    for (int i = 0; i < 8; i++) {
        memcpy(&r[i], src + i * RV_PANEL, sizeof r[i]);
    }
    RV_UNROLL
    for (int i = 0; i < 8; i += 2) { // pairs of rows, two columns at a time
        s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    RV_UNROLL
    for (int i = 0; i < 8; i += 4) { // four rows, one column in each half
        r[i] = __builtin_shufflevector(s[i], s[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 1] = __builtin_shufflevector(s[i], s[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        r[i + 2] = __builtin_shufflevector(s[i + 1], s[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 3] = __builtin_shufflevector(s[i + 1], s[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    RV_UNROLL
    for (int i = 0; i < 4; i++) { // the halves
        turn_row low = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        turn_row high = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        memcpy(dst + i * stride, &low, sizeof low);
        memcpy(dst + (i + 4) * stride, &high, sizeof high);
    }
}

// Turns (all, 32) floats, of which `rows` are there and the others count as zeros, into (32, all).
static inline void turn_rows(float *dst, const float *src, int64_t rows, int all) {
    _Alignas(64) float padded[RV_PANEL * RV_PANEL];
    if (rows < all) {
        memcpy(padded, src, (size_t)(rows * RV_PANEL) * sizeof *src);
        memset(padded + rows * RV_PANEL, 0, (size_t)((all - rows) * RV_PANEL) * sizeof *src);
        src = padded;
    }
    for (int i = 0; i < all; i += 8) {
        for (int j = 0; j < RV_PANEL; j += 8) {
            turn_8x8(dst + j * all + i, all, src + i * RV_PANEL + j);
        }
    }
}

/// Turns `rows` rows of a panel kept in `store` into 32 steps of floats (32, 32).
static inline void turn_panel(float *dst, const void *src, rv_dtype store, int64_t rows) {
    _Alignas(64) float wide[RV_PANEL * RV_PANEL];
    const uint16_t *half = src;
    if (store == RV_F32) {
        turn_rows(dst, src, rows, RV_PANEL);
        return;
    }
    for (int64_t i = 0; i < rows * RV_PANEL; i += VL) {
        vstore(wide + i, store == RV_BF16 ? vload_bf16(half + i) : vload_f16(half + i));
    }
    turn_rows(dst, wide, rows, RV_PANEL);
}

/// The same for pairs of bf16: words [rows][32] of elements (2 row, 2 row + 1) of an output become
/// words [16][32] of outputs (2 i, 2 i + 1) of a step.
static inline void turn_pairs(uint32_t *dst, const uint32_t *src, int64_t rows) {
    enum { HALF = RV_PANEL / 2 };
    _Alignas(64) float turned[RV_PANEL * HALF]; // words, moved as floats
    turn_rows(turned, (const float *)src, rows, HALF);
    for (int i = 0; i < RV_PANEL; i += 2) {
        for (int j = 0; j < HALF; j += 8, dst += 16) {
            turn_words a, b, even, odd, low, high;
            memcpy(&a, turned + i * HALF + j, sizeof a);
            memcpy(&b, turned + (i + 1) * HALF + j, sizeof b);
            even = (a & 0xffff) | b << 16;
            odd = a >> 16 | (b & 0xffff0000u);
            low = __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
            high = __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
            memcpy(dst, &low, sizeof low);
            memcpy(dst + 8, &high, sizeof high);
        }
    }
}
