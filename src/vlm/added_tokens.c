#include "added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "mem.h"
#include "unicode.h"
#include "vocab.h"

rv_status rv_added_token_read(rv_added_token *t, const json_t *v, rv_err *e) {
    *t = (rv_added_token){.normalized = true};
    const json_t *content = json_object_get(v, "content");
    if (!json_is_string(content)) {
        return RV_FAIL(e, RV_EFORMAT, "\"content\": wanted a string, got %s",
                       rv_json_type(content));
    }
    int64_t id = -1;
    RV_TRY(rv_json_int(v, "id", 0, RV_MAX_TOKEN_ID, &id, e));
    if (id < 0) {
        return RV_FAIL(e, RV_EFORMAT, "\"id\": wanted an integer");
    }
    RV_TRY(rv_json_bool(v, "special", &t->special, e));
    t->normalized = !t->special;
    RV_TRY(rv_json_bool(v, "normalized", &t->normalized, e));
    RV_TRY(rv_json_bool(v, "single_word", &t->single_word, e));
    RV_TRY(rv_json_bool(v, "lstrip", &t->lstrip, e));
    RV_TRY(rv_json_bool(v, "rstrip", &t->rstrip, e));
    t->id = (int32_t)id;
    t->n = json_string_length(content);
    t->n_content = t->n;
    t->text = rv_strndup(json_string_value(content), t->n);
    t->content = rv_strndup(json_string_value(content), t->n);
    return t->text && t->content ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
}

static uint8_t first_byte(const rv_added_token *t) { return t->n ? (uint8_t)t->text[0] : 0; }

static int by_first_then_length(const void *pa, const void *pb) {
    const rv_added_token *a = pa, *b = pb;
    int d = first_byte(a) - first_byte(b);
    return d ? d : a->n != b->n ? (a->n < b->n ? 1 : -1) : a->id - b->id;
}

static rv_status to_normal_form(rv_added_token *t, const rv_normalizer *z, rv_err *e) {
    rv_bytes text = {0}, tmp = {0};
    rv_bytes_add(&text, t->text, t->n);
    rv_status s = rv_normalize(z, &text, &tmp, e);
    char *copy = s == RV_OK && !text.failed ? rv_strndup(text.p ? text.p : "", text.n) : NULL;
    if (copy) {
        free(t->text);
        t->text = copy;
        t->n = text.n;
    } else if (s == RV_OK) {
        s = RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    rv_bytes_free(&text);
    rv_bytes_free(&tmp);
    return s;
}

rv_status rv_added_tokens_sort(rv_added_tokens *a, const rv_normalizer *z, rv_err *e) {
    for (int i = 0; i < a->n; i++) {
        if (a->token[i].normalized) {
            RV_TRY(to_normal_form(&a->token[i], z, e));
        }
        a->any[a->token[i].normalized] = a->any[a->token[i].normalized] || a->token[i].n > 0;
    }
    if (a->n > 0) {
        qsort(a->token, (size_t)a->n, sizeof *a->token, by_first_then_length);
    }
    int i = 0;
    for (int b = 0; b <= 256; b++) {
        while (i < a->n && first_byte(&a->token[i]) < b) {
            i++;
        }
        a->first[b] = i;
    }
    return RV_OK;
}

// The longest token at position `at`, or NULL.
static const rv_added_token *match_at(const rv_added_tokens *a, bool normalized, const char *s,
                                      size_t n, size_t at) {
    uint8_t c = (uint8_t)s[at];
    for (int i = a->first[c]; i < a->first[c + 1]; i++) {
        const rv_added_token *t = &a->token[i];
        if (t->n > 0 && t->n <= n - at && t->normalized == normalized &&
            memcmp(s + at, t->text, t->n) == 0) {
            return t;
        }
    }
    return NULL;
}

// Start of the character that ends before `at`.
static size_t char_before(const char *s, size_t at) {
    do {
        at--;
    } while (at > 0 && ((uint8_t)s[at] & 0xC0) == 0x80);
    return at;
}

static bool word_at(const char *s, size_t n, size_t at) {
    uint32_t cp;
    return at < n && rv_utf8_read(s + at, n - at, &cp) && rv_is_word(cp);
}

// Takes the blanks on both sides, where the token asks for them.
static void swallow_blanks(const rv_added_token *t, const char *s, size_t n, size_t taken,
                           size_t *start, size_t *end) {
    uint32_t cp;
    while (t->lstrip && *start > taken) {
        size_t at = char_before(s, *start);
        if (!rv_utf8_read(s + at, n - at, &cp) || !rv_is_space(cp)) {
            break;
        }
        *start = at;
    }
    while (t->rstrip && *end < n) {
        size_t len = rv_utf8_read(s + *end, n - *end, &cp);
        if (!len || !rv_is_space(cp)) {
            break;
        }
        *end += len;
    }
}

const rv_added_token *rv_added_tokens_find(const rv_added_tokens *a, bool normalized, const char *s,
                                           size_t n, size_t taken, size_t *from, size_t *start,
                                           size_t *end) {
    if (!a->any[normalized]) {
        return NULL;
    }
    for (size_t at = *from; at < n;) {
        const rv_added_token *t = match_at(a, normalized, s, n, at);
        if (!t) {
            at++;
            continue;
        }
        *start = at;
        *end = *from = at = at + t->n;
        bool inside = (*start > 0 && word_at(s, n, char_before(s, *start))) || word_at(s, n, *end);
        if (t->single_word && inside) {
            continue;
        }
        swallow_blanks(t, s, n, taken, start, end);
        return t;
    }
    return NULL;
}

void rv_added_tokens_free(rv_added_tokens *a) {
    for (int i = 0; i < a->n; i++) {
        free(a->token[i].text);
        free(a->token[i].content);
    }
    free(a->token);
    *a = (rv_added_tokens){0};
}
