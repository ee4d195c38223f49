// fn.h - exponential, sigmoid and the normal distribution as fixed sequences of fp32 operations.
//
// Scalar functions that compilers turn into vector code of any width: each operation rounds the
// same way in every lane, so a number's result does not depend on where it stands. Accurate to 1-2
// units in the last place.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vec.h"

RV_INLINE float fn_bits(int32_t i) {
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}

RV_INLINE float fn_max(float a, float b) { return a > b ? a : b; }
RV_INLINE float fn_min(float a, float b) { return a < b ? a : b; }
RV_INLINE float fn_same(float x) { return x; }

// e^x: 0 below -104, infinity above 88.73, 1 exactly at 0. One body for a float and for a vector of
// them. x = n ln 2 + r; a large constant rounds to an integer and leaves it in the low bits; 2^n in
// two factors, so that subnormal and overflowing results come out right.
#define FN_EXP(name, F, I, U, max, min, fma, splat)                                                \
    RV_INLINE F name(F x) {                                                                        \
        const F big = splat(12582912.0f);                                                          \
        x = min(splat(89.0f), max(splat(-104.0f), x));                                             \
        F shifted = fma(x, splat(1.44269504088896341f), big), n = shifted - big;                   \
        F r = fma(n, splat(-0x1.62e4p-1f), x), p = splat(0x1.6db4e8p-10f);                         \
        r = fma(n, splat(-0x1.7f7d1cp-20f), r);                                                    \
        p = fma(p, r, splat(0x1.123bdep-7f));                                                      \
        p = fma(p, r, splat(0x1.55545ep-5f));                                                      \
        p = fma(p, r, splat(0x1.55548ep-3f));                                                      \
        p = fma(p, r, splat(0.5f));                                                                \
        p = fma(p, r, splat(1.0f));                                                                \
        p = fma(p, r, splat(1.0f));                                                                \
        I bits, half;                                                                              \
        memcpy(&bits, &shifted, sizeof bits);                                                      \
        bits -= 0x4b400000;                                                                        \
        half = bits >> 1;                                                                          \
        U first = (U)(half + 127) << 23, second = (U)(bits - half + 127) << 23;                    \
        F low, high;                                                                               \
        memcpy(&low, &first, sizeof low);                                                          \
        memcpy(&high, &second, sizeof high);                                                       \
        return p * low * high;                                                                     \
    }
FN_EXP(fn_exp, float, int32_t, uint32_t, fn_max, fn_min, __builtin_fmaf, fn_same)
FN_EXP(fn_vexp, vf, vi, vu, vmax, vmin, vfma, vsplat)

RV_INLINE float fn_sigmoid(float x) { return 1.0f / (1.0f + fn_exp(-x)); }

/// The normal distribution function: erfc(-x / sqrt 2) / 2, exact in both tails.
RV_INLINE float fn_phi(float x) {
    // erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + z / 2), z >= 0; P fitted over z in [0, 10.5].
    float z = __builtin_fabsf(x) * 0.707106781186547524f;
    float t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.010813550092279911f;
    p = __builtin_fmaf(p, t, -0.11545905470848083f);
    p = __builtin_fmaf(p, t, 0.41110286116600037f);
    p = __builtin_fmaf(p, t, -0.6470153331756592f);
    p = __builtin_fmaf(p, t, 0.4028584659099579f);
    p = __builtin_fmaf(p, t, -0.08886747807264328f);
    p = __builtin_fmaf(p, t, 0.22244293987751007f);
    p = __builtin_fmaf(p, t, 0.23926909267902374f);
    p = __builtin_fmaf(p, t, 0.28278711438179016f);
    p = __builtin_fmaf(p, t, 0.28206780552864075f);
    float tail = 0.5f * fn_exp(-0.5f * x * x) * t * p;
    return x < 0 ? tail : 1.0f - tail;
}

/// The bits of x rounded to bf16 (nearest, ties to even), in the upper half; NaN stays NaN.
RV_INLINE uint32_t fn_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
    return (u & 0x7fffffffu) > 0x7f800000u ? (u & 0xffff0000u) | 0x400000u : rounded;
}
