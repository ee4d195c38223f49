// added_tokens.h - tokens that are cut out of the text before anything else happens to it.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "normalize.h"

typedef struct {
    int32_t id;
    char *content; // the token itself
    size_t n_content;
    char *text; // as it is looked for: in normal form where `normalized`
    size_t n;
    bool special, single_word, lstrip, rstrip, normalized;
} rv_added_token;

typedef struct {
    rv_added_token *token; // by first byte, then the longest first
    int n;
    int first[257]; // tokens first[b] .. first[b + 1] - 1 begin with byte b
    bool any[2];    // some that are not (are) looked for in normalized text
} rv_added_tokens;

/// Reads one entry of "added_tokens" into `t`. Errors: RV_EFORMAT naming the key, RV_ENOMEM.
rv_status rv_added_token_read(rv_added_token *t, const json_t *v, rv_err *e);

/// Brings the list into searching order, tokens with `normalized` in normal form.
/// Errors: RV_ENOMEM.
rv_status rv_added_tokens_sort(rv_added_tokens *a, const rv_normalizer *z, rv_err *e);

/// Finds the next token at or behind `*from` whose `normalized` is as given, leftmost and longest.
/// Sets [*start, *end) to the text it takes, blanks included where it strips, not before `taken`,
/// and `*from` to where the search goes on. NULL when there is none.
const rv_added_token *rv_added_tokens_find(const rv_added_tokens *a, bool normalized, const char *s,
                                           size_t n, size_t taken, size_t *from, size_t *start,
                                           size_t *end);

void rv_added_tokens_free(rv_added_tokens *a);
