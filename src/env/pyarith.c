// pyarith.c - Python's arithmetic on integers and doubles, as its eval computes it.
#include <math.h>
#include <stdbool.h>

#include "arith.h"

typedef rv_pyvalue value;

#define MOST_NEGATIVE (-(__int128)(~(unsigned __int128)0 >> 1) - 1)

static value of_int(__int128 i) { return (value){RV_PY_INT, i, 0}; }
static value of_float(double f) { return (value){RV_PY_FLOAT, 0, f}; }
static double as_double(value v) { return v.kind == RV_PY_INT ? (double)v.i : v.f; }

// The most negative number counts as an overflow too, so that signs can always be turned.
static rv_arith_status int_result(value *out, __int128 r, bool overflow) {
    *out = of_int(r);
    return overflow || r == MOST_NEGATIVE ? RV_ARITH_OVERFLOW : RV_ARITH_OK;
}

// a / b for integers, rounded once to nearest even: 64 bits of quotient and a sticky one.
static double divide_ints(__int128 a, __int128 b) {
    bool negative = (a < 0) != (b < 0);
    unsigned __int128 r = (unsigned __int128)(a < 0 ? -a : a);
    unsigned __int128 d = (unsigned __int128)(b < 0 ? -b : b), q = r / d;
    r %= d;
    int shift = 0;
    while (q >> 63 == 0 && shift < 256) { // both stay below 2^127, so doubling is safe
        r <<= 1;
        q = q << 1 | (r >= d);
        r -= r >= d ? d : 0;
        shift++;
    }
    while (q >> 64) { // a large quotient: keep what falls off as the sticky bit
        r |= q & 1;
        q >>= 1;
        shift--;
    }
    double x = ldexp((double)((uint64_t)q | (r != 0)), -shift);
    return negative ? -x : x;
}

static rv_arith_status floor_ints(value *out, __int128 a, __int128 b) {
    __int128 q = a / b;
    *out = of_int(q - (a % b != 0 && (a < 0) != (b < 0)));
    return RV_ARITH_OK;
}

// Python's float floor division: from the exact remainder, so 10 // 0.4 is 24.
static rv_arith_status floor_doubles(value *out, double a, double b) {
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod != 0 && (b < 0) != (mod < 0)) {
        div -= 1;
    }
    double q = div != 0 ? floor(div) : copysign(0.0, a / b);
    *out = of_float(div != 0 && div - q > 0.5 ? q + 1 : q);
    return RV_ARITH_OK;
}

static rv_arith_status power_ints(value *out, __int128 base, __int128 exponent) {
    __int128 r = 1;
    if (base == 1 || base == -1 || base == 0) {
        *out = of_int(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
        return RV_ARITH_OK;
    }
    for (; exponent > 0; exponent--) { // ends after 127 rounds: |base| >= 2
        if (__builtin_mul_overflow(r, base, &r)) {
            return RV_ARITH_OVERFLOW;
        }
    }
    return int_result(out, r, false);
}

static rv_arith_status power(value *out, value a, value b) {
    if (a.kind == RV_PY_INT && b.kind == RV_PY_INT && b.i >= 0) {
        return power_ints(out, a.i, b.i);
    }
    double x = as_double(a), y = as_double(b);
    if (x == 0 && y < 0) {
        return RV_ARITH_ZERO;
    }
    if (x < 0 && isfinite(x) && isfinite(y) && y != floor(y)) {
        return RV_ARITH_TYPE; // complex
    }
    double r = pow(x, y);
    *out = of_float(r);
    return isinf(r) && isfinite(x) && isfinite(y) ? RV_ARITH_OVERFLOW : RV_ARITH_OK;
}

enum { FLOOR = RV_PY_FLOOR, POWER = RV_PY_POWER };

static rv_arith_status apply_ints(value *out, __int128 a, int op, __int128 b) {
    __int128 r;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &r);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &r);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &r);
        break;
    case '/':
        *out = of_float(divide_ints(a, b));
        return RV_ARITH_OK;
    default:
        return floor_ints(out, a, b);
    }
    return int_result(out, r, over);
}

rv_arith_status rv_pyvalue_apply(rv_pyvalue *out, rv_pyvalue a, int op, rv_pyvalue b) {
    if (op == POWER) {
        return power(out, a, b);
    }
    if ((op == '/' || op == FLOOR) && as_double(b) == 0) {
        return RV_ARITH_ZERO;
    }
    if (a.kind == RV_PY_INT && b.kind == RV_PY_INT) {
        return apply_ints(out, a.i, op, b.i);
    }
    double x = as_double(a), y = as_double(b);
    if (op == FLOOR) {
        return floor_doubles(out, x, y);
    }
    *out = of_float(op == '+' ? x + y : op == '-' ? x - y : op == '*' ? x * y : x / y);
    return RV_ARITH_OK;
}

typedef struct {
    const char *s, *begin, *end;
    int depth;
    bool typed; // a tuple or a call was met: an error, but only if the rest parses
} parser;

// The operator at the cursor (longest match: two stars, two slashes), or the character; 0 at the
// end. `*len` is its length.
static int peek(parser *p, int *len) {
    while (p->s < p->end && (*p->s == ' ' || *p->s == '\t')) {
        p->s++;
    }
    *len = 1;
    if (p->s >= p->end) {
        return 0;
    }
    bool twice = p->s + 1 < p->end && p->s[1] == p->s[0];
    if (twice && (*p->s == '*' || *p->s == '/')) {
        *len = 2;
        return *p->s == '*' ? POWER : FLOOR;
    }
    return *p->s == FLOOR || *p->s == POWER ? '?' : *p->s;
}

static rv_arith_status expr(parser *p, value *out, int level);

static rv_arith_status number(parser *p, value *out) {
    __int128 v = 0;
    const char *start = p->s;
    for (; p->s < p->end && *p->s >= '0' && *p->s <= '9'; p->s++) {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p->s - '0', &v)) {
            return RV_ARITH_OVERFLOW;
        }
    }
    *out = of_int(v);
    return *start == '0' && v != 0 ? RV_ARITH_SYNTAX : RV_ARITH_OK; // 012 is no Python
}

// The inside of '(' ... ')', the cursor behind '('; an empty pair is a tuple.
static rv_arith_status group(parser *p, value *out) {
    int len;
    if (peek(p, &len) == ')') {
        p->typed = true;
        *out = of_int(0);
    } else {
        rv_arith_status s = expr(p, out, 0);
        if (s != RV_ARITH_OK) {
            return s;
        }
    }
    if (peek(p, &len) != ')') {
        return RV_ARITH_SYNTAX;
    }
    p->s++;
    return RV_ARITH_OK;
}

// atom = number | '(' expr ')'; a pair of brackets behind an atom would be a call.
static rv_arith_status atom(parser *p, value *out) {
    int len, c = peek(p, &len);
    if (c >= '0' && c <= '9') {
        rv_arith_status s = number(p, out);
        if (s != RV_ARITH_OK) {
            return s;
        }
    } else if (c == '(') {
        p->s++;
        rv_arith_status s = group(p, out);
        if (s != RV_ARITH_OK) {
            return s;
        }
    } else {
        return RV_ARITH_SYNTAX;
    }
    while (peek(p, &len) == '(') {
        value ignored;
        p->typed = true;
        p->s++;
        rv_arith_status s = group(p, &ignored);
        if (s != RV_ARITH_OK) {
            return s;
        }
    }
    return RV_ARITH_OK;
}

// factor = ('+' | '-') factor | atom ['**' factor]
static rv_arith_status factor(parser *p, value *out) {
    int len, c = peek(p, &len);
    rv_arith_status s;
    if (c == '+' || c == '-') {
        p->s++;
        s = expr(p, out, 2);
        if (s == RV_ARITH_OK && c == '-') {
            *out = out->kind == RV_PY_INT ? of_int(-out->i) : of_float(-out->f);
        }
        return s;
    }
    s = atom(p, out);
    if (s == RV_ARITH_OK && peek(p, &len) == POWER) {
        value exponent;
        p->s += 2;
        s = expr(p, &exponent, 2);
        s = s == RV_ARITH_OK ? rv_pyvalue_apply(out, *out, POWER, exponent) : s;
    }
    return s;
}

// level 0: sums, 1: products, 2: a factor
static rv_arith_status expr(parser *p, value *out, int level) {
    if (p->depth >= 3 * RV_ARITH_MAX_DEPTH) {
        return RV_ARITH_TOO_LONG;
    }
    p->depth++;
    rv_arith_status s = level == 2 ? factor(p, out) : expr(p, out, level + 1);
    for (int len, op = peek(p, &len); level < 2 && s == RV_ARITH_OK; op = peek(p, &len)) {
        bool here = level == 0 ? op == '+' || op == '-' : op == '*' || op == '/' || op == FLOOR;
        if (!here) {
            break;
        }
        value right;
        p->s += len;
        s = expr(p, &right, level + 1);
        s = s == RV_ARITH_OK ? rv_pyvalue_apply(out, *out, op, right) : s;
    }
    p->depth--;
    return s;
}

rv_arith_status rv_arith_python(const char *text, size_t n, rv_pyvalue *out, size_t *at) {
    parser p = {text, text, text + n, 0, false};
    int len;
    rv_arith_status s = n > RV_ARITH_MAX_TEXT ? RV_ARITH_TOO_LONG : expr(&p, out, 0);
    if (s == RV_ARITH_OK && (peek(&p, &len) || p.s < p.end)) {
        s = RV_ARITH_SYNTAX;
    }
    if (s == RV_ARITH_OK && p.typed) {
        s = RV_ARITH_TYPE;
    }
    if (at) {
        *at = (size_t)(p.s - p.begin);
    }
    return s;
}
