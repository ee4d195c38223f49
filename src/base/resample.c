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

// Which input pixels make output pixel o, and with what weight.
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

// Fills one row of weights; `tmp` holds `taps` doubles.
static void kernel_row(kernel *k, double *tmp, int o, int in, double scale, rv_filter filter) {
    double widen = scale < 1.0 ? 1.0 : scale, support = filters[filter].support * widen;
    double center = (o + 0.5) * scale, inverse = 1.0 / widen, sum = 0.0;
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

static rv_status kernel_make(kernel *k, int in, int out, rv_filter filter, rv_err *e) {
    double scale = (double)in / out;
    k->taps = (int)ceil(filters[filter].support * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    k->first = rv_calloc(out, sizeof *k->first);
    k->count = rv_calloc(out, sizeof *k->count);
    k->weight = rv_calloc((int64_t)out * k->taps, sizeof *k->weight);
    double *tmp = rv_calloc(k->taps, sizeof *tmp);
    bool ok = k->first && k->count && k->weight && tmp;
    for (int o = 0; ok && o < out; o++) {
        kernel_row(k, tmp, o, in, scale, filter);
    }
    free(tmp);
    if (!ok) {
        kernel_free(k);
        return RV_FAIL(e, RV_ENOMEM, "out of memory while resizing %d pixels to %d", in, out);
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

static rv_status resize_width(rv_image *out, const rv_image *im, int w, rv_filter filter,
                              rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, w, im->h, (const uint8_t[3]){0, 0, 0}, e));
    rv_status s = kernel_make(&k, im->w, w, filter, e);
    if (s != RV_OK) {
        rv_image_free(out);
        return s;
    }
    resize_rows(out, im, &k);
    kernel_free(&k);
    return RV_OK;
}

static rv_status resize_height(rv_image *out, const rv_image *im, int h, rv_filter filter,
                               rv_err *e) {
    kernel k;
    RV_TRY(rv_image_new(out, im->w, h, (const uint8_t[3]){0, 0, 0}, e));
    rv_status s = kernel_make(&k, im->h, h, filter, e);
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
    rv_image wide = {0, 0, NULL};
    *out = wide;
    if (w < 1 || h < 1 || w > RV_IMAGE_MAX_SIDE || h > RV_IMAGE_MAX_SIDE) {
        return RV_FAIL(e, RV_EARG, "cannot resize to %lld x %lld: wanted sides from 1 to %d",
                       (long long)w, (long long)h, RV_IMAGE_MAX_SIDE);
    }
    if (w != im->w) {
        RV_TRY(resize_width(&wide, im, (int)w, filter, e));
    }
    const rv_image *from = wide.px ? &wide : im;
    if (h == im->h) {
        if (!wide.px) {
            return rv_image_copy(out, im, e);
        }
        *out = wide;
        return RV_OK;
    }
    rv_status s = resize_height(out, from, (int)h, filter, e);
    rv_image_free(&wide);
    return s;
}
