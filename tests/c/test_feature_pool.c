// The ring of image rows: images stay while there is room, and while the running step needs them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "feature_pool.h"

static rv_feature *claim(rv_features *f, uint64_t key, int64_t rows, uint64_t step, bool *is_new) {
    return rv_features_claim(f, (uint64_t[]){key, 7}, rows, step, is_new);
}

static void oldest_images_make_room(void **state) {
    (void)state;
    rv_features f;
    rv_err e = {0};
    bool is_new;
    assert_int_equal(rv_features_new(&f, 10, &e), RV_OK);
    assert_int_equal(claim(&f, 1, 4, 1, &is_new)->row0, 0);
    assert_int_equal(claim(&f, 2, 4, 1, &is_new)->row0, 4);
    assert_int_equal(claim(&f, 1, 4, 2, &is_new)->row0, 0);
    assert_false(is_new);
    assert_null(claim(&f, 3, 3, 2, &is_new)); // image 1 is needed, the ring turns there
    assert_int_equal(claim(&f, 3, 3, 3, &is_new)->row0, 0);
    assert_true(is_new);
    assert_null(rv_features_find(&f, (uint64_t[]){1, 7}));
    assert_non_null(rv_features_find(&f, (uint64_t[]){2, 7}));
    assert_int_equal(claim(&f, 4, 7, 4, &is_new)->row0, 3); // image 2 goes
    assert_null(rv_features_find(&f, (uint64_t[]){2, 7}));
    assert_non_null(rv_features_find(&f, (uint64_t[]){3, 7}));
    assert_int_equal(claim(&f, 5, 10, 5, &is_new)->row0, 0);
    assert_int_equal(f.n, 1);
    rv_features_clear(&f);
    assert_null(rv_features_find(&f, (uint64_t[]){5, 7}));
    rv_features_free(&f);
}

// Random images: those that are there never overlap, those of a step are all there.
static void images_never_overlap(void **state) {
    (void)state;
    rv_features f;
    rv_err e = {0};
    uint32_t r = 1;
    assert_int_equal(rv_features_new(&f, 1000, &e), RV_OK);
    for (uint64_t step = 1; step < 3000; step++) {
        if (step == 1000) {
            rv_features_clear(&f);
        }
        int64_t wanted = 0;
        uint64_t keys[8];
        int n = 0;
        for (int i = 0; i < 8; i++) {
            r = r * 1664525u + 1013904223u;
            uint64_t key = r >> 16 & 63;
            int64_t rows = 1 + (int64_t)(key * key % (step < 1000 ? 3 : 240));
            bool is_new;
            if (!rv_features_claim(&f, (uint64_t[]){key, step < 1000}, rows, step, &is_new)) {
                assert_true(wanted > 0);
                break;
            }
            wanted += rows;
            keys[n++] = key;
        }
        for (int i = 0; i < n; i++) {
            assert_non_null(rv_features_find(&f, (uint64_t[]){keys[i], step < 1000}));
        }
        for (int64_t i = 0; i < f.n; i++) {
            const rv_feature *a = &f.list[(f.first + i) % f.cap];
            assert_true(a->row0 >= 0 && a->row0 + a->rows <= f.rows);
            for (int64_t k = 0; k < i; k++) {
                const rv_feature *b = &f.list[(f.first + k) % f.cap];
                assert_true(a->row0 + a->rows <= b->row0 || b->row0 + b->rows <= a->row0);
            }
        }
    }
    rv_features_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oldest_images_make_room),
        cmocka_unit_test(images_never_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
