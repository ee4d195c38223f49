#define _XOPEN_SOURCE 700
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "mem.h"
#include "safetensors_impl.h"

struct rv_safetensors_writer {
    rv_atomic file;
    json_t *header;         // owns the names
    rv_safetensor *tensors; // in the order of the file
    int64_t n, next;
};

static int writing_order(const void *pa, const void *pb) {
    const rv_safetensor *a = pa, *b = pb;
    int x = rv_safetensors_type(a->dtype), y = rv_safetensors_type(b->dtype);
    return x != y ? x - y : strcmp(a->name, b->name);
}

static rv_status check_item(rv_safetensor *t, const rv_safetensor *from, int64_t i, rv_err *e) {
    *t = *from;
    t->dtype = rv_safetensors_dtype_name(from->type);
    t->shard = (int)i;
    int type = rv_safetensors_type(t->dtype);
    if (type < 0 || t->ndim < 0 || t->ndim > RV_SAFETENSORS_MAXDIM) {
        return RV_FAIL(e, RV_EARG, "tensor '%.200s': no type or shape that can be written",
                       t->name);
    }
    for (int d = 0; d < t->ndim; d++) {
        if (t->dim[d] < 0) {
            return RV_FAIL(e, RV_EARG,
                           "tensor '%.200s': shape: wanted non-negative integers, came %lld",
                           t->name, (long long)t->dim[d]);
        }
    }
    if (!rv_safetensors_size(t, type, &t->bytes)) {
        return RV_FAIL(e, RV_EARG, "tensor '%.200s': its shape overflows", t->name);
    }
    return RV_OK;
}

static json_t *header_entry(const rv_safetensor *t, size_t at) {
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++) {
        json_array_append_new(shape, json_integer(t->dim[i]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape, "data_offsets",
                     (json_int_t)at, (json_int_t)(at + t->bytes));
}

static rv_status build_header(rv_safetensors_writer *w, const char *const *metadata, int64_t n_meta,
                              rv_err *e) {
    w->header = json_object();
    if (n_meta) {
        json_t *meta = json_object();
        for (int64_t i = 0; i < n_meta; i++) {
            if (json_object_set_new(meta, metadata[2 * i], json_string(metadata[2 * i + 1])) != 0) {
                json_decref(meta);
                return RV_FAIL(e, RV_EARG, "metadata '%.200s': wanted UTF-8 text", metadata[2 * i]);
            }
        }
        json_object_set_new(w->header, RV_SAFETENSORS_METADATA, meta);
    }
    size_t at = 0;
    for (int64_t i = 0; i < w->n; i++) {
        rv_safetensor *t = &w->tensors[i];
        if (strcmp(t->name, RV_SAFETENSORS_METADATA) == 0) {
            return RV_FAIL(e, RV_EARG,
                           "tensor '%s': wanted another name: the format's own data have this one",
                           t->name);
        } else if (json_object_get(w->header, t->name)) {
            return RV_FAIL(e, RV_EARG, "tensor '%.200s' is given twice", t->name);
        }
        if (json_object_set_new(w->header, t->name, header_entry(t, at)) != 0) {
            return RV_FAIL(e, RV_EARG, "tensor '%.200s': wanted a name in UTF-8", t->name);
        }
        t->name = json_object_iter_key(json_object_iter_at(w->header, t->name));
        at += t->bytes;
    }
    return RV_OK;
}

static rv_status write_header(rv_safetensors_writer *w, rv_err *e) {
    char *text = json_dumps(w->header, JSON_COMPACT);
    if (!text) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while writing %s", w->file.path);
    }
    size_t n = strlen(text), padded = (size_t)rv_round_up((int64_t)n, 8);
    uint8_t size[8];
    for (int i = 0; i < 8; i++) {
        size[i] = (uint8_t)((uint64_t)padded >> (8 * i));
    }
    bool ok = fwrite(size, 1, 8, w->file.f) == 8 && fwrite(text, 1, n, w->file.f) == n &&
              fwrite("        ", 1, padded - n, w->file.f) == padded - n;
    free(text);
    return ok ? RV_OK : RV_FAIL(e, RV_EFILE, "cannot write %s: %s", w->file.path, strerror(errno));
}

static rv_status create(rv_safetensors_writer *w, const char *path, const rv_safetensor *tensors,
                        int64_t n, const char *const *metadata, int64_t n_meta, rv_err *e) {
    w->n = n;
    w->tensors = rv_calloc(n ? n : 1, sizeof *w->tensors);
    if (!w->tensors) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while writing %s", path);
    }
    for (int64_t i = 0; i < n; i++) {
        RV_TRY(check_item(&w->tensors[i], &tensors[i], i, e));
    }
    qsort(w->tensors, (size_t)n, sizeof *w->tensors, writing_order);
    RV_TRY(build_header(w, metadata, n_meta, e));
    RV_TRY(rv_atomic_open(&w->file, path, e));
    return write_header(w, e);
}

rv_status rv_safetensors_create(rv_safetensors_writer **out, const char *path,
                                const rv_safetensor *tensors, int64_t n,
                                const char *const *metadata, int64_t n_meta, rv_err *e) {
    *out = NULL;
    rv_safetensors_writer *w = rv_calloc(1, sizeof *w);
    if (!w) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while writing %s", path);
    }
    rv_status st = create(w, path, tensors, n, metadata, n_meta, e);
    if (st != RV_OK) {
        rv_err_context(e, "%s", path);
        rv_safetensors_abort(w);
        return st;
    }
    *out = w;
    return RV_OK;
}

const rv_safetensor *rv_safetensors_next(const rv_safetensors_writer *w) {
    return w->next < w->n ? &w->tensors[w->next] : NULL;
}

rv_status rv_safetensors_put(rv_safetensors_writer *w, const void *data, size_t bytes, rv_err *e) {
    const rv_safetensor *t = rv_safetensors_next(w);
    if (!t || bytes != t->bytes) {
        return RV_FAIL(e, RV_EARG, "%s: tensor '%.200s': wanted %zu bytes, came %zu", w->file.path,
                       t ? t->name : "(none left)", t ? t->bytes : 0, bytes);
    }
    if (bytes && fwrite(data, 1, bytes, w->file.f) != bytes) {
        return RV_FAIL(e, RV_EFILE, "cannot write %s: %s", w->file.path, strerror(errno));
    }
    w->next++;
    return RV_OK;
}

rv_status rv_safetensors_commit(rv_safetensors_writer *w, rv_err *e) {
    const rv_safetensor *t = rv_safetensors_next(w);
    rv_status st =
        t ? RV_FAIL(e, RV_EARG, "%s: tensor '%.200s' was not written", w->file.path, t->name)
          : rv_atomic_commit(&w->file, e);
    rv_safetensors_abort(w);
    return st;
}

void rv_safetensors_abort(rv_safetensors_writer *w) {
    if (!w) {
        return;
    }
    rv_atomic_abort(&w->file);
    json_decref(w->header);
    free(w->tensors);
    free(w);
}
