// file.h - whole files: mapped for reading, written so that a reader sees the old or the new, never
// a part.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const uint8_t *data; // read only; NULL for an empty file
    size_t size;
} rv_map;

/// Maps a regular file for reading. Errors: RV_EFILE with the path and the system's reason.
rv_status rv_map_open(rv_map *m, const char *path, rv_err *e);
void rv_map_close(rv_map *m);

/// Tells the system that a part of a mapped file is not needed now: its pages leave the process and
/// come back from the file when they are read again.
void rv_map_drop(const void *data, size_t bytes);

// A file being written under a temporary name beside its own; a stream has none (temp NULL).
typedef struct {
    FILE *f;
    char *path, *temp;
} rv_atomic;

/// True for a pipe or a device (/dev/stdout): it is written to as it is, since a rename would put a
/// file in its place.
bool rv_is_stream(const char *path);

/// Opens `path` for an atomic write. Errors: RV_EFILE.
rv_status rv_atomic_open(rv_atomic *a, const char *path, rv_err *e);

/// Flushes, syncs and renames over `path`; on failure removes the temporary file and reports
/// RV_EFILE.
rv_status rv_atomic_commit(rv_atomic *a, rv_err *e);

/// Drops the temporary file; does nothing after a commit.
void rv_atomic_abort(rv_atomic *a);

/// Writes `n` bytes to `path` atomically. Errors: RV_EFILE.
rv_status rv_file_write(const char *path, const void *data, size_t n, rv_err *e);

/// Makes a folder and its parents. Errors: RV_EFILE.
rv_status rv_mkdirs(const char *path, rv_err *e);

/// Syncs a folder's entries to disk (after renames in it). Errors: RV_EFILE.
rv_status rv_sync_dir(const char *path, rv_err *e);

#ifdef __cplusplus
}
#endif
