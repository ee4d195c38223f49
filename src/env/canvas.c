#include "canvas.h"

#include <stdlib.h>
#include <string.h>

// x * y / 255, rounded to nearest, for bytes.
static inline uint8_t mul255(unsigned x, unsigned y) {
    unsigned t = x * y + 128;
    return (uint8_t)((t + (t >> 8)) >> 8);
}

rv_status rv_canvas_new(rv_canvas *c, int64_t w, int64_t h, rv_color color, rv_err *e) {
    *c = (rv_canvas){0, 0, NULL};
    if (w < 1 || h < 1 || w > RV_IMAGE_MAX_SIDE || h > RV_IMAGE_MAX_SIDE ||
        w * h > RV_IMAGE_MAX_PIXELS) {
        return RV_FAIL(e, RV_EARG,
                       "canvas: wanted sides from 1 to %d and at most %d pixels, got "
                       "%lld x %lld",
                       RV_IMAGE_MAX_SIDE, RV_IMAGE_MAX_PIXELS, (long long)w, (long long)h);
    }
    size_t row = (size_t)w * 4;
    uint8_t *px = malloc(row * (size_t)h);
    if (!px) {
        return RV_FAIL(e, RV_ENOMEM, "canvas: no memory for %lld x %lld pixels", (long long)w,
                       (long long)h);
    }
    uint8_t one[4] = {mul255(color.r, color.a), mul255(color.g, color.a), mul255(color.b, color.a),
                      color.a};
    for (int64_t x = 0; x < w; x++) {
        memcpy(px + x * 4, one, 4);
    }
    for (int64_t y = 1; y < h; y++) {
        memcpy(px + (size_t)y * row, px, row);
    }
    *c = (rv_canvas){(int)w, (int)h, px};
    return RV_OK;
}

void rv_canvas_free(rv_canvas *c) {
    free(c->px);
    *c = (rv_canvas){0, 0, NULL};
}

rv_status rv_canvas_from_image(rv_canvas *c, const rv_image *im, rv_err *e) {
    RV_TRY(rv_canvas_new(c, im->w, im->h, (rv_color){0, 0, 0, 255}, e));
    const uint8_t *s = im->px;
    uint8_t *d = c->px;
    for (size_t i = 0, n = (size_t)c->w * (size_t)c->h; i < n; i++, s += 3, d += 4) {
        memcpy(d, s, 3);
    }
    return RV_OK;
}

rv_status rv_canvas_to_image(const rv_canvas *c, rv_image *im, rv_err *e) {
    static const uint8_t black[3] = {0, 0, 0};
    RV_TRY(rv_image_new(im, c->w, c->h, black, e));
    const uint8_t *s = c->px;
    uint8_t *d = im->px;
    for (size_t i = 0, n = (size_t)c->w * (size_t)c->h; i < n; i++, s += 4, d += 3) {
        memcpy(d, s, 3);
    }
    return RV_OK;
}

// The part of a w x h block at (x, y) that lies on the canvas: [x0, x1) x [y0, y1) in the block.
typedef struct {
    int x0, y0, x1, y1;
} part;

static int clamp(int64_t v, int hi) { return v < 0 ? 0 : v > hi ? hi : (int)v; }

static part visible(const rv_canvas *c, int w, int h, int64_t x, int64_t y) {
    enum { FAR = 1 << 20 }; // beyond any canvas, and far from overflow
    x = x < -FAR ? -FAR : x > FAR ? FAR : x;
    y = y < -FAR ? -FAR : y > FAR ? FAR : y;
    return (part){clamp(-x, w), clamp(-y, h), clamp(c->w - x, w), clamp(c->h - y, h)};
}

static uint8_t *pixel(rv_canvas *c, int64_t x, int64_t y) {
    return c->px + ((size_t)y * (size_t)c->w + (size_t)x) * 4;
}

void rv_canvas_blit(rv_canvas *c, const rv_canvas *src, int64_t x, int64_t y, uint8_t opacity) {
    part v = visible(c, src->w, src->h, x, y);
    for (int j = v.y0; j < v.y1 && v.x0 < v.x1; j++) {
        const uint8_t *s = src->px + ((size_t)j * (size_t)src->w + (size_t)v.x0) * 4;
        uint8_t *d = pixel(c, x + v.x0, y + j);
        for (int i = v.x0; i < v.x1; i++, s += 4, d += 4) {
            unsigned a = opacity == 255 ? s[3] : mul255(s[3], opacity);
            if (a == 255) {
                memcpy(d, s, 4);
                continue;
            }
            for (int k = 0; k < 4; k++) {
                uint8_t add = opacity == 255 ? s[k] : mul255(s[k], opacity);
                d[k] = (uint8_t)(add + mul255(d[k], 255 - a));
            }
        }
    }
}

void rv_canvas_stencil(rv_canvas *c, const uint8_t *coverage, int w, int h, int64_t x, int64_t y,
                       rv_color color) {
    part v = visible(c, w, h, x, y);
    const uint8_t rgba[4] = {color.r, color.g, color.b, 255};
    for (int j = v.y0; j < v.y1 && v.x0 < v.x1; j++) {
        const uint8_t *s = coverage + (size_t)j * (size_t)w + v.x0;
        uint8_t *d = pixel(c, x + v.x0, y + j);
        for (int i = v.x0; i < v.x1; i++, s++, d += 4) {
            if (!*s) {
                continue;
            }
            unsigned a = mul255(*s, color.a);
            for (int k = 0; k < 4; k++) {
                d[k] = (uint8_t)(mul255(rgba[k], a) + mul255(d[k], 255 - a));
            }
        }
    }
}
