// image_jpeg.c - JPEG files, pixel for pixel as libjpeg-turbo (and so Pillow) shows them.
//
// stb_image reads the file and undoes the entropy coding. What follows is left to taste by the
// standard, and done here as libjpeg does it by default: the accurate integer inverse transform,
// chroma enlarged by triangles, 16-bit colour conversion. Source: libjpeg-turbo, jidctint.c,
// jdsample.c, jdcolor.c; Pillow, Convert.c for CMYK.
#define STBI_ONLY_JPEG
#include "image_stb.h"

#include <string.h>

#include "mem.h"

// ---- the structure of the file ----

// Wants every Huffman table of a DHT segment whole and with at most 256 codes: stb_image writes
// beyond its table otherwise.
static bool good_huffman(const uint8_t *p, size_t n) {
    while (n >= 17) {
        size_t codes = 0;
        for (int i = 1; i <= 16; i++) {
            codes += p[i];
        }
        if (codes > 256 || codes > n - 17) {
            return false;
        }
        p += 17 + codes;
        n -= 17 + codes;
    }
    return n == 0;
}

// The next marker behind a scan's header: not a stuffed byte, a restart or a fill.
static size_t skip_scan(const rv_image_source *s, size_t at) {
    for (; s->n - at >= 2; at++) {
        uint8_t m = s->p[at + 1];
        if (s->p[at] == 0xFF && m != 0 && m != 0xFF && (m < 0xD0 || m > 0xD7)) {
            break;
        }
    }
    return at;
}

// Walks the segments and scans of a JPEG to its end marker.
static rv_status check_jpeg(const rv_image_source *s, rv_err *e) {
    size_t at = 2;
    while (s->n - at >= 2) {
        if (s->p[at] != 0xFF) {
            return RV_FAIL(e, RV_EFORMAT, "%s: damaged JPEG: no marker at byte %zu", s->name, at);
        }
        uint8_t marker = s->p[at + 1];
        if (marker == 0xD9) {
            return RV_OK;
        }
        if (marker == 0xFF) { // fill byte
            at++;
            continue;
        }
        size_t len = s->n - at >= 4 ? (size_t)s->p[at + 2] << 8 | s->p[at + 3] : SIZE_MAX;
        if (len < 2 || len > s->n - at - 2) {
            break;
        }
        if (marker == 0xC4 && !good_huffman(s->p + at + 4, len - 2)) {
            return RV_FAIL(e, RV_EFORMAT, "%s: damaged JPEG: bad Huffman table at byte %zu",
                           s->name, at);
        }
        at += len + 2;
        at = marker == 0xDA ? skip_scan(s, at) : at;
    }
    return RV_FAIL(e, RV_EFORMAT, "%s: truncated JPEG: no end marker in its %zu bytes", s->name,
                   s->n);
}

// ---- the inverse transform ----

enum { FRACTION = 13, KEPT = 2 }; // bits of the constants; more bits between the passes

static int64_t fixed(double x) { return (int64_t)(x * (1 << FRACTION) + 0.5); }

// Eight values by Loeffler, Ligtenberg and Moschytz, in and out `step` apart; the results lose
// `shift` bits, rounded.
static inline void transform(int64_t *v, int step, int shift) {
    int64_t a = v[2 * step], b = v[6 * step], c = (a + b) * fixed(0.541196100);
    int64_t t2 = c - b * fixed(1.847759065), t3 = c + a * fixed(0.765366865);
    int64_t t0 = (v[0] + v[4 * step]) * (1 << FRACTION),
            t1 = (v[0] - v[4 * step]) * (1 << FRACTION);
    int64_t even[4] = {t0 + t3, t1 + t2, t1 - t2, t0 - t3};
    int64_t s7 = v[7 * step], s5 = v[5 * step], s3 = v[3 * step], s1 = v[step];
    int64_t z5 = (s7 + s3 + s5 + s1) * fixed(1.175875602);
    int64_t z1 = (s7 + s1) * -fixed(0.899976223), z2 = (s5 + s3) * -fixed(2.562915447);
    int64_t z3 = (s7 + s3) * -fixed(1.961570560) + z5, z4 = (s5 + s1) * -fixed(0.390180644) + z5;
    int64_t odd[4] = {s1 * fixed(1.501321110) + z1 + z4, s3 * fixed(3.072711026) + z2 + z3,
                      s5 * fixed(2.053119869) + z2 + z4, s7 * fixed(0.298631336) + z1 + z3};
    for (int i = 0; i < 4; i++) {
        int64_t half = 1 << (shift - 1);
        v[i * step] = (even[i] + odd[i] + half) >> shift;
        v[(7 - i) * step] = (even[i] - odd[i] + half) >> shift;
    }
}

static inline uint8_t clamp(int x) { return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x); }

static void inverse(stbi_uc *out, int stride, short data[64]) {
    int64_t v[64];
    for (int i = 0; i < 64; i++) {
        v[i] = data[i];
    }
    for (int i = 0; i < 8; i++) {
        int64_t *c = v + i;
        if (c[8] || c[16] || c[24] || c[32] || c[40] || c[48] || c[56]) {
            transform(c, 8, FRACTION - KEPT);
            continue;
        }
        for (int y = 0; y < 8; y++) { // what the transform gives for a column of one value
            c[8 * y] = (int64_t)data[i] * (1 << KEPT);
        }
    }
    for (int i = 0; i < 8; i++) {
        transform(v + 8 * i, 1, FRACTION + KEPT + 3);
        for (int x = 0; x < 8; x++) {
            out[i * stride + x] = clamp((int)v[8 * i + x] + 128);
        }
    }
}

// ---- channels at full size ----

typedef struct {
    const uint8_t *p;
    int stride, w, h; // as stored
    int across, down; // how much larger the picture is
} channel;

static const uint8_t *stored_row(const channel *c, int y) {
    return c->p + (int64_t)(y < 0 ? 0 : y >= c->h ? c->h - 1 : y) * c->stride;
}

// Twice as wide: three parts of the nearer value, one of the farther one.
static void widen(uint8_t *out, const uint8_t *in, int w) {
    for (int x = 0; x < w; x++) {
        int left = x > 0 ? in[x - 1] : in[x], right = x < w - 1 ? in[x + 1] : in[x];
        out[2 * x] = (uint8_t)((3 * in[x] + left + 1) >> 2);
        out[2 * x + 1] = (uint8_t)((3 * in[x] + right + 2) >> 2);
    }
}

// Twice as high: one row between `near` and `far`.
static void deepen(uint8_t *out, const uint8_t *near, const uint8_t *far, int w, int bias) {
    for (int x = 0; x < w; x++) {
        out[x] = (uint8_t)((3 * near[x] + far[x] + bias) >> 2);
    }
}

static void enlarge(uint8_t *out, const uint8_t *near, const uint8_t *far, int w) {
    for (int x = 0; x < w; x++) {
        int left = x > 0 ? x - 1 : x, right = x < w - 1 ? x + 1 : x;
        int sum = 3 * near[x] + far[x];
        out[2 * x] = (uint8_t)((3 * sum + 3 * near[left] + far[left] + 8) >> 4);
        out[2 * x + 1] = (uint8_t)((3 * sum + 3 * near[right] + far[right] + 7) >> 4);
    }
}

// Row y of the picture in one channel; `out` has room for a few values more than the width.
static void full_row(const channel *c, int y, uint8_t *out) {
    int row = y / c->down, other = y % 2 ? row + 1 : row - 1;
    const uint8_t *near = stored_row(c, row), *far = stored_row(c, other);
    if (c->across == 2 && c->down == 1 && c->w > 2) {
        widen(out, near, c->w);
    } else if (c->across == 1 && c->down == 2) {
        deepen(out, near, far, c->w, y % 2 ? 2 : 1);
    } else if (c->across == 2 && c->down == 2 && c->w > 2) {
        enlarge(out, near, far, c->w);
    } else if (c->across == 1) {
        memcpy(out, near, (size_t)c->w);
    } else {
        for (int x = 0; x < c->w; x++) {
            memset(out + x * c->across, near[x], (size_t)c->across);
        }
    }
}

// ---- colours ----

typedef enum { GREY, RGB, YCC, CMYK, YCCK } space;

static space space_of(const stbi__jpeg *j) {
    if (j->s->img_n == 1) {
        return GREY;
    }
    if (j->s->img_n == 4) {
        return j->app14_color_transform > 0 ? YCCK : CMYK;
    }
    return j->rgb == 3 || (j->app14_color_transform == 0 && !j->jfif) ? RGB : YCC;
}

static inline void from_ycc(uint8_t *rgb, int y, int cb, int cr) {
    enum { HALF = 1 << 15 };
    cb -= 128;
    cr -= 128;
    rgb[0] = clamp(y + ((91881 * cr + HALF) >> 16));
    rgb[1] = clamp(y + ((-22554 * cb - 46802 * cr + HALF) >> 16));
    rgb[2] = clamp(y + ((116130 * cb + HALF) >> 16));
}

// A stored, inverted ink over black: Pillow's conversion.
static uint8_t ink(int stored, int black) {
    int x = (255 - stored) * black + 128;
    return (uint8_t)(black - (((x >> 8) + x) >> 8));
}

static void convert(uint8_t *rgb, space s, uint8_t *const row[4], int w) {
    const uint8_t *a = row[0], *b = row[1], *c = row[2], *black = row[3];
    for (int x = 0; s == GREY && x < w; x++) {
        memset(rgb + 3 * x, a[x], 3);
    }
    for (int x = 0; (s == YCC || s == YCCK) && x < w; x++) {
        from_ycc(rgb + 3 * x, a[x], b[x], c[x]);
    }
    for (int x = 0; (s == RGB || s == CMYK) && x < w; x++) {
        rgb[3 * x] = a[x];
        rgb[3 * x + 1] = b[x];
        rgb[3 * x + 2] = c[x];
    }
    for (int x = 0; s == YCCK && x < 3 * w; x++) {
        rgb[x] = (uint8_t)(255 - rgb[x]);
    }
    for (int x = 0; (s == CMYK || s == YCCK) && x < 3 * w; x++) {
        rgb[x] = ink(rgb[x], black[x / 3]);
    }
}

// Wants channels that go into the picture a whole number of times.
static rv_status check_sampling(const stbi__jpeg *j, const char *name, rv_err *e) {
    for (int c = 0; c < j->s->img_n; c++) {
        if (j->img_h_max % j->img_comp[c].h != 0 || j->img_v_max % j->img_comp[c].v != 0) {
            return RV_FAIL(e, RV_EFORMAT, "%s: bad JPEG: channels of %d x %d and %d x %d samples",
                           name, j->img_h_max, j->img_v_max, j->img_comp[c].h, j->img_comp[c].v);
        }
    }
    return RV_OK;
}

static rv_status draw(rv_image *out, const stbi__jpeg *j, rv_err *e) {
    int w = (int)j->s->img_x, h = (int)j->s->img_y, n = j->s->img_n;
    RV_TRY(rv_image_new(out, w, h, NULL, e));
    int64_t room = w + 8;
    uint8_t *buffer = rv_calloc(4 * room, 1), *row[4];
    if (!buffer) {
        rv_image_free(out);
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a JPEG image");
    }
    for (int c = 0; c < 4; c++) {
        row[c] = buffer + c * room;
    }
    for (int y = 0; y < h; y++) {
        for (int c = 0; c < n; c++) {
            channel ch = {j->img_comp[c].data,
                          j->img_comp[c].w2,
                          j->img_comp[c].x,
                          j->img_comp[c].y,
                          j->img_h_max / j->img_comp[c].h,
                          j->img_v_max / j->img_comp[c].v};
            full_row(&ch, y, row[c]);
        }
        convert(rv_image_at(out, 0, y), space_of(j), row, w);
    }
    free(buffer);
    return RV_OK;
}

rv_status rv_image_jpeg(rv_image *out, const rv_image_source *s, rv_err *e) {
    RV_TRY(check_jpeg(s, e));
    RV_TRY(rv_image_check_size(s, "JPEG", e));
    stbi__context context;
    stbi__start_mem(&context, s->p, (int)s->n);
    context.img_n = 0; // for the cleanup, should the header be bad
    stbi__jpeg *j = rv_calloc(1, sizeof *j);
    if (!j) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a JPEG image");
    }
    j->s = &context;
    stbi__setup_jpeg(j);
    j->idct_block_kernel = inverse;
    rv_status st;
    if (stbi__decode_jpeg_image(j)) {
        st = check_sampling(j, s->name, e);
        st = st == RV_OK ? draw(out, j, e) : st;
    } else {
        st = RV_FAIL(e, RV_EFORMAT, "%s: bad JPEG: %s", s->name, stbi_failure_reason());
    }
    stbi__cleanup_jpeg(j);
    free(j);
    return st;
}
