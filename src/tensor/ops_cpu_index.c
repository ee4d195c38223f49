// ops_cpu_index.c - gathering, scattering, cumulative and segment sums, products of matrices.
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "ops_cpu.h"

static rv_status check_index(int64_t i, int64_t n, int64_t at, rv_err *e) {
    if (i < 0 || i >= n) {
        return RV_FAIL(e, RV_EARG, "index %lld (element %lld) is outside 1..%lld",
                       (long long)(i + 1), (long long)(at + 1), (long long)n);
    }
    return RV_OK;
}

rv_status rv_cpu_index_select(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                              size_t size, rv_err *e) {
    for (int64_t j = 0; j < count; j++) {
        RV_TRY(check_index(idx[j], a.n, j, e));
    }
    size_t run = (size_t)a.inner * size;
    char *to = y;
    for (int64_t o = 0; o < a.outer && run; o++) {
        for (int64_t j = 0; j < count; j++, to += run) {
            memcpy(to, (const char *)x + (size_t)(o * a.n + idx[j]) * run, run);
        }
    }
    return RV_OK;
}

rv_status rv_cpu_gather(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                        size_t size, rv_err *e) {
    int64_t at = 0;
    for (int64_t o = 0; o < a.outer; o++) {
        for (int64_t j = 0; j < count; j++) {
            for (int64_t i = 0; i < a.inner; i++, at++) {
                RV_TRY(check_index(idx[at], a.n, at, e));
                int64_t from = (o * a.n + idx[at]) * a.inner + i;
                memcpy((char *)y + (size_t)at * size, (const char *)x + (size_t)from * size, size);
            }
        }
    }
    return RV_OK;
}

rv_status rv_cpu_scatter_add(float *y, const float *src, const int64_t *idx, bool flat, rv_axis a,
                             int64_t count, rv_err *e) {
    int64_t total = a.outer * a.n * a.inner;
    double *sum = rv_calloc(total, sizeof *sum);
    if (!sum) {
        return RV_FAIL(e, RV_ENOMEM, "scatter_add: out of memory for %lld sums", (long long)total);
    }
    for (int64_t i = 0; i < total; i++) {
        sum[i] = (double)y[i];
    }
    rv_status s = RV_OK;
    int64_t at = 0;
    for (int64_t o = 0; o < a.outer && s == RV_OK; o++) {
        for (int64_t j = 0; j < count && s == RV_OK; j++) {
            for (int64_t i = 0; i < a.inner; i++, at++) {
                int64_t k = flat ? idx[j] : idx[at];
                s = check_index(k, a.n, flat ? j : at, e);
                if (s != RV_OK) {
                    break;
                }
                sum[(o * a.n + k) * a.inner + i] += (double)src[at];
            }
        }
    }
    for (int64_t i = 0; i < total && s == RV_OK; i++) {
        y[i] = (float)sum[i];
    }
    free(sum);
    return s;
}

int64_t rv_cpu_nonzero(int64_t *idx, const uint8_t *mask, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (mask[i]) {
            if (idx) {
                idx[count] = i;
            }
            count++;
        }
    }
    return count;
}

void rv_cpu_cumsum(void *y, const void *x, rv_axis a, bool reverse, rv_dtype domain) {
    for (int64_t o = 0; o < a.outer; o++) {
        for (int64_t i = 0; i < a.inner; i++) {
            double f = 0;
            uint64_t k = 0;
            for (int64_t j = 0; j < a.n; j++) {
                int64_t at = (o * a.n + (reverse ? a.n - 1 - j : j)) * a.inner + i;
                if (domain == RV_F32) {
                    f += (double)((const float *)x)[at];
                    ((float *)y)[at] = (float)f;
                } else {
                    k += (uint64_t)((const int64_t *)x)[at];
                    ((int64_t *)y)[at] = (int64_t)k;
                }
            }
        }
    }
}

void rv_cpu_segment_sum(float *y, const float *x, const int64_t *off, int64_t n, int64_t inner,
                        bool mean) {
    for (int64_t s = 0; s < n; s++) {
        int64_t rows = off[s + 1] - off[s];
        for (int64_t i = 0; i < inner; i++) {
            double sum = 0;
            for (int64_t r = off[s]; r < off[s + 1]; r++) {
                sum += (double)x[r * inner + i];
            }
            y[s * inner + i] = (float)(mean && rows ? sum / (double)rows : sum);
        }
    }
}

void rv_cpu_segment_spread(float *y, const float *g, const int64_t *off, int64_t n, int64_t rows,
                           int64_t inner, bool mean) {
    memset(y, 0, (size_t)(rows * inner) * sizeof *y);
    for (int64_t s = 0; s < n; s++) {
        double share = mean ? (double)(off[s + 1] - off[s]) : 1;
        for (int64_t r = off[s]; r < off[s + 1]; r++) {
            for (int64_t i = 0; i < inner; i++) {
                y[r * inner + i] = (float)((double)g[s * inner + i] / share);
            }
        }
    }
}

enum { MATMUL_COLS = 64 };

void rv_cpu_matmul(float *y, const float *a, const float *b, int64_t m, int64_t n, int64_t k,
                   const int64_t stride_a[2], const int64_t stride_b[2]) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j0 = 0; j0 < n; j0 += MATMUL_COLS) {
            int64_t cols = n - j0 < MATMUL_COLS ? n - j0 : MATMUL_COLS;
            double acc[MATMUL_COLS] = {0};
            for (int64_t p = 0; p < k; p++) {
                double x = (double)a[i * stride_a[0] + p * stride_a[1]];
                const float *row = b + p * stride_b[0] + j0 * stride_b[1];
                if (stride_b[1] == 1) {
                    for (int64_t j = 0; j < cols; j++) {
                        acc[j] += x * (double)row[j];
                    }
                } else {
                    for (int64_t j = 0; j < cols; j++) {
                        acc[j] += x * (double)row[j * stride_b[1]];
                    }
                }
            }
            for (int64_t j = 0; j < cols; j++) {
                y[i * n + j0 + j] = (float)acc[j];
            }
        }
    }
}
