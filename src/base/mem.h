// mem.h - checked sizes and aligned host memory.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Multiplies two sizes; false when the product does not fit (then `*out` is untouched).
static inline bool rv_mul_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

/// Multiplies two non-negative counts; false on overflow or a negative factor.
static inline bool rv_mul_count(int64_t a, int64_t b, int64_t *out) {
    int64_t r;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

/// Rounds `n` up to a multiple of `unit` (a positive number).
static inline int64_t rv_round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// Allocates `n` elements of `size` bytes, zeroed; NULL when out of memory or on overflow.
void *rv_calloc(int64_t n, size_t size);

/// Resizes an array to `n` elements of `size` bytes; NULL (and `p` unchanged) on failure.
void *rv_realloc(void *p, int64_t n, size_t size);

/// Allocates `bytes` aligned to 64 bytes, content undefined; freed with rv_aligned_free.
void *rv_aligned_alloc(size_t bytes);
void rv_aligned_free(void *p);

/// Copies `n` bytes into fresh memory and ends them with a 0 byte; NULL when out of memory.
char *rv_strndup(const char *s, size_t n);

#ifdef __cplusplus
}
#endif
