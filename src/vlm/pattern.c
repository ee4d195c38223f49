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

// Numbers that Unicode has got since version 14, PCRE2's at its oldest here; Hugging Face's
// tokenizers know those of version 16. The new letters are left out: as letters or not, they meet
// no neighbour in any merge, and a longer class costs each letter time.
#define NEW_NUMBERS                                                                                \
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"         \
    "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}"         \
    "\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"

// Oniguruma's \s is White_Space and its \w has all numbers, marks, connectors and alphabetic
// symbols; PCRE2's differ by a few characters, so both are spelled out. Inside a class only the
// positive ones can be.
static const struct {
    const char *name; // behind the backslash; a capital negates it
    const char *members;
} classes[] = {{"s", "\\p{Z}\\t-\\r\\x{85}"},
               {"w", "\\p{L}\\p{M}\\p{N}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
                     "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}" NEW_NUMBERS},
               {"p{N}", "\\p{N}" NEW_NUMBERS}};

// Writes the class whose name stands at `s`; the length of the name, 0 where it is none of them.
static size_t put_class(rv_bytes *out, const char *s, size_t n, bool inside) {
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        size_t len = strlen(classes[i].name);
        bool negated = s[0] == classes[i].name[0] - 'a' + 'A';
        if (len > n || (s[0] != classes[i].name[0] && (!negated || inside)) ||
            memcmp(s + 1, classes[i].name + 1, len - 1) != 0) {
            continue;
        }
        const char *open = inside ? "" : negated ? "[^" : "[";
        rv_bytes_add(out, open, strlen(open));
        rv_bytes_add(out, classes[i].members, strlen(classes[i].members));
        rv_bytes_add(out, "]", inside ? 0 : 1);
        return len;
    }
    return 0;
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
            size_t len = put_class(out, s + i, n - i, depth > 0);
            if (len == 0) {
                rv_bytes_add(out, s + i - 1, 2);
            } else {
                i += len - 1;
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
