// quant.c - weights into quantised panels, and out of them.
#include "quant.h"

#include <math.h>
#include <string.h>

// The quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, appendix
// E).
const float rv_nf4_code[16] = {-1.0f,
                               -0.6961928009986877f,
                               -0.5250730514526367f,
                               -0.39491748809814453f,
                               -0.28444138169288635f,
                               -0.18477343022823334f,
                               -0.09105003625154495f,
                               0.0f,
                               0.07958029955625534f,
                               0.16093020141124725f,
                               0.24611230194568634f,
                               0.33791524171829224f,
                               0.44070982933044434f,
                               0.5626170039176941f,
                               0.7229568362236023f,
                               1.0f};

void rv_quant_size(rv_weight *w) { w->fwd_bytes = (size_t)(rv_panels(w->n) * rv_quant_panel(w)); }

// `n` elements of a row as floats.
static void read_row(float *dst, const void *src, rv_dtype t, int64_t at, int64_t n) {
    if (t == RV_F32) {
        memcpy(dst, (const float *)src + at, (size_t)n * sizeof *dst);
        return;
    }
    const uint16_t *h = (const uint16_t *)src + at;
    for (int64_t i = 0; t == RV_BF16 && i < n; i++) {
        const uint32_t bits = (uint32_t)h[i] << 16;
        memcpy(dst + i, &bits, sizeof bits);
    }
    for (int64_t i = 0; t == RV_F16 && i < n; i++) {
        dst[i] = rv_f16_to_f32(h[i]);
    }
}

static float largest(const float *x, int64_t n, float most) {
    for (int64_t i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    return most;
}

// The nearest codes of x[i] by; halfway goes to the lower one.
static void nearest(uint8_t code[RV_NF4_BLOCK], const float *x, float by, int64_t n) {
    int32_t above[RV_NF4_BLOCK] = {0};
    for (int c = 0; c < 15; c++) {
        const float bound = (rv_nf4_code[c] + rv_nf4_code[c + 1]) / 2;
        for (int64_t i = 0; i < n; i++) {
            above[i] += x[i] * by > bound;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        code[i] = (uint8_t)above[i];
    }
}

typedef struct {
    const rv_weight *w;
    const void *src;
    rv_dtype type;
} job;

// Inputs j.. of an output as floats; returns how many, at most a block.
static int64_t read_block(const job *a, float *x, int64_t row, int64_t j) {
    const int64_t k = a->w->k, n = k - j < RV_NF4_BLOCK ? k - j : RV_NF4_BLOCK;
    read_row(x, a->src, a->type, row * k + j, n);
    return n;
}

static float *scales_of(char *block) { return (float *)(void *)block; }

// The panels are written block by block of 64 inputs, so that the bytes of 32 outputs stay near.
static void int8_panel(const job *a, char *panel, int64_t row0, int64_t lanes) {
    float x[RV_NF4_BLOCK], most[RV_PANEL] = {0};
    int8_t *q = (int8_t *)panel + RV_QUANT_SCALES;
    for (int64_t l = 0; l < lanes; l++) {
        for (int64_t j = 0; j < a->w->k; j += RV_NF4_BLOCK) {
            most[l] = largest(x, read_block(a, x, row0 + l, j), most[l]);
        }
        scales_of(panel)[l] = most[l] * (1 / 127.0f);
    }
    for (int64_t j = 0; j < a->w->k; j += RV_NF4_BLOCK) {
        for (int64_t l = 0; l < lanes; l++) {
            const int64_t n = read_block(a, x, row0 + l, j);
            const float by = most[l] > 0 ? 127 / most[l] : 0;
            for (int64_t i = 0; i < n; i++) {
                q[(j + i) * RV_PANEL + l] = (int8_t)rintf(x[i] * by);
            }
        }
    }
}

static void nf4_panel(const job *a, char *panel, int64_t row0, int64_t lanes) {
    float x[RV_NF4_BLOCK];
    uint8_t code[RV_NF4_BLOCK];
    for (int64_t j = 0; j < a->w->k; j += RV_NF4_BLOCK, panel += RV_NF4_BYTES) {
        for (int64_t l = 0; l < lanes; l++) {
            uint8_t *q = (uint8_t *)panel + RV_QUANT_SCALES + rv_nf4_lane(l);
            const int64_t n = read_block(a, x, row0 + l, j);
            const float most = largest(x, n, 0);
            scales_of(panel)[l] = most;
            nearest(code, x, 1 / (most > 1e-38f ? most : 1e-38f), n);
            for (int64_t i = 0; i < n; i += 2) {
                int high = i + 1 < n ? code[i + 1] : RV_NF4_ZERO;
                q[i / 2 * RV_PANEL] = (uint8_t)(code[i] | high << 4);
            }
        }
    }
}

static void prepare_panels(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const job *a = arg;
    const rv_weight *w = a->w;
    const int64_t size = rv_quant_panel(w);
    for (int64_t p = lo; p < hi; p++) {
        char *panel = (char *)w->fwd.addr + p * size;
        const int64_t row0 = p * RV_PANEL, left = w->n - row0;
        memset(panel, 0, (size_t)size);
        (w->store == RV_NF4 ? nf4_panel : int8_panel)(a, panel, row0,
                                                      left < RV_PANEL ? left : RV_PANEL);
    }
}

void rv_quant_prepare(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t) {
    rv_for(c, rv_panels(w->n), w->k * RV_PANEL * 16, 1, prepare_panels, &(job){w, src, t});
}

static float element(const rv_weight *w, int64_t i, int64_t j) {
    const char *panel = (const char *)w->fwd.addr + i / RV_PANEL * rv_quant_panel(w);
    const int64_t lane = i % RV_PANEL;
    if (w->store == RV_I8) {
        const int8_t *q = (const int8_t *)panel + RV_QUANT_SCALES;
        return (float)q[j * RV_PANEL + lane] * ((const float *)(const void *)panel)[lane];
    }
    panel += j / RV_NF4_BLOCK * RV_NF4_BYTES;
    const uint8_t *q = (const uint8_t *)panel + RV_QUANT_SCALES;
    uint8_t byte = q[j % RV_NF4_BLOCK / 2 * RV_PANEL + rv_nf4_lane(lane)];
    return rv_nf4_code[byte >> j % 2 * 4 & 15] * ((const float *)(const void *)panel)[lane];
}

void rv_quant_read(const rv_weight *w, float *dst) {
    for (int64_t i = 0; i < w->n; i++) {
        for (int64_t j = 0; j < w->k; j++) {
            dst[i * w->k + j] = element(w, i, j);
        }
    }
}
