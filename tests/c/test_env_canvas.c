// Shapes cover what geometry says, everything is clipped, nothing crashes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "canvas.h"
#include "font.h"
#include "rng.h"

static const rv_color white = {255, 255, 255, 255}, black = {0, 0, 0, 255}, none = {0, 0, 0, 0};

static rv_canvas make(int w, int h, rv_color color) {
    rv_canvas c;
    rv_err e;
    assert_int_equal(rv_canvas_new(&c, w, h, color, &e), RV_OK);
    return c;
}

static int at(const rv_canvas *c, int x, int y) { return c->px[(y * c->w + x) * 4]; }

static double ink(const rv_canvas *c) {
    double sum = 0;
    for (int i = 0; i < c->w * c->h; i++) {
        sum += c->px[4 * i + 3] / 255.0;
    }
    return sum;
}

static void test_rect(void **state) {
    (void)state;
    rv_err e;
    rv_canvas c = make(6, 4, black);
    assert_int_equal(rv_canvas_rect(&c, 1.25, 1, 2.5, 2.5, 0, white, &e), RV_OK);
    static const int row[6] = {0, 191, 255, 191, 0, 0};
    for (int x = 0; x < 6; x++) {
        assert_int_equal(at(&c, x, 0), 0);
        assert_int_equal(at(&c, x, 1), row[x]);
        assert_int_equal(at(&c, x, 2), row[x]);
        assert_true(abs(at(&c, x, 3) - row[x] / 2) <= 1);
    }
    rv_canvas_free(&c);
    rv_canvas_free(&c);
}

static void test_areas(void **state) {
    (void)state;
    rv_err e;
    const double pi = acos(-1);
    rv_canvas c = make(100, 100, none);
    rv_canvas_ellipse(&c, 50.3, 49.1, 30.5, 17.25, white, &e);
    assert_true(fabs(ink(&c) / (pi * 30.5 * 17.25) - 1) < 0.003);
    rv_canvas_free(&c);

    c = make(100, 100, none);
    const double triangle[6] = {10.5, 10, 90, 33.25, 20, 88};
    rv_canvas_polygon(&c, triangle, 3, white, &e);
    assert_true(fabs(ink(&c) - 0.5 * fabs(79.5 * 78 - 9.5 * 23.25)) < 3);
    rv_canvas_free(&c);

    c = make(100, 100, none);
    rv_canvas_line(&c, 10, 10, 70, 90, 5, white, &e);
    assert_true(fabs(ink(&c) - 500) < 2);
    rv_canvas_free(&c);

    c = make(100, 100, none);
    rv_canvas_rect(&c, 10, 10, 80, 60, 12, white, &e);
    assert_true(fabs(ink(&c) - (80 * 60 - (4 - pi) * 144)) < 3);
    rv_canvas_free(&c);
}

// A shape that leaves the canvas looks like the same shape on a larger one, seen through a window.
static void test_clipping(void **state) {
    (void)state;
    rv_err e;
    rv_rng r = rv_rng_make(3, RV_STREAM_USER, 0, 0);
    for (int i = 0; i < 2000; i++) {
        rv_canvas large = make(90, 90, none), small = make(30, 30, none);
        double p[8], q[8];
        for (int k = 0; k < 8; k++) {
            p[k] = rv_rng_uniform(&r) * 90;
            q[k] = p[k] - 30;
        }
        int n = 3 + (int)rv_rng_below(&r, 2);
        rv_canvas_polygon(&large, p, n, white, &e);
        rv_canvas_polygon(&small, q, n, white, &e);
        for (int y = 0; y < 30; y++) {
            for (int x = 0; x < 30; x++) {
                assert_true(abs(at(&small, x, y) - at(&large, x + 30, y + 30)) <= 1);
            }
        }
        rv_canvas_free(&large);
        rv_canvas_free(&small);
    }
}

static double wild(rv_rng *r) {
    static const double odd[] = {0,     -0.0, 1e-300,   -1e-300,   1e9, -1e9, 1e308, -1e308,
                                 1e-16, 17,   INFINITY, -INFINITY, NAN, 0.5,  -3,    12.25};
    uint64_t k = rv_rng_below(r, 24);
    return k < 16 ? odd[k] : (rv_rng_uniform(r) - 0.5) * 100;
}

static void test_fuzz(void **state) {
    (void)state;
    rv_err e;
    rv_rng r = rv_rng_make(4, RV_STREAM_USER, 0, 0);
    rv_canvas c = make(17, 13, none), sprite = make(5, 7, white);
    rv_font *font;
    assert_int_equal(rv_font_new(&font, true, &e), RV_OK);
    for (int i = 0; i < 30000; i++) {
        double v[8];
        bool finite = true;
        for (int k = 0; k < 8; k++) {
            v[k] = wild(&r);
            finite = finite && isfinite(v[k]);
        }
        char text[8];
        for (size_t k = 0; k < sizeof text; k++) {
            text[k] = (char)rv_rng_below(&r, 256);
        }
        rv_color color = {9, 99, 199, (uint8_t)rv_rng_below(&r, 256)};
        rv_status s = rv_canvas_polygon(&c, v, (int64_t)rv_rng_below(&r, 5), color, &e);
        assert_true(s == RV_OK || !finite);
        rv_canvas_rect(&c, v[0], v[1], v[2], v[3], v[4], color, &e);
        rv_canvas_ellipse(&c, v[0], v[1], v[2], v[3], color, &e);
        rv_canvas_line(&c, v[0], v[1], v[2], v[3], v[4], color, &e);
        rv_font_draw(font, &c, v[0], v[1], text, sizeof text, fabs(v[2]), color, &e);
        rv_font_fit(font, &c, v + 2, text, sizeof text, color, &e);
        rv_canvas_blit(&c, &sprite, (int64_t)rv_rng_u64(&r), (int64_t)(i % 40) - 20, color.a);
        rv_canvas_blit(&c, &sprite, i % 37 - 10, i % 29 - 10, color.a);
    }
    rv_font_free(font);
    rv_canvas_free(&c);
    rv_canvas_free(&sprite);
}

static void test_blit(void **state) {
    (void)state;
    rv_canvas c = make(4, 1, black), half = make(2, 1, (rv_color){200, 100, 0, 128});
    rv_canvas_blit(&c, &half, 1, 0, 255);
    rv_canvas_blit(&c, &half, 3, 0, 128);
    const uint8_t wanted[4][3] = {{0, 0, 0}, {100, 50, 0}, {100, 50, 0}, {50, 25, 0}};
    for (int x = 0; x < 4; x++) {
        for (int k = 0; k < 3; k++) {
            assert_true(abs(c.px[4 * x + k] - wanted[x][k]) <= 1);
        }
        assert_int_equal(c.px[4 * x + 3], 255);
    }
    rv_canvas_free(&c);
    rv_canvas_free(&half);
}

static void test_images(void **state) {
    (void)state;
    rv_err e;
    rv_image im, back;
    const uint8_t rgb[3] = {1, 2, 3};
    rv_canvas c;
    assert_int_equal(rv_image_new(&im, 5, 3, rgb, &e), RV_OK);
    assert_int_equal(rv_canvas_from_image(&c, &im, &e), RV_OK);
    assert_int_equal(rv_canvas_to_image(&c, &back, &e), RV_OK);
    assert_true(rv_image_equal(&im, &back));
    rv_image_free(&im);
    rv_image_free(&back);
    rv_canvas_free(&c);
    assert_int_equal(rv_canvas_new(&c, 0, 3, black, &e), RV_EARG);
    assert_string_equal(e.msg, "canvas: wanted sides from 1 to 16384 and at most 67108864 pixels, "
                               "got 0 x 3");
}

static void test_text(void **state) {
    (void)state;
    rv_err e;
    rv_font *font;
    double w, h, w2;
    assert_int_equal(rv_font_new(&font, false, &e), RV_OK);
    rv_font_measure(font, "10", 2, 20, &w, &h, &e);
    rv_font_measure(font, "1010", 4, 20, &w2, &h, &e);
    assert_true(w2 == 2 * w);
    rv_font_measure(font, "1\n10", 4, 20, &w2, &h, &e);
    assert_true(w2 == w && h == 2 * (19 + 5)); // DejaVu's ascender and descender at 20 px
    // the same digit has the same pixels wherever it stands, and stays below the ascender line
    rv_canvas a = make(60, 40, none), b = make(60, 40, none);
    rv_font_draw(font, &a, 3, 5, "8", 1, 20, black, &e);
    rv_font_draw(font, &b, 23.4, 5, "8", 1, 20, black, &e);
    for (int y = 0; y < 40; y++) {
        assert_memory_equal(a.px + y * 240, b.px + y * 240 + 80, 160);
        assert_true(y >= 5 || ink(&(rv_canvas){60, 1, a.px + y * 240}) == 0);
    }
    assert_true(ink(&a) > 40);
    rv_canvas_free(&a);
    rv_canvas_free(&b);
    assert_int_equal(rv_font_measure(font, "x", 1, 1e9, &w, &h, &e), RV_EARG);
    assert_string_equal(e.msg, "text: wanted a size from 1 to 1024 pixels, got 1e+09");
    assert_int_equal(rv_font_measure(font, "x", 1, NAN, &w, &h, &e), RV_EARG);
    rv_font_free(font);
}

// A long line of rubbish costs no more than its first RV_TEXT_MAX bytes.
static void test_rubbish(void **state) {
    (void)state;
    rv_err e;
    rv_font *font;
    assert_int_equal(rv_font_new(&font, false, &e), RV_OK);
    size_t n = 1 << 26;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 0xE2, n);
    rv_canvas c = make(50, 50, none);
    assert_int_equal(rv_font_draw(font, &c, -1e6, 0, text, n, 30, black, &e), RV_OK);
    assert_int_equal(rv_font_draw(font, &c, 0, 0, text, n, 1024, black, &e), RV_OK);
    rv_canvas_free(&c);
    free(text);
    rv_font_free(font);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rect),     cmocka_unit_test(test_areas),
        cmocka_unit_test(test_clipping), cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_blit),     cmocka_unit_test(test_images),
        cmocka_unit_test(test_text),     cmocka_unit_test(test_rubbish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
