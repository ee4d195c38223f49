// tokenizer_json.c - a tokenizer from its tokenizer.json.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"
#include "mem.h"
#include "tokenizer_files.h"
#include "tokenizer_impl.h"

static rv_status oom(const rv_tokenizer *t, rv_err *e) {
    return RV_FAIL(e, RV_ENOMEM, "out of memory while reading %s", t->name);
}

// An unknown part is kept as the reason why something cannot be done; other failures are failures.
static rv_status defer(rv_tokenizer *t, rv_status s, char **why, rv_err *e) {
    if (s != RV_EUNSUPPORTED) {
        return s;
    }
    if (!*why) {
        *why = rv_strndup(e->msg, strlen(e->msg));
    }
    return *why ? RV_OK : oom(t, e);
}

// ---- vocabulary ----

static rv_status add_token(rv_tokenizer *t, const char *s, size_t n, int64_t id, rv_err *e) {
    if (id < 0 || id > RV_MAX_TOKEN_ID) {
        return RV_FAIL(e, RV_EFORMAT, "model.vocab: id %lld of \"%.80s\": wanted 0 to %d",
                       (long long)id, s, RV_MAX_TOKEN_ID);
    }
    return rv_vocab_add(&t->vocab, (int32_t)id, s, n) ? RV_OK : oom(t, e);
}

// {"token": id, ...}, or [["token", score], ...] as other models than BPE have it.
static rv_status read_vocab(rv_tokenizer *t, const json_t *model, rv_err *e) {
    const json_t *vocab = json_object_get(model, "vocab"), *entry;
    const char *key;
    size_t i;
    if (!json_is_object(vocab) && !json_is_array(vocab)) {
        return RV_FAIL(e, RV_EFORMAT, "model.vocab: wanted an object, got %s", rv_json_type(vocab));
    }
    json_object_foreach((json_t *)(uintptr_t)vocab, key, entry) {
        if (!json_is_integer(entry)) {
            return RV_FAIL(e, RV_EFORMAT, "model.vocab: \"%.80s\": wanted an id, got %s", key,
                           rv_json_type(entry));
        }
        RV_TRY(add_token(t, key, strlen(key), json_integer_value(entry), e));
    }
    json_array_foreach(vocab, i, entry) {
        const json_t *s = json_array_get(entry, 0);
        if (!json_is_string(s)) {
            return RV_FAIL(e, RV_EFORMAT, "model.vocab[%zu]: wanted [token, score]", i);
        }
        RV_TRY(add_token(t, json_string_value(s), json_string_length(s), (int64_t)i, e));
    }
    return RV_OK;
}

static rv_status read_added(rv_tokenizer *t, const json_t *list, rv_err *e) {
    if (!list || json_is_null(list)) {
        return rv_added_tokens_sort(&t->added, &t->normalizer, e);
    }
    if (!json_is_array(list)) {
        return RV_FAIL(e, RV_EFORMAT, "added_tokens: wanted a list, got %s", rv_json_type(list));
    }
    t->added.token = rv_calloc((int64_t)json_array_size(list), sizeof *t->added.token);
    if (!t->added.token) {
        return oom(t, e);
    }
    const json_t *entry;
    size_t i;
    json_array_foreach(list, i, entry) {
        rv_added_token *a = &t->added.token[t->added.n++];
        rv_status s = rv_added_token_read(a, entry, e);
        if (s != RV_OK) {
            rv_err_context(e, "added_tokens[%zu]", i);
            return s;
        }
        int32_t known = rv_vocab_find(&t->vocab, a->content, a->n_content);
        a->id = known >= 0 ? known : a->id; // as the original: the vocabulary's id counts
    }
    return rv_added_tokens_sort(&t->added, &t->normalizer, e);
}

// Ids of vocabulary and added tokens together, and what is special about them.
static rv_status number_ids(rv_tokenizer *t, rv_err *e) {
    t->size = t->vocab.size;
    for (int i = 0; i < t->added.n; i++) {
        int32_t id = t->added.token[i].id;
        t->size = id >= t->size ? id + 1 : t->size;
    }
    t->flags = rv_calloc(t->size, 1);
    if (!t->flags) {
        return oom(t, e);
    }
    for (int i = 0; i < t->added.n; i++) {
        const rv_added_token *a = &t->added.token[i];
        t->flags[a->id] |= (uint8_t)(IS_ADDED | (a->special ? IS_SPECIAL : 0));
    }
    return RV_OK;
}

// ---- the template ----

static rv_status add_special(rv_ids *ids, const json_t *known, const char *name, rv_err *e) {
    const json_t *list = json_object_get(json_object_get(known, name), "ids"), *id;
    size_t i;
    if (!json_is_array(list)) {
        return RV_FAIL(e, RV_EFORMAT, "post_processor.special_tokens: no ids of \"%s\"", name);
    }
    json_array_foreach(list, i, id) {
        int64_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v > RV_MAX_TOKEN_ID) {
            return RV_FAIL(e, RV_EFORMAT, "post_processor.special_tokens: bad id of \"%s\"", name);
        }
        rv_ids_add(ids, (int32_t)v);
    }
    return RV_OK;
}

static rv_status read_template(rv_tokenizer *t, const json_t *v, rv_err *e) {
    const json_t *item;
    size_t i;
    int texts = 0;
    json_array_foreach(json_object_get(v, "single"), i, item) {
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        if (name) {
            RV_TRY(add_special(texts ? &t->after : &t->before, json_object_get(v, "special_tokens"),
                               name, e));
        } else if (json_is_object(json_object_get(item, "Sequence"))) {
            texts++;
        } else {
            return RV_FAIL(
                e, RV_EFORMAT,
                "post_processor.single[%zu]: wanted {\"SpecialToken\"} or {\"Sequence\"}", i);
        }
    }
    return texts == 1
               ? RV_OK
               : RV_FAIL(e, RV_EUNSUPPORTED,
                         "post-processor template with the text %d times is not supported", texts);
}

static rv_status read_post_processor(rv_tokenizer *t, const json_t *v, rv_err *e) {
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) {
        return RV_FAIL(e, RV_EFORMAT, "post_processor: wanted an object with a \"type\"");
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        return read_template(t, v, e);
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *part;
        size_t i;
        json_array_foreach(json_object_get(v, "processors"), i, part) {
            RV_TRY(read_post_processor(t, part, e));
        }
        return RV_OK;
    }
    return strcmp(type, "ByteLevel") == 0 // changes offsets, not ids
               ? RV_OK
               : RV_FAIL(e, RV_EUNSUPPORTED, "post-processor \"%s\" is not known", type);
}

// ---- the whole ----

static rv_status read_all(rv_tokenizer *t, const json_t *root, rv_err *e) {
    const json_t *model = json_object_get(root, "model");
    const char *version = "1.0";
    RV_TRY(rv_json_string(root, "version", &version, e));
    if (strcmp(version, "1.0") != 0) {
        return RV_FAIL(e, RV_EFORMAT, "version: wanted \"1.0\", got \"%s\"", version);
    }
    if (!json_is_object(model)) {
        return RV_FAIL(e, RV_EFORMAT, "model: wanted an object, got %s", rv_json_type(model));
    }
    RV_TRY(read_vocab(t, model, e));
    RV_TRY(defer(t, rv_bpe_read(&t->bpe, model, &t->vocab, e), &t->no_encode, e));
    RV_TRY(defer(t, rv_normalizer_read(&t->normalizer, json_object_get(root, "normalizer"), e),
                 &t->no_encode, e));
    RV_TRY(defer(t,
                 rv_pretokenizer_read(&t->pretokenizer, json_object_get(root, "pre_tokenizer"), e),
                 &t->no_encode, e));
    RV_TRY(read_added(t, json_object_get(root, "added_tokens"), e));
    RV_TRY(number_ids(t, e));
    RV_TRY(defer(t, read_post_processor(t, json_object_get(root, "post_processor"), e),
                 &t->no_template, e));
    RV_TRY(defer(t, rv_decoder_read(&t->decoder, json_object_get(root, "decoder"), e),
                 &t->no_decode, e));
    t->bpe.byte_level = t->pretokenizer.byte_level;
    RV_TRY(rv_bpe_cut_pieces(&t->bpe, e));
    return t->before.failed || t->after.failed ? oom(t, e) : RV_OK;
}

static rv_status from_json(rv_tokenizer **out, json_t *root, const char *name, rv_err *e) {
    rv_tokenizer *t = calloc(1, sizeof *t);
    if (t) {
        t->name = rv_strndup(name, strlen(name));
    }
    rv_status s = t && t->name ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory");
    if (s == RV_OK) {
        rv_err local; // `defer` needs the message
        s = read_all(t, root, &local);
        if (s != RV_OK) {
            RV_FAIL(e, s, "%s: %s", name, local.msg);
        }
    }
    json_decref(root);
    if (s != RV_OK) {
        rv_tokenizer_free(t);
        return s;
    }
    *out = t;
    return RV_OK;
}

rv_status rv_tokenizer_parse(rv_tokenizer **out, const void *json, size_t n, const char *name,
                             rv_err *e) {
    *out = NULL;
    json_t *root;
    RV_TRY(rv_json_parse(&root, json, n, name, e));
    return from_json(out, root, name, e);
}

rv_status rv_tokenizer_load(rv_tokenizer **out, const char *dir, rv_err *e) {
    *out = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    json_t *root;
    rv_status s = rv_json_load(&root, path, e);
    if (s != RV_EFILE) {
        return s == RV_OK ? from_json(out, root, path, e) : s;
    }
    char *name;
    RV_TRY(rv_tokenizer_gather(&root, &name, dir, e));
    s = from_json(out, root, name, e);
    free(name);
    return s;
}
