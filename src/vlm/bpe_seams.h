// bpe_seams.h - where no merge can join two neighbouring characters, or bytes.
//
// A vocabulary knows few of the pairs of characters that text has. Where a pair stands in none of
// its tokens, no merge ever crosses it, so the piece can be cut there before it is encoded: a text
// without a pre-tokenizer falls apart into words, which repeat, in place of one piece of a
// megabyte. Of bytes nearly all pairs are known, so the byte on either side is looked at as well.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t ascii[128 * 128 / 64]; // bit 128 * left + right: some token has the pair
    uint64_t *slot;                 // open-addressed: pairs beyond ASCII; 0: free
    int64_t n_slots, used;
    uint64_t *bits; // of hashed bytes around a seam: false hits only leave a piece longer
    uint64_t n_bits;
} rv_seams;

/// Adds the pairs of a token that a merge makes (UTF-8). False when out of memory.
bool rv_seams_add(rv_seams *s, const char *token, size_t n);

/// The end of the part of a text (valid UTF-8, not empty) that begins at its front and is cut where
/// no token goes on.
size_t rv_seams_cut(const rv_seams *s, const char *text, size_t n);

/// The same for vocabularies of bytes: makes room for tokens of `n_bytes` together, adds the bytes
/// of a token, cuts a text. False when out of memory.
bool rv_seams_reserve_bytes(rv_seams *s, size_t n_bytes);
void rv_seams_add_bytes(rv_seams *s, const uint8_t *token, size_t n);
size_t rv_seams_cut_bytes(const rv_seams *s, const uint8_t *text, size_t n);

void rv_seams_free(rv_seams *s);
