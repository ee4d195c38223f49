// rows.c - moving rows: gather, scatter, patches of images.
#include "cpu.h"

#include <string.h>

typedef struct {
    float *y;
    const float *x;
    const int32_t *idx;
    int64_t m, n;
} row_args;

static void gather(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const row_args *a = arg;
    size_t bytes = (size_t)a->n * sizeof(float);
    for (int64_t i = lo; i < hi; i++) {
        if (a->idx[i] < 0) {
            memset(a->y + i * a->n, 0, bytes);
        } else {
            memcpy(a->y + i * a->n, a->x + a->idx[i] * a->n, bytes);
        }
    }
}

void rv_cpu_gather_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n) {
    row_args a = {rv_f32(y), rv_f32(x), idx, m, n};
    rv_for(c, m, n / 4 + 1, 1, gather, &a);
}

// Columns lo..hi-1 of all rows, i ascending.
static void scatter_add(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const row_args *a = arg;
    for (int64_t i = 0; i < a->m; i++) {
        if (a->idx[i] >= 0) {
            float *y = a->y + a->idx[i] * a->n;
            const float *x = a->x + i * a->n;
            for (int64_t j = lo; j < hi; j++) {
                y[j] += x[j];
            }
        }
    }
}

void rv_cpu_scatter_add_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m,
                             int64_t n) {
    row_args a = {rv_f32(y), rv_f32(x), idx, m, n};
    rv_for(c, n, m / 4 + 1, 16, scatter_add, &a);
}

static void scatter(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const row_args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        if (a->idx[i] >= 0) {
            memcpy(a->y + a->idx[i] * a->n, a->x + i * a->n, (size_t)a->n * sizeof(float));
        }
    }
}

void rv_cpu_scatter_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n) {
    row_args a = {rv_f32(y), rv_f32(x), idx, m, n};
    rv_for(c, m, n / 4 + 1, 1, scatter, &a);
}

typedef struct {
    float *y;
    const float *x;
    int64_t size, patch;
} patch_args;

// One item is one image.
static void patchify(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const patch_args *a = arg;
    int64_t s = a->size, p = a->patch, side = s / p;
    for (int64_t img = lo; img < hi; img++) {
        const float *x = a->x + img * 3 * s * s;
        float *y = a->y + img * side * side * 3 * p * p;
        for (int64_t i = 0; i < side * side; i++) {
            for (int64_t r = 0; r < 3 * p; r++) { // (channel, row)
                int64_t row = i / side * p + r % p;
                memcpy(y, x + (r / p * s + row) * s + i % side * p, (size_t)p * sizeof(float));
                y += p;
            }
        }
    }
}

void rv_cpu_patchify(rv_ctx *c, rv_dev y, rv_dev pixels, int64_t n_img, int64_t size,
                     int64_t patch) {
    patch_args a = {rv_f32(y), rv_f32(pixels), size, patch};
    rv_for(c, n_img, 3 * size * size / 4, 1, patchify, &a);
}
