// The bounded evaluator: exact fractions, Python's results line by line, hostile text.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "rng.h"

static void check_exact(const char *text, int64_t num, int64_t den) {
    rv_fraction v = {0, 0};
    rv_arith_status s = rv_arith_exact(text, strlen(text), &v, NULL);
    if (s != RV_ARITH_OK || v.num != num || v.den != den) {
        fail_msg("%s: status %d, %lld/%lld", text, s, (long long)v.num, (long long)v.den);
    }
}

static void check_error(const char *text, rv_arith_status wanted, size_t wanted_at) {
    rv_fraction v;
    size_t at;
    rv_arith_status s = rv_arith_exact(text, strlen(text), &v, &at);
    if (s != wanted || at != wanted_at) {
        fail_msg("%s: status %d at %zu, wanted %d at %zu", text, s, at, wanted, wanted_at);
    }
}

static void test_exact(void **state) {
    (void)state;
    check_exact("8/(3-8/3)", 24, 1);
    check_exact(" ( 1 + 5 / 3 ) * 9 ", 24, 1);
    check_exact("1/3-1/2", -1, 6);
    check_exact("-(2-5)*+4", 12, 1);
    check_exact("9223372036854775807", INT64_MAX, 1);
    check_exact("2-3-4", -5, 1);
    check_exact("24/4/3", 2, 1);
    check_exact("0/5", 0, 1);
    check_error("", RV_ARITH_SYNTAX, 0);
    check_error("1 2", RV_ARITH_SYNTAX, 2);
    check_error("2**3", RV_ARITH_SYNTAX, 2);
    check_error("7//2", RV_ARITH_SYNTAX, 2);
    check_error("(1+2", RV_ARITH_SYNTAX, 4);
    check_error("1+2)", RV_ARITH_SYNTAX, 3);
    check_error("(2)(3)", RV_ARITH_SYNTAX, 3);
    check_error("4+", RV_ARITH_SYNTAX, 2);
    check_error("1/(2-2)", RV_ARITH_ZERO, 7);
    check_error("9223372036854775808", RV_ARITH_OVERFLOW, 18);
    check_error("9223372036854775807*2", RV_ARITH_OVERFLOW, 21);
}

static void test_nothing_hangs(void **state) {
    (void)state;
    rv_fraction f;
    rv_pyvalue v;
    size_t n = 1 << 24;
    char *text = malloc(n);
    assert_non_null(text);
    static const char fill[] = {'(', '-', '1', ' ', '\0', '\xff', '*'};
    for (size_t i = 0; i < sizeof fill; i++) {
        memset(text, fill[i], n);
        assert_int_equal(rv_arith_exact(text, n, &f, NULL), RV_ARITH_TOO_LONG);
        assert_int_equal(rv_arith_python(text, n, &v, NULL), RV_ARITH_TOO_LONG);
        assert_int_not_equal(rv_arith_exact(text, RV_ARITH_MAX_TEXT, &f, NULL), RV_ARITH_OK);
        assert_int_not_equal(rv_arith_python(text, RV_ARITH_MAX_TEXT, &v, NULL), RV_ARITH_OK);
    }
    free(text);
    const char *bomb = "10**10**10**10**10";
    assert_int_equal(rv_arith_python(bomb, strlen(bomb), &v, NULL), RV_ARITH_OVERFLOW);
    rv_rng r = rv_rng_make(1, RV_STREAM_USER, 0, 0);
    for (int i = 0; i < 200000; i++) {
        static const char alphabet[] = "0123456789+-*/() \t.eE_x\n";
        char line[24];
        size_t len = rv_rng_below(&r, sizeof line);
        for (size_t k = 0; k < len; k++) {
            line[k] = alphabet[rv_rng_below(&r, sizeof alphabet)];
        }
        rv_arith_status exact = rv_arith_exact(line, len, &f, NULL);
        if (exact == RV_ARITH_OK) { // then Python's rules accept it too, but for leading zeros
            rv_arith_status python = rv_arith_python(line, len, &v, NULL);
            assert_true(python == RV_ARITH_OK || python == RV_ARITH_SYNTAX);
        }
    }
}

static void check_python(const char *text, const char *wanted) {
    rv_pyvalue v;
    rv_arith_status s = rv_arith_python(text, strlen(text), &v, NULL);
    bool good;
    if (strcmp(wanted, "error") == 0) {
        good = s != RV_ARITH_OK;
    } else if (strcmp(wanted, "big") == 0) {
        good = s == RV_ARITH_OVERFLOW;
    } else if (strchr(wanted, 'x') || strstr(wanted, "inf") || strstr(wanted, "nan")) {
        double f = strtod(wanted, NULL);
        good = s == RV_ARITH_OK && v.kind == RV_PY_FLOAT && (v.f == f || (v.f != v.f && f != f));
    } else {
        __int128 n = 0;
        for (const char *p = wanted + (*wanted == '-'); *p; p++) {
            n = n * 10 + (*p - '0');
        }
        good = s == RV_ARITH_OK && v.kind == RV_PY_INT && v.i == (*wanted == '-' ? -n : n);
    }
    if (!good) {
        fail_msg("%s: wanted %s, got status %d, kind %d, %.17g or %lld", text, wanted, s, v.kind,
                 v.f, (long long)v.i);
    }
}

static void test_python(void **state) {
    (void)state;
    FILE *f = fopen("tests/golden/arith.tsv", "r");
    assert_non_null(f);
    char line[256];
    int n = 0;
    while (fgets(line, sizeof line, f)) {
        char *tab = strchr(line, '\t');
        assert_non_null(tab);
        *tab = 0;
        tab[1 + strcspn(tab + 1, "\n")] = 0;
        check_python(line, tab + 1);
        n++;
    }
    fclose(f);
    assert_int_equal(n, 1700);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_nothing_hangs),
        cmocka_unit_test(test_python),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
