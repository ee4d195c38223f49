// Every card can be told from every other at the sizes that the games use, in half resolution too,
// and its index lies (almost) whole in one of the 50-pixel cells of the card tables.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cards.h"

static rv_font *bold, *sans;

static int setup(void **state) {
    (void)state;
    rv_err e;
    return rv_font_new(&bold, true, &e) != RV_OK || rv_font_new(&sans, false, &e) != RV_OK;
}

static int teardown(void **state) {
    (void)state;
    rv_font_free(bold);
    rv_font_free(sans);
    return 0;
}

// The card in half resolution: means of 2 x 2 pixels, (h / 2, w / 2, 4).
static int *halved(rv_card card, int w, int h) {
    rv_canvas c;
    rv_err e;
    assert_int_equal(rv_card_face(&c, card, w, h, bold, sans, &e), RV_OK);
    int *out = calloc((size_t)(w / 2) * (size_t)(h / 2) * 4, sizeof *out);
    assert_non_null(out);
    for (int y = 0; y < h / 2 * 2; y++) {
        for (int x = 0; x < w / 2 * 2; x++) {
            for (int k = 0; k < 4; k++) {
                out[((y / 2) * (w / 2) + x / 2) * 4 + k] += c.px[(y * w + x) * 4 + k];
            }
        }
    }
    rv_canvas_free(&c);
    return out;
}

static void test_distinct(void **state) {
    (void)state;
    static const int sizes[3][2] = {{135, 189}, {67, 93}, {70, 98}};
    for (int s = 0; s < 3; s++) {
        int w = sizes[s][0], h = sizes[s][1], n = (w / 2) * (h / 2);
        int *cards[52];
        for (int i = 0; i < 52; i++) {
            cards[i] = halved((rv_card){i / 4 + 1, i % 4}, w, h);
        }
        for (int i = 0; i < 52; i++) {
            for (int j = 0; j < i; j++) {
                int differing = 0; // half-resolution pixels that differ by more than a third
                for (int p = 0; p < n; p++) {
                    int d = 0;
                    for (int k = 0; k < 3; k++) {
                        int x = abs(cards[i][4 * p + k] - cards[j][4 * p + k]);
                        d = x > d ? x : d;
                    }
                    differing += d > 4 * 85;
                }
                if (differing < n / 50) {
                    fail_msg("cards %d and %d at %d x %d differ in %d of %d pixels", i, j, w, h,
                             differing, n);
                }
            }
        }
        for (int i = 0; i < 52; i++) {
            free(cards[i]);
        }
    }
}

// The share of the index's ink (the card's upper half) that one 50 x 50 cell of the frame holds.
static double share_in_one_cell(rv_card card, int w, int h, int left, int top) {
    rv_canvas c;
    rv_err e;
    assert_int_equal(rv_card_face(&c, card, w, h, bold, sans, &e), RV_OK);
    int cells[36] = {0}, sum = 0, best = 0;
    for (int y = 4; y < h / 2; y++) {
        for (int x = 4; x < w - 4; x++) {
            if (c.px[(y * w + x) * 4 + 1] < 128) { // ink: red and black have little green
                int *cell = &cells[(top + y) / 50 * 6 + (left + x) / 50];
                ++*cell;
                sum++;
                best = *cell > best ? *cell : best;
            }
        }
    }
    rv_canvas_free(&c);
    return (double)best / sum;
}

static void test_cells(void **state) {
    (void)state;
    static const int x24[4] = {5, 78, 152, 226}, x21[4] = {5, 79, 153, 227};
    double least = 1;
    for (int rank = 1; rank <= 13; rank++) {
        for (int i = 0; i < 4; i++) {
            double a = share_in_one_cell((rv_card){rank, i}, 67, 93, x24[i], 103);
            double b = share_in_one_cell((rv_card){rank, i}, 70, 98, x21[i], 150);
            if (rank != 10) { // a ten is told by having two digits at all
                least = a < least ? a : least;
                least = b < least ? b : least;
            }
        }
    }
    print_message("the least share of an index in one cell: %.3f\n", least);
    assert_true(least > 0.75);
}

static void test_names(void **state) {
    (void)state;
    rv_card c;
    rv_err e;
    assert_int_equal(rv_card_parse(&c, "TH", 2, &e), RV_OK);
    assert_int_equal(c.rank, 10);
    assert_int_equal(c.suit, 2);
    static const char *const bad[] = {"", "T", "10H", "1H", "TX", "tH", "\0H", "T\0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n = i >= 6 ? 2 : strlen(bad[i]);
        assert_int_equal(rv_card_parse(&c, bad[i], n, &e), RV_EARG);
    }
    rv_card_parse(&c, "10H", 3, &e);
    assert_string_equal(e.msg, "card: wanted a rank of A23456789TJQK and a suit of CDHS, as in TH, "
                               "got '10H'");
}

static void test_sizes(void **state) {
    (void)state;
    rv_err e;
    for (int w = 1; w < 40; w += 3) {
        for (int h = 1; h < 60; h += 7) {
            rv_canvas c;
            assert_int_equal(rv_card_face(&c, (rv_card){12, 0}, w, h, bold, sans, &e), RV_OK);
            rv_canvas_free(&c);
            assert_int_equal(rv_card_back(&c, w, h, &e), RV_OK);
            rv_canvas_free(&c);
        }
    }
    rv_canvas c;
    assert_int_equal(rv_card_face(&c, (rv_card){12, 0}, -1, 9, bold, sans, &e), RV_EARG);
    assert_int_equal(rv_card_back(&c, 9, 1 << 20, &e), RV_EARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distinct),
        cmocka_unit_test(test_cells),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
