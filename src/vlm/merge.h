// merge.h - an adapter added into the weight that it stands beside.
#pragma once

#include "err.h"

#include <stdint.h>

// A weight (n, k) and its adapter: A (r, k), B (n, r); all fp32, row-major, host memory.
typedef struct {
    float *w;
    const float *a, *b;
    int64_t n, k, r;
    float scale;
} rv_merge;

/// w += scale B A, rounded to fp32 once per sum. Errors: RV_ENOMEM.
rv_status rv_lora_merge(const rv_merge *m, rv_err *e);
