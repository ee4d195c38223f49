// softmax.h - log-softmax statistics of one row of logits: one routine for the scorer and the
// sampler, so that their numbers have the same bits.
#pragma once

#include "cpu.h"
#include "fn.h"
#include "sum.h"

typedef struct {
    float max;      // of l / temperature; NaN when a logit is NaN or +infinity or all are -infinity
    double sum;     // of exp(l / temperature - max)
    double log_sum; // its logarithm
    double mean;    // of l / temperature - max under the softmax
} softmax_row;

enum { SOFTMAX_CHUNK = 256 };

static __attribute__((unused)) softmax_row softmax_stats(const float *l, int64_t v, float temp,
                                                         bool with_mean) {
    softmax_row r = {.max = -__builtin_inff()};
    float bad = 0; // stays 0 while everything is finite or -infinity
    float top[LANES];
    for (int i = 0; i < LANES; i++) {
        top[i] = -__builtin_inff();
    }
    int64_t i0 = 0;
    for (; i0 + LANES <= v; i0 += LANES) {
        for (int i = 0; i < LANES; i++) {
            float x = l[i0 + i];
            top[i] = x > top[i] ? x : x != x ? x : top[i];
        }
    }
    for (; i0 < v; i0++) {
        top[0] = l[i0] > top[0] ? l[i0] : l[i0] != l[i0] ? l[i0] : top[0];
    }
    for (int i = 0; i < LANES; i++) {
        bad += top[i] != top[i] ? 1.0f : 0.0f;
        r.max = top[i] > r.max ? top[i] : r.max;
    }
    if (bad > 0 || __builtin_isinf(r.max)) {
        r.max = __builtin_nanf("");
    }
    r.max /= temp;
    float e[SOFTMAX_CHUNK], d[SOFTMAX_CHUNK];
    double lane[LANES] = {0}, weighted[LANES] = {0};
    for (i0 = 0; i0 < v; i0 += SOFTMAX_CHUNK) {
        int64_t n = v - i0 < SOFTMAX_CHUNK ? v - i0 : SOFTMAX_CHUNK;
        for (int64_t i = 0; i < n; i++) {
            d[i] = l[i0 + i] / temp - r.max;
            e[i] = fn_exp(d[i]);
        }
        int64_t full = (n + LANES - 1) / LANES * LANES;
        for (int64_t i = n; i < full; i++) {
            e[i] = 0;
            d[i] = 0;
        }
        for (int64_t i = 0; i < full; i += LANES) {
            for (int k = 0; k < LANES; k++) {
                lane[k] += (double)e[i + k];
            }
        }
        if (with_mean) {
            for (int64_t i = 0; i < full; i += LANES) {
                for (int k = 0; k < LANES; k++) {
                    weighted[k] += e[i + k] > 0 ? (double)e[i + k] * (double)d[i + k] : 0;
                }
            }
        }
    }
    r.sum = sum_lanes(lane);
    r.log_sum = rv_log(r.sum);
    r.mean = with_mean ? sum_lanes(weighted) / r.sum : 0;
    return r;
}

/// log softmax of one logit.
RV_INLINE float softmax_logp(const softmax_row *r, float logit, float temp) {
    return (float)((double)(logit / temp - r->max) - r->log_sum);
}
