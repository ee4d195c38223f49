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
    for (int64_t i = 0; i < n; i++) {
        dst[i] = t == RV_BF16 ? rv_bf16_to_f32(h[i]) : rv_f16_to_f32(h[i]);
    }
}

static float largest(const float *x, int64_t n, float most) {
    for (int64_t i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    return most;
}

// The nearest code; halfway goes to the lower one.
static uint8_t nearest(float x) {
    int i = 0;
    while (i < 15 && x > (rv_nf4_code[i] + rv_nf4_code[i + 1]) / 2) {
        i++;
    }
    return (uint8_t)i;
}

typedef struct {
    const rv_weight *w;
    const void *src;
    rv_dtype type;
} job;

static void int8_row(const job *a, char *panel, int64_t lane, int64_t row) {
    float x[RV_NF4_BLOCK], most = 0;
    const int64_t k = a->w->k;
    int8_t *q = (int8_t *)panel + RV_QUANT_SCALES;
    for (int64_t j = 0; j < k; j += RV_NF4_BLOCK) {
        int64_t n = k - j < RV_NF4_BLOCK ? k - j : RV_NF4_BLOCK;
        read_row(x, a->src, a->type, row * k + j, n);
        most = largest(x, n, most);
    }
    ((float *)(void *)panel)[lane] = most * (1 / 127.0f);
    for (int64_t j = 0; j < k && most > 0; j += RV_NF4_BLOCK) {
        int64_t n = k - j < RV_NF4_BLOCK ? k - j : RV_NF4_BLOCK;
        read_row(x, a->src, a->type, row * k + j, n);
        for (int64_t i = 0; i < n; i++) {
            q[(j + i) * RV_PANEL + lane] = (int8_t)rintf(x[i] * (127 / most));
        }
    }
}

static void nf4_row(const job *a, char *panel, int64_t lane, int64_t row) {
    float x[RV_NF4_BLOCK];
    const int64_t k = a->w->k;
    for (int64_t j = 0; j < k; j += RV_NF4_BLOCK, panel += RV_NF4_BYTES) {
        int64_t n = k - j < RV_NF4_BLOCK ? k - j : RV_NF4_BLOCK;
        uint8_t *q = (uint8_t *)panel + RV_QUANT_SCALES + rv_nf4_lane(lane);
        read_row(x, a->src, a->type, row * k + j, n);
        float most = largest(x, n, 0), by = 1 / (most > 1e-38f ? most : 1e-38f);
        ((float *)(void *)panel)[lane] = most;
        for (int64_t i = 0; i < n; i++) {
            uint8_t *byte = q + i / 2 * RV_PANEL;
            uint8_t keep = i % 2 ? 0x0f : 0xf0;
            *byte = (uint8_t)((*byte & keep) | nearest(x[i] * by) << i % 2 * 4);
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
        memset(panel, 0, (size_t)size);
        for (int64_t lane = 0; lane < RV_PANEL && p * RV_PANEL + lane < w->n; lane++) {
            (w->store == RV_NF4 ? nf4_row : int8_row)(a, panel, lane, p * RV_PANEL + lane);
        }
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
