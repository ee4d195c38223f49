// normalize.h - the normalizer of a tokenizer.json: text to text.
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "bytes.h"
#include "err.h"

typedef struct {
    struct rv_normal_step *step;
    int n;
} rv_normalizer;

/// Reads a "normalizer" (null: none). Known: NFC, NFD, NFKC, NFKD, Prepend, Replace of a string,
/// Strip, Sequence. Errors: RV_EUNSUPPORTED naming the type, RV_EFORMAT, RV_ENOMEM.
rv_status rv_normalizer_read(rv_normalizer *z, const json_t *v, rv_err *e);

/// Replaces the text in `text` by its normal form; `tmp` is scratch.
/// Errors: RV_ENOMEM.
rv_status rv_normalize(const rv_normalizer *z, rv_bytes *text, rv_bytes *tmp, rv_err *e);

void rv_normalizer_free(rv_normalizer *z);

/// Appends `s` to `out` with every `from` replaced by `to`.
void rv_replace(rv_bytes *out, const char *s, size_t n, const char *from, size_t n_from,
                const char *to, size_t n_to);
