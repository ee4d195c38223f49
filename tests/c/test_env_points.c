// The formula search against trying every string, and on all deals of four cards.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "points.h"
#include "rng.h"

enum { MAX = 64 };

static void write_tokens(char *text, const int *tokens, int n) {
    *text = 0;
    for (int i = 0; i < n; i++) {
        char one[8];
        snprintf(one, sizeof one, tokens[i] > 0 ? "%d " : "%c ", abs(tokens[i]));
        strcat(text, one);
    }
}

static bool hits(const int *tokens, int n, int64_t target) {
    char text[8 * MAX];
    rv_fraction v;
    write_tokens(text, tokens, n);
    return rv_arith_exact(text, strlen(text), &v, NULL) == RV_ARITH_OK && v.den == 1 &&
           v.num == target;
}

// Tries every string of exactly `room` more tokens that uses the numbers.
static bool try_all(int *tokens, int n, int room, const int *numbers, int left, int64_t target) {
    static const char operators[] = "+-*/()";
    if (room == 0) {
        return left == 0 && hits(tokens, n, target);
    }
    for (int i = 0; i < left; i++) {
        int rest[8], k = 0;
        for (int j = 0; j < left; j++) {
            if (j != i) {
                rest[k++] = numbers[j];
            }
        }
        tokens[n] = numbers[i];
        if (try_all(tokens, n + 1, room - 1, rest, left - 1, target)) {
            return true;
        }
    }
    for (const char *op = operators; room > left && *op; op++) {
        tokens[n] = -*op;
        if (try_all(tokens, n + 1, room - 1, numbers, left, target)) {
            return true;
        }
    }
    return false;
}

// A random prefix of a formula; now and then a token that cannot stand there.
static int random_prefix(rv_rng *r, int *prefix, int n) {
    bool operand = true;
    for (int i = 0, depth = 0, used = 0; i < n; i++) {
        bool odd = rv_rng_below(r, 40) == 0;
        uint64_t kind = rv_rng_below(r, 10);
        if (operand != odd) {
            prefix[i] = kind < 6 && used < 3 ? 1 + (int)rv_rng_below(r, 10)
                        : kind < 9           ? -'('
                                             : -"+-"[rv_rng_below(r, 2)];
        } else {
            prefix[i] = kind < 3 && depth > 0 ? -')' : -"+-*/"[rv_rng_below(r, 4)];
        }
        used += prefix[i] > 0;
        depth += prefix[i] == -'(' ? 1 : prefix[i] == -')' ? -1 : 0;
        operand = !(prefix[i] > 0 || prefix[i] == -')');
    }
    return n;
}

static void test_against_all_strings(void **state) {
    (void)state;
    rv_rng r = rv_rng_make(11, RV_STREAM_USER, 0, 0);
    int solved = 0;
    for (int trial = 0; trial < 250; trial++) {
        int prefix[MAX], numbers[2], out[RV_POINTS_MAX_TOKENS];
        int n = random_prefix(&r, prefix, (int)rv_rng_below(&r, 8));
        int left = 1 + (int)rv_rng_below(&r, 2);
        for (int i = 0; i < left; i++) {
            numbers[i] = 1 + (int)rv_rng_below(&r, 10);
        }
        int64_t target = (int64_t)rv_rng_below(&r, 25);
        rv_points_rules rules = {"+-*/(", target, 5, false};
        int got = rv_points_solve(&rules, prefix, n, numbers, left, out), wanted = -1;
        for (int room = 0; room <= 5 && wanted < 0; room++) {
            wanted = try_all(prefix, n, room, numbers, left, target) ? room : -1;
        }
        if (got != wanted) {
            char text[8 * MAX];
            write_tokens(text, prefix, n);
            fail_msg("prefix %s, %d numbers (%d %d), target %d: %d tokens, wanted %d", text, left,
                     numbers[0], numbers[left - 1], (int)target, got, wanted);
        }
        if (got >= 0) {
            memcpy(prefix + n, out, (size_t)got * sizeof *out);
            assert_true(hits(prefix, n + got, target));
            solved++;
        }
    }
    print_message("%d of 250 prefixes can be completed\n", solved);
    assert_true(solved > 10);
}

static void test_limits(void **state) {
    (void)state;
    rv_points_rules rules = {"+-*/(", 24, 20, false};
    int out[RV_POINTS_MAX_TOKENS], deep[40], cards[] = {6, 6, 6, 6, 1, 1, 1}, big[] = {101};
    for (int i = 0; i < 40; i++) {
        deep[i] = -'(';
    }
    assert_int_equal(rv_points_solve(&rules, NULL, 0, cards, 4, out), 7);
    assert_int_equal(rv_points_solve(&rules, NULL, 0, cards, 7, out), -1);
    assert_int_equal(rv_points_solve(&rules, NULL, 0, big, 1, out), -1);
    assert_int_equal(rv_points_solve(&rules, deep, 40, cards, 4, out), -1);
    assert_int_equal(rv_points_solve(&rules, deep, 20, cards, 4, out), -1);
    rules.max_tokens = 6;
    assert_int_equal(rv_points_solve(&rules, NULL, 0, cards, 4, out), -1);
    static const int garbage[][2] = {{-'x', 1}, {-'=', -'='}, {-300, 3},
                                     {-' ', 3}, {-')', 3},    {5, 5}};
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        assert_int_equal(rv_points_solve(&rules, garbage[i], 2, cards, 2, out), -1);
    }
}

// Fractions that doubles miss: 8 / (3 - 8 / 3) is 24 only without rounding.
static void test_rounding(void **state) {
    (void)state;
    int out[RV_POINTS_MAX_TOKENS], cards[] = {3, 3, 8, 8};
    rv_points_rules rules = {"+-*/(", 24, 20, false};
    assert_int_equal(rv_points_solve(&rules, NULL, 0, cards, 4, out), 9);
    rules.floats = true;
    assert_int_equal(rv_points_solve(&rules, NULL, 0, cards, 4, out), -1);
}

// All 28561 deals of four ranks by their 715 multisets of values, for one set of operators.
static void count_deals(const char *operators, int *multisets, int *deals) {
    static const int factorial[] = {1, 1, 2, 6, 24};
    *multisets = *deals = 0;
    rv_points_rules rules = {operators, 24, 20, true};
    for (int code = 0; code < 10000; code++) {
        int c[4] = {code / 1000 + 1, code / 100 % 10 + 1, code / 10 % 10 + 1, code % 10 + 1};
        if (c[0] > c[1] || c[1] > c[2] || c[2] > c[3]) {
            continue;
        }
        int ways = 24, run = 1, out[RV_POINTS_MAX_TOKENS];
        for (int i = 0; i < 4; i++) {
            run = i > 0 && c[i] == c[i - 1] ? run + 1 : 1;
            ways = ways * (c[i] == 10 ? 4 : 1);
            if (i == 3 || c[i] != c[i + 1]) {
                ways /= factorial[run];
            }
        }
        if (rv_points_solve(&rules, NULL, 0, c, 4, out) >= 0) {
            ++*multisets;
            *deals += ways;
        }
    }
}

static void test_operator_sets(void **state) {
    (void)state;
    static const struct {
        const char *operators;
        int multisets;
        double share;
    } cases[] = {{"+-*/(", 565, 0.730717},
                 {"+-*(", 505, 0.612128},
                 {"+*(", 190, 0.174224},
                 {"+-", 57, 0.117608}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int multisets, deals;
        count_deals(cases[i].operators, &multisets, &deals);
        assert_int_equal(multisets, cases[i].multisets);
        assert_int_equal((int)(deals / 28561.0 * 1e6 + 0.5), (int)(cases[i].share * 1e6 + 0.5));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_all_strings),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_operator_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
