// Where tokens stand on M-RoPE's three axes, and which angles that gives.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "positions.h"

enum { IMAGE = 9, MOST = 256 };

static rv_arch qwen(int merge) {
    return (rv_arch){.vision = {.merge = merge},
                     .text = {.head_dim = 16, .rope_theta = 1e6f, .mrope = {2, 3, 3}},
                     .image_token = IMAGE};
}

static rv_view grid(int32_t tiles, int32_t h, int32_t w) {
    return (rv_view){.tiles = tiles, .h = h, .w = w, .rows = (int64_t)tiles * (h / 2) * (w / 2)};
}

// Ids of runs: text, image, text, image, ...; ends with 0.
static int64_t ids_of(int32_t *ids, const int *runs) {
    int64_t n = 0;
    for (int k = 0; runs[k]; k++) {
        for (int i = 0; i < runs[k]; i++) {
            ids[n++] = k % 2 ? IMAGE : 3;
        }
    }
    return n;
}

static void an_image_stands_on_a_grid(void **state) {
    (void)state;
    const int32_t t[] = {0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 7, 8};
    const int32_t h[] = {0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 7, 8};
    const int32_t w[] = {0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8};
    const rv_arch a = qwen(2);
    const rv_view view = grid(1, 4, 6), *views = &view;
    int32_t ids[MOST];
    rv_place at[MOST];
    int64_t n = ids_of(ids, (int[]){4, 6, 2, 0});
    assert_int_equal(rv_places(at, &a, ids, n, &views), 9);
    assert_ptr_equal(views, &view + 1);
    for (int i = 0; i < n; i++) {
        assert_int_equal(at[i].axis[0], t[i]);
        assert_int_equal(at[i].axis[1], h[i]);
        assert_int_equal(at[i].axis[2], w[i]);
    }
}

// Sums over a sequence of (1 + i % 7) times each axis, as transformers 5 places the prompts and
// answers of two models (position_ids).
static void prompts_stand_as_in_transformers(void **state) {
    (void)state;
    const struct {
        int runs[6];
        rv_view views[2];
        int32_t next;
        int64_t sum[3];
    } cases[] = {
        {{22, 49, 63}, {grid(1, 14, 14)}, 92, {20440, 21028, 21077}},
        {{22, 21, 15, 16, 33}, {grid(1, 6, 14), grid(1, 16, 4)}, 85, {16644, 16938, 16949}},
        {{22, 12, 64}, {grid(1, 2, 24)}, 98, {19123, 19123, 19404}},
        {{23, 6, 23}, {grid(1, 6, 4)}, 49, {4870, 4897, 4881}},
        {{21, 81, 62}, {grid(1, 18, 18)}, 92, {22480, 23761, 23753}},
        {{21, 21, 15, 16, 32}, {grid(1, 6, 14), grid(1, 16, 4)}, 83, {16285, 16579, 16652}},
    };
    const rv_arch a = qwen(2);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const rv_view *views = cases[c].views;
        int32_t ids[MOST];
        rv_place at[MOST];
        int64_t n = ids_of(ids, cases[c].runs), sum[3] = {0};
        assert_int_equal(rv_places(at, &a, ids, n, &views), cases[c].next);
        for (int64_t i = 0; i < 3 * n; i++) {
            sum[i % 3] += at[i / 3].axis[i % 3] * (1 + i / 3 % 7);
        }
        assert_memory_equal(sum, cases[c].sum, sizeof sum);
    }
}

static void images_may_touch_and_have_tiles(void **state) {
    (void)state;
    const rv_arch a = qwen(2);
    const rv_view two[] = {grid(3, 2, 2), grid(1, 4, 2)}, *views = two;
    const int32_t ids[] = {1, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 1};
    const int32_t want[][3] = {{0, 0, 0}, {1, 1, 1}, {2, 1, 1}, {3, 1, 1},
                               {4, 4, 4}, {4, 5, 4}, {6, 6, 6}};
    rv_place at[7];
    assert_int_equal(rv_places(at, &a, ids, 7, &views), 7);
    assert_memory_equal(at, want, sizeof want);
}

static void without_sections_tokens_are_counted(void **state) {
    (void)state;
    rv_arch a = qwen(2);
    memset(a.text.mrope, 0, sizeof a.text.mrope);
    const rv_view *views = NULL;
    const int32_t ids[] = {1, IMAGE, IMAGE, 2};
    rv_place at[4];
    assert_int_equal(rv_places(at, &a, ids, 4, &views), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(at[i].axis[0], i);
        assert_int_equal(at[i].axis[1], i);
        assert_int_equal(at[i].axis[2], i);
    }
}

// Frequency i turns by the axis of its section.
static void each_section_turns_by_its_axis(void **state) {
    (void)state;
    const rv_arch a = qwen(2);
    const rv_place at = {{7, 11, 30}};
    const int axis[8] = {0, 0, 1, 1, 1, 2, 2, 2};
    float table[32 * 16];
    int32_t rows[8];
    rv_rotary_table(&a.text, table, 32);
    int pieces = rv_rotary_pieces(&a.text), size = 16 / pieces;
    assert_int_equal(pieces, 8);
    rv_rotary_rows(&a.text, rows, at);
    for (int i = 0; i < 8; i++) {
        double angle = at.axis[axis[i]] * pow(1e6, -i / 8.0);
        const float *cs = table + rows[i * 2 / size] * size + i * 2 % size;
        assert_true(fabs(cos(angle) - (double)cs[0]) < 1e-5);
        assert_true(fabs(sin(angle) - (double)cs[1]) < 1e-5);
    }
    rv_arch_text big = {.head_dim = 128, .mrope = {16, 24, 24}};
    assert_int_equal(rv_rotary_pieces(&big), 8);
    rv_arch_text plain = {.head_dim = 128};
    assert_int_equal(rv_rotary_pieces(&plain), 1);
}

// transformers' frequencies (read off the sine at position 1) for head_dim 16, theta 1e6.
static void scalings_are_those_of_transformers(void **state) {
    (void)state;
    rv_arch_text t = {.head_dim = 16,
                      .rope_theta = 1e4f,
                      .rope = RV_ROPE_YARN,
                      .rope_factor = 4,
                      .rope_fast = 32,
                      .rope_slow = 1,
                      .rope_attention = 1.1386294f,
                      .rope_original_positions = 1024};
    const double yarn[] = {1,
                           0.316227764,
                           0.0812500045,
                           0.0197642371,
                           0.00437500002,
                           0.000790569466,
                           0.000250000012,
                           7.90569466e-05};
    float table[2 * 16];
    rv_rotary_table(&t, table, 2);
    for (int i = 0; i < 8; i++) {
        double cs = (double)table[16 + 2 * i], sn = (double)table[16 + 2 * i + 1];
        assert_true(fabs(atan2(sn, cs) - yarn[i]) < 2e-7);
        assert_true(fabs(hypot(sn, cs) - 1.1386294) < 1e-6);
    }
}

static void nonsense_is_refused(void **state) {
    (void)state;
    rv_err e = {0};
    rv_arch_text t = {.head_dim = 16, .rope_theta = 1e6f, .mrope = {2, 3, 4}};
    assert_int_equal(rv_rotary_check(&t, &e), RV_EARG);
    assert_string_equal(e.msg, "text.mrope: 2 + 3 + 4 frequencies, but text.head_dim 16 has 8");
    t.mrope[2] = -4;
    rv_rotary_check(&t, &e);
    assert_string_equal(e.msg, "text.mrope: section 3 is -4: wanted 0 or more");
    t = (rv_arch_text){.head_dim = 16, .rope_theta = 1e6f, .rope = RV_ROPE_YARN, .rope_factor = 4};
    rv_rotary_check(&t, &e);
    assert_string_equal(e.msg, "yarn rope: wanted 0 < rope_slow <= rope_fast, rope_attention > 0 "
                               "and rope_original_positions > 0, got 0, 0, 0 and 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_stands_on_a_grid),
        cmocka_unit_test(prompts_stand_as_in_transformers),
        cmocka_unit_test(images_may_touch_and_have_tiles),
        cmocka_unit_test(without_sections_tokens_are_counted),
        cmocka_unit_test(each_section_turns_by_its_axis),
        cmocka_unit_test(scalings_are_those_of_transformers),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
