// backend_case.h - what the backend's tests share: random data, device arrays, comparisons.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "rng.h"

#define SEED 20240611

// The table under test and its context.
typedef struct {
    const rv_backend *be;
    rv_ctx *c;
} dev;

static inline dev dev_open(const rv_backend *be, int threads) {
    dev d = {be, NULL};
    rv_err e;
    assert_int_equal(be->ctx_new(&d.c, 0, threads, &e), RV_OK);
    return d;
}

static inline void dev_close(dev *d) { d->be->ctx_free(d->c); }

static inline rv_dev put(dev *d, const void *src, size_t bytes) {
    rv_dev r;
    rv_err e;
    assert_int_equal(d->be->alloc(d->c, &r, bytes, &e), RV_OK);
    if (src) {
        d->be->upload(d->c, r, src, bytes);
    }
    return r;
}

static inline rv_dev put_f(dev *d, const float *src, int64_t n) {
    return put(d, src, (size_t)n * 4);
}

static inline float *get_f(dev *d, rv_dev a, int64_t n) {
    float *r = malloc((size_t)(n ? n : 1) * sizeof *r);
    d->be->download(d->c, r, a, (size_t)n * sizeof *r);
    return r;
}

// Downloads and frees.
static inline float *take_f(dev *d, rv_dev a, int64_t n) {
    float *r = get_f(d, a, n);
    d->be->free(d->c, a);
    return r;
}

static inline float *randoms(uint64_t stream, int64_t n, double scale) {
    rv_rng r = rv_rng_make(SEED, RV_STREAM_USER, stream, 0);
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(rv_rng_normal(&r) * scale);
    }
    return x;
}

static inline void assert_bits(const float *a, const float *b, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) != 0) {
            fail_msg("%s: element %lld differs: %.9g and %.9g", what, (long long)i, (double)a[i],
                     (double)b[i]);
        }
    }
}

// Every |a - b| within `tol` of the largest |b| (at least 1e-30).
static inline void assert_near(const float *a, const double *b, int64_t n, double tol,
                               const char *what) {
    double top = 1e-30, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        top = fabs(b[i]) > top ? fabs(b[i]) : top;
    }
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    if (getenv("RV_SHOW")) {
        fprintf(stderr, "%s: residual %.2g\n", what, worst / top);
    }
    if (!(worst <= tol * top)) {
        fail_msg("%s: element %lld is %.9g, wanted %.9g (tolerance %.2g of %.3g)", what,
                 (long long)at, (double)a[at], b[at], tol, top);
    }
}

// A prepared weight from row-major data.
static inline rv_weight weight_of(dev *d, const float *src, int64_t n, int64_t k, rv_dtype store,
                                  bool round_x) {
    rv_weight w = {.n = n, .k = k, .store = store, .round_x = round_x};
    rv_err e;
    d->be->weight_size(&w);
    w.fwd = put(d, NULL, w.fwd_bytes);
    assert_int_equal(d->be->weight_prepare(d->c, &w, src, RV_F32, &e), RV_OK);
    return w;
}

static inline void weight_drop(dev *d, rv_weight *w) { d->be->free(d->c, w->fwd); }
