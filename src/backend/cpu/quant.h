// quant.h - how quantised weights are kept: panels of 32 outputs, as other weights, of whole
// numbers and scales.
//
// int8, the row-wise form of LLM.int8(): w = q s, one scale an output. A panel is 32 scales, then
// (K, 32) numbers. nf4, the form of QLoRA: w = code[q] s, one scale for 64 inputs of an output,
// counted from each output's first. A panel is blocks of 64 inputs: 32 scales, then (32, 32) bytes,
// a byte of row g holding input 2g in its low half and 2g + 1 in its high half. Products in either
// direction read the same panels.
// Sources: Dettmers et al. 2022 (LLM.int8), 2023 (QLoRA); the numbers are those of bitsandbytes.
#pragma once

#include "cpu.h"

enum {
    RV_NF4_BLOCK = 64,                             // inputs that share a scale
    RV_NF4_CODES = RV_NF4_BLOCK / 2 * RV_PANEL,    // bytes of a block
    RV_QUANT_SCALES = RV_PANEL * 4,                // bytes
    RV_NF4_BYTES = RV_QUANT_SCALES + RV_NF4_CODES, // of a block with its scales
    RV_NF4_ZERO = 7
};

extern const float rv_nf4_code[16];

static inline bool rv_quantised(rv_dtype store) { return store == RV_I8 || store == RV_NF4; }

static inline int64_t rv_nf4_blocks(int64_t k) { return (k + RV_NF4_BLOCK - 1) / RV_NF4_BLOCK; }

/// Bytes of one panel, whole cache lines.
static inline int64_t rv_quant_panel(const rv_weight *w) {
    return w->store == RV_NF4 ? rv_nf4_blocks(w->k) * RV_NF4_BYTES
                              : (RV_QUANT_SCALES + w->k * RV_PANEL + 63) / 64 * 64;
}

/// The byte of an nf4 row in which output `lane` of a panel stands: fours of outputs lie so that
/// AVX2, whose shuffles stay inside half a register, finds them in order.
static inline int64_t rv_nf4_lane(int64_t lane) {
    return lane / 4 % 2 * 16 + lane / 8 * 4 + lane % 4;
}

void rv_quant_size(rv_weight *w);
/// Quantises row-major (N, K) elements of type f32, bf16 or f16 into w->fwd.
void rv_quant_prepare(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t);
/// The values that products see, row-major.
void rv_quant_read(const rv_weight *w, float *dst);

// A product y (rows, n) = x (rows, k) W^T, or transposed: dx (rows, k) = dy (rows, n) W.
typedef struct {
    const rv_weight *w;
    bool transposed;
    const float *x; // rows of w->k numbers; transposed: of w->n
    int64_t rows;
    float *const *y; // of each panel of 32 outputs: (rows, 32)
    const int64_t *ldy;
} rv_quant_call;
