// tokenizer_spm.c - a SentencePiece model in the form of a tokenizer.json.
//
// SentencePiece merges the adjacent pair whose union scores highest, the leftmost first; a list of
// merges ordered by score says the same, so the BPE of tokenizer.json serves both.
#include "tokenizer_spm.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "unicode.h"

#define SPACE "\xE2\x96\x81" // U+2581, which stands for a space

// ---- protobuf ----

// Bytes that are read from the front.
typedef struct {
    const uint8_t *p, *end;
} wire;

typedef struct {
    uint32_t number, type; // type: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes
    uint64_t value;        // of types 0, 1, 5
    wire bytes;            // of type 2
} field;

static bool get_varint(wire *w, uint64_t *out) {
    *out = 0;
    for (int shift = 0; w->p < w->end && shift < 64; shift += 7) {
        uint8_t byte = *w->p++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            return true;
        }
    }
    return false;
}

static bool get_fixed(wire *w, size_t n, uint64_t *out) {
    *out = 0;
    if ((size_t)(w->end - w->p) < n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        *out |= (uint64_t)*w->p++ << 8 * i;
    }
    return true;
}

static bool get_field(wire *w, field *f) {
    uint64_t key, n;
    if (!get_varint(w, &key) || key >> 3 == 0 || key >> 3 > 1u << 29) {
        return false;
    }
    *f = (field){.number = (uint32_t)(key >> 3), .type = (uint32_t)(key & 7)};
    switch (f->type) {
    case 0:
        return get_varint(w, &f->value);
    case 1:
        return get_fixed(w, 8, &f->value);
    case 2:
        if (!get_varint(w, &n) || n > (uint64_t)(w->end - w->p)) {
            return false;
        }
        f->bytes = (wire){w->p, w->p + n};
        w->p += n;
        return true;
    default:
        return f->type == 5 && get_fixed(w, 4, &f->value);
    }
}

// ---- the model ----

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

typedef struct {
    const char *text; // in the file, not 0-ended
    size_t n;
    float score;
    int type;
} piece;

typedef struct {
    piece *piece;
    int64_t n, cap;
    int64_t model_type, unk, bos, eos;
    bool byte_fallback, prefix, squeeze, charsmap;
    json_t *vocab; // borrowed from the root
} model;

static rv_status broken(const char *what, rv_err *e) {
    return RV_FAIL(e, RV_EFORMAT, "not a SentencePiece model: %s is broken", what);
}

static rv_status read_piece(model *m, wire w, rv_err *e) {
    if (m->n == m->cap) {
        int64_t cap = m->cap * 2 + 1024;
        piece *p = rv_realloc(m->piece, cap, sizeof *p);
        if (!p) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory for %lld pieces", (long long)cap);
        }
        m->piece = p;
        m->cap = cap;
    }
    piece *p = &m->piece[m->n];
    *p = (piece){.text = "", .type = NORMAL};
    for (field f; w.p < w.end;) {
        if (!get_field(&w, &f)) {
            return RV_FAIL(e, RV_EFORMAT, "not a SentencePiece model: piece %lld is broken",
                           (long long)m->n);
        }
        if (f.number == 1 && f.type == 2) {
            p->text = (const char *)f.bytes.p;
            p->n = (size_t)(f.bytes.end - f.bytes.p);
        } else if (f.number == 2 && f.type == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (f.number == 3 && f.type == 0) {
            p->type = f.value <= BYTE ? (int)f.value : 0;
        }
    }
    if (p->n == 0 || rv_utf8_check(p->text, p->n) < p->n || p->type == 0) {
        return RV_FAIL(e, RV_EFORMAT, "piece %lld: wanted a text in UTF-8 of a known type",
                       (long long)m->n);
    }
    m->n++;
    return RV_OK;
}

static rv_status read_trainer(model *m, wire w, rv_err *e) {
    for (field f; w.p < w.end;) {
        if (!get_field(&w, &f)) {
            return broken("the trainer's part", e);
        }
        int64_t *number = f.number == 3    ? &m->model_type
                          : f.number == 40 ? &m->unk
                          : f.number == 41 ? &m->bos
                          : f.number == 42 ? &m->eos
                                           : NULL;
        if (f.type == 0 && number) {
            *number = (int64_t)f.value;
        } else if (f.type == 0 && f.number == 35) {
            m->byte_fallback = f.value != 0;
        }
    }
    return RV_OK;
}

static rv_status read_normalizer(model *m, wire w, rv_err *e) {
    for (field f; w.p < w.end;) {
        if (!get_field(&w, &f)) {
            return broken("the normalizer's part", e);
        }
        if (f.number == 2 && f.type == 2) {
            m->charsmap = f.bytes.p < f.bytes.end;
        } else if (f.number == 3 && f.type == 0) {
            m->prefix = f.value != 0;
        } else if (f.number == 4 && f.type == 0) {
            m->squeeze = f.value != 0;
        }
    }
    return RV_OK;
}

static rv_status read_model(model *m, wire w, rv_err *e) {
    const uint8_t *start = w.p;
    for (field f; w.p < w.end;) {
        size_t at = (size_t)(w.p - start);
        if (!get_field(&w, &f)) {
            return RV_FAIL(e, RV_EFORMAT, "not a SentencePiece model: broken at byte %zu", at);
        }
        if (f.type == 2 && f.number == 1) {
            RV_TRY(read_piece(m, f.bytes, e));
        } else if (f.type == 2 && f.number == 2) {
            RV_TRY(read_trainer(m, f.bytes, e));
        } else if (f.type == 2 && f.number == 3) {
            RV_TRY(read_normalizer(m, f.bytes, e));
        }
    }
    return m->n > 0 ? RV_OK : RV_FAIL(e, RV_EFORMAT, "not a SentencePiece model: no pieces");
}

static rv_status check_model(const model *m, rv_err *e) {
    static const char *names[] = {"", "unigram", "BPE", "word", "character"};
    if (m->model_type != 2) {
        bool known = m->model_type > 0 && m->model_type <= 4;
        return RV_FAIL(e, RV_EUNSUPPORTED,
                       "a SentencePiece model of kind %s is not supported; BPE is",
                       known ? names[m->model_type] : "unknown");
    }
    if (m->charsmap || m->squeeze) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "a SentencePiece model %s is not supported",
                       m->charsmap ? "with a table of normal forms (precompiled_charsmap)"
                                   : "that removes extra spaces");
    }
    for (int64_t i = 0; i < m->n; i++) {
        if (m->piece[i].type == UNUSED) {
            return RV_FAIL(e, RV_EUNSUPPORTED,
                           "a SentencePiece model with unused pieces (%lld) is not supported",
                           (long long)i);
        }
    }
    return m->unk >= 0 && m->unk < m->n
               ? RV_OK
               : RV_FAIL(e, RV_EFORMAT, "unk_id: wanted a piece, got %lld", (long long)m->unk);
}

// ---- merges ----

typedef struct {
    float score;
    int32_t left, right; // characters on each side
    int32_t piece;
    uint32_t cut; // bytes on the left
} merge;

// Highest score first; of the ways to make one piece, the one with the longest left side.
static int by_score(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    if (x->left != y->left) {
        return x->left > y->left ? -1 : 1;
    }
    if (x->right != y->right) {
        return x->right > y->right ? -1 : 1;
    }
    return (x->piece > y->piece) - (x->piece < y->piece);
}

static bool merges(int type) { return type == NORMAL || type == USER_DEFINED; }

static bool can_merge(const model *m, const char *s, size_t n) {
    const json_t *id = json_object_getn(m->vocab, s, n);
    return id && merges(m->piece[json_integer_value(id)].type);
}

static int32_t characters(const char *s, size_t n) {
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((uint8_t)s[i] & 0xC0) != 0x80;
    }
    return count;
}

typedef struct {
    merge *p;
    int64_t n, cap;
} merge_list;

// Every way to cut a piece into two pieces.
static bool add_cuts(const model *m, int32_t i, merge_list *list) {
    const piece *p = &m->piece[i];
    int32_t total = characters(p->text, p->n);
    for (size_t cut = 1; merges(p->type) && cut < p->n; cut++) {
        if (((uint8_t)p->text[cut] & 0xC0) == 0x80 || !can_merge(m, p->text, cut) ||
            !can_merge(m, p->text + cut, p->n - cut)) {
            continue;
        }
        if (list->n == list->cap) {
            int64_t cap = list->cap * 2 + 4096;
            merge *q = rv_realloc(list->p, cap, sizeof *q);
            if (!q) {
                return false;
            }
            list->p = q;
            list->cap = cap;
        }
        int32_t left = characters(p->text, cut);
        list->p[list->n++] = (merge){p->score, left, total - left, i, (uint32_t)cut};
    }
    return true;
}

static json_t *make_merges(const model *m) {
    merge_list list = {0};
    bool good = true;
    for (int64_t i = 0; good && i < m->n; i++) {
        good = add_cuts(m, (int32_t)i, &list);
    }
    json_t *out = good ? json_array() : NULL;
    if (list.n > 0) {
        qsort(list.p, (size_t)list.n, sizeof *list.p, by_score);
    }
    for (int64_t k = 0; out && k < list.n; k++) {
        const piece *p = &m->piece[list.p[k].piece];
        size_t cut = list.p[k].cut;
        json_array_append_new(out, json_pack("[s%s%]", p->text, cut, p->text + cut, p->n - cut));
    }
    free(list.p);
    return out;
}

// ---- the rest of a tokenizer.json ----

static rv_status make_vocab(model *m, rv_err *e) {
    for (int64_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        if (json_object_getn(m->vocab, p->text, p->n)) {
            return RV_FAIL(e, RV_EFORMAT, "piece %lld: \"%.*s\" is there twice", (long long)i,
                           (int)(p->n < 80 ? p->n : 80), p->text);
        }
        json_object_setn_new(m->vocab, p->text, p->n, json_integer(i));
    }
    return RV_OK;
}

// Control pieces and the unknown one are special; pieces of the user are only cut out first.
static json_t *make_added(const model *m) {
    json_t *list = json_array();
    for (int64_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        if (p->type == CONTROL || p->type == UNKNOWN || p->type == USER_DEFINED) {
            json_array_append_new(list, json_pack("{sIss%sbsb}", "id", (json_int_t)i, "content",
                                                  p->text, p->n, "special", p->type != USER_DEFINED,
                                                  "normalized", 0));
        }
    }
    return list;
}

static json_t *replace(const char *from, const char *to) {
    return json_pack("{sss{ss}ss}", "type", "Replace", "pattern", "String", from, "content", to);
}

static json_t *make_normalizer(bool legacy, bool prefix) {
    if (!legacy) {
        return json_null();
    }
    json_t *list = json_array();
    if (prefix) {
        json_array_append_new(list, json_pack("{ssss}", "type", "Prepend", "prepend", SPACE));
    }
    json_array_append_new(list, replace(" ", SPACE));
    return json_pack("{ssso}", "type", "Sequence", "normalizers", list);
}

static json_t *make_pretokenizer(bool legacy, bool prefix) {
    return legacy ? json_null()
                  : json_pack("{ssssss sb}", "type", "Metaspace", "replacement", SPACE,
                              "prepend_scheme", prefix ? "first" : "never", "split", 0);
}

static json_t *make_decoder(bool prefix) {
    json_t *list = json_array();
    json_array_append_new(list, replace(SPACE, " "));
    json_array_append_new(list, json_pack("{ss}", "type", "ByteFallback"));
    json_array_append_new(list, json_pack("{ss}", "type", "Fuse"));
    if (prefix) {
        json_array_append_new(
            list, json_pack("{sssssisi}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    }
    return json_pack("{ssso}", "type", "Sequence", "decoders", list);
}

static void add_special(const model *m, int64_t id, json_t *single, json_t *known) {
    if (id >= 0 && id < m->n) {
        const piece *p = &m->piece[id];
        json_array_append_new(single, json_pack("{s{ss%}}", "SpecialToken", "id", p->text, p->n));
        json_object_setn_new(known, p->text, p->n, json_pack("{s[I]}", "ids", (json_int_t)id));
    }
}

static json_t *make_template(const model *m, const rv_spm_options *o) {
    json_t *single = json_array(), *known = json_object();
    if (o->bos) {
        add_special(m, m->bos, single, known);
    }
    json_array_append_new(single, json_pack("{s{ss}}", "Sequence", "id", "A"));
    if (o->eos) {
        add_special(m, m->eos, single, known);
    }
    return json_pack("{sssoso}", "type", "TemplateProcessing", "single", single, "special_tokens",
                     known);
}

static rv_status build(json_t *root, model *m, const rv_spm_options *o, rv_err *e) {
    bool prefix = o->prefix < 0 ? m->prefix : o->prefix != 0;
    const piece *unk = &m->piece[m->unk];
    json_t *bpe = json_pack("{sss{}sbsbss%}", "type", "BPE", "vocab", "byte_fallback",
                            m->byte_fallback, "fuse_unk", 1, "unk_token", unk->text, unk->n);
    json_object_set_new(root, "model", bpe);
    m->vocab = json_object_get(bpe, "vocab");
    RV_TRY(make_vocab(m, e));
    int failed = json_object_set_new(bpe, "merges", make_merges(m)) |
                 json_object_set_new(root, "version", json_string("1.0")) |
                 json_object_set_new(root, "added_tokens", make_added(m)) |
                 json_object_set_new(root, "normalizer", make_normalizer(o->legacy, prefix)) |
                 json_object_set_new(root, "pre_tokenizer", make_pretokenizer(o->legacy, prefix)) |
                 json_object_set_new(root, "post_processor", make_template(m, o)) |
                 json_object_set_new(root, "decoder", make_decoder(prefix));
    return failed ? RV_FAIL(e, RV_ENOMEM, "out of memory for %lld pieces", (long long)m->n) : RV_OK;
}

rv_status rv_spm_read(json_t **root, const void *bytes, size_t n, const rv_spm_options *o,
                      rv_err *e) {
    *root = NULL;
    const uint8_t *p = bytes;
    model m = {.model_type = 1, .bos = 1, .eos = 2, .prefix = true, .squeeze = true};
    rv_status s = read_model(&m, (wire){p, n ? p + n : p}, e);
    s = s == RV_OK ? check_model(&m, e) : s;
    json_t *made = s == RV_OK ? json_object() : NULL;
    if (made) {
        s = build(made, &m, o, e);
    } else if (s == RV_OK) {
        s = RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    free(m.piece);
    if (s != RV_OK) {
        json_decref(made);
        return s;
    }
    *root = made;
    return RV_OK;
}
