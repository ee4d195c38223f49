// rows.c - moving rows: gather, scatter, rows of the embedding.
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
    rv_for(c, m, n * 4, 1, gather, &a);
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
    rv_for(c, n, m * 4, 16, scatter_add, &a);
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
    rv_for(c, m, n * 4, 1, scatter, &a);
}
