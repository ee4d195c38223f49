// bpe_seams.c - the pairs of characters that stand side by side in some token.
#include "bpe_seams.h"

#include <stdlib.h>

#include "mem.h"
#include "unicode.h"

// A pair beyond ASCII is never 0, which marks free slots.
static uint64_t key_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

static uint64_t *find(const rv_seams *s, uint64_t key) {
    uint64_t mask = (uint64_t)s->n_slots - 1, h = key * 0x9E3779B97F4A7C15u;
    uint64_t i = (h ^ h >> 32) & mask;
    while (s->slot[i] != key && s->slot[i] != 0) {
        i = (i + 1) & mask;
    }
    return &s->slot[i];
}

static bool grow(rv_seams *s) {
    rv_seams wide = *s;
    wide.n_slots = s->n_slots ? s->n_slots * 2 : 1024;
    wide.slot = rv_calloc(wide.n_slots, sizeof *wide.slot);
    if (!wide.slot) {
        return false;
    }
    for (int64_t i = 0; i < s->n_slots; i++) {
        if (s->slot[i]) {
            *find(&wide, s->slot[i]) = s->slot[i];
        }
    }
    free(s->slot);
    *s = wide;
    return true;
}

static bool add_pair(rv_seams *s, uint32_t left, uint32_t right) {
    if (left < 128 && right < 128) {
        s->ascii[(128 * left + right) / 64] |= 1ull << right % 64;
        return true;
    }
    if (2 * s->used >= s->n_slots && !grow(s)) {
        return false;
    }
    uint64_t *slot = find(s, key_of(left, right));
    s->used += *slot == 0;
    *slot = key_of(left, right);
    return true;
}

static bool joins(const rv_seams *s, uint32_t left, uint32_t right) {
    if (left < 128 && right < 128) {
        return s->ascii[(128 * left + right) / 64] >> right % 64 & 1;
    }
    return s->n_slots && *find(s, key_of(left, right)) != 0;
}

bool rv_seams_add(rv_seams *s, const char *token, size_t n) {
    uint32_t left = 0, right;
    bool good = true;
    for (size_t i = 0; good && i < n;) {
        size_t at = i;
        i += rv_utf8_read(token + i, n - i, &right);
        good = at == 0 || add_pair(s, left, right);
        left = right;
    }
    return good;
}

size_t rv_seams_cut(const rv_seams *s, const char *text, size_t n) {
    uint32_t left, right;
    size_t i = rv_utf8_read(text, n, &left);
    while (i < n) {
        size_t len = rv_utf8_read(text + i, n - i, &right);
        if (!joins(s, left, right)) {
            break;
        }
        i += len;
        left = right;
    }
    return i;
}

void rv_seams_free(rv_seams *s) {
    free(s->slot);
    *s = (rv_seams){0};
}
