#include "prefix.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

static int32_t *head_of(const rv_prefix *p, uint64_t parent) {
    return &p->heads[parent * 0x9e3779b97f4a7c15u % (uint64_t)p->n_heads];
}

void rv_prefix_clear(rv_prefix *p) {
    for (int64_t i = 0; i < p->n; i++) {
        RV_ASSERT(p->blocks[i].refs == 0);
        p->blocks[i].serial = 0;
        p->blocks[i].used = 0;
    }
    for (int64_t i = 0; i < p->n_heads; i++) {
        p->heads[i] = -1;
    }
}

rv_status rv_prefix_new(rv_prefix *p, int64_t blocks, rv_err *e) {
    *p = (rv_prefix){.n = blocks, .n_heads = 2 * blocks + 1, .serial = RV_PREFIX_ROOT};
    p->blocks = rv_calloc(blocks, sizeof *p->blocks);
    p->heads = rv_calloc(p->n_heads, sizeof *p->heads);
    if (!p->blocks || !p->heads) {
        rv_prefix_free(p);
        return RV_FAIL(e, RV_ENOMEM, "out of memory for the list of %lld cache blocks",
                       (long long)blocks);
    }
    rv_prefix_clear(p);
    return RV_OK;
}

void rv_prefix_free(rv_prefix *p) {
    free(p->blocks);
    free(p->heads);
    *p = (rv_prefix){0};
}

int64_t rv_prefix_find(const rv_prefix *p, uint64_t parent, const rv_row_key *keys, int64_t n,
                       int32_t *block) {
    int64_t most = 0;
    for (int32_t i = *head_of(p, parent); i >= 0; i = p->blocks[i].next) {
        const rv_prefix_block *b = &p->blocks[i];
        int64_t equal = 0, limit = b->filled < n ? b->filled : n;
        if (b->parent != parent) {
            continue;
        }
        while (equal < limit && b->keys[equal].a == keys[equal].a &&
               b->keys[equal].b == keys[equal].b) {
            equal++;
        }
        if (equal > most) {
            most = equal;
            *block = i;
        }
    }
    return most;
}

static void unlink_block(rv_prefix *p, int32_t block) {
    int32_t *at = head_of(p, p->blocks[block].parent);
    while (*at != block) {
        at = &p->blocks[*at].next;
    }
    *at = p->blocks[block].next;
}

int32_t rv_prefix_take(rv_prefix *p, uint64_t parent) {
    int32_t oldest = -1;
    for (int32_t i = 0; i < (int32_t)p->n; i++) {
        const rv_prefix_block *b = &p->blocks[i];
        if (b->refs == 0 && (oldest < 0 || b->used < p->blocks[oldest].used)) {
            oldest = i; // empty blocks have used 0
        }
    }
    if (oldest < 0) {
        return -1;
    }
    rv_prefix_block *b = &p->blocks[oldest];
    if (b->serial) {
        unlink_block(p, oldest);
    }
    int32_t *head = head_of(p, parent);
    b->serial = ++p->serial;
    b->parent = parent;
    b->refs = 1;
    b->filled = 0;
    b->next = *head;
    *head = oldest;
    return oldest;
}

void rv_prefix_hold(rv_prefix *p, int32_t block) { p->blocks[block].refs++; }

void rv_prefix_release(rv_prefix *p, int32_t block) {
    RV_ASSERT(p->blocks[block].refs > 0);
    p->blocks[block].refs--;
    p->blocks[block].used = ++p->clock;
}
