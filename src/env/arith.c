#include "arith.h"

#include <stdbool.h>

const char *rv_arith_message(rv_arith_status s) {
    switch (s) {
    case RV_ARITH_OK:
        return "ok";
    case RV_ARITH_SYNTAX:
        return "not an expression";
    case RV_ARITH_ZERO:
        return "division by zero";
    case RV_ARITH_OVERFLOW:
        return "a number is too large";
    case RV_ARITH_TYPE:
        return "not a real number";
    case RV_ARITH_TOO_LONG:
        return "too long or too deeply nested";
    }
    return "unknown";
}

static unsigned __int128 magnitude(__int128 v) {
    return v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
}

rv_arith_status rv_fraction_make(rv_fraction *f, __int128 num, __int128 den) {
    if (den == 0) {
        return RV_ARITH_ZERO;
    }
    unsigned __int128 a = magnitude(num), b = magnitude(den);
    while (b) { // Euclid: a becomes the greatest common divisor
        unsigned __int128 r = a % b;
        a = b;
        b = r;
    }
    unsigned __int128 n = magnitude(num) / a, d = magnitude(den) / a;
    if (n > INT64_MAX || d > INT64_MAX) {
        return RV_ARITH_OVERFLOW;
    }
    f->num = (num < 0) != (den < 0) ? -(int64_t)n : (int64_t)n;
    f->den = (int64_t)d;
    return RV_ARITH_OK;
}

rv_arith_status rv_fraction_apply(rv_fraction *out, rv_fraction a, char op, rv_fraction b) {
    // products of two 63-bit numbers take 126 bits, and the sum of two such 127: nothing wraps
    __int128 an = a.num, ad = a.den, bn = b.num, bd = b.den;
    switch (op) {
    case '+':
        return rv_fraction_make(out, an * bd + bn * ad, ad * bd);
    case '-':
        return rv_fraction_make(out, an * bd - bn * ad, ad * bd);
    case '*':
        return rv_fraction_make(out, an * bn, ad * bd);
    default:
        return rv_fraction_make(out, an * bd, ad * bn);
    }
}

// Recursive descent. `s` ends with a 0 byte only by `end`; `depth` counts open levels.
typedef struct {
    const char *s, *begin, *end;
    int depth;
} parser;

static char peek(parser *p) {
    while (p->s < p->end && (*p->s == ' ' || *p->s == '\t')) {
        p->s++;
    }
    return p->s < p->end ? *p->s : 0;
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

static rv_arith_status sum(parser *p, rv_fraction *out);

static rv_arith_status number(parser *p, rv_fraction *out) {
    __int128 v = 0;
    for (; p->s < p->end && digit(*p->s); p->s++) {
        v = v * 10 + (*p->s - '0');
        if (v > INT64_MAX) {
            return RV_ARITH_OVERFLOW;
        }
    }
    *out = (rv_fraction){(int64_t)v, 1};
    return RV_ARITH_OK;
}

// factor = ('+' | '-') factor | number | '(' sum ')'
static rv_arith_status factor(parser *p, rv_fraction *out) {
    char c = peek(p);
    if (digit(c)) {
        return number(p, out);
    }
    if (c != '+' && c != '-' && c != '(') {
        return RV_ARITH_SYNTAX;
    }
    if (p->depth >= RV_ARITH_MAX_DEPTH) {
        return RV_ARITH_TOO_LONG;
    }
    p->s++;
    p->depth++;
    rv_arith_status s = c == '(' ? sum(p, out) : factor(p, out);
    p->depth--;
    if (s == RV_ARITH_OK && c == '(') {
        if (peek(p) != ')') {
            return RV_ARITH_SYNTAX;
        }
        p->s++;
    }
    if (s == RV_ARITH_OK && c == '-') {
        out->num = -out->num; // never the most negative number: rv_fraction_make keeps it out
    }
    return s;
}

static rv_arith_status product(parser *p, rv_fraction *out) {
    rv_arith_status s = factor(p, out);
    for (char op = peek(p); s == RV_ARITH_OK && (op == '*' || op == '/'); op = peek(p)) {
        rv_fraction right;
        p->s++;
        s = factor(p, &right);
        s = s == RV_ARITH_OK ? rv_fraction_apply(out, *out, op, right) : s;
    }
    return s;
}

static rv_arith_status sum(parser *p, rv_fraction *out) {
    rv_arith_status s = product(p, out);
    for (char op = peek(p); s == RV_ARITH_OK && (op == '+' || op == '-'); op = peek(p)) {
        rv_fraction right;
        p->s++;
        s = product(p, &right);
        s = s == RV_ARITH_OK ? rv_fraction_apply(out, *out, op, right) : s;
    }
    return s;
}

rv_arith_status rv_arith_exact(const char *text, size_t n, rv_fraction *out, size_t *at) {
    parser p = {text, text, text + n, 0};
    rv_arith_status s = n > RV_ARITH_MAX_TEXT ? RV_ARITH_TOO_LONG : sum(&p, out);
    if (s == RV_ARITH_OK && (peek(&p) || p.s < p.end)) {
        s = RV_ARITH_SYNTAX;
    }
    if (at) {
        *at = (size_t)(p.s - p.begin);
    }
    return s;
}
