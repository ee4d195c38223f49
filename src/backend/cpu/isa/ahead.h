// ahead.h - asking memory for rows that will be needed while others are multiplied.
//
// Rows that lie a stride apart are found too late by the processor's own prefetching, and a copy
// that waits for each of them costs more than its instructions.
#pragma once

#include <stdint.h>

// Rows still to be asked for, some cache lines at a time.
typedef struct {
    const char *at;
    int64_t stride, rows; // bytes from row to row; rows still to come, `at` in the first of them
    int64_t lines, line;  // of a row
} ahead;

enum { LINE = 64 };

/// `rows` rows of `bytes` bytes, `stride` bytes apart.
static inline ahead ahead_of(const void *from, int64_t stride, int64_t rows, int64_t bytes) {
    return (ahead){from, stride, rows, (bytes + LINE - 1) / LINE, 0};
}

/// Asks for the next lines, into the second cache.
static inline void ask(ahead *a, int64_t lines) {
    for (; lines > 0 && a->rows > 0; lines--) {
        __builtin_prefetch(a->at + a->line * LINE, 0, 2);
        if (++a->line == a->lines) {
            a->line = 0;
            a->at += a->stride;
            a->rows--;
        }
    }
}
