// backend.c - dtypes, conversions and the choice of a backend.
#include "backend.h"

#include <string.h>

static const struct {
    size_t size;
    const char *name;
} types[RV_NTYPES] = {
    [RV_F32] = {4, "f32"}, [RV_BF16] = {2, "bf16"}, [RV_F16] = {2, "f16"},   [RV_I32] = {4, "i32"},
    [RV_I64] = {8, "i64"}, [RV_U8] = {1, "u8"},     [RV_BOOL] = {1, "bool"}, [RV_F64] = {8, "f64"},
    [RV_I8] = {1, "i8"},   [RV_NF4] = {0, "nf4"},
};

size_t rv_dtype_size(rv_dtype t) { return types[t].size; }
const char *rv_dtype_name(rv_dtype t) { return types[t].name; }

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float rv_bf16_to_f32(uint16_t x) { return float_of((uint32_t)x << 16); }

uint16_t rv_f32_to_bf16(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(u >> 16 | 0x40); // NaN: quiet, never rounded to infinity
    }
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float rv_f16_to_f32(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = (uint32_t)(x & 0x7fff) << 13;
    if (rest >= 0x7c00u << 13) {
        return float_of(sign | rest | 0x7f800000u);
    }
    // 2^112 moves the exponent's bias; subnormals come out normalised.
    return float_of(sign | bits_of(float_of(rest) * 0x1p112f));
}

uint16_t rv_f32_to_f16(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    }
    if (a >= 0x477ff000u) { // 65520 and above round to infinity
        return (uint16_t)(sign | 0x7c00);
    }
    if (a < 0x38800000u) { // below 2^-14: adding 0.5 leaves the subnormal in the low bits
        return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13));
}

static double read_one(const void *src, rv_dtype t, int64_t i) {
    switch (t) {
    case RV_F64:
        return ((const double *)src)[i];
    case RV_BF16:
        return (double)rv_bf16_to_f32(((const uint16_t *)src)[i]);
    case RV_F16:
        return (double)rv_f16_to_f32(((const uint16_t *)src)[i]);
    default:
        return (double)((const float *)src)[i];
    }
}

void rv_convert(void *dst, rv_dtype dt, const void *src, rv_dtype st, int64_t n) {
    if (dt == st) {
        memmove(dst, src, (size_t)n * rv_dtype_size(dt));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double x = read_one(src, st, i);
        if (dt == RV_F64) {
            ((double *)dst)[i] = x;
        } else if (dt == RV_F32) {
            ((float *)dst)[i] = (float)x;
        } else if (dt == RV_BF16) {
            ((uint16_t *)dst)[i] = rv_f32_to_bf16((float)x);
        } else {
            ((uint16_t *)dst)[i] = rv_f32_to_f16((float)x);
        }
    }
}

rv_status rv_backend_get(const rv_backend **out, const char *name, rv_err *e) {
    *out = strcmp(name, "cpu") == 0 ? rv_backend_cpu() : NULL;
    if (!*out) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "no backend \"%s\" in this program (there is: cpu)",
                       name);
    }
    return RV_OK;
}
