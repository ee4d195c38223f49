// How many deals of four cards Python's eval can turn into 24 with joined digits, // and **: the
// limit of the reference's rules, by combining all values that parts of the cards can take.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"

enum { MOST = 1 << 15 };

typedef struct {
    rv_pyvalue *v;
    int n;
} set;

static int compare(const void *x, const void *y) {
    const rv_pyvalue *a = x, *b = y;
    if (a->kind != b->kind) {
        return a->kind < b->kind ? -1 : 1;
    }
    return a->kind == RV_PY_INT ? (a->i > b->i) - (a->i < b->i) : (a->f > b->f) - (a->f < b->f);
}

static bool is24(rv_pyvalue v) { return v.kind == RV_PY_INT ? v.i == 24 : v.f == 24; }

static void add(set *s, rv_pyvalue v) {
    assert_true(s->n + 2 <= MOST);
    s->v[s->n++] = v;
    s->v[s->n++] =
        v.kind == RV_PY_INT ? (rv_pyvalue){RV_PY_INT, -v.i, 0} : (rv_pyvalue){RV_PY_FLOAT, 0, -v.f};
}

static void unique(set *s) {
    qsort(s->v, (size_t)s->n, sizeof *s->v, compare);
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        if (n == 0 || compare(&s->v[n - 1], &s->v[i]) != 0) {
            s->v[n++] = s->v[i];
        }
    }
    s->n = n;
}

// Adds every number that joins the digits of all cards in `mask`.
static void join(set *s, const int *cards, int mask, __int128 prefix) {
    if (mask == 0) {
        add(s, (rv_pyvalue){RV_PY_INT, prefix, 0});
    }
    for (int i = 0; i < 4; i++) {
        if (mask & 1 << i) {
            join(s, cards, mask & ~(1 << i), prefix * (cards[i] < 10 ? 10 : 100) + cards[i]);
        }
    }
}

// Combines all values of two parts; keeps them in `out`, or, without one, looks for 24.
static bool combine(set *out, const set *a, const set *b, const char *operators) {
    for (int i = 0; i < a->n; i++) {
        for (int j = 0; j < b->n; j++) {
            for (const char *op = operators; *op; op++) {
                rv_pyvalue v;
                if (rv_pyvalue_apply(&v, a->v[i], *op, b->v[j]) != RV_ARITH_OK) {
                    continue;
                }
                if (out) {
                    add(out, v);
                } else if (is24(v) || (v.kind == RV_PY_INT ? v.i == -24 : v.f == -24)) {
                    return true;
                }
            }
        }
    }
    return false;
}

static bool solvable(set sets[16], const int *cards, const char *operators) {
    for (int mask = 1; mask <= 15; mask++) {
        set *s = &sets[mask];
        s->n = 0;
        join(s, cards, mask, 0);
        for (int part = (mask - 1) & mask; part > 0; part = (part - 1) & mask) {
            if (combine(mask == 15 ? NULL : s, &sets[part], &sets[mask & ~part], operators)) {
                return true;
            }
            if (s->n > MOST / 2) {
                unique(s);
            }
        }
        unique(s);
    }
    for (int i = 0; i < sets[15].n; i++) { // joined digits alone
        if (is24(sets[15].v[i])) {
            return true;
        }
    }
    return false;
}

static void count(const char *operators, int *multisets, int *deals) {
    static const int factorial[] = {1, 1, 2, 6, 24};
    set sets[16];
    for (int i = 0; i < 16; i++) {
        sets[i] = (set){malloc(MOST * sizeof *sets[i].v), 0};
        assert_non_null(sets[i].v);
    }
    *multisets = *deals = 0;
    for (int code = 0; code < 10000; code++) {
        int c[4] = {code / 1000 + 1, code / 100 % 10 + 1, code / 10 % 10 + 1, code % 10 + 1};
        if (c[0] > c[1] || c[1] > c[2] || c[2] > c[3]) {
            continue;
        }
        int ways = 24, run = 1;
        for (int i = 0; i < 4; i++) {
            run = i > 0 && c[i] == c[i - 1] ? run + 1 : 1;
            ways = ways * (c[i] == 10 ? 4 : 1);
            if (i == 3 || c[i] != c[i + 1]) {
                ways /= factorial[run];
            }
        }
        if (solvable(sets, c, operators)) {
            ++*multisets;
            *deals += ways;
        }
    }
    for (int i = 0; i < 16; i++) {
        free(sets[i].v);
    }
}

static void test_limits(void **state) {
    (void)state;
    int multisets, deals;
    count("+-*/", &multisets, &deals);
    print_message("joined digits: %d, %.6f\n", multisets, deals / 28561.0);
    assert_int_equal(multisets, 609);
    assert_int_equal((int)(deals / 28561.0 * 1e6 + 0.5), 773257);
    count("+-*/fp", &multisets, &deals);
    print_message("everything: %d, %.6f\n", multisets, deals / 28561.0);
    assert_int_equal(multisets, 683);
    assert_int_equal((int)(deals / 28561.0 * 1e6 + 0.5), 916389);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
