#include "resample.h"

#include <math.h>
#include <stdlib.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "mem.h"

#define PI        3.14159265358979323846
#define PRECISION 22 // fractional bits of a weight: 8 bits of pixel and 2 of overshoot make 32

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming(double x) {
    x = fabs(x);
    if (x == 0.0) {
        return 1.0;
    }
    if (x >= 1.0) {
        return 0.0;
    }
    x *= PI;
    return sin(x) / x * (0.54 + 0.46 * cos(x));
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static double sinc(double x) {
    if (x == 0.0) {
        return 1.0;
    }
    x *= PI;
    return sin(x) / x;
}

static double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

static const struct {
    const char *name;
    double (*f)(double);
    double support;
} filters[] = {
    [RV_LANCZOS] = {"lanczos", lanczos, 3.0}, [RV_BILINEAR] = {"bilinear", bilinear, 1.0},
    [RV_BICUBIC] = {"bicubic", bicubic, 2.0}, [RV_BOX] = {"box", box, 0.5},
    [RV_HAMMING] = {"hamming", hamming, 1.0},
};

const char *rv_filter_name(int code) {
    int n = (int)(sizeof filters / sizeof filters[0]);
    return code > 0 && code < n ? filters[code].name : NULL;
}

// Which input pixels make an output pixel, and with what weight.
typedef struct {
    int *first, *count; // (out)
    int32_t *weight;    // (out, taps), fixed point
    int taps;
} kernel;

static void kernel_free(kernel *k) {
    free(k->first);
    free(k->count);
    free(k->weight);
}

// Fills one row of weights around `center`; `tmp` holds `taps` doubles.
static void kernel_row(kernel *k, double *tmp, int o, double center, int in, double scale,
                       rv_filter filter) {
    double widen = scale < 1.0 ? 1.0 : scale, support = filters[filter].support * widen;
    double inverse = 1.0 / widen, sum = 0.0;
    int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
    lo = lo < 0 ? 0 : lo;
    hi = hi > in ? in : hi;
    int32_t *w = k->weight + (int64_t)o * k->taps;
    for (int x = 0; x < hi - lo; x++) {
        tmp[x] = filters[filter].f((x + lo - center + 0.5) * inverse);
        sum += tmp[x];
    }
    for (int x = 0; x < hi - lo; x++) {
        double v = (sum != 0.0 ? tmp[x] / sum : tmp[x]) * (1 << PRECISION);
        w[x] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    k->first[o] = lo;
    k->count[o] = hi - lo;
}

// Weights of the outputs first .. first + n - 1 of `in` pixels resized to `size`.
static rv_status kernel_make(kernel *k, int in, int64_t size, int64_t first, int n,
                             rv_filter filter, rv_err *e) {
    double scale = (double)in / (double)size;
    k->taps = (int)ceil(filters[filter].support * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    k->first = rv_calloc(n, sizeof *k->first);
    k->count = rv_calloc(n, sizeof *k->count);
    k->weight = rv_calloc((int64_t)n * k->taps, sizeof *k->weight);
    double *tmp = rv_calloc(k->taps, sizeof *tmp);
    bool ok = k->first && k->count && k->weight && tmp;
    for (int i = 0; ok && i < n; i++) {
        kernel_row(k, tmp, i, ((double)(first + i) + 0.5) * scale, in, scale, filter);
    }
    free(tmp);
    if (!ok) {
        kernel_free(k);
        return RV_FAIL(e, RV_ENOMEM, "out of memory while resizing %d pixels to %lld", in,
                       (long long)size);
    }
    return RV_OK;
}

// ---- the inner loop: weighted sums of lines of bytes ----

enum { LANES = 48 };

static uint8_t clip8(int32_t x) {
    x >>= PRECISION;
    return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
}

// n bytes: the sum of `taps` lines, `stride` bytes apart, each times its weight.
typedef void weigh_fn(uint8_t *to, const uint8_t *from, int64_t stride, const int32_t *w, int taps,
                      int n);

static void weigh_plain(uint8_t *to, const uint8_t *from, int64_t stride, const int32_t *w,
                        int taps, int n) {
    for (int i = 0; i < n; i += LANES) {
        int32_t sum[LANES];
        int m = n - i < LANES ? n - i : LANES;
        for (int j = 0; j < LANES; j++) {
            sum[j] = 1 << (PRECISION - 1);
        }
        for (int t = 0; t < taps; t++) {
            const uint8_t *line = from + t * stride + i;
            for (int j = 0; j < m; j++) {
                sum[j] += line[j] * w[t];
            }
        }
        for (int j = 0; j < m; j++) {
            to[i + j] = clip8(sum[j]);
        }
    }
}

#ifdef __x86_64__
// Sixteen sums, cut to bytes by saturation.
__attribute__((target("avx2"))) static inline void put16(uint8_t *to, __m256i a, __m256i b) {
    __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(a, PRECISION),
                                       _mm256_srai_epi32(b, PRECISION)); // by halves: a b a b
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((__m128i_u *)to, _mm_packus_epi16(low, high));
}

__attribute__((target("avx2"))) static inline void
weigh_strip(uint8_t *to, const uint8_t *from, int64_t stride, const int32_t *w, int taps) {
    enum { STEPS = LANES / 8 };
    __m256i sum[STEPS];
    for (int i = 0; i < STEPS; i++) {
        sum[i] = _mm256_set1_epi32(1 << (PRECISION - 1));
    }
    for (int t = 0; t < taps; t++, from += stride) {
        __m256i k = _mm256_set1_epi32(w[t]);
        for (int i = 0; i < STEPS; i++) {
            __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)(from + 8 * i)));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_mullo_epi32(v, k));
        }
    }
    for (int i = 0; i < STEPS; i += 2) {
        put16(to + 8 * i, sum[i], sum[i + 1]);
    }
}

__attribute__((target("avx2"))) static void
weigh_avx2(uint8_t *to, const uint8_t *from, int64_t stride, const int32_t *w, int taps, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        weigh_strip(to + i, from + i, stride, w, taps);
    }
    weigh_plain(to + i, from + i, stride, w, taps, n - i);
}

static weigh_fn *pick_weigh(void) {
    return __builtin_cpu_supports("avx2") ? weigh_avx2 : weigh_plain;
}
#else
static weigh_fn *pick_weigh(void) { return weigh_plain; }
#endif

// ---- two passes ----

enum {
    BAND = LANES / 3
}; // rows that are resized together: with three channels they fill the lanes

// Turns rows y .. of `im` into columns: the bytes of a channel of a pixel lie BAND together.
static void band_in(uint8_t *to, const rv_image *im, int y) {
    const uint8_t *row[BAND];
    for (int r = 0; r < BAND; r++) {
        row[r] = rv_image_at(im, 0, y + r < im->h ? y + r : im->h - 1);
    }
    for (int i = 0; i < im->w * 3; i++) {
        for (int r = 0; r < BAND; r++) {
            *to++ = row[r][i];
        }
    }
}

static void band_out(const rv_image *im, int y, const uint8_t *from) {
    for (int r = 0; r < BAND && y + r < im->h; r++) {
        uint8_t *row = rv_image_at(im, 0, y + r);
        for (int i = 0; i < im->w * 3; i++) {
            row[i] = from[i * BAND + r];
        }
    }
}

static void resize_rows(const rv_image *out, const rv_image *im, const kernel *k, uint8_t *band) {
    weigh_fn *weigh = pick_weigh();
    uint8_t *in = band, *made = band + (int64_t)im->w * LANES;
    for (int y = 0; y < im->h; y += BAND) {
        band_in(in, im, y);
        for (int x = 0; x < out->w; x++) {
            weigh(made + (int64_t)x * LANES, in + (int64_t)k->first[x] * LANES, LANES,
                  k->weight + (int64_t)x * k->taps, k->count[x], LANES);
        }
        band_out(out, y, made);
    }
}

static void resize_columns(const rv_image *out, const rv_image *im, const kernel *k) {
    weigh_fn *weigh = pick_weigh();
    for (int y = 0; y < out->h; y++) {
        weigh(rv_image_at(out, 0, y), rv_image_at(im, 0, k->first[y]), (int64_t)im->w * 3,
              k->weight + (int64_t)y * k->taps, k->count[y], out->w * 3);
    }
}

static rv_status resize_width(rv_image *out, const rv_image *im, int64_t w, rv_window part,
                              rv_filter filter, rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, part.w, im->h, NULL, e));
    rv_status s = kernel_make(&k, im->w, w, part.x, out->w, filter, e);
    uint8_t *band = s == RV_OK ? rv_calloc((int64_t)im->w + out->w, LANES) : NULL;
    if (band) {
        resize_rows(out, im, &k, band);
        free(band);
    } else {
        rv_image_free(out);
    }
    if (s == RV_OK) {
        kernel_free(&k);
        s = band ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory while resizing");
    }
    return s;
}

static rv_status resize_height(rv_image *out, const rv_image *im, int64_t h, rv_window part,
                               rv_filter filter, rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, im->w, part.h, NULL, e));
    rv_status s = kernel_make(&k, im->h, h, part.y, out->h, filter, e);
    if (s != RV_OK) {
        rv_image_free(out);
        return s;
    }
    resize_columns(out, im, &k);
    kernel_free(&k);
    return RV_OK;
}

rv_status rv_image_resize(rv_image *out, const rv_image *im, int64_t w, int64_t h, rv_filter filter,
                          rv_err *e) {
    return rv_image_resize_window(out, im, w, h, (rv_window){0, 0, w, h}, filter, e);
}

rv_status rv_image_resize_window(rv_image *out, const rv_image *im, int64_t w, int64_t h,
                                 rv_window part, rv_filter filter, rv_err *e) {
    *out = (rv_image){0, 0, NULL};
    if (w < 1 || h < 1 || part.w < 1 || part.h < 1 || part.w > RV_IMAGE_MAX_SIDE ||
        part.h > RV_IMAGE_MAX_SIDE) {
        return RV_FAIL(e, RV_EARG, "cannot resize to %lld x %lld: wanted sides from 1 to %d",
                       (long long)w, (long long)h, RV_IMAGE_MAX_SIDE);
    }
    if (part.x < 0 || part.y < 0 || part.x > w - part.w || part.y > h - part.h) {
        return RV_FAIL(e, RV_EARG, "%lld x %lld pixels at (%lld, %lld) leave the size %lld x %lld",
                       (long long)part.w, (long long)part.h, (long long)part.x, (long long)part.y,
                       (long long)w, (long long)h);
    }
    // A dimension that keeps its size is only cut, before the other pass (where it costs nothing).
    rv_window keep = {w == im->w ? part.x : 0, h == im->h ? part.y : 0, w == im->w ? part.w : im->w,
                      h == im->h ? part.h : im->h};
    rv_image now = {0, 0, NULL}, next;
    rv_status s = RV_OK;
    if (keep.w != im->w || keep.h != im->h || (w == im->w && h == im->h)) {
        s = rv_image_crop(&now, im, keep.x, keep.y, keep.w, keep.h, e);
    }
    if (s == RV_OK && w != im->w) {
        s = resize_width(&next, now.px ? &now : im, w, part, filter, e);
        rv_image_free(&now);
        now = next;
    }
    if (s == RV_OK && h != im->h) {
        s = resize_height(&next, now.px ? &now : im, h, part, filter, e);
        rv_image_free(&now);
        now = next;
    }
    *out = now;
    return s;
}
