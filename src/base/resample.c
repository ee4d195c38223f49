#include "resample.h"

#include <math.h>
#include <stdlib.h>

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

static uint8_t clip8(int32_t x) {
    x >>= PRECISION;
    return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
}

static void resize_rows(const rv_image *out, const rv_image *im, const kernel *k) {
    for (int y = 0; y < out->h; y++) {
        uint8_t *to = rv_image_at(out, 0, y);
        for (int x = 0; x < out->w; x++, to += 3) {
            const uint8_t *from = rv_image_at(im, k->first[x], y);
            const int32_t *w = k->weight + (int64_t)x * k->taps;
            int32_t r = 1 << (PRECISION - 1), g = r, b = r;
            for (int t = 0; t < k->count[x]; t++, from += 3) {
                r += from[0] * w[t];
                g += from[1] * w[t];
                b += from[2] * w[t];
            }
            to[0] = clip8(r);
            to[1] = clip8(g);
            to[2] = clip8(b);
        }
    }
}

// Adds weighted rows whole: the inner loop runs along memory.
static void resize_columns(const rv_image *out, const rv_image *im, const kernel *k, int32_t *acc) {
    int n = out->w * 3;
    for (int y = 0; y < out->h; y++) {
        for (int i = 0; i < n; i++) {
            acc[i] = 1 << (PRECISION - 1);
        }
        for (int t = 0; t < k->count[y]; t++) {
            const uint8_t *from = rv_image_at(im, 0, k->first[y] + t);
            int32_t w = k->weight[(int64_t)y * k->taps + t];
            for (int i = 0; i < n; i++) {
                acc[i] += from[i] * w;
            }
        }
        uint8_t *to = rv_image_at(out, 0, y);
        for (int i = 0; i < n; i++) {
            to[i] = clip8(acc[i]);
        }
    }
}

static rv_status resize_width(rv_image *out, const rv_image *im, int64_t w, rv_window part,
                              rv_filter filter, rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, part.w, im->h, (const uint8_t[3]){0, 0, 0}, e));
    rv_status s = kernel_make(&k, im->w, w, part.x, out->w, filter, e);
    if (s != RV_OK) {
        rv_image_free(out);
        return s;
    }
    resize_rows(out, im, &k);
    kernel_free(&k);
    return RV_OK;
}

static rv_status resize_height(rv_image *out, const rv_image *im, int64_t h, rv_window part,
                               rv_filter filter, rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, im->w, part.h, (const uint8_t[3]){0, 0, 0}, e));
    rv_status s = kernel_make(&k, im->h, h, part.y, out->h, filter, e);
    int32_t *acc = s == RV_OK ? rv_calloc((int64_t)out->w * 3, sizeof *acc) : NULL;
    if (acc) {
        resize_columns(out, im, &k, acc);
        free(acc);
    } else {
        rv_image_free(out);
    }
    if (s == RV_OK) {
        kernel_free(&k);
        s = acc ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory while resizing");
    }
    return s;
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
    rv_image cut, wide = {0, 0, NULL};
    RV_TRY(rv_image_crop(&cut, im, keep.x, keep.y, keep.w, keep.h, e));
    rv_status s = RV_OK;
    if (w != im->w) {
        s = resize_width(&wide, &cut, w, part, filter, e);
        rv_image_free(&cut);
        cut = wide;
    }
    if (s == RV_OK && h != im->h) {
        s = resize_height(out, &cut, h, part, filter, e);
        rv_image_free(&cut);
    } else {
        *out = cut;
    }
    return s;
}
