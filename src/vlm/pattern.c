#include "pattern.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "bytes.h"
#include "unicode.h"

// Steps of one match before it is given up: hostile text can waste seconds, not hours.
#define MATCH_LIMIT 20000000

struct rv_pattern {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

// Oniguruma's \s is White_Space and its \w has all numbers, marks, connectors and alphabetic
// symbols; PCRE2's differ by a few characters, so both are spelled out. Inside a class only the
// positive ones can be.
static const struct {
    char letter;
    const char *members;
} classes[] = {{'s', "\\p{Z}\\t-\\r\\x{85}"},
               {'w', "\\p{L}\\p{M}\\p{N}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
                     "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"}};

static bool put_class(rv_bytes *out, char c, bool inside) {
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        bool negated = c == classes[i].letter - 'a' + 'A';
        if (c != classes[i].letter && (!negated || inside)) {
            continue;
        }
        const char *open = inside ? "" : negated ? "[^" : "[";
        rv_bytes_add(out, open, strlen(open));
        rv_bytes_add(out, classes[i].members, strlen(classes[i].members));
        rv_bytes_add(out, "]", inside ? 0 : 1);
        return true;
    }
    return false;
}

// Writes the pattern in PCRE2's words. False where it uses what PCRE2 reads otherwise.
static bool translate(rv_bytes *out, const char *s, size_t n) {
    int depth = 0; // of brackets
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\' && i + 1 < n) {
            char c = s[++i];
            if (c == 'h' || c == 'H') { // hexadecimal digit there, blank here
                return false;
            }
            if (!put_class(out, c, depth > 0)) {
                rv_bytes_add(out, s + i - 1, 2);
            }
            continue;
        }
        if (depth > 0 && s[i] == '&' && i + 1 < n && s[i + 1] == '&') { // intersection
            return false;
        }
        if (depth > 0 && s[i] == '[' && (i + 1 >= n || s[i + 1] != ':')) { // nested class
            return false;
        }
        if (s[i] == '[') {
            depth++;
            if (depth > 1) { // a POSIX class runs to its ":]"
                const char *end = memchr(s + i, ']', n - i);
                size_t len = end ? (size_t)(end - s) - i + 1 : n - i;
                rv_bytes_add(out, s + i, len);
                i += len - 1;
                depth--;
                continue;
            }
        } else if (s[i] == ']' && depth > 0) {
            depth--;
        }
        rv_bytes_add(out, s + i, 1);
    }
    return true;
}

static rv_status compile(rv_pattern *p, const rv_bytes *text, rv_err *e) {
    int code;
    PCRE2_SIZE at;
    // Oniguruma's ^ and $ stand at every line, hence MULTILINE.
    p->code = pcre2_compile((PCRE2_SPTR)(text->p ? text->p : ""), text->n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &code, &at, NULL);
    if (!p->code) {
        PCRE2_UCHAR why[128] = {0};
        pcre2_get_error_message(code, why, sizeof why);
        return RV_FAIL(e, RV_EUNSUPPORTED, "pattern \"%.*s\": %s",
                       (int)(text->n < 200 ? text->n : 200), text->p ? text->p : "",
                       (const char *)why);
    }
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); // without it matching is slower, not wrong
    p->data = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->context = pcre2_match_context_create(NULL);
    p->stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, NULL);
    if (!p->data || !p->context || !p->stack) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a pattern");
    }
    pcre2_set_match_limit(p->context, MATCH_LIMIT);
    pcre2_jit_stack_assign(p->context, NULL, p->stack);
    return RV_OK;
}

rv_status rv_pattern_new(rv_pattern **out, const char *regex, size_t n, rv_err *e) {
    *out = NULL;
    rv_pattern *p = calloc(1, sizeof *p);
    rv_bytes text = {0};
    rv_status s = RV_OK;
    if (!translate(&text, regex, n)) {
        s = RV_FAIL(e, RV_EUNSUPPORTED, "pattern \"%.*s\" uses \\h, && or a class in a class",
                    (int)(n < 200 ? n : 200), regex);
    } else if (!p || text.failed) {
        s = RV_FAIL(e, RV_ENOMEM, "out of memory for a pattern");
    } else {
        s = compile(p, &text, e);
    }
    rv_bytes_free(&text);
    if (s != RV_OK) {
        rv_pattern_free(p);
        return s;
    }
    *out = p;
    return RV_OK;
}

rv_status rv_pattern_next(const rv_pattern *p, const char *s, size_t n, size_t from, size_t *start,
                          size_t *end, rv_err *e) {
    *start = *end = n;
    while (from < n) {
        int rc =
            pcre2_match(p->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, p->data, p->context);
        if (rc == PCRE2_ERROR_NOMATCH) {
            return RV_OK;
        }
        if (rc < 0) {
            PCRE2_UCHAR why[128] = {0};
            pcre2_get_error_message(rc, why, sizeof why);
            return RV_FAIL(e, RV_EFORMAT, "the split pattern fails at byte %zu of a piece: %s",
                           from, (const char *)why);
        }
        const PCRE2_SIZE *hit = pcre2_get_ovector_pointer(p->data);
        if (hit[1] > hit[0]) {
            *start = hit[0];
            *end = hit[1];
            return RV_OK;
        }
        uint32_t cp; // an empty match: look on behind the next character
        from = hit[0] + (hit[0] < n ? rv_utf8_read(s + hit[0], n - hit[0], &cp) : 1);
    }
    return RV_OK;
}

void rv_pattern_free(rv_pattern *p) {
    if (p) {
        pcre2_code_free(p->code);
        pcre2_match_data_free(p->data);
        pcre2_match_context_free(p->context);
        pcre2_jit_stack_free(p->stack);
        free(p);
    }
}
