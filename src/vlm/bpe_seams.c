// bpe_seams.c - the pairs of characters, and the bytes around a seam, that some token has.
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

// ---- bytes ----

enum { NONE = 256 }; // beyond the token's end

// The place of the bytes at [at - 2, at + 2) of a token or text in the bits; `left` and `right` say
// whether the outer ones belong to it.
static uint64_t bit_of(const rv_seams *s, const uint8_t *p, size_t at, bool left, bool right) {
    uint64_t key = (uint64_t)(left ? p[at - 2] : NONE) << 32 | (uint64_t)p[at - 1] << 24 |
                   (uint64_t)p[at] << 16 | (uint64_t)(right ? p[at + 1] : NONE);
    key *= 0x9E3779B97F4A7C15u;
    return (key ^ key >> 29) * 0xBF58476D1CE4E5B9u >> 32 & (s->n_bits - 1);
}

static bool has(const rv_seams *s, uint64_t bit) { return s->bits[bit / 64] >> bit % 64 & 1; }

bool rv_seams_reserve_bytes(rv_seams *s, size_t n_bytes) {
    s->n_bits = 1 << 10;
    while (s->n_bits < 16 * (uint64_t)n_bytes && s->n_bits < 1ull << 31) {
        s->n_bits *= 2;
    }
    s->bits = rv_calloc((int64_t)(s->n_bits / 64), sizeof *s->bits);
    return s->bits != NULL;
}

void rv_seams_add_bytes(rv_seams *s, const uint8_t *token, size_t n) {
    for (size_t at = 1; at < n; at++) {
        uint64_t bit = bit_of(s, token, at, at >= 2, at + 1 < n);
        s->bits[bit / 64] |= 1ull << bit % 64;
    }
}

// A token that crosses the seam goes on or ends on either side: four ways.
static bool crosses(const rv_seams *s, const uint8_t *p, size_t at, size_t n) {
    bool left = at >= 2, right = at + 1 < n;
    return (left && right && has(s, bit_of(s, p, at, true, true))) ||
           (left && has(s, bit_of(s, p, at, true, false))) ||
           (right && has(s, bit_of(s, p, at, false, true))) ||
           has(s, bit_of(s, p, at, false, false));
}

size_t rv_seams_cut_bytes(const rv_seams *s, const uint8_t *text, size_t n) {
    size_t at = 1;
    while (at < n && crosses(s, text, at, n)) {
        at++;
    }
    return at;
}

void rv_seams_free(rv_seams *s) {
    free(s->bits);
    free(s->slot);
    *s = (rv_seams){0};
}
