// quant.c - products with quantised weights.
//
// A weight is widened to fp32, number times scale rounded once, and then met by the same chain of
// fused multiply-adds as an fp32 weight of that value: products have the bits of an fp32 layer that
// holds the widened weights, for every number of rows. Few rows widen in registers on the way from
// memory; more rows share a widened copy in the first cache. dX turns that copy around.
#include "quant.h"

#include "isa.h"
#include "tile.h"
#include "turn.h"

enum {
    STEPS = 128, // of a widened copy: 16 KiB
    NARROW = 3,  // rows up to which weights are widened in registers
    NV = RV_PANEL / VL,
    AHEAD_BYTES = 1152 // what memory is asked for ahead
};

// ---- one step of a panel: 32 outputs ----

RV_INLINE vf from_int8(const int8_t *q) {
#if VL == 16 && defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)q)));
#elif VL == 8 && defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)q)));
#else
    typedef int8_t vb __attribute__((vector_size(VL)));
    vb b;
    memcpy(&b, q, sizeof b);
    return __builtin_convertvector(b, vf);
#endif
}

// The codes of two steps, low halves of the bytes and high ones.
#if VL == 8 && defined(__AVX2__)

// Byte `part` of each code: a shuffle then looks up that byte of 32 codes at once.
RV_INLINE __m256i code_bytes(int part) {
    uint8_t byte[16];
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, rv_nf4_code + i, sizeof bits);
        byte[i] = (uint8_t)(bits >> 8 * part);
    }
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)byte));
}

typedef struct {
    __m256i part[4];
} nf4_table;

RV_INLINE nf4_table nf4_open(void) {
    return (nf4_table){{code_bytes(0), code_bytes(1), code_bytes(2), code_bytes(3)}};
}

RV_INLINE void from_nf4(vf out[NV], const nf4_table *t, const uint8_t *q, const int high) {
    __m256i i = _mm256_loadu_si256((const void *)q);
    i = _mm256_and_si256(high ? _mm256_srli_epi16(i, 4) : i, _mm256_set1_epi8(15));
    __m256i b0 = _mm256_shuffle_epi8(t->part[0], i), b1 = _mm256_shuffle_epi8(t->part[1], i);
    __m256i b2 = _mm256_shuffle_epi8(t->part[2], i), b3 = _mm256_shuffle_epi8(t->part[3], i);
    __m256i l0 = _mm256_unpacklo_epi8(b0, b1), l1 = _mm256_unpackhi_epi8(b0, b1);
    __m256i h0 = _mm256_unpacklo_epi8(b2, b3), h1 = _mm256_unpackhi_epi8(b2, b3);
    out[0] = (vf)_mm256_unpacklo_epi16(l0, h0);
    out[1] = (vf)_mm256_unpackhi_epi16(l0, h0);
    out[2] = (vf)_mm256_unpacklo_epi16(l1, h1);
    out[3] = (vf)_mm256_unpackhi_epi16(l1, h1);
}

#elif VL == 16 && defined(__AVX512F__)

typedef struct {
    __m512 code;
    __m256i order;
} nf4_table;

RV_INLINE nf4_table nf4_open(void) {
    return (nf4_table){_mm512_loadu_ps(rv_nf4_code), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)};
}

RV_INLINE void from_nf4(vf out[NV], const nf4_table *t, const uint8_t *q, const int high) {
    __m256i b = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const void *)q), t->order);
    b = _mm256_and_si256(high ? _mm256_srli_epi16(b, 4) : b, _mm256_set1_epi8(15));
    __m512i i0 = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(b));
    __m512i i1 = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(b, 1));
    out[0] = (vf)_mm512_permutexvar_ps(i0, t->code);
    out[1] = (vf)_mm512_permutexvar_ps(i1, t->code);
}

#else

typedef struct {
    const float *code;
} nf4_table;

RV_INLINE nf4_table nf4_open(void) { return (nf4_table){rv_nf4_code}; }

RV_INLINE void from_nf4(vf out[NV], const nf4_table *t, const uint8_t *q, const int high) {
    float x[RV_PANEL];
    for (int lane = 0; lane < RV_PANEL; lane++) {
        x[lane] = t->code[q[rv_nf4_lane(lane)] >> 4 * high & 15];
    }
    memcpy(out, x, sizeof x);
}

#endif

// ---- few rows: widened in registers ----

RV_INLINE void add_step(const int mr, vf acc[][NV], const vf w[NV], const float *x, int64_t ldx) {
    RV_UNROLL
    for (int i = 0; i < mr; i++) {
        vf xv = vsplat(x[i * ldx]);
        RV_UNROLL
        for (int v = 0; v < NV; v++) {
            acc[i][v] = vfma(xv, w[v], acc[i][v]);
        }
    }
}

RV_INLINE void scaled(vf w[NV], const float *scale) {
    RV_UNROLL
    for (int v = 0; v < NV; v++) {
        w[v] *= vload(scale + v * VL);
    }
}

RV_INLINE void int8_rows(const int mr, vf acc[][NV], const char *panel, const float *x, int64_t k) {
    const float *scale = (const float *)(const void *)panel;
    const int8_t *q = (const int8_t *)panel + RV_QUANT_SCALES;
    for (int64_t s = 0; s < k; s++, q += RV_PANEL) {
        vf w[NV];
        __builtin_prefetch(q + AHEAD_BYTES, 0, 3);
        RV_UNROLL
        for (int v = 0; v < NV; v++) {
            w[v] = from_int8(q + v * VL);
        }
        scaled(w, scale);
        add_step(mr, acc, w, x + s, k);
    }
}

RV_INLINE void nf4_rows(const int mr, vf acc[][NV], const char *panel, const float *x, int64_t k) {
    const nf4_table t = nf4_open();
    for (int64_t s0 = 0; s0 < k; s0 += RV_NF4_BLOCK, panel += RV_NF4_BYTES) {
        const int64_t n = k - s0 < RV_NF4_BLOCK ? k - s0 : RV_NF4_BLOCK;
        const float *scale = (const float *)(const void *)panel;
        const uint8_t *q = (const uint8_t *)panel + RV_QUANT_SCALES;
        for (int64_t s = 0; s < n; s += 2, q += RV_PANEL) {
            vf w[NV];
            __builtin_prefetch(q + AHEAD_BYTES, 0, 3);
            from_nf4(w, &t, q, 0);
            scaled(w, scale);
            add_step(mr, acc, w, x + s0 + s, k);
            if (s + 1 < n) {
                from_nf4(w, &t, q, 1);
                scaled(w, scale);
                add_step(mr, acc, w, x + s0 + s + 1, k);
            }
        }
    }
}

// mr rows of one panel; mr and nf4 are constants of each inlined copy.
RV_INLINE void narrow(const int mr, const bool nf4, const char *panel, float *y, int64_t ldy,
                      const float *x, int64_t k) {
    vf acc[NARROW][NV] = {{{0}}};
    if (nf4) {
        nf4_rows(mr, acc, panel, x, k);
    } else {
        int8_rows(mr, acc, panel, x, k);
    }
    RV_UNROLL
    for (int i = 0; i < mr; i++) {
        RV_UNROLL
        for (int v = 0; v < NV; v++) {
            vstore(y + i * ldy + v * VL, acc[i][v]);
        }
    }
}

RV_INLINE void narrow_rows(const bool nf4, const char *panel, float *y, int64_t ldy, const float *x,
                           int64_t k, int64_t rows) {
    if (rows == 1) {
        narrow(1, nf4, panel, y, ldy, x, k);
    } else if (rows == 2) {
        narrow(2, nf4, panel, y, ldy, x, k);
    } else {
        narrow(3, nf4, panel, y, ldy, x, k);
    }
}

static __attribute__((noinline)) void narrow_int8(const char *panel, float *y, int64_t ldy,
                                                  const float *x, int64_t k, int64_t rows) {
    narrow_rows(false, panel, y, ldy, x, k, rows);
}

static __attribute__((noinline)) void narrow_nf4(const char *panel, float *y, int64_t ldy,
                                                 const float *x, int64_t k, int64_t rows) {
    narrow_rows(true, panel, y, ldy, x, k, rows);
}

// ---- widened copies ----

static void store_step(float *dst, vf w[NV], const float *scale) {
    scaled(w, scale);
    for (int v = 0; v < NV; v++) {
        vstore(dst + v * VL, w[v]);
    }
}

// Inputs s0..s0+steps-1 of a panel as (steps, 32); s0 even.
static void widen(float *dst, const rv_weight *w, const char *panel, int64_t s0, int64_t steps) {
    const nf4_table t = nf4_open();
    vf x[NV];
    for (int64_t s = s0; s < s0 + steps; s++, dst += RV_PANEL) {
        if (w->store == RV_I8) {
            const int8_t *q = (const int8_t *)panel + RV_QUANT_SCALES + s * RV_PANEL;
            for (int v = 0; v < NV; v++) {
                x[v] = from_int8(q + v * VL);
            }
            store_step(dst, x, (const float *)(const void *)panel);
            continue;
        }
        const char *block = panel + s / RV_NF4_BLOCK * RV_NF4_BYTES;
        const uint8_t *q =
            (const uint8_t *)block + RV_QUANT_SCALES + s % RV_NF4_BLOCK / 2 * RV_PANEL;
        if (s % 2) {
            from_nf4(x, &t, q, 1);
        } else {
            from_nf4(x, &t, q, 0);
        }
        store_step(dst, x, (const float *)(const void *)block);
    }
}

// Outputs s0.. of inputs 32 p .. 32 p + 31 as (steps, 32): panels of outputs, turned around.
static void widen_turned(float *dst, const rv_weight *w, int64_t p, int64_t s0, int64_t steps) {
    _Alignas(64) float part[RV_PANEL * RV_PANEL];
    const int64_t size = rv_quant_panel(w), k0 = p * RV_PANEL;
    const int64_t inputs = w->k - k0 < RV_PANEL ? w->k - k0 : RV_PANEL;
    for (int64_t s = s0; s < s0 + steps; s += RV_PANEL, dst += RV_PANEL * RV_PANEL) {
        widen(part, w, (const char *)w->fwd.addr + s / RV_PANEL * size, k0, inputs);
        turn_panel(dst, part, RV_F32, inputs);
    }
}

// Steps s0.. of panel p through a widened copy.
static void wide_steps(const rv_quant_call *q, int64_t p, int64_t i, int64_t s0, int64_t all) {
    _Alignas(64) float wide[STEPS * RV_PANEL];
    const rv_weight *w = q->w;
    const int64_t steps = all - s0 < STEPS ? all - s0 : STEPS;
    if (q->transposed) {
        widen_turned(wide, w, p + i, s0, steps);
    } else {
        widen(wide, w, (const char *)w->fwd.addr + (p + i) * rv_quant_panel(w), s0, steps);
    }
    const tile t = {.c = q->y[i],
                    .ldc = q->ldy[i],
                    .a = q->x + s0,
                    .ar = all,
                    .at = 1,
                    .b = wide,
                    .ldb = RV_PANEL,
                    .steps = steps,
                    .load = s0 > 0};
    tile_f32(&t, q->rows, RV_PANEL);
}

void ISA(rv_quant_product)(const rv_quant_call *q, int64_t p, int64_t panels) {
    const rv_weight *w = q->w;
    const int64_t all = q->transposed ? w->n : w->k;
    if (q->rows <= NARROW && !q->transposed) {
        for (int64_t i = 0; i < panels; i++) {
            const char *panel = (const char *)w->fwd.addr + (p + i) * rv_quant_panel(w);
            (w->store == RV_NF4 ? narrow_nf4 : narrow_int8)(panel, q->y[i], q->ldy[i], q->x, all,
                                                            q->rows);
        }
        return;
    }
    for (int64_t s0 = 0; s0 < all; s0 += STEPS) {
        for (int64_t i = 0; i < panels; i++) {
            wide_steps(q, p, i, s0, all);
        }
    }
}
