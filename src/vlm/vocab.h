// vocab.h - tokens by id and ids by token.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

// No vocabulary has larger ids; a file that says otherwise is refused before memory is taken.
#define RV_MAX_TOKEN_ID ((1 << 24) - 1)

typedef struct {
    rv_bytes text; // all tokens behind one another
    struct rv_vocab_token {
        size_t at;
        int32_t n; // -1: the id has no token
    } * token;
    int32_t size; // one more than the largest id
    int32_t cap;
    int32_t *slot; // open-addressed: id, or -1
    int64_t n_slots, used;
    size_t longest; // bytes of the longest token
} rv_vocab;

/// Gives `id` the token `s`. A token that is there already keeps being found under its newest id.
/// False when out of memory.
bool rv_vocab_add(rv_vocab *v, int32_t id, const char *s, size_t n);

/// Id of a token, or -1.
int32_t rv_vocab_find(const rv_vocab *v, const char *s, size_t n);

/// Text of a token (not 0-ended), or NULL when the id has none.
const char *rv_vocab_text(const rv_vocab *v, int64_t id, size_t *n);

void rv_vocab_free(rv_vocab *v);

/// FNV-like hash of bytes, finished for use as a table index.
uint64_t rv_hash_bytes(const char *s, size_t n);
