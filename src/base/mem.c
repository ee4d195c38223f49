#include "mem.h"

#include <stdlib.h>
#include <string.h>

void *rv_calloc(int64_t n, size_t size) {
    size_t bytes;
    if (n < 0 || !rv_mul_size((size_t)n, size, &bytes)) {
        return NULL;
    }
    return calloc(bytes ? bytes : 1, 1);
}

void *rv_realloc(void *p, int64_t n, size_t size) {
    size_t bytes;
    if (n < 0 || !rv_mul_size((size_t)n, size, &bytes)) {
        return NULL;
    }
    return realloc(p, bytes ? bytes : 1);
}

void *rv_aligned_alloc(size_t bytes) {
    if (bytes > SIZE_MAX - 64) {
        return NULL;
    }
    return aligned_alloc(64, (bytes + 63) / 64 * 64 + (bytes ? 0 : 64));
}

void rv_aligned_free(void *p) { free(p); }

char *rv_strndup(const char *s, size_t n) {
    char *d = n < SIZE_MAX ? malloc(n + 1) : NULL;
    if (d) {
        memcpy(d, s, n);
        d[n] = 0;
    }
    return d;
}
