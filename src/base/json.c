#include "json.h"

#include "file.h"

rv_status rv_json_parse(json_t **out, const void *bytes, size_t n, const char *name, rv_err *e) {
    json_error_t je;
    *out = json_loadb(n ? bytes : "", n, JSON_ALLOW_NUL, &je);
    if (!*out) {
        return RV_FAIL(e, RV_EFORMAT, "%s:%d:%d: not JSON: %s", name, je.line, je.column, je.text);
    }
    if (!json_is_object(*out)) {
        rv_status s =
            RV_FAIL(e, RV_EFORMAT, "%s: wanted a JSON object, got %s", name, rv_json_type(*out));
        json_decref(*out);
        *out = NULL;
        return s;
    }
    return RV_OK;
}

rv_status rv_json_load(json_t **out, const char *path, rv_err *e) {
    *out = NULL;
    rv_map m;
    RV_TRY(rv_map_open(&m, path, e));
    rv_status s = rv_json_parse(out, m.data, m.size, path, e);
    rv_map_close(&m);
    return s;
}

const char *rv_json_type(const json_t *v) {
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return v ? names[json_typeof(v)] : "nothing";
}

// The member, or NULL where it is absent or null.
static const json_t *member(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static rv_status wrong(const char *key, const char *wanted, const json_t *v, rv_err *e) {
    return RV_FAIL(e, RV_EFORMAT, "\"%s\": wanted %s, got %s", key, wanted, rv_json_type(v));
}

rv_status rv_json_bool(const json_t *o, const char *key, bool *out, rv_err *e) {
    const json_t *v = member(o, key);
    if (v && !json_is_boolean(v)) {
        return wrong(key, "true or false", v, e);
    }
    *out = v ? json_is_true(v) : *out;
    return RV_OK;
}

rv_status rv_json_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out,
                      rv_err *e) {
    const json_t *v = member(o, key);
    if (v && !json_is_integer(v)) {
        return wrong(key, "an integer", v, e);
    }
    if (v && (json_integer_value(v) < lo || json_integer_value(v) > hi)) {
        return RV_FAIL(e, RV_EFORMAT, "\"%s\": wanted an integer from %lld to %lld, got %lld", key,
                       (long long)lo, (long long)hi, (long long)json_integer_value(v));
    }
    *out = v ? json_integer_value(v) : *out;
    return RV_OK;
}

rv_status rv_json_number(const json_t *o, const char *key, double *out, rv_err *e) {
    const json_t *v = member(o, key);
    if (v && !json_is_number(v)) {
        return wrong(key, "a number", v, e);
    }
    *out = v ? json_number_value(v) : *out;
    return RV_OK;
}

rv_status rv_json_string(const json_t *o, const char *key, const char **out, rv_err *e) {
    const json_t *v = member(o, key);
    if (v && !json_is_string(v)) {
        return wrong(key, "a string", v, e);
    }
    *out = v ? json_string_value(v) : *out;
    return RV_OK;
}
