// ops_cpu_math.h - bf16; exp, log, tanh and sigmoid of floats, computed in double without branches.
//
// Each is a polynomial in double rounded once to float, so results are within 0.501 ulp of the
// exact value, the same on every machine, in every lane of a vector and in its tail.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline int64_t rv_bits_of(double x) {
    int64_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

static inline double rv_from_bits(int64_t i) {
    double x;
    memcpy(&x, &i, sizeof x);
    return x;
}

// bf16 and back, round to nearest even, NaN stays; inline, so that loops over them vectorise.
static inline float rv_widen_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t rv_narrow_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(f != f ? bits >> 16 | 0x40 : rounded);
}

// e^x for finite |x| < 700: 2^n e^r with |r| <= ln 2 / 2 by its series up to r^9 / 9! (1e-12).
static inline double rv_exp_core(double x) {
    const double magic = 0x1.8p52; // adding it rounds to an integer in the low bits
    double t = x * 0x1.71547652b82fep+0 + magic;
    double n = t - magic;
    double r = x - n * 0x1.62e42fefa39efp-1;
    double p = 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1;
    p = p * r + 1;
    uint64_t exponent = (uint64_t)rv_bits_of(t) << 52; // n in the exponent's place
    return rv_from_bits((int64_t)((uint64_t)rv_bits_of(p) + exponent));
}

static inline double rv_limit(double x, double lo, double hi) {
    x = x < lo ? lo : x; // NaN stays
    return x > hi ? hi : x;
}

static inline float rv_exp(float x) { return (float)rv_exp_core(rv_limit(x, -200, 200)); }

static inline float rv_sigmoid(float x) {
    return (float)(1 / (1 + rv_exp_core(rv_limit(-(double)x, -200, 200))));
}

// tanh x = x q(x^2) below 1/4, else 1 - 2 / (e^2x + 1); NaN stays NaN in the second.
static inline float rv_tanh(float x) {
    double a = fabs((double)x), s = a * a;
    double q = -1382.0 / 155925;
    q = q * s + 62.0 / 2835;
    q = q * s - 17.0 / 315;
    q = q * s + 2.0 / 15;
    q = q * s - 1.0 / 3;
    q = q * s + 1;
    double small = a * q;
    double big = 1 - 2 / (rv_exp_core(rv_limit(2 * a, 0, 200)) + 1);
    double y = a < 0.125 ? small : big;
    return copysignf((float)y, x);
}

// log x = k ln 2 + log m with m in [sqrt 1/2, sqrt 2): 2 artanh((m - 1) / (m + 1)) by its series.
static inline float rv_log(float x) {
    // unsigned shifts and the exponent by way of a double's bits: what vectors have
    uint64_t bits = (uint64_t)rv_bits_of((double)x); // every positive float is a normal double
    uint64_t up = bits - 0x3fe6a09e667f3bcd + ((uint64_t)1023 << 52);
    uint64_t biased = up >> 52; // k + 1023
    double k = rv_from_bits((int64_t)(biased | 0x4330000000000000)) - (0x1p52 + 1023);
    double m = rv_from_bits((int64_t)(bits - (biased << 52) + ((uint64_t)1023 << 52)));
    double z = (m - 1) / (m + 1), s = z * z;
    double p = 1.0 / 15;
    p = p * s + 1.0 / 13;
    p = p * s + 1.0 / 11;
    p = p * s + 1.0 / 9;
    p = p * s + 1.0 / 7;
    p = p * s + 1.0 / 5;
    p = p * s + 1.0 / 3;
    p = p * s + 1;
    double y = k * 0x1.62e42fefa39efp-1 + 2 * z * p;
    y = x == INFINITY ? (double)INFINITY : y;
    y = x == 0 ? -(double)INFINITY : y;
    return x >= 0 ? (float)y : NAN;
}
