// pattern.h - regular expressions of tokenizer files (Oniguruma's dialect), run by PCRE2.
#pragma once

#include <stddef.h>

#include "err.h"

typedef struct rv_pattern rv_pattern;

/// Compiles a pattern. Errors: RV_EUNSUPPORTED (a construct that PCRE2 refuses or reads otherwise).
rv_status rv_pattern_new(rv_pattern **out, const char *regex, size_t n, rv_err *e);

/// Finds the next match that is not empty in `s` (valid UTF-8) from `from` on; lookbehinds see what
/// stands before it. `*start` is n when there is none.
/// Errors: RV_EFORMAT when the pattern needs too much backtracking on this text.
rv_status rv_pattern_next(const rv_pattern *p, const char *s, size_t n, size_t from, size_t *start,
                          size_t *end, rv_err *e);

void rv_pattern_free(rv_pattern *p);
