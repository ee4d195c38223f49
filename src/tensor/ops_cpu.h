// ops_cpu.h - what the files that fill the CPU's table share: reading strided operands in tiles.
//
// A kernel never sees strides or storage dtypes: a cursor hands it runs of up to RV_TILE elements
// in the loop's domain, straight from memory where they lie there as they are, else gathered into a
// tile in the first-level cache.
#pragma once

#include "ops.h"

enum { RV_TILE = 512 };

typedef union {
    float f[RV_TILE];
    int64_t i[RV_TILE];
    uint8_t b[RV_TILE];
} rv_tile;

// A walk over one operand, or over some dims of it, in row-major order.
typedef struct {
    char *base, *at; // the first element, the next one
    int ndim;
    const int64_t *dim, *stride;
    int64_t index[RV_MAXDIM];
    rv_dtype type, domain;
    size_t size;   // bytes of a stored element
    bool straight; // dense, and stored as the domain has it
    bool constant; // one element for all
    bool filled;   // a constant's tile holds it
} rv_cursor;

/// A cursor over dims [first, first + ndim) of operand k. `domain` is RV_F32, RV_I64, or RV_BOOL
/// for results computed as bytes.
rv_cursor rv_cursor_make(const rv_loop *l, int k, int first, int ndim, rv_dtype domain);
/// Goes to the first element of the walk that begins at `base`.
void rv_cursor_start(rv_cursor *c, void *base);
/// The next n <= RV_TILE elements, widened: where they lie, or gathered in `tile` (the cursor's
/// own: a constant is kept there).
const void *rv_cursor_read(rv_cursor *c, rv_tile *tile, int64_t n);
/// Where to put the next n results: in place or in `tile`; rv_cursor_write then stores them.
void *rv_cursor_target(rv_cursor *c, rv_tile *tile);
void rv_cursor_write(rv_cursor *c, const void *values, int64_t n);

/// Stores one result of the domain at `at`.
void rv_cpu_store(void *at, rv_dtype type, rv_dtype domain, double f, int64_t i);

// The entries, by file.
rv_status rv_cpu_map(rv_map_op op, const rv_loop *l, rv_err *e);
void rv_cpu_reduce(rv_reduce_op op, const rv_loop *l, int keep);
void rv_cpu_softmax(const rv_loop *l, bool log);
rv_status rv_cpu_index_select(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                              size_t size, rv_err *e);
rv_status rv_cpu_gather(void *y, const void *x, const int64_t *idx, rv_axis a, int64_t count,
                        size_t size, rv_err *e);
rv_status rv_cpu_scatter_add(float *y, const float *src, const int64_t *idx, bool flat, rv_axis a,
                             int64_t count, rv_err *e);
int64_t rv_cpu_nonzero(int64_t *idx, const uint8_t *mask, int64_t n);
void rv_cpu_cumsum(void *y, const void *x, rv_axis a, bool reverse, rv_dtype domain);
void rv_cpu_segment_sum(float *y, const float *x, const int64_t *off, int64_t n, int64_t inner,
                        bool mean);
void rv_cpu_segment_spread(float *y, const float *g, const int64_t *off, int64_t n, int64_t rows,
                           int64_t inner, bool mean);
rv_status rv_cpu_sort(void *y, int64_t *idx, const void *x, rv_axis a, bool descending,
                      rv_dtype domain, rv_err *e);
void rv_cpu_matmul(float *y, const float *a, const float *b, int64_t m, int64_t n, int64_t k,
                   const int64_t stride_a[2], const int64_t stride_b[2]);
