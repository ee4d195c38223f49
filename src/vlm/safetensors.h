// safetensors.h - checkpoint files: mapped for reading after every check, written atomically.
//
// The layout: 8 bytes little-endian N, N bytes of JSON {"name": {"dtype", "shape",
// "data_offsets"}}, then the data, row-major and little-endian. A file is untrusted: nothing of it
// is used before the header, all sizes and the whole coverage of the data have been checked.
// Numbers may still be NaN.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "err.h"

enum { RV_SAFETENSORS_MAXDIM = 8 };

// One tensor of a file.
typedef struct {
    const char *name;
    const char *dtype; // the format's own name: "F32", "BF16", ...
    rv_dtype type;     // RV_NTYPES: a type that this program does not compute with
    int ndim;          // 0: a scalar
    int64_t dim[RV_SAFETENSORS_MAXDIM];
    const void *data; // in the mapped file, not aligned
    size_t bytes;
    int shard; // see rv_safetensors_path
} rv_safetensor;

typedef struct rv_safetensors rv_safetensors;

/// Opens one file, or all shards that an index names (`path` ends with ".json"). The files must not
/// shrink while they are open. Errors: RV_EFILE, RV_EFORMAT (naming file, tensor, what was wanted,
/// what came), RV_ENOMEM. Source: github.com/huggingface/safetensors, README "Format".
rv_status rv_safetensors_open(rv_safetensors **out, const char *path, rv_err *e);
void rv_safetensors_close(rv_safetensors *s);

/// Tensors, ordered by name.
int64_t rv_safetensors_count(const rv_safetensors *s);
const rv_safetensor *rv_safetensors_at(const rv_safetensors *s, int64_t i);
/// Finds a tensor by name; NULL: none.
const rv_safetensor *rv_safetensors_find(const rv_safetensors *s, const char *name);
/// The file that a shard lies in.
const char *rv_safetensors_path(const rv_safetensors *s, int shard);
/// The text of a metadata key in the first file; NULL: none.
const char *rv_safetensors_metadata(const rv_safetensors *s, const char *key);

/// The format's name of a dtype ("F32"), and back (RV_NTYPES: none of ours).
const char *rv_safetensors_dtype_name(rv_dtype t);
rv_dtype rv_safetensors_dtype(const char *name);

// ---- writing ----

// What is to be written: name, type, ndim and dim are given, the rest is ignored.
typedef struct rv_safetensors_writer rv_safetensors_writer;

/// Opens `path` under a temporary name and writes the header for `n` tensors, in the format's order
/// (larger elements first, then by name). `metadata` holds n_meta pairs key, value.
/// Errors: RV_EARG (a name twice or not UTF-8, a negative size), RV_EFILE, RV_ENOMEM.
rv_status rv_safetensors_create(rv_safetensors_writer **out, const char *path,
                                const rv_safetensor *tensors, int64_t n,
                                const char *const *metadata, int64_t n_meta, rv_err *e);
/// The tensor whose data is wanted next; NULL when all are written. Its `shard` is the tensor's
/// place in the list that was given.
const rv_safetensor *rv_safetensors_next(const rv_safetensors_writer *w);
/// Writes the data (row-major, next->bytes bytes) of the next tensor.
rv_status rv_safetensors_put(rv_safetensors_writer *w, const void *data, size_t bytes, rv_err *e);
/// Syncs and renames; frees the writer. Errors: RV_EARG when tensors are missing, RV_EFILE.
rv_status rv_safetensors_commit(rv_safetensors_writer *w, rv_err *e);
/// Drops the unfinished file and the writer; NULL is fine.
void rv_safetensors_abort(rv_safetensors_writer *w);
