// tokenizer_files.c - a tokenizer from the files that older checkpoints have.
//
// transformers makes a tokenizer.json of them when it loads; here is that conversion, for
// SentencePiece models (Llama, Mistral) and for vocab.json with merges.txt (Qwen2, GPT-2).
#include "tokenizer_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"
#include "mem.h"
#include "tokenizer_spm.h"
#include "vocab.h"

// The files of a folder; those that are not there are NULL.
typedef struct {
    const char *dir;
    json_t *config, *added, *special;
} folder;

static char *path_in(const char *dir, const char *file) {
    size_t n = strlen(dir) + strlen(file) + 2;
    char *path = rv_calloc((int64_t)n, 1);
    if (path) {
        snprintf(path, n, "%s/%s", dir, file);
    }
    return path;
}

static rv_status oom(rv_err *e) { return RV_FAIL(e, RV_ENOMEM, "out of memory"); }

// A JSON file that may be missing.
static rv_status load_optional(json_t **out, const char *dir, const char *file, rv_err *e) {
    *out = NULL;
    char *path = path_in(dir, file);
    if (!path) {
        return oom(e);
    }
    rv_map m;
    rv_status s = RV_OK;
    if (rv_map_open(&m, path, NULL) == RV_OK) {
        rv_map_close(&m);
        s = rv_json_load(out, path, e);
    }
    free(path);
    return s;
}

// ---- added tokens ----

// The text of a token with a name ("bos_token"): itself, or its "content".
static const char *content_of(const json_t *v) {
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static bool names_token(const json_t *file, const char *token) {
    const char *key;
    json_t *v, *item;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)file, key, v) {
        const char *text = strstr(key, "_token") ? content_of(v) : NULL;
        if (text && strcmp(text, token) == 0) {
            return true;
        }
        json_array_foreach(v, i, item) {
            text = content_of(item);
            if (strstr(key, "special_tokens") && text && strcmp(text, token) == 0) {
                return true;
            }
        }
    }
    return false;
}

// Puts an entry in the place of one with its id, or behind the others.
static int put_added(json_t *list, json_t *entry) {
    json_int_t id = json_integer_value(json_object_get(entry, "id"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (json_integer_value(json_object_get(json_array_get(list, i), "id")) == id) {
            return json_array_set_new(list, i, entry);
        }
    }
    return json_array_append_new(list, entry);
}

// {"<image>": 32000}: special where a file gives it a name.
static rv_status add_by_content(const folder *f, json_t *list, rv_err *e) {
    const char *token;
    json_t *id;
    json_object_foreach(f->added, token, id) {
        if (!json_is_integer(id)) {
            return RV_FAIL(e, RV_EFORMAT, "%s/added_tokens.json: \"%.80s\": wanted an id, got %s",
                           f->dir, token, rv_json_type(id));
        }
        int special = names_token(f->special, token) || names_token(f->config, token);
        if (put_added(list, json_pack("{sIsssbsb}", "id", json_integer_value(id), "content", token,
                                      "special", special, "normalized", !special))) {
            return oom(e);
        }
    }
    return RV_OK;
}

// {"32000": {"content": "<image>", ...}}, which tells the most.
static rv_status add_by_id(const folder *f, json_t *list, rv_err *e) {
    const char *key;
    json_t *entry, *decoder = json_object_get(f->config, "added_tokens_decoder");
    json_object_foreach(decoder, key, entry) {
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || end == key || id < 0 || id > RV_MAX_TOKEN_ID || !json_is_object(entry)) {
            return RV_FAIL(e, RV_EFORMAT,
                           "%s/tokenizer_config.json: added_tokens_decoder: \"%.80s\": wanted an "
                           "id and an object",
                           f->dir, key);
        }
        json_t *copy = json_copy(entry);
        if (!copy || json_object_set_new(copy, "id", json_integer(id)) || put_added(list, copy)) {
            return oom(e);
        }
    }
    return RV_OK;
}

static rv_status add_tokens(const folder *f, json_t *root, rv_err *e) {
    json_t *list = json_object_get(root, "added_tokens");
    if (!list) {
        list = json_array();
        if (json_object_set_new(root, "added_tokens", list)) {
            return oom(e);
        }
    }
    RV_TRY(add_by_content(f, list, e));
    return add_by_id(f, list, e);
}

// ---- tokenizer.model ----

static rv_status read_spm(json_t **root, const folder *f, const rv_map *m, rv_err *e) {
    rv_spm_options o = {.legacy = true, .bos = true, .prefix = -1};
    bool prefix = true;
    const json_t *given = json_object_get(f->config, "add_prefix_space");
    RV_TRY(rv_json_bool(f->config, "legacy", &o.legacy, e));
    RV_TRY(rv_json_bool(f->config, "add_bos_token", &o.bos, e));
    RV_TRY(rv_json_bool(f->config, "add_eos_token", &o.eos, e));
    RV_TRY(rv_json_bool(f->config, "add_prefix_space", &prefix, e));
    if (given && !json_is_null(given)) {
        o.prefix = prefix;
    }
    return rv_spm_read(root, m->data, m->size, &o, e);
}

// ---- vocab.json and merges.txt ----

static const char qwen2_regex[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static json_t *byte_level(bool regex) {
    return json_pack("{sssbsbsb}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
                     "use_regex", regex);
}

// How a tokenizer_class splits text; files of this kind don't say.
static rv_status set_class(json_t *root, const folder *f, rv_err *e) {
    const char *class = "";
    RV_TRY(rv_json_string(f->config, "tokenizer_class", &class, e));
    bool qwen = strncmp(class, "Qwen2Tokenizer", 14) == 0;
    if (!qwen && strncmp(class, "GPT2Tokenizer", 13) != 0) {
        return RV_FAIL(e, RV_EUNSUPPORTED,
                       "%s/tokenizer_config.json: tokenizer_class: wanted Qwen2Tokenizer or "
                       "GPT2Tokenizer beside a vocab.json, got %s",
                       f->dir, *class ? class : "none");
    }
    json_t *split = json_pack("{sss{ss}sssb}", "type", "Split", "pattern", "Regex", qwen2_regex,
                              "behavior", "Isolated", "invert", 0);
    json_t *steps =
        json_pack("{sss[oo]}", "type", "Sequence", "pretokenizers", split, byte_level(false));
    int failed =
        json_object_set_new(root, "normalizer",
                            qwen ? json_pack("{ss}", "type", "NFC") : json_null()) |
        json_object_set_new(root, "pre_tokenizer", qwen ? json_incref(steps) : byte_level(true)) |
        json_object_set_new(root, "decoder", byte_level(true));
    json_decref(steps);
    return failed ? oom(e) : RV_OK;
}

// The lines of merges.txt, without a version's.
static json_t *merge_lines(const rv_map *m) {
    json_t *list = json_array();
    const char *p = (const char *)m->data, *end = m->size ? p + m->size : p;
    while (list && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        size_t n = (size_t)(stop - p);
        n -= n > 0 && p[n - 1] == '\r';
        if (n > 0 && json_array_append_new(list, json_stringn(p, n))) {
            json_decref(list);
            return NULL;
        }
        p = stop + 1;
    }
    return list;
}

static rv_status read_merges(json_t *model, const folder *f, rv_err *e) {
    char *path = path_in(f->dir, "merges.txt");
    rv_map m;
    rv_status s = path ? rv_map_open(&m, path, e) : oom(e);
    if (s == RV_OK) {
        json_t *list = merge_lines(&m);
        rv_map_close(&m);
        if (!list || json_object_set_new(model, "merges", list)) {
            s = RV_FAIL(e, RV_EFORMAT, "%s: wanted lines of two tokens in UTF-8", path);
        }
    }
    free(path);
    return s;
}

static rv_status read_vocab(json_t **root, const folder *f, json_t *vocab, rv_err *e) {
    json_t *model = json_pack("{sssO}", "type", "BPE", "vocab", vocab);
    *root = json_pack("{ssso}", "version", "1.0", "model", model);
    if (!*root) {
        return oom(e);
    }
    RV_TRY(set_class(*root, f, e));
    return read_merges(model, f, e);
}

// ---- the folder ----

// The vocabulary's file in the form of a tokenizer.json, without the tokens that others add.
static rv_status read_main(json_t **root, char **name, const folder *f, rv_err *e) {
    rv_map m;
    json_t *vocab;
    if (!(*name = path_in(f->dir, "tokenizer.model"))) {
        return oom(e);
    }
    if (rv_map_open(&m, *name, NULL) == RV_OK) {
        rv_status s = read_spm(root, f, &m, e);
        rv_map_close(&m);
        if (s != RV_OK) {
            rv_err_context(e, "%s", *name);
        }
        return s;
    }
    RV_TRY(load_optional(&vocab, f->dir, "vocab.json", e));
    if (!vocab) {
        return RV_FAIL(e, RV_EFILE,
                       "%s: wanted tokenizer.json, tokenizer.model, or vocab.json and merges.txt",
                       f->dir);
    }
    memcpy(*name + strlen(f->dir) + 1, "vocab.json", sizeof "vocab.json"); // shorter
    rv_status s = read_vocab(root, f, vocab, e);
    json_decref(vocab);
    return s;
}

rv_status rv_tokenizer_gather(json_t **root, char **name, const char *dir, rv_err *e) {
    folder f = {.dir = dir};
    *root = NULL;
    *name = NULL;
    rv_status s = load_optional(&f.config, dir, "tokenizer_config.json", e);
    s = s == RV_OK ? load_optional(&f.added, dir, "added_tokens.json", e) : s;
    s = s == RV_OK ? load_optional(&f.special, dir, "special_tokens_map.json", e) : s;
    s = s == RV_OK ? read_main(root, name, &f, e) : s;
    s = s == RV_OK ? add_tokens(&f, *root, e) : s;
    json_decref(f.config);
    json_decref(f.added);
    json_decref(f.special);
    if (s != RV_OK) {
        json_decref(*root);
        free(*name);
        *root = NULL;
        *name = NULL;
    }
    return s;
}
