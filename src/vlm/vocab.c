#include "vocab.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

uint64_t rv_hash_bytes(const char *s, size_t n) {
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    uint64_t w = 0;
    memcpy(&w, s, n);
    h = (h ^ w) * 0xC4CEB9FE1A85EC53u;
    return h ^ h >> 29;
}

// The slot that holds the token, or the empty one where it belongs.
static int64_t find_slot(const rv_vocab *v, const char *s, size_t n) {
    int64_t mask = v->n_slots - 1, i = (int64_t)rv_hash_bytes(s, n) & mask;
    for (; v->slot[i] >= 0; i = (i + 1) & mask) {
        const struct rv_vocab_token *t = &v->token[v->slot[i]];
        if (t->n == (int32_t)n && memcmp(v->text.p + t->at, s, n) == 0) {
            break;
        }
    }
    return i;
}

static bool grow_slots(rv_vocab *v) {
    int64_t n = v->n_slots ? v->n_slots * 2 : 1024;
    int32_t *old = v->slot, *slot = rv_calloc(n, sizeof *slot);
    if (!slot) {
        return false;
    }
    memset(slot, 0xFF, (size_t)n * sizeof *slot);
    int64_t n_old = v->n_slots;
    v->slot = slot;
    v->n_slots = n;
    for (int64_t i = 0; i < n_old; i++) {
        if (old[i] >= 0) {
            const struct rv_vocab_token *t = &v->token[old[i]];
            slot[find_slot(v, v->text.p + t->at, (size_t)t->n)] = old[i];
        }
    }
    free(old);
    return true;
}

static bool grow_tokens(rv_vocab *v, int32_t id) {
    if (id >= v->cap) {
        int32_t cap = id + id / 2 + 1024;
        struct rv_vocab_token *t = rv_realloc(v->token, cap, sizeof *t);
        if (!t) {
            return false;
        }
        v->token = t;
        v->cap = cap;
    }
    for (; v->size <= id; v->size++) {
        v->token[v->size] = (struct rv_vocab_token){0, -1};
    }
    return true;
}

bool rv_vocab_add(rv_vocab *v, int32_t id, const char *s, size_t n) {
    if (n > INT32_MAX || (v->used * 2 >= v->n_slots && !grow_slots(v)) || !grow_tokens(v, id)) {
        return false;
    }
    size_t at = v->text.n;
    rv_bytes_add(&v->text, s, n);
    if (v->text.failed) {
        return false;
    }
    int64_t slot = find_slot(v, s, n);
    v->used += v->slot[slot] < 0;
    v->token[id] = (struct rv_vocab_token){at, (int32_t)n};
    v->slot[slot] = id;
    v->longest = n > v->longest ? n : v->longest;
    return true;
}

int32_t rv_vocab_find(const rv_vocab *v, const char *s, size_t n) {
    return v->n_slots ? v->slot[find_slot(v, s, n)] : -1;
}

const char *rv_vocab_text(const rv_vocab *v, int64_t id, size_t *n) {
    if (id < 0 || id >= v->size || v->token[id].n < 0) {
        return NULL;
    }
    *n = (size_t)v->token[id].n;
    return v->text.p ? v->text.p + v->token[id].at : "";
}

void rv_vocab_free(rv_vocab *v) {
    rv_bytes_free(&v->text);
    free(v->token);
    free(v->slot);
    *v = (rv_vocab){0};
}
