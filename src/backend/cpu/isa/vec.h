// vec.h - vectors of VL floats, written with the compiler's vector extensions and one wrapper: the
// fused multiply-add.
//
// VL follows the instruction set that the file is compiled for; RV_VL forces another (a test builds
// 16 lanes on AVX2). No result may depend on VL.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifdef RV_VL
#define VL RV_VL
#elif defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

#define RV_INLINE static inline __attribute__((always_inline))
#if defined(RV_SANITIZED) // a check at every access of unrolled loops takes minutes to compile
#define RV_UNROLL
#define RV_UNROLL_4
#elif defined(__clang__)
#define RV_UNROLL   _Pragma("clang loop unroll(full)")
#define RV_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define RV_UNROLL   _Pragma("GCC unroll 32")
#define RV_UNROLL_4 _Pragma("GCC unroll 4")
#endif

// Names of public symbols carry the instruction set.
#define RV_JOIN_(a, b) a##_##b
#define RV_JOIN(a, b)  RV_JOIN_(a, b)
#define ISA(name)      RV_JOIN(name, RV_ISA)

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint16_t vh __attribute__((vector_size(2 * VL)));

RV_INLINE vf vload(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

RV_INLINE void vstore(float *p, vf v) { memcpy(p, &v, sizeof v); }

// Subtracting zero changes nothing, -0 included, and compiles to a broadcast.
RV_INLINE vf vsplat(float x) { return x - (vf){0}; }

/// a * b + c, rounded once.
RV_INLINE vf vfma(vf a, vf b, vf c) {
#if VL == 16 && defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VL == 8 && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif VL == 16 && defined(__FMA__)
    union {
        vf v;
        __m256 half[2];
    } x = {a}, y = {b}, z = {c};
    z.half[0] = _mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]);
    z.half[1] = _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]);
    return z.v;
#else
    for (int i = 0; i < VL; i++) {
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    }
    return c;
#endif
}

/// a > b ? a : b, lane by lane: b where either is NaN.
RV_INLINE vf vmax(vf a, vf b) {
#if VL == 16 && defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VL == 8 && defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    vi first = a > b;
    return (vf)((first & (vi)a) | (~first & (vi)b));
#endif
}

/// a < b ? a : b, lane by lane: b where either is NaN.
RV_INLINE vf vmin(vf a, vf b) {
#if VL == 16 && defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif VL == 8 && defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    vi first = a < b;
    return (vf)((first & (vi)a) | (~first & (vi)b));
#endif
}

/// Widens VL bf16 numbers.
RV_INLINE vf vload_bf16(const uint16_t *p) {
#if VL == 8 && defined(__AVX2__) // gcc 12 widens in two halves
    return (vf)((vu)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)) << 16);
#else
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/// Widens VL fp16 numbers.
RV_INLINE vf vload_f16(const uint16_t *p) {
#if VL == 16 && defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#elif VL == 8 && defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
#else
    vh h;
    memcpy(&h, p, sizeof h);
    vu x = __builtin_convertvector(h, vu);
    vu sign = (x & 0x8000) << 16, rest = (x & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent's bias, subnormals included; infinities stay.
    vf scaled = (vf)rest * 0x1p112f;
    vu special = (vu)(rest >= (0x7c00u << 13));
    return (vf)(sign | (special & (rest | 0x7f800000)) | (~special & (vu)scaled));
#endif
}
