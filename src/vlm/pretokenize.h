// pretokenize.h - the pre-tokenizer of a tokenizer.json: text to pieces.
//
// Steps run one after another; each splits every piece of the one before, and sees nothing outside
// it. Known: Split (string or regex, all behaviours), ByteLevel, Digits, Metaspace, Sequence.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "bytes.h"
#include "err.h"

typedef struct {
    size_t at, n; // in the text
    bool first;   // begins where the caller's whole text begins
} rv_piece;

typedef struct {
    rv_bytes text;
    rv_piece *piece;
    size_t n, cap;
    bool failed;
} rv_pieces;

typedef struct {
    struct rv_split_step *step;
    int n;
    bool byte_level; // pieces go to the model as bytes
    rv_pieces tmp;   // scratch
} rv_pretokenizer;

/// Reads a "pre_tokenizer" (null: none). Errors: RV_EUNSUPPORTED, RV_EFORMAT, RV_ENOMEM.
rv_status rv_pretokenizer_read(rv_pretokenizer *t, const json_t *v, rv_err *e);

/// Splits `s` into pieces; `first`: it begins where the whole text begins.
/// Errors: RV_ENOMEM, RV_EFORMAT (a pattern that gives up).
rv_status rv_pretokenize(rv_pretokenizer *t, const char *s, size_t n, bool first, rv_pieces *out,
                         rv_err *e);

void rv_pretokenizer_free(rv_pretokenizer *t);
void rv_pieces_free(rv_pieces *p);
