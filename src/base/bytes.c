#include "bytes.h"

#include <stdlib.h>
#include <string.h>

char *rv_bytes_room(rv_bytes *b, size_t n) {
    if (b->failed) {
        return NULL;
    }
    if (n > b->cap - b->n) {
        size_t cap = b->cap + (b->cap > n ? b->cap : n) + 64;
        char *p = cap > b->n ? realloc(b->p, cap) : NULL;
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->p = p;
        b->cap = cap;
    }
    return b->p ? b->p + b->n : NULL;
}

void rv_bytes_add(rv_bytes *b, const void *p, size_t n) {
    char *to = n ? rv_bytes_room(b, n) : NULL;
    if (to) {
        memcpy(to, p, n);
        b->n += n;
    }
}

void rv_bytes_free(rv_bytes *b) {
    free(b->p);
    *b = (rv_bytes){0};
}
