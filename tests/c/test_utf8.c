// test_utf8.c - reading UTF-8: characters of every length, and all that is none.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "utf8.h"

static void test_read(void **state) {
    (void)state;
    static const struct {
        const char *s;
        size_t n, len;
        uint32_t code;
    } cases[] = {
        {"A", 1, 1, 'A'},
        {"\xc3\xa9", 2, 2, 0xE9},
        {"\xe2\x99\xa0", 3, 3, 0x2660},
        {"\xf0\x9f\x82\xa1", 4, 4, 0x1F0A1},
        {"", 1, 1, 0},
        {"\xf4\x8f\xbf\xbf", 4, 4, 0x10FFFF},
        {"\xc3", 1, 0, 7},             // cut off
        {"\xc0\x80", 2, 0, 7},         // longer than needed
        {"\xe0\x9f\xbf", 3, 0, 7},     //
        {"\xed\xa0\x80", 3, 0, 7},     // half of a surrogate pair
        {"\xf4\x90\x80\x80", 4, 0, 7}, // beyond the last character
        {"\xf5\x80\x80\x80", 4, 0, 7},
        {"\x80", 1, 0, 7},
        {"\xe2\x28\xa0", 3, 0, 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code = 7;
        assert_int_equal(rv_utf8_read(cases[i].s, cases[i].n, &code), cases[i].len);
        assert_int_equal(code, cases[i].code);
    }
}

static void test_bad(void **state) {
    (void)state;
    bool unfinished;
    assert_int_equal(rv_utf8_bad("\xe2\x99", 2, &unfinished), 2);
    assert_true(unfinished);
    assert_int_equal(rv_utf8_bad("\xe2\x99\x41", 3, &unfinished), 2);
    assert_false(unfinished);
    assert_int_equal(rv_utf8_bad("\xff\x80", 2, &unfinished), 1);
    assert_false(unfinished);
}

static void test_check(void **state) {
    (void)state;
    char text[200];
    for (int i = 0; i < 200; i++) {
        text[i] = 'a';
    }
    assert_true(rv_is_ascii(text, 200));
    assert_int_equal(rv_utf8_check(text, 200), 200);
    text[130] = '\xc3';
    assert_false(rv_is_ascii(text, 200));
    assert_int_equal(rv_utf8_check(text, 200), 130);
    text[131] = '\xa9';
    assert_int_equal(rv_utf8_check(text, 200), 200);
    assert_int_equal(rv_utf8_check(text, 131), 130);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
