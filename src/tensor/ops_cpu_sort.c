// ops_cpu_sort.c - stable merge sort of one dim, with positions.
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "ops_cpu.h"

// True when b has to come before a that stood in front of it; NaN counts as the largest.
static bool float_before(float b, float a, bool descending) {
    if (descending) {
        return b > a || (b != b && a == a);
    }
    return b < a || (a != a && b == b);
}

static bool before(const void *keys, int64_t b, int64_t a, bool descending, rv_dtype domain) {
    if (domain == RV_F32) {
        return float_before(((const float *)keys)[b], ((const float *)keys)[a], descending);
    }
    int64_t x = ((const int64_t *)keys)[b], y = ((const int64_t *)keys)[a];
    return descending ? x > y : x < y;
}

// Sorts positions `p` (n) by their keys, bottom up; `spare` (n) is scratch. Returns where they lie.
static int64_t *merge_sort(int64_t *p, int64_t *spare, int64_t n, const void *keys, bool descending,
                           rv_dtype domain) {
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t lo = 0; lo < n; lo += 2 * width) {
            int64_t mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n;
            int64_t i = lo, j = mid;
            for (int64_t k = lo; k < hi; k++) {
                bool right = j < hi && (i == mid || before(keys, p[j], p[i], descending, domain));
                spare[k] = right ? p[j++] : p[i++];
            }
        }
        int64_t *t = p;
        p = spare;
        spare = t;
    }
    return p;
}

rv_status rv_cpu_sort(void *y, int64_t *idx, const void *x, rv_axis a, bool descending,
                      rv_dtype domain, rv_err *e) {
    size_t size = domain == RV_F32 ? sizeof(float) : sizeof(int64_t);
    int64_t *p = rv_calloc(a.n, 2 * sizeof *p + size);
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "sort: out of memory for %lld elements", (long long)a.n);
    }
    char *keys = (char *)(p + 2 * a.n);
    for (int64_t o = 0; o < a.outer; o++) {
        for (int64_t i = 0; i < a.inner; i++) {
            int64_t first = o * a.n * a.inner + i;
            for (int64_t j = 0; j < a.n; j++) {
                p[j] = j;
                memcpy(keys + (size_t)j * size,
                       (const char *)x + (size_t)(first + j * a.inner) * size, size);
            }
            int64_t *order = merge_sort(p, p + a.n, a.n, keys, descending, domain);
            for (int64_t j = 0; j < a.n; j++) {
                int64_t at = first + j * a.inner;
                idx[at] = order[j];
                memcpy((char *)y + (size_t)at * size, keys + (size_t)order[j] * size, size);
            }
        }
    }
    free(p);
    return RV_OK;
}
