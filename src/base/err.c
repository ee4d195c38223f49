#include "err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rv_status rv_fail(rv_err *e, rv_status code, const char *file, int line, const char *fmt, ...) {
    if (e) {
        e->code = code;
        e->file = file;
        e->line = line;
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
        va_end(ap);
    }
    return code;
}

void rv_err_context(rv_err *e, const char *fmt, ...) {
    if (!e) {
        return;
    }
    char tail[sizeof e->msg];
    memcpy(tail, e->msg, sizeof tail);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->msg) {
        snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %s", tail);
    }
}

void rv_die(const char *what, const char *file, int line) {
    fprintf(stderr, "rl4vlm: internal error at %s:%d: %s\n", file, line, what);
    abort();
}
