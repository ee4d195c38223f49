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

// 2^n for -127 < n < 128; anything for the n of a NaN.
RV_INLINE float fn_power(int32_t n) { return fn_bits((int32_t)((uint32_t)(n + 127) << 23)); }

/// e^x: 0 below -104, infinity above 88.73, 1 exactly at 0.
RV_INLINE float fn_exp(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    // x = n ln 2 + r; the large constant rounds to an integer and leaves it in the low bits.
    const float big = 12582912.0f;
    float shifted = __builtin_fmaf(x, 1.44269504088896341f, big);
    float n = shifted - big;
    float r = __builtin_fmaf(n, -0x1.62e4p-1f, x);
    r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.6db4e8p-10f;
    p = __builtin_fmaf(p, r, 0x1.123bdep-7f);
    p = __builtin_fmaf(p, r, 0x1.55545ep-5f);
    p = __builtin_fmaf(p, r, 0x1.55548ep-3f);
    p = __builtin_fmaf(p, r, 0.5f);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    // 2^n in two factors, so that subnormal and overflowing results come out right.
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits -= 0x4b400000;
    int32_t half = bits >> 1;
    return p * fn_power(half) * fn_power(bits - half);
}

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
