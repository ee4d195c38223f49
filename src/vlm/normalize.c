#include "normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "json.h"
#include "mem.h"
#include "unicode.h"

typedef enum { UNICODE, PREPEND, REPLACE, STRIP } kind;

struct rv_normal_step {
    kind kind;
    utf8proc_option_t form; // UNICODE
    char *from, *to;        // REPLACE; PREPEND: to
    size_t n_from, n_to;
    bool left, right; // STRIP
};

void rv_replace(rv_bytes *out, const char *s, size_t n, const char *from, size_t n_from,
                const char *to, size_t n_to) {
    const char *end = s + n;
    while (n_from > 0 && (size_t)(end - s) >= n_from) {
        const char *hit = memchr(s, from[0], (size_t)(end - s) - n_from + 1);
        if (!hit) {
            break;
        }
        rv_bytes_add(out, s, (size_t)(hit - s));
        bool match = memcmp(hit, from, n_from) == 0;
        rv_bytes_add(out, match ? to : hit, match ? n_to : 1);
        s = hit + (match ? n_from : 1);
    }
    rv_bytes_add(out, s, (size_t)(end - s));
}

// ---- reading ----

static rv_status copy_string(const json_t *o, const char *key, char **out, size_t *n, rv_err *e) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_string(v)) {
        return RV_FAIL(e, RV_EFORMAT, "\"%s\": wanted a string, got %s", key, rv_json_type(v));
    }
    *n = json_string_length(v);
    *out = rv_strndup(json_string_value(v), *n);
    return *out ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
}

static rv_status read_replace(struct rv_normal_step *s, const json_t *v, rv_err *e) {
    const json_t *pattern = json_object_get(v, "pattern");
    if (!json_object_get(pattern, "String")) {
        return RV_FAIL(e, RV_EUNSUPPORTED,
                       "normalizer Replace: only a pattern {\"String\"} is known");
    }
    s->kind = REPLACE;
    RV_TRY(copy_string(pattern, "String", &s->from, &s->n_from, e));
    return copy_string(v, "content", &s->to, &s->n_to, e);
}

static rv_status read_step(struct rv_normal_step *s, const json_t *v, const char *type, rv_err *e) {
    static const struct {
        const char *name;
        int form;
    } forms[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
                 {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
                 {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                 {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(type, forms[i].name) == 0) {
            s->kind = UNICODE;
            s->form = (utf8proc_option_t)forms[i].form;
            return RV_OK;
        }
    }
    if (strcmp(type, "Prepend") == 0) {
        s->kind = PREPEND;
        return copy_string(v, "prepend", &s->to, &s->n_to, e);
    }
    if (strcmp(type, "Replace") == 0) {
        return read_replace(s, v, e);
    }
    if (strcmp(type, "Strip") == 0) {
        *s = (struct rv_normal_step){.kind = STRIP, .left = true, .right = true};
        RV_TRY(rv_json_bool(v, "strip_left", &s->left, e));
        return rv_json_bool(v, "strip_right", &s->right, e);
    }
    return RV_FAIL(e, RV_EUNSUPPORTED, "normalizer \"%s\" is not known", type);
}

rv_status rv_normalizer_read(rv_normalizer *z, const json_t *v, rv_err *e) {
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) {
        return RV_FAIL(e, RV_EFORMAT, "normalizer: wanted an object with a \"type\"");
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(v, "normalizers"), *part;
        size_t i;
        json_array_foreach(list, i, part) { RV_TRY(rv_normalizer_read(z, part, e)); }
        return RV_OK;
    }
    struct rv_normal_step *p = rv_realloc(z->step, z->n + 1, sizeof *p);
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    z->step = p;
    p[z->n] = (struct rv_normal_step){0};
    return read_step(&p[z->n++], v, type, e);
}

void rv_normalizer_free(rv_normalizer *z) {
    for (int i = 0; i < z->n; i++) {
        free(z->step[i].from);
        free(z->step[i].to);
    }
    free(z->step);
    *z = (rv_normalizer){0};
}

// ---- running ----

static void swap(rv_bytes *a, rv_bytes *b) {
    rv_bytes t = *a;
    *a = *b;
    *b = t;
}

static void to_form(rv_bytes *out, const rv_bytes *text, utf8proc_option_t form) {
    utf8proc_uint8_t *p = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text->p, (utf8proc_ssize_t)text->n, &p, form);
    if (n >= 0) {
        rv_bytes_add(out, p, (size_t)n);
    }
    out->failed = out->failed || n < 0; // valid UTF-8 can only fail for memory
    free(p);
}

static void strip(rv_bytes *out, const rv_bytes *text, bool left, bool right) {
    size_t from = 0, to = text->n, keep = 0;
    bool leading = left;
    for (size_t i = 0, len; i < text->n; i += len) {
        uint32_t cp = 0;
        len = rv_utf8_read(text->p + i, text->n - i, &cp);
        bool space = rv_is_space(cp);
        leading = leading && space;
        from = leading ? i + len : from;
        keep = space ? keep : i + len;
    }
    to = right ? keep : to;
    rv_bytes_add(out, text->p + from, to > from ? to - from : 0);
}

rv_status rv_normalize(const rv_normalizer *z, rv_bytes *text, rv_bytes *tmp, rv_err *e) {
    for (int i = 0; i < z->n && text->n > 0; i++) {
        const struct rv_normal_step *s = &z->step[i];
        if (s->kind == UNICODE && rv_is_ascii(text->p, text->n)) {
            continue;
        }
        tmp->n = 0;
        switch (s->kind) {
        case UNICODE:
            to_form(tmp, text, s->form);
            break;
        case PREPEND:
            rv_bytes_add(tmp, s->to, s->n_to);
            rv_bytes_add(tmp, text->p, text->n);
            break;
        case REPLACE:
            rv_replace(tmp, text->p, text->n, s->from, s->n_from, s->to, s->n_to);
            break;
        case STRIP:
            strip(tmp, text, s->left, s->right);
            break;
        }
        if (tmp->failed) {
            tmp->failed = false;
            return RV_FAIL(e, RV_ENOMEM, "out of memory while normalizing %zu bytes", text->n);
        }
        swap(text, tmp);
    }
    return RV_OK;
}
