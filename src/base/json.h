// json.h - reading JSON files with jansson: messages that name file, place and key.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Reads a JSON object from `n` bytes; `name` stands in messages. The caller frees with
/// json_decref. Errors: RV_EFORMAT with line and column, or when it is no object.
rv_status rv_json_parse(json_t **out, const void *bytes, size_t n, const char *name, rv_err *e);

/// Reads a JSON object from a file. Errors: as parse, and RV_EFILE.
rv_status rv_json_load(json_t **out, const char *path, rv_err *e);

/// What a value is, for messages: "a string", "null", ...
const char *rv_json_type(const json_t *v);

/// Reads members of an object. An absent or null member leaves `*out` as it is; one of another
/// type, or an integer or number outside [lo, hi], is RV_EFORMAT naming the key.
rv_status rv_json_bool(const json_t *o, const char *key, bool *out, rv_err *e);
rv_status rv_json_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out,
                      rv_err *e);
rv_status rv_json_number(const json_t *o, const char *key, double *out, rv_err *e);
rv_status rv_json_string(const json_t *o, const char *key, const char **out, rv_err *e);

#ifdef __cplusplus
}
#endif
