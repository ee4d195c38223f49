#include "pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "mem.h"
#include "normalize.h"
#include "pattern.h"
#include "unicode.h"

typedef enum { REGEX, LITERAL, DIGITS, METASPACE, PREFIX_SPACE } kind;

// What becomes of a match; the names are the file's.
typedef enum { REMOVED, ISOLATED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS } behavior;
static const char *const behavior_names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                             "MergedWithNext", "Contiguous"};

typedef enum { NEVER, FIRST, ALWAYS } scheme;
static const char *const scheme_names[] = {"never", "first", "always"};

struct rv_split_step {
    kind kind;
    behavior behavior;
    bool invert;
    rv_pattern *pattern; // REGEX
    char *text;          // LITERAL; METASPACE: what stands for a space
    size_t n;
    scheme scheme; // METASPACE
    bool split;
};

static const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                                 "|\\s+(?!\\S)|\\s+";

// ---- reading ----

static rv_status pick(const json_t *v, const char *key, const char *const *names, int n, int *out,
                      rv_err *e) {
    const char *s = NULL;
    RV_TRY(rv_json_string(v, key, &s, e));
    for (int i = 0; s && i < n; i++) {
        if (strcmp(s, names[i]) == 0) {
            *out = i;
            return RV_OK;
        }
    }
    return s ? RV_FAIL(e, RV_EUNSUPPORTED, "pre-tokenizer: \"%s\" \"%s\" is not known", key, s)
             : RV_OK;
}

static struct rv_split_step *add_step(rv_pretokenizer *t, kind k) {
    struct rv_split_step *p = rv_realloc(t->step, t->n + 1, sizeof *p);
    if (!p) {
        return NULL;
    }
    t->step = p;
    p[t->n] = (struct rv_split_step){.kind = k, .behavior = ISOLATED};
    return &p[t->n++];
}

static rv_status set_text(struct rv_split_step *s, const json_t *v, const char *what, rv_err *e) {
    if (!json_is_string(v) || json_string_length(v) == 0) {
        return RV_FAIL(e, RV_EFORMAT, "pre-tokenizer %s: wanted a string that is not empty", what);
    }
    s->n = json_string_length(v);
    s->text = rv_strndup(json_string_value(v), s->n);
    return s->text ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
}

static rv_status read_split(struct rv_split_step *s, const json_t *v, rv_err *e) {
    const json_t *pattern = json_object_get(v, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    int b = ISOLATED;
    RV_TRY(pick(v, "behavior", behavior_names, 5, &b, e));
    s->behavior = (behavior)b;
    RV_TRY(rv_json_bool(v, "invert", &s->invert, e));
    if (json_is_string(regex)) {
        return rv_pattern_new(&s->pattern, json_string_value(regex), json_string_length(regex), e);
    }
    s->kind = LITERAL;
    return set_text(s, json_object_get(pattern, "String"), "Split: \"pattern\"", e);
}

static rv_status read_metaspace(struct rv_split_step *s, const json_t *v, rv_err *e) {
    bool prefix = true; // the older key
    RV_TRY(rv_json_bool(v, "add_prefix_space", &prefix, e));
    int scheme_ = prefix ? ALWAYS : NEVER;
    RV_TRY(pick(v, "prepend_scheme", scheme_names, 3, &scheme_, e));
    s->scheme = (scheme)scheme_;
    s->split = true;
    s->behavior = WITH_NEXT;
    RV_TRY(rv_json_bool(v, "split", &s->split, e));
    return set_text(s, json_object_get(v, "replacement"), "Metaspace: \"replacement\"", e);
}

static rv_status read_byte_level(rv_pretokenizer *t, const json_t *v, rv_err *e) {
    bool prefix = true, regex = true;
    RV_TRY(rv_json_bool(v, "add_prefix_space", &prefix, e));
    RV_TRY(rv_json_bool(v, "use_regex", &regex, e));
    t->byte_level = true;
    if (prefix && !add_step(t, PREFIX_SPACE)) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    struct rv_split_step *s = regex ? add_step(t, REGEX) : NULL;
    if (regex && !s) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    return regex ? rv_pattern_new(&s->pattern, gpt2_regex, sizeof gpt2_regex - 1, e) : RV_OK;
}

rv_status rv_pretokenizer_read(rv_pretokenizer *t, const json_t *v, rv_err *e) {
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) {
        return RV_FAIL(e, RV_EFORMAT, "pre-tokenizer: wanted an object with a \"type\"");
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *part;
        size_t i;
        json_array_foreach(json_object_get(v, "pretokenizers"), i, part) {
            RV_TRY(rv_pretokenizer_read(t, part, e));
        }
        return RV_OK;
    }
    if (t->byte_level) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "pre-tokenizer \"%s\" behind ByteLevel is not supported",
                       type);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(t, v, e);
    }
    struct rv_split_step *s = add_step(t, REGEX);
    if (!s) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    if (strcmp(type, "Split") == 0) {
        return read_split(s, v, e);
    }
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        s->kind = DIGITS;
        RV_TRY(rv_json_bool(v, "individual_digits", &individual, e));
        s->behavior = individual ? ISOLATED : CONTIGUOUS;
        return RV_OK;
    }
    s->kind = METASPACE;
    return strcmp(type, "Metaspace") == 0
               ? read_metaspace(s, v, e)
               : RV_FAIL(e, RV_EUNSUPPORTED, "pre-tokenizer \"%s\" is not known", type);
}

void rv_pieces_free(rv_pieces *p) {
    rv_bytes_free(&p->text);
    free(p->piece);
    *p = (rv_pieces){0};
}

void rv_pretokenizer_free(rv_pretokenizer *t) {
    for (int i = 0; i < t->n; i++) {
        rv_pattern_free(t->step[i].pattern);
        free(t->step[i].text);
    }
    free(t->step);
    rv_pieces_free(&t->tmp);
    *t = (rv_pretokenizer){0};
}

// ---- splitting ----

static void add_piece(rv_pieces *p, size_t at, size_t n, bool first) {
    if (n == 0 || p->failed) {
        return;
    }
    if (p->n == p->cap) {
        size_t cap = p->cap * 2 + 64;
        rv_piece *q = rv_realloc(p->piece, (int64_t)cap, sizeof *q);
        if (!q) {
            p->failed = true;
            return;
        }
        p->piece = q;
        p->cap = cap;
    }
    p->piece[p->n++] = (rv_piece){at, n, first};
}

// The next match at or behind `from`; *start is n when there is none.
static rv_status next_match(const struct rv_split_step *step, const char *s, size_t n, size_t from,
                            size_t *start, size_t *end, rv_err *e) {
    if (step->kind == REGEX) {
        return rv_pattern_next(step->pattern, s, n, from, start, end, e);
    }
    for (size_t i = from, len; i < n; i += len) {
        uint32_t cp = 0;
        bool hit;
        if (step->kind == DIGITS) {
            len = rv_utf8_read(s + i, n - i, &cp);
            hit = rv_is_numeric(cp);
        } else {
            len = step->n;
            hit = len <= n - i && memcmp(s + i, step->text, len) == 0;
            len = hit ? len : 1;
        }
        if (hit) {
            *start = i;
            *end = i + len;
            return RV_OK;
        }
    }
    *start = *end = n;
    return RV_OK;
}

// What the walk over one piece knows: the last part written and whether it was a match.
typedef struct {
    rv_pieces *out;
    behavior behavior;
    size_t base, open_at, open_n; // the part that may still grow
    bool open, open_is_match, first;
} walk;

static void flush(walk *w) {
    if (w->open) {
        add_piece(w->out, w->base + w->open_at, w->open_n, w->first && w->open_at == 0);
    }
    w->open = false;
}

// Takes the next part, match or gap, and joins it with the one before as the behaviour says.
static void take(walk *w, size_t at, size_t n, bool is_match) {
    if (n == 0) {
        return;
    }
    bool join = false;
    switch (w->behavior) {
    case REMOVED:
    case ISOLATED:
        break;
    case CONTIGUOUS:
        join = w->open && w->open_is_match == is_match;
        break;
    case WITH_PREVIOUS: // a match ends the gap before it; of several matches only the first
        join = w->open && is_match && !w->open_is_match;
        break;
    case WITH_NEXT: // a gap takes the match right before it
        join = w->open && !is_match && w->open_is_match;
        break;
    }
    if (join) {
        w->open_n += n;
        w->open_is_match = is_match;
        return;
    }
    flush(w);
    if (w->behavior != REMOVED || !is_match) {
        w->open = true;
        w->open_at = at;
        w->open_n = n;
    }
    w->open_is_match = is_match;
}

static rv_status split_piece(const struct rv_split_step *step, const char *text, rv_piece p,
                             rv_pieces *out, rv_err *e) {
    walk w = {.out = out, .behavior = step->behavior, .base = p.at, .first = p.first};
    const char *s = text + p.at;
    size_t at = 0;
    while (at < p.n) {
        size_t start, end;
        RV_TRY(next_match(step, s, p.n, at, &start, &end, e));
        take(&w, at, start - at, step->invert);
        take(&w, start, end - start, !step->invert);
        at = end;
    }
    flush(&w);
    return RV_OK;
}

// Steps that change the text write it anew.
static void rewrite_piece(const struct rv_split_step *step, const char *text, rv_piece p,
                          rv_pieces *out) {
    const char *s = text + p.at;
    size_t at = out->text.n;
    if (step->kind == PREFIX_SPACE) {
        rv_bytes_add(&out->text, " ", s[0] != ' ');
        rv_bytes_add(&out->text, s, p.n);
    } else {
        bool has = s[0] == ' ' || (p.n >= step->n && memcmp(s, step->text, step->n) == 0);
        bool wanted = step->scheme == ALWAYS || (step->scheme == FIRST && p.first);
        rv_bytes_add(&out->text, step->text, wanted && !has ? step->n : 0);
        rv_replace(&out->text, s, p.n, " ", 1, step->text, step->n);
    }
    add_piece(out, at, out->text.n - at, p.first);
}

static void swap(rv_pieces *a, rv_pieces *b) {
    rv_pieces t = *a;
    *a = *b;
    *b = t;
}

static void clear(rv_pieces *p) {
    p->n = p->text.n = 0;
    p->failed = p->text.failed = false;
}

static rv_status run_step(const struct rv_split_step *step, const rv_pieces *in, rv_pieces *out,
                          rv_err *e) {
    clear(out);
    bool rewrites = step->kind == METASPACE || step->kind == PREFIX_SPACE;
    if (!rewrites) {
        rv_bytes_add(&out->text, in->text.p, in->text.n);
    }
    for (size_t i = 0; i < in->n; i++) {
        if (rewrites) {
            rewrite_piece(step, in->text.p, in->piece[i], out);
        } else {
            RV_TRY(split_piece(step, in->text.p, in->piece[i], out, e));
        }
    }
    return RV_OK;
}

rv_status rv_pretokenize(rv_pretokenizer *t, const char *s, size_t n, bool first, rv_pieces *out,
                         rv_err *e) {
    clear(out);
    rv_bytes_add(&out->text, s, n);
    add_piece(out, 0, n, first);
    for (int i = 0; i < t->n && !out->failed; i++) {
        RV_TRY(run_step(&t->step[i], out, &t->tmp, e));
        swap(out, &t->tmp);
        if (t->step[i].kind == METASPACE && t->step[i].split) {
            struct rv_split_step mark = t->step[i];
            mark.kind = LITERAL;
            RV_TRY(run_step(&mark, out, &t->tmp, e));
            swap(out, &t->tmp);
        }
    }
    return out->failed || out->text.failed
               ? RV_FAIL(e, RV_ENOMEM, "out of memory while splitting %zu bytes", n)
               : RV_OK;
}
