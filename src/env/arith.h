// arith.h - evaluates arithmetic that a model or a player wrote, within fixed bounds.
//
// Two rule sets. Exact: whole numbers, + - * / ( ), signs, as fractions without rounding. Python:
// what Python's eval would give for the same grammar plus // and **: unbounded-looking integers, /
// giving a double, // flooring. Whatever the text, the work is bounded; failures are typed.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum {
    RV_ARITH_OK = 0,
    RV_ARITH_SYNTAX,   // not an expression of the grammar
    RV_ARITH_ZERO,     // division by zero, or zero to a negative power
    RV_ARITH_OVERFLOW, // a number beyond the bounds (exact: 64 bits; Python's integers: 127 bits)
    RV_ARITH_TYPE,     // Python: a tuple, a call, or a complex number
    RV_ARITH_TOO_LONG, // more than RV_ARITH_MAX_TEXT bytes, or nested deeper than
                       // RV_ARITH_MAX_DEPTH
} rv_arith_status;

#define RV_ARITH_MAX_TEXT  4096
#define RV_ARITH_MAX_DEPTH 100

typedef struct {
    int64_t num, den; // num / den in lowest terms, den > 0
} rv_fraction;

/// Reduces num / den to lowest terms. Errors: RV_ARITH_ZERO (den = 0), RV_ARITH_OVERFLOW.
rv_arith_status rv_fraction_make(rv_fraction *f, __int128 num, __int128 den);

/// Computes a op b for op in + - * /. Errors: RV_ARITH_ZERO, RV_ARITH_OVERFLOW.
rv_arith_status rv_fraction_apply(rv_fraction *out, rv_fraction a, char op, rv_fraction b);

/// Evaluates under the exact rules. Numbers that stand side by side are a syntax error, and so are
/// // and **. `at` (may be NULL) is the byte where it failed.
rv_arith_status rv_arith_exact(const char *text, size_t n, rv_fraction *out, size_t *at);

typedef struct {
    enum { RV_PY_INT, RV_PY_FLOAT } kind;
    __int128 i;
    double f;
} rv_pyvalue;

enum { RV_PY_FLOOR = 'f', RV_PY_POWER = 'p' }; // the operators of two characters, // and **

/// Computes a op b as Python 3 does, for op in + - * / and the two above. Errors: RV_ARITH_ZERO,
/// RV_ARITH_OVERFLOW, RV_ARITH_TYPE (a complex result).
rv_arith_status rv_pyvalue_apply(rv_pyvalue *out, rv_pyvalue a, int op, rv_pyvalue b);

/// Evaluates as Python 3 would: `expr = term (('+'|'-') term)*`, `term = factor (('*'|'/'|'//')
/// factor)*`, `factor = ('+'|'-') factor | power`, `power = atom ['**' factor]`, `atom = number |
/// '(' expr ')'`. Integers whose size passes 127 bits are RV_ARITH_OVERFLOW where Python goes on.
rv_arith_status rv_arith_python(const char *text, size_t n, rv_pyvalue *out, size_t *at);

/// The status in words: "not an expression", ...
const char *rv_arith_message(rv_arith_status s);
