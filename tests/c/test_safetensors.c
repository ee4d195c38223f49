// Checkpoint files: what is written is read back, and every broken file is refused by name.
#define _XOPEN_SOURCE 700
#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "file.h"
#include "safetensors.h"

static char path[64] = "/tmp/rv_safetensors_XXXXXX";

static void write_raw(const char *header, size_t n, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    uint8_t size[8];
    for (int i = 0; i < 8; i++) {
        size[i] = (uint8_t)((uint64_t)n >> (8 * i));
    }
    fwrite(size, 1, 8, f);
    fwrite(header, 1, strlen(header), f);
    fwrite(data, 1, bytes, f);
    fclose(f);
}

static void test_round_trip(void **state) {
    (void)state;
    const float a[6] = {1, 2, 3, 4, 5, 6};
    const uint16_t b[3] = {7, 8, 9};
    const rv_safetensor items[] = {
        {.name = "b", .type = RV_BF16, .ndim = 1, .dim = {3}},
        {.name = "z", .type = RV_F32, .ndim = 2, .dim = {2, 3}},
        {.name = "a", .type = RV_F32, .ndim = 0},
        {.name = "empty", .type = RV_F32, .ndim = 2, .dim = {2, 0}},
    };
    const char *meta[] = {"format", "pt"};
    const void *data[] = {b, a, a + 3, a};
    rv_safetensors_writer *w;
    rv_err e;
    assert_int_equal(rv_safetensors_create(&w, path, items, 4, meta, 1, &e), RV_OK);
    const char *order[] = {"a", "empty", "z", "b"};
    for (int i = 0; i < 4; i++) {
        const rv_safetensor *t = rv_safetensors_next(w);
        assert_string_equal(t->name, order[i]);
        assert_int_equal(rv_safetensors_put(w, data[t->shard], t->bytes, &e), RV_OK);
    }
    assert_null(rv_safetensors_next(w));
    assert_int_equal(rv_safetensors_commit(w, &e), RV_OK);

    rv_safetensors *s;
    assert_int_equal(rv_safetensors_open(&s, path, &e), RV_OK);
    assert_int_equal(rv_safetensors_count(s), 4);
    assert_string_equal(rv_safetensors_metadata(s, "format"), "pt");
    assert_null(rv_safetensors_metadata(s, "none"));
    const rv_safetensor *z = rv_safetensors_find(s, "z");
    assert_int_equal(z->ndim, 2);
    assert_int_equal(z->dim[1], 3);
    assert_memory_equal(z->data, a, sizeof a);
    assert_int_equal((uintptr_t)z->data % 4, 0);
    assert_memory_equal(rv_safetensors_find(s, "b")->data, b, sizeof b);
    assert_int_equal(rv_safetensors_find(s, "empty")->bytes, 0);
    assert_null(rv_safetensors_find(s, "none"));
    rv_safetensors_close(s);
}

static void test_unfinished_leaves_nothing(void **state) {
    (void)state;
    rv_safetensors_writer *w;
    rv_err e;
    const rv_safetensor item = {.name = "a", .type = RV_F32, .ndim = 1, .dim = {2}};
    remove(path);
    assert_int_equal(rv_safetensors_create(&w, path, &item, 1, NULL, 0, &e), RV_OK);
    assert_int_equal(rv_safetensors_put(w, "abc", 3, &e), RV_EARG);
    assert_int_equal(rv_safetensors_commit(w, &e), RV_EARG);
    assert_non_null(strstr(e.msg, "tensor 'a' was not written"));
    assert_null(fopen(path, "rb"));
    const rv_safetensor twice[] = {item, item};
    assert_int_equal(rv_safetensors_create(&w, path, twice, 2, NULL, 0, &e), RV_EARG);
    assert_non_null(strstr(e.msg, "tensor 'a' is given twice"));
    const rv_safetensor own = {.name = "__metadata__", .type = RV_F32, .ndim = 1, .dim = {2}};
    assert_int_equal(rv_safetensors_create(&w, path, &own, 1, NULL, 0, &e), RV_EARG);
    assert_non_null(strstr(e.msg, "tensor '__metadata__': wanted another name"));
}

typedef struct {
    const char *header;
    size_t data;
    const char *message; // NULL: the file is right
} bad_case;

#define T(rest) "{\"t\":{" rest "}}"

static void test_bad_headers(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {"\t\n{}\r ", 0, NULL},
        {T("\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0,0]"), 0, NULL},
        {T("\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]"), 2, NULL},
        {"[]", 0, "header: wanted an object, came a list"},
        {"{\"t\":1", 0, "header: "},
        {"{\"t\":1}", 0, "tensor 't': entry: wanted an object, came an integer"},
        {T("\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,4]"), 4,
         "its shape needs 16 bytes of I32, data_offsets give 4"},
        {T("\"dtype\":\"I32\",\"shape\":[2,9223372036854775806],\"data_offsets\":[0,4]"), 4,
         "its shape overflows"},
        {T("\"dtype\":\"I32\",\"shape\":[2,18446744073709551614],\"data_offsets\":[0,4]"), 4,
         "too big integer"},
        {T("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]"), 1, "no whole number of bytes"},
        {T("\"dtype\":\"I32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4,
         "shape: wanted non-negative integers, came -1"},
        {T("\"dtype\":\"I32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4,
         "shape: wanted non-negative integers, came a number"},
        {T("\"dtype\":\"I32\",\"shape\":1,\"data_offsets\":[0,4]"), 4,
         "shape: wanted a list of non-negative integers, came an integer"},
        {T("\"dtype\":\"I32\",\"data_offsets\":[0,4]"), 4,
         "shape: wanted a list of non-negative integers, came nothing"},
        {T("\"dtype\":\"X9\",\"shape\":[1],\"data_offsets\":[0,4]"), 4,
         "dtype: wanted one of F32, F16, BF16, ..., came X9"},
        {T("\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]"), 4,
         "dtype: wanted one of F32, F16, BF16, ..., came an integer"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4,
         "wanted a range within 0..4, came 4..0"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0]"), 4,
         "data_offsets: wanted a list of two integers"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]"), 4,
         "data_offsets: wanted non-negative integers, came a string"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8,
         "begins at byte 4 of the data, wanted 0 (there is a hole before it)"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]"), 8,
         "4 bytes behind the last tensor belong to none"},
        {T("\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]"), 2,
         "wanted a range within 0..2, came 0..4"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"u\":{\"dtype\":\"U8\","
         "\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, "tensor 'u' begins at byte 2 of the data, wanted 4 (it overlaps another)"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"t\":{\"dtype\":\"U8\","
         "\"shape\":[0],\"data_offsets\":[0,0]}}",
         0, "duplicate object key"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ 'a': wanted a string, came an integer"},
        {"{\"__metadata__\":[]}", 0, "__metadata__: wanted an object, came a list"},
        {"{\"\xff\":1}", 0, "header: "},
    };
    const char zeros[16] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rv_safetensors *s;
        rv_err e = {.msg = ""};
        write_raw(cases[i].header, strlen(cases[i].header), zeros, cases[i].data);
        rv_status st = rv_safetensors_open(&s, path, &e);
        if (!cases[i].message) {
            assert_int_equal(st, RV_OK);
            rv_safetensors_close(s);
            continue;
        }
        assert_int_equal(st, RV_EFORMAT);
        if (!strstr(e.msg, cases[i].message) || !strstr(e.msg, path)) {
            fail_msg("case %zu: wanted '%s', came '%s'", i, cases[i].message, e.msg);
        }
    }
}

static void test_bad_sizes(void **state) {
    (void)state;
    rv_safetensors *s;
    rv_err e;
    rv_file_write(path, "", 0, &e);
    assert_int_equal(rv_safetensors_open(&s, path, &e), RV_EFORMAT);
    assert_non_null(strstr(e.msg, "wanted a safetensors file, came 0 bytes"));
    write_raw("{}", 3, "", 0);
    assert_int_equal(rv_safetensors_open(&s, path, &e), RV_EFORMAT);
    assert_non_null(strstr(e.msg, "the file is cut off"));
    write_raw("{}", SIZE_MAX, "", 0);
    assert_int_equal(rv_safetensors_open(&s, path, &e), RV_EFORMAT);
    assert_non_null(strstr(e.msg, "wanted at most 100000000"));
    remove(path);
    assert_int_equal(rv_safetensors_open(&s, path, &e), RV_EFILE);
    assert_non_null(strstr(e.msg, path));
}

static void test_index(void **state) {
    (void)state;
    char index[80], text[512];
    const char *name = strrchr(path, '/') + 1;
    snprintf(index, sizeof index, "%s.index.json", path);
    const char header[] = T("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]");
    write_raw(header, strlen(header), "ab", 2);
    const struct {
        const char *format, *message;
    } cases[] = {
        {"{\"weight_map\":{\"t\":\"%s\"}}", NULL},
        {"{\"weight_map\":{\"t\":\"%s\",\"u\":\"%s\"}}", "tensor 'u' is not in"},
        {"{\"weight_map\":{\"t\":\"../tmp/%s\"}}", "wanted a plain file name, came '../tmp/"},
        {"{\"weight_map\":{\"t\":\"/tmp/%s\"}}", "wanted a plain file name"},
        {"{\"weight_map\":{\"t\":[\"%s\"]}}", "weight_map: wanted a file name, came a list"},
        {"{\"weight_map\":{\"t\":\"no_%s\"}}", "cannot open /tmp/no_"},
        {"{\"weight\":{\"t\":\"%s\"}}", "weight_map: wanted an object of file names, came nothing"},
        {"{\"weight_map\":{\"t\":\"%s\"}", "near end of file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rv_safetensors *s;
        rv_err e;
        snprintf(text, sizeof text, cases[i].format, name, name);
        rv_file_write(index, text, strlen(text), &e);
        rv_status st = rv_safetensors_open(&s, index, &e);
        if (cases[i].message) {
            assert_int_not_equal(st, RV_OK);
            assert_non_null(strstr(e.msg, cases[i].message));
        } else {
            assert_int_equal(st, RV_OK);
            assert_memory_equal(rv_safetensors_find(s, "t")->data, "ab", 2);
            assert_string_equal(rv_safetensors_path(s, 0), path);
            rv_safetensors_close(s);
        }
    }
    remove(index);
}

int main(void) {
    int fd = mkstemp(path);
    assert(fd >= 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_unfinished_leaves_nothing),
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_index),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove(path);
    return rc;
}
