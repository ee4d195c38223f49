#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "intr.h"
#include "tokenizer_impl.h"
#include "unicode.h"

#define MAX_TEXT ((size_t)1 << 28)

void rv_tokenizer_free(rv_tokenizer *t) {
    if (!t) {
        return;
    }
    rv_vocab_free(&t->vocab);
    rv_added_tokens_free(&t->added);
    rv_normalizer_free(&t->normalizer);
    rv_pretokenizer_free(&t->pretokenizer);
    rv_bpe_free(&t->bpe);
    rv_decoder_free(&t->decoder);
    rv_ids_free(&t->before);
    rv_ids_free(&t->after);
    rv_bytes_free(&t->text);
    rv_bytes_free(&t->tmp);
    rv_pieces_free(&t->pieces);
    free(t->flags);
    free(t->no_encode);
    free(t->no_template);
    free(t->no_decode);
    free(t->name);
    free(t);
}

// ---- tokens and ids ----

int32_t rv_tokenizer_size(const rv_tokenizer *t) { return t->size; }

bool rv_tokenizer_special(const rv_tokenizer *t, int64_t id) {
    return id >= 0 && id < t->size && (t->flags[id] & IS_SPECIAL);
}

int32_t rv_tokenizer_id(const rv_tokenizer *t, const char *token, size_t n) {
    for (int i = 0; i < t->added.n; i++) {
        const rv_added_token *a = &t->added.token[i];
        if (a->n_content == n && memcmp(a->content, token, n) == 0) {
            return a->id;
        }
    }
    return rv_vocab_find(&t->vocab, token, n);
}

const char *rv_tokenizer_token(const rv_tokenizer *t, int64_t id, size_t *n) {
    if (id < 0 || id >= t->size) {
        return NULL;
    }
    for (int i = 0; (t->flags[id] & IS_ADDED) && i < t->added.n; i++) {
        if (t->added.token[i].id == id) {
            *n = t->added.token[i].n; // in normal form, as the original has it
            return t->added.token[i].text;
        }
    }
    return rv_vocab_text(&t->vocab, id, n);
}

static rv_status unsupported(const rv_tokenizer *t, const char *what, const char *why, rv_err *e) {
    return RV_FAIL(e, RV_EUNSUPPORTED, "cannot %s with %s: %s", what, t->name, why);
}

// ---- encoding ----

// Encodes text in normal form that holds no added tokens.
static rv_status encode_plain(rv_tokenizer *t, const char *s, size_t n, bool first, rv_ids *out,
                              rv_err *e) {
    if (n == 0) {
        return RV_OK;
    }
    RV_TRY(rv_pretokenize(&t->pretokenizer, s, n, first, &t->pieces, e));
    for (size_t i = 0; i < t->pieces.n; i++) {
        rv_piece p = t->pieces.piece[i];
        RV_TRY(rv_bpe_encode(&t->bpe, t->pieces.text.p + p.at, p.n, out, e));
        if (i % 4096 == 4095 && rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted while encoding text");
        }
    }
    return RV_OK;
}

// Encodes what stands between added tokens of the raw text.
static rv_status encode_between(rv_tokenizer *t, const char *s, size_t n, bool first, rv_ids *out,
                                rv_err *e) {
    t->text.n = 0;
    rv_bytes_add(&t->text, s, n);
    if (t->text.failed) {
        t->text.failed = false;
        return RV_FAIL(e, RV_ENOMEM, "out of memory for %zu bytes of text", n);
    }
    RV_TRY(rv_normalize(&t->normalizer, &t->text, &t->tmp, e));
    const char *text = t->text.p ? t->text.p : "";
    size_t at = 0, from = 0, start, end;
    for (const rv_added_token *a;
         (a = rv_added_tokens_find(&t->added, true, text, t->text.n, at, &from, &start, &end));) {
        if (start > at) {
            RV_TRY(encode_plain(t, text + at, start - at, first && at == 0, out, e));
        }
        rv_ids_add(out, a->id);
        at = end;
    }
    return at < t->text.n ? encode_plain(t, text + at, t->text.n - at, first && at == 0, out, e)
                          : RV_OK;
}

static rv_status encode_text(rv_tokenizer *t, const char *s, size_t n, rv_ids *out, rv_err *e) {
    size_t at = 0, from = 0, start, end;
    for (const rv_added_token *a;
         (a = rv_added_tokens_find(&t->added, false, s, n, at, &from, &start, &end));) {
        if (start > at) {
            RV_TRY(encode_between(t, s + at, start - at, at == 0, out, e));
        }
        rv_ids_add(out, a->id);
        at = end;
    }
    return at < n ? encode_between(t, s + at, n - at, at == 0, out, e) : RV_OK;
}

static void add_all(rv_ids *out, const rv_ids *ids) {
    for (int64_t i = 0; i < ids->n; i++) {
        rv_ids_add(out, ids->p[i]);
    }
}

rv_status rv_tokenizer_encode(rv_tokenizer *t, const char *text, size_t n, bool special,
                              rv_ids *out, rv_err *e) {
    const char *why = t->no_encode ? t->no_encode : special ? t->no_template : NULL;
    if (why) {
        return unsupported(t, "encode text", why, e);
    }
    if (n > MAX_TEXT) {
        return RV_FAIL(e, RV_EARG, "cannot encode %zu bytes: wanted at most %zu", n, MAX_TEXT);
    }
    size_t good = rv_utf8_check(text, n);
    if (good < n) {
        return RV_FAIL(e, RV_EFORMAT, "cannot encode text: byte %zu (0x%02X) is not UTF-8",
                       good + 1, (unsigned)(uint8_t)text[good]);
    }
    if (special) {
        add_all(out, &t->before);
    }
    RV_TRY(encode_text(t, text, n, out, e));
    if (special) {
        add_all(out, &t->after);
    }
    return out->failed ? RV_FAIL(e, RV_ENOMEM, "out of memory for token ids") : RV_OK;
}

// ---- decoding ----

rv_status rv_tokenizer_stream(const rv_tokenizer *t, rv_decode_stream *s, rv_err *e) {
    *s = (rv_decode_stream){.d = &t->decoder};
    return t->no_decode ? unsupported(t, "decode ids", t->no_decode, e) : RV_OK;
}

void rv_tokenizer_push(const rv_tokenizer *t, rv_decode_stream *s, int64_t id, bool skip_special) {
    size_t n;
    const char *token = rv_tokenizer_token(t, id, &n);
    if (token && !(skip_special && rv_tokenizer_special(t, id))) {
        rv_decode_push(s, token, n);
    }
}

rv_status rv_tokenizer_decode(const rv_tokenizer *t, const int32_t *ids, size_t n,
                              bool skip_special, rv_bytes *out, rv_err *e) {
    rv_decode_stream s;
    RV_TRY(rv_tokenizer_stream(t, &s, e));
    for (size_t i = 0; i < n; i++) {
        rv_tokenizer_push(t, &s, ids[i], skip_special);
    }
    rv_decode_finish(&s);
    rv_bytes_add(out, s.out.p, s.out.n);
    bool failed = s.out.failed || out->failed;
    rv_decode_stream_free(&s);
    return failed ? RV_FAIL(e, RV_ENOMEM, "out of memory while decoding %zu ids", n) : RV_OK;
}

rv_status rv_tokenizer_bytes(const rv_tokenizer *t, int64_t id, rv_bytes *out, rv_err *e) {
    if (t->no_decode) {
        return unsupported(t, "decode ids", t->no_decode, e);
    }
    size_t n;
    const char *token = rv_tokenizer_token(t, id, &n);
    if (token) {
        rv_decoder_bytes(&t->decoder, token, n, out);
    }
    return out->failed ? RV_FAIL(e, RV_ENOMEM, "out of memory") : RV_OK;
}
