// bytes.h - growing buffers of bytes.
//
// A buffer that ran out of memory stays so (`failed`) and takes nothing more: callers append as
// they go and look once at the end.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *p;
    size_t n, cap;
    bool failed;
} rv_bytes;

/// Makes room for `n` more bytes and returns where they start; NULL when out of memory (or when
/// there is nothing to hold yet).
char *rv_bytes_room(rv_bytes *b, size_t n);

/// Appends `n` bytes.
void rv_bytes_add(rv_bytes *b, const void *p, size_t n);

/// Frees the memory; the buffer is empty and usable again.
void rv_bytes_free(rv_bytes *b);

#ifdef __cplusplus
}
#endif
