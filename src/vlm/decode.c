#include "decode.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "mem.h"
#include "normalize.h"
#include "unicode.h"

struct rv_decode_step {
    char *from, *to;
    size_t n_from, n_to;
    bool not_first; // Metaspace: in the first token it vanishes
};

static const char replacement[] = "\xEF\xBF\xBD"; // U+FFFD

// ---- reading ----

static rv_status add_replace(rv_decoder *d, const json_t *from, const json_t *to, bool not_first,
                             rv_err *e) {
    if (!json_is_string(from) || !json_is_string(to)) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "decoder Replace: only strings are known");
    }
    struct rv_decode_step *p = rv_realloc(d->step, d->n + 1, sizeof *p);
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    d->step = p;
    p += d->n++;
    *p = (struct rv_decode_step){.not_first = not_first};
    p->n_from = json_string_length(from);
    p->n_to = json_string_length(to);
    p->from = rv_strndup(json_string_value(from), p->n_from);
    p->to = rv_strndup(json_string_value(to), p->n_to);
    return p->from && p->to ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
}

static rv_status read_metaspace(rv_decoder *d, const json_t *v, rv_err *e) {
    bool prefix = true;
    const char *scheme = NULL;
    RV_TRY(rv_json_bool(v, "add_prefix_space", &prefix, e));
    RV_TRY(rv_json_string(v, "prepend_scheme", &scheme, e));
    bool not_first = scheme ? strcmp(scheme, "never") != 0 : prefix;
    json_t *space = json_string(" ");
    rv_status s = add_replace(d, json_object_get(v, "replacement"), space, not_first, e);
    json_decref(space);
    return s;
}

static rv_status read_strip(rv_decoder *d, const json_t *v, rv_err *e) {
    int64_t stop = 0;
    RV_TRY(rv_json_int(v, "start", 0, INT32_MAX, &d->strip_n, e));
    RV_TRY(rv_json_int(v, "stop", 0, INT32_MAX, &stop, e));
    const json_t *content = json_object_get(v, "content");
    if (!json_is_string(content) || json_string_length(content) == 0) {
        return RV_FAIL(e, RV_EFORMAT, "decoder Strip: \"content\": wanted a character");
    }
    if (stop != 0 || !d->fuse) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "decoder Strip %s is not supported",
                       stop ? "at the end" : "before Fuse");
    }
    d->strip_len = json_string_length(content);
    d->strip = rv_strndup(json_string_value(content), d->strip_len);
    return d->strip ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
}

// Reads the parts of a decoder in their order; `joined` ones come once the others are done.
static rv_status read_part(rv_decoder *d, const json_t *v, rv_err *e) {
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) {
        return RV_FAIL(e, RV_EFORMAT, "decoder: wanted an object with a \"type\"");
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *part;
        size_t i;
        json_array_foreach(json_object_get(v, "decoders"), i, part) {
            RV_TRY(read_part(d, part, e));
        }
        return RV_OK;
    }
    if (d->byte_level || d->strip) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "decoder \"%s\" behind %s is not supported", type,
                       d->strip ? "Strip" : "ByteLevel");
    }
    if (strcmp(type, "Strip") == 0) {
        return read_strip(d, v, e);
    }
    if (strcmp(type, "Fuse") == 0) {
        d->fuse = true;
        return RV_OK;
    }
    if (d->fuse || (d->byte_fallback && strcmp(type, "ByteFallback") != 0)) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "decoder \"%s\" behind %s is not supported", type,
                       d->fuse ? "Fuse" : "ByteFallback");
    }
    if (strcmp(type, "ByteFallback") == 0) {
        d->byte_fallback = true;
        return RV_OK;
    }
    if (strcmp(type, "ByteLevel") == 0 && d->n == 0) {
        d->byte_level = true;
        return RV_OK;
    }
    if (strcmp(type, "Metaspace") == 0) {
        return read_metaspace(d, v, e);
    }
    if (strcmp(type, "Replace") == 0) {
        return add_replace(d, json_object_get(json_object_get(v, "pattern"), "String"),
                           json_object_get(v, "content"), false, e);
    }
    return RV_FAIL(e, RV_EUNSUPPORTED, "decoder \"%s\" is not known", type);
}

rv_status rv_decoder_read(rv_decoder *d, const json_t *v, rv_err *e) {
    d->spaced = !v || json_is_null(v);
    return d->spaced ? RV_OK : read_part(d, v, e);
}

void rv_decoder_free(rv_decoder *d) {
    for (int i = 0; i < d->n; i++) {
        free(d->step[i].from);
        free(d->step[i].to);
    }
    free(d->step);
    free(d->strip);
    *d = (rv_decoder){0};
}

// ---- tokens to bytes ----

// Runs the steps on a token; the result is in *text (of the stream's scratch) or the token itself.
static void run_steps(const rv_decoder *d, const char **text, size_t *n, bool first,
                      rv_bytes tmp[2]) {
    for (int i = 0; i < d->n; i++) {
        const struct rv_decode_step *s = &d->step[i];
        rv_bytes *out = &tmp[i % 2];
        out->n = 0;
        rv_replace(out, *text, *n, s->from, s->n_from, s->to, first && s->not_first ? 0 : s->n_to);
        *text = out->p ? out->p : "";
        *n = out->n;
    }
}

// The byte that the text <0xHH> names, or -1.
static int fallback_byte(const char *s, size_t n) {
    int v = 0;
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') {
        return -1;
    }
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        v = v * 16 + digit;
    }
    return v;
}

// A byte-level token's bytes; one that has a character outside the alphabet stands for itself.
static void put_byte_level(const char *s, size_t n, rv_bytes *out) {
    char *to = rv_bytes_room(out, n);
    size_t k = 0;
    for (size_t i = 0, len; to && i < n; i += len) {
        uint32_t cp;
        len = rv_utf8_read(s + i, n - i, &cp);
        int byte = len ? rv_char_byte(cp) : -1;
        if (byte < 0) {
            rv_bytes_add(out, s, n);
            return;
        }
        to[k++] = (char)byte;
    }
    out->n += k;
}

void rv_decoder_bytes(const rv_decoder *d, const char *token, size_t n, rv_bytes *out) {
    if (d->byte_level) {
        put_byte_level(token, n, out);
        return;
    }
    rv_bytes tmp[2] = {{0}, {0}};
    run_steps(d, &token, &n, false, tmp);
    int byte = d->byte_fallback ? fallback_byte(token, n) : -1;
    if (byte >= 0) {
        char c = (char)byte;
        rv_bytes_add(out, &c, 1);
    } else {
        rv_bytes_add(out, token, n);
    }
    out->failed = out->failed || tmp[0].failed || tmp[1].failed;
    rv_bytes_free(&tmp[0]);
    rv_bytes_free(&tmp[1]);
}

// ---- the stream ----

// Appends finished text, without what the decoder strips from the very start.
static void put_text(rv_decode_stream *s, const char *p, size_t n) {
    const rv_decoder *d = s->d;
    while (n > 0 && d->strip && s->stripped >= 0) {
        bool hit =
            s->stripped < d->strip_n && n >= d->strip_len && memcmp(p, d->strip, d->strip_len) == 0;
        s->stripped = hit ? s->stripped + 1 : -1;
        p += hit ? d->strip_len : 0;
        n -= hit ? d->strip_len : 0;
    }
    rv_bytes_add(&s->out, p, n);
}

// Gives the complete characters of s->held, bad bytes as U+FFFD; at the end all of it.
static void drain_utf8(rv_decode_stream *s, bool end) {
    if (s->held.n == 0) {
        return;
    }
    const char *p = s->held.p;
    size_t n = s->held.n, i = 0, good = 0; // [good, i) is text not given yet
    while (i < n) {
        uint32_t cp;
        size_t len = rv_utf8_read(p + i, n - i, &cp);
        if (len > 0) {
            i += len;
            continue;
        }
        bool unfinished;
        len = rv_utf8_bad(p + i, n - i, &unfinished);
        if (unfinished && !end) {
            break;
        }
        put_text(s, p + good, i - good);
        put_text(s, replacement, 3);
        good = i += len;
    }
    put_text(s, p + good, i - good);
    if (n > i) {
        memmove(s->held.p, s->held.p + i, n - i);
    }
    s->held.n = n - i;
}

// A run of byte tokens is over: it is text if all of it is UTF-8, else every byte is U+FFFD.
static void drain_run(rv_decode_stream *s) {
    size_t n = s->held.n;
    if (n > 0 && rv_utf8_check(s->held.p, n) == n) {
        put_text(s, s->held.p, n);
    } else {
        for (size_t i = 0; i < n; i++) {
            put_text(s, replacement, 3);
        }
    }
    s->held.n = 0;
}

void rv_decode_push(rv_decode_stream *s, const char *token, size_t n) {
    const rv_decoder *d = s->d;
    bool first = s->tokens++ == 0;
    if (d->byte_level) {
        put_byte_level(token, n, &s->held);
        drain_utf8(s, false);
    } else {
        run_steps(d, &token, &n, first, s->tmp);
        int byte = d->byte_fallback ? fallback_byte(token, n) : -1;
        if (byte >= 0) {
            char c = (char)byte;
            rv_bytes_add(&s->held, &c, 1);
        } else {
            drain_run(s);
            put_text(s, " ", d->spaced && !first);
            put_text(s, token, n);
        }
    }
    s->out.failed = s->out.failed || s->held.failed || s->tmp[0].failed || s->tmp[1].failed;
}

void rv_decode_finish(rv_decode_stream *s) {
    if (s->d->byte_level) {
        drain_utf8(s, true);
    } else {
        drain_run(s);
    }
}

void rv_decode_stream_free(rv_decode_stream *s) {
    rv_bytes_free(&s->out);
    rv_bytes_free(&s->held);
    rv_bytes_free(&s->tmp[0]);
    rv_bytes_free(&s->tmp[1]);
    *s = (rv_decode_stream){0};
}
