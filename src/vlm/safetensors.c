#define _XOPEN_SOURCE 700
#include "safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "mem.h"
#include "safetensors_impl.h"

#define MAX_HEADER 100000000u // the reference reader's limit

typedef struct {
    char *path;
    rv_map map;
    json_t *header; // owns the names
} shard_file;

struct rv_safetensors {
    shard_file *shards;
    int n_shards;
    rv_safetensor *tensors; // by name
    int64_t n, capacity;
    json_t *index; // of a sharded checkpoint
};

static const struct {
    const char *name;
    int bits;
    rv_dtype type;
} types[] = {
    {"F64", 64, RV_F64},
    {"I64", 64, RV_I64},
    {"U64", 64, RV_NTYPES},
    {"C64", 64, RV_NTYPES},
    {"F32", 32, RV_F32},
    {"I32", 32, RV_I32},
    {"U32", 32, RV_NTYPES},
    {"BF16", 16, RV_BF16},
    {"F16", 16, RV_F16},
    {"I16", 16, RV_NTYPES},
    {"U16", 16, RV_NTYPES},
    {"I8", 8, RV_I8},
    {"U8", 8, RV_U8},
    {"BOOL", 8, RV_BOOL},
    {"F8_E5M2", 8, RV_NTYPES},
    {"F8_E4M3", 8, RV_NTYPES},
    {"F8_E8M0", 8, RV_NTYPES},
    {"F8_E4M3FNUZ", 8, RV_NTYPES},
    {"F8_E5M2FNUZ", 8, RV_NTYPES},
    {"F6_E2M3", 6, RV_NTYPES},
    {"F6_E3M2", 6, RV_NTYPES},
    {"F4", 4, RV_NTYPES},
};
enum { N_TYPES = sizeof types / sizeof *types };

int rv_safetensors_type(const char *name) {
    for (int i = 0; i < N_TYPES; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

rv_dtype rv_safetensors_dtype(const char *name) {
    int i = rv_safetensors_type(name);
    return i < 0 ? RV_NTYPES : types[i].type;
}

const char *rv_safetensors_dtype_name(rv_dtype t) {
    for (int i = 0; t != RV_NTYPES && i < N_TYPES; i++) {
        if (types[i].type == t) {
            return types[i].name;
        }
    }
    return "?";
}

// ---- reading one file ----

// What JSON calls a value's type, for messages.
static const char *json_kind(const json_t *v) {
    static const char *const kinds[] = {"an object", "a list", "a string", "an integer",
                                        "a number",  "true",   "false",    "null"};
    return v ? kinds[json_typeof(v)] : "nothing";
}

static rv_status bad(rv_err *e, const char *path, const char *name, const char *what,
                     const char *wanted, const json_t *came) {
    return RV_FAIL(e, RV_EFORMAT, "%s: tensor '%.200s': %s: wanted %s, came %s", path, name, what,
                   wanted, json_kind(came));
}

static rv_status read_shape(rv_safetensor *t, const json_t *shape, const char *path, rv_err *e) {
    if (!json_is_array(shape)) {
        return bad(e, path, t->name, "shape", "a list of non-negative integers", shape);
    }
    if (json_array_size(shape) > RV_SAFETENSORS_MAXDIM) {
        return RV_FAIL(e, RV_EFORMAT,
                       "%s: tensor '%.200s': shape: wanted at most %d dimensions, came %zu", path,
                       t->name, RV_SAFETENSORS_MAXDIM, json_array_size(shape));
    }
    t->ndim = (int)json_array_size(shape);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d)) {
            return bad(e, path, t->name, "shape", "non-negative integers", d);
        }
        t->dim[i] = json_integer_value(d);
        if (t->dim[i] < 0) {
            return RV_FAIL(e, RV_EFORMAT,
                           "%s: tensor '%.200s': shape: wanted non-negative integers, came %lld",
                           path, t->name, (long long)t->dim[i]);
        }
    }
    return RV_OK;
}

bool rv_safetensors_size(const rv_safetensor *t, int type, size_t *out) {
    int64_t n = types[type].bits;
    bool empty = false;
    for (int i = 0; i < t->ndim; i++) {
        empty = empty || t->dim[i] == 0;
    }
    for (int i = 0; i < t->ndim && !empty; i++) {
        if (!rv_mul_count(n, t->dim[i], &n)) {
            return false;
        }
    }
    *out = empty ? 0 : (size_t)(n / 8);
    return empty || n % 8 == 0;
}

static rv_status read_offsets(const rv_safetensor *t, const json_t *pair, size_t out[2],
                              const char *path, rv_err *e) {
    if (!json_is_array(pair) || json_array_size(pair) != 2) {
        return bad(e, path, t->name, "data_offsets", "a list of two integers", pair);
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_array_get(pair, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0) {
            return bad(e, path, t->name, "data_offsets", "non-negative integers", v);
        }
        out[i] = (size_t)json_integer_value(v);
    }
    return RV_OK;
}

// Fills `t` from its header entry; data then holds only the offset's place in the file.
static rv_status read_entry(rv_safetensor *t, const char *name, const json_t *entry,
                            const shard_file *f, size_t start, rv_err *e) {
    *t = (rv_safetensor){.name = name};
    if (!json_is_object(entry)) {
        return bad(e, f->path, name, "entry", "an object", entry);
    }
    const json_t *dtype = json_object_get(entry, "dtype");
    int type = json_is_string(dtype) ? rv_safetensors_type(json_string_value(dtype)) : -1;
    if (type < 0) {
        return RV_FAIL(e, RV_EFORMAT,
                       "%s: tensor '%.200s': dtype: wanted one of F32, F16, BF16, ..., came %.40s",
                       f->path, name,
                       json_is_string(dtype) ? json_string_value(dtype) : json_kind(dtype));
    }
    t->dtype = types[type].name;
    t->type = types[type].type;
    size_t at[2], wanted;
    RV_TRY(read_shape(t, json_object_get(entry, "shape"), f->path, e));
    RV_TRY(read_offsets(t, json_object_get(entry, "data_offsets"), at, f->path, e));
    if (!rv_safetensors_size(t, type, &wanted)) {
        return RV_FAIL(e, RV_EFORMAT,
                       "%s: tensor '%.200s': its shape overflows or is no whole number of bytes",
                       f->path, name);
    }
    size_t data_bytes = f->map.size - start;
    if (at[0] > at[1] || at[1] > data_bytes) {
        return RV_FAIL(
            e, RV_EFORMAT,
            "%s: tensor '%.200s': data_offsets: wanted a range within 0..%zu, came %zu..%zu",
            f->path, name, data_bytes, at[0], at[1]);
    }
    if (at[1] - at[0] != wanted) {
        return RV_FAIL(
            e, RV_EFORMAT,
            "%s: tensor '%.200s': its shape needs %zu bytes of %s, data_offsets give %zu", f->path,
            name, wanted, t->dtype, at[1] - at[0]);
    }
    t->data = f->map.data + start + at[0];
    t->bytes = wanted;
    return RV_OK;
}

static int by_address(const void *pa, const void *pb) {
    const rv_safetensor *a = pa, *b = pb;
    uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    return x != y ? (x > y) - (x < y) : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

// The data must be covered by the tensors without a hole or an overlap.
static rv_status check_coverage(rv_safetensor *t, int64_t n, const shard_file *f, size_t start,
                                rv_err *e) {
    qsort(t, (size_t)n, sizeof *t, by_address);
    const uint8_t *next = f->map.data + start, *end = f->map.data + f->map.size;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *data = t[i].data;
        if (data != next) {
            return RV_FAIL(e, RV_EFORMAT,
                           "%s: tensor '%.200s' begins at byte %zu of the data, wanted %zu (%s)",
                           f->path, t[i].name, (size_t)(data - f->map.data) - start,
                           (size_t)(next - f->map.data) - start,
                           data < next ? "it overlaps another" : "there is a hole before it");
        }
        next = data + t[i].bytes;
    }
    if (next != end) {
        return RV_FAIL(e, RV_EFORMAT, "%s: %zu bytes behind the last tensor belong to none",
                       f->path, (size_t)(end - next));
    }
    return RV_OK;
}

// Checks size and header of the mapped file and leaves the header's JSON in it.
static rv_status read_header(shard_file *f, size_t *start, rv_err *e) {
    if (f->map.size < 8) {
        return RV_FAIL(e, RV_EFORMAT, "%s: wanted a safetensors file, came %zu bytes", f->path,
                       f->map.size);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) {
        n = n << 8 | f->map.data[i];
    }
    if (n > MAX_HEADER) {
        return RV_FAIL(e, RV_EFORMAT,
                       "%s: header of %llu bytes: wanted at most %u (is it a safetensors file?)",
                       f->path, (unsigned long long)n, MAX_HEADER);
    }
    if (n > f->map.size - 8) {
        return RV_FAIL(e, RV_EFORMAT,
                       "%s: header of %llu bytes in a file of %zu: the file is cut off", f->path,
                       (unsigned long long)n, f->map.size);
    }
    *start = 8 + (size_t)n;
    json_error_t why;
    f->header = json_loadb((const char *)f->map.data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (!f->header) {
        return RV_FAIL(e, RV_EFORMAT, "%s: header: %s (byte %d)", f->path, why.text, why.position);
    }
    if (!json_is_object(f->header)) {
        return RV_FAIL(e, RV_EFORMAT, "%s: header: wanted an object, came %s", f->path,
                       json_kind(f->header));
    }
    return RV_OK;
}

static rv_status check_metadata(const json_t *meta, const char *path, rv_err *e) {
    if (meta && !json_is_object(meta)) {
        return RV_FAIL(e, RV_EFORMAT, "%s: __metadata__: wanted an object, came %s", path,
                       json_kind(meta));
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)meta, key, value) {
        if (!json_is_string(value)) {
            return RV_FAIL(e, RV_EFORMAT, "%s: __metadata__ '%.200s': wanted a string, came %s",
                           path, key, json_kind(value));
        }
    }
    return RV_OK;
}

static rv_status grow(rv_safetensors *s, int64_t more, rv_err *e) {
    rv_safetensor *t = rv_realloc(s->tensors, s->n + more + 1, sizeof *t);
    if (!t) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for the names of %lld tensors",
                       (long long)(s->n + more));
    }
    s->tensors = t;
    return RV_OK;
}

// Adds the tensors of one more file.
static rv_status add_file(rv_safetensors *s, const char *path, rv_err *e) {
    shard_file *all = rv_realloc(s->shards, s->n_shards + 1, sizeof *all);
    char *own = rv_strndup(path, strlen(path));
    if (all) {
        s->shards = all;
    }
    if (!all || !own) {
        free(own);
        return RV_FAIL(e, RV_ENOMEM, "out of memory while opening %s", path);
    }
    shard_file *f = &s->shards[s->n_shards++];
    *f = (shard_file){.path = own};
    RV_TRY(rv_map_open(&f->map, path, e));
    size_t start;
    RV_TRY(read_header(f, &start, e));
    RV_TRY(check_metadata(json_object_get(f->header, RV_SAFETENSORS_METADATA), path, e));
    RV_TRY(grow(s, (int64_t)json_object_size(f->header), e));
    rv_safetensor *first = s->tensors + s->n;
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry) {
        if (strcmp(name, RV_SAFETENSORS_METADATA) != 0) {
            RV_TRY(read_entry(&s->tensors[s->n], name, entry, f, start, e));
            s->tensors[s->n++].shard = s->n_shards - 1;
        }
    }
    return check_coverage(first, s->n - (first - s->tensors), f, start, e);
}

// ---- reading a checkpoint in shards ----

// Shard names come from the file: only plain names beside the index are followed.
static bool plain_name(const char *name) {
    return *name && !strchr(name, '/') && !strchr(name, '\\') && name[0] != '.';
}

static int find_shard(const rv_safetensors *s, const char *path) {
    for (int i = 0; i < s->n_shards; i++) {
        if (strcmp(s->shards[i].path, path) == 0) {
            return i;
        }
    }
    return -1;
}

static char *beside(const char *index, const char *name) {
    const char *slash = strrchr(index, '/');
    size_t dir = slash ? (size_t)(slash - index) + 1 : 0, n = strlen(name);
    char *p = malloc(dir + n + 1);
    if (p) {
        memcpy(p, index, dir);
        memcpy(p + dir, name, n + 1);
    }
    return p;
}

static rv_status open_shards(rv_safetensors *s, const char *index, const json_t *map, rv_err *e) {
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)map, name, file) {
        if (!json_is_string(file)) {
            return bad(e, index, name, "weight_map", "a file name", file);
        }
        if (!plain_name(json_string_value(file))) {
            return RV_FAIL(
                e, RV_EFORMAT,
                "%s: tensor '%.200s': weight_map: wanted a plain file name, came '%.200s'", index,
                name, json_string_value(file));
        }
        char *path = beside(index, json_string_value(file));
        if (!path) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory while opening %s", index);
        }
        rv_status st = find_shard(s, path) < 0 ? add_file(s, path, e) : RV_OK;
        free(path);
        RV_TRY(st);
    }
    return RV_OK;
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// Keeps of tensors that stand in several shards the one that the index names, and checks that every
// tensor of the index is where it says.
static rv_status check_index(rv_safetensors *s, const char *index, const json_t *map, rv_err *e) {
    int64_t kept = 0;
    size_t found = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const rv_safetensor *t = &s->tensors[i];
        const char *wanted = json_string_value(json_object_get(map, t->name));
        if (wanted && strcmp(wanted, file_name(s->shards[t->shard].path)) != 0) {
            continue;
        }
        found += wanted != NULL;
        s->tensors[kept++] = *t;
    }
    s->n = kept;
    if (found == json_object_size(map)) {
        return RV_OK;
    }
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)map, name, file) {
        bool there = false;
        for (int64_t i = 0; i < s->n && !there; i++) {
            there = strcmp(s->tensors[i].name, name) == 0;
        }
        if (!there) {
            return RV_FAIL(e, RV_EFORMAT,
                           "%s: tensor '%.200s' is not in %s, where the index puts it", index, name,
                           json_string_value(file));
        }
    }
    return RV_OK;
}

static rv_status open_index(rv_safetensors *s, const char *path, rv_err *e) {
    rv_map map;
    RV_TRY(rv_map_open(&map, path, e));
    json_error_t why;
    s->index = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, &why);
    rv_map_close(&map);
    if (!s->index) {
        return RV_FAIL(e, RV_EFORMAT, "%s:%d: %s", path, why.line, why.text);
    }
    const json_t *weights = json_object_get(s->index, "weight_map");
    if (!json_is_object(weights) || json_object_size(weights) == 0) {
        return RV_FAIL(e, RV_EFORMAT, "%s: weight_map: wanted an object of file names, came %s",
                       path, json_kind(weights));
    }
    RV_TRY(open_shards(s, path, weights, e));
    return check_index(s, path, weights, e);
}

static int by_name(const void *pa, const void *pb) {
    return strcmp(((const rv_safetensor *)pa)->name, ((const rv_safetensor *)pb)->name);
}

static rv_status open_all(rv_safetensors *s, const char *path, rv_err *e) {
    size_t n = strlen(path);
    bool index = n > 5 && strcmp(path + n - 5, ".json") == 0;
    RV_TRY(index ? open_index(s, path, e) : add_file(s, path, e));
    if (s->n) {
        qsort(s->tensors, (size_t)s->n, sizeof *s->tensors, by_name);
    }
    for (int64_t i = 1; i < s->n; i++) {
        const rv_safetensor *t = &s->tensors[i];
        if (strcmp(t[-1].name, t->name) == 0) {
            return RV_FAIL(e, RV_EFORMAT, "%s: tensor '%.200s' stands in two shards (%s, %s)", path,
                           t->name, s->shards[t[-1].shard].path, s->shards[t->shard].path);
        }
    }
    return RV_OK;
}

rv_status rv_safetensors_open(rv_safetensors **out, const char *path, rv_err *e) {
    rv_safetensors *s = rv_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while opening %s", path);
    }
    rv_status st = open_all(s, path, e);
    if (st != RV_OK) {
        rv_safetensors_close(s);
        return st;
    }
    *out = s;
    return RV_OK;
}

void rv_safetensors_close(rv_safetensors *s) {
    if (!s) {
        return;
    }
    for (int i = 0; i < s->n_shards; i++) {
        json_decref(s->shards[i].header);
        rv_map_close(&s->shards[i].map);
        free(s->shards[i].path);
    }
    json_decref(s->index);
    free(s->shards);
    free(s->tensors);
    free(s);
}

int64_t rv_safetensors_count(const rv_safetensors *s) { return s->n; }
const rv_safetensor *rv_safetensors_at(const rv_safetensors *s, int64_t i) {
    return &s->tensors[i];
}
const char *rv_safetensors_path(const rv_safetensors *s, int shard) {
    return s->shards[shard].path;
}

const rv_safetensor *rv_safetensors_find(const rv_safetensors *s, const char *name) {
    rv_safetensor key = {.name = name};
    return s->n ? bsearch(&key, s->tensors, (size_t)s->n, sizeof key, by_name) : NULL;
}

const char *rv_safetensors_metadata(const rv_safetensors *s, const char *key) {
    if (!s->n_shards) {
        return NULL;
    }
    return json_string_value(
        json_object_get(json_object_get(s->shards[0].header, RV_SAFETENSORS_METADATA), key));
}
