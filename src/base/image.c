#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

rv_status rv_image_new(rv_image *im, int64_t w, int64_t h, const uint8_t rgb[3], rv_err *e) {
    *im = (rv_image){0, 0, NULL};
    if (w < 1 || h < 1 || w > RV_IMAGE_MAX_SIDE || h > RV_IMAGE_MAX_SIDE ||
        w * h > RV_IMAGE_MAX_PIXELS) {
        return RV_FAIL(e, RV_EARG,
                       "an image of %lld x %lld pixels: wanted sides from 1 to %d and at most %d "
                       "pixels",
                       (long long)w, (long long)h, RV_IMAGE_MAX_SIDE, RV_IMAGE_MAX_PIXELS);
    }
    uint8_t *px = malloc((size_t)w * (size_t)h * 3);
    if (!px) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for an image of %lld x %lld pixels",
                       (long long)w, (long long)h);
    }
    *im = (rv_image){(int)w, (int)h, px};
    for (int64_t i = 0; rgb && i < w * h; i++) {
        memcpy(px + 3 * i, rgb, 3);
    }
    return RV_OK;
}

void rv_image_free(rv_image *im) {
    free(im->px);
    *im = (rv_image){0, 0, NULL};
}

rv_status rv_image_copy(rv_image *out, const rv_image *im, rv_err *e) {
    return rv_image_crop(out, im, 0, 0, im->w, im->h, e);
}

rv_status rv_image_crop(rv_image *out, const rv_image *im, int64_t x, int64_t y, int64_t w,
                        int64_t h, rv_err *e) {
    *out = (rv_image){0, 0, NULL};
    if (x < 0 || y < 0 || w < 1 || h < 1 || w > im->w || h > im->h || x > im->w - w ||
        y > im->h - h) {
        return RV_FAIL(e, RV_EARG,
                       "crop of %lld x %lld pixels at (%lld, %lld) leaves the image of %d x %d",
                       (long long)w, (long long)h, (long long)x, (long long)y, im->w, im->h);
    }
    RV_TRY(rv_image_new(out, w, h, NULL, e));
    for (int row = 0; row < out->h; row++) {
        memcpy(rv_image_at(out, 0, row), rv_image_at(im, (int)x, (int)y + row), (size_t)w * 3);
    }
    return RV_OK;
}

bool rv_image_equal(const rv_image *a, const rv_image *b) {
    return a->w == b->w && a->h == b->h && memcmp(a->px, b->px, rv_image_bytes(a)) == 0;
}

// Folds the 128-bit product of two words: every input bit reaches every output bit.
static uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static const uint64_t K0 = 0x9E3779B97F4A7C15u, K1 = 0xC2B2AE3D27D4EB4Fu, K2 = 0xD6E8FEB86659FD93u;

void rv_image_hash(const rv_image *im, uint8_t out[16]) {
    uint64_t size = (uint64_t)im->w << 32 | (uint64_t)im->h;
    uint64_t a = fold(size ^ K0, K1), b = fold(size ^ K2, K0);
    size_t n = rv_image_bytes(im);
    for (size_t i = 0; i < n; i += 16) {
        uint64_t w[2] = {0, 0};
        memcpy(w, im->px + i, n - i < 16 ? n - i : 16);
        // Two chains that see the words in different company: 128 bits of state in all.
        a = fold(a ^ w[0] ^ K0, w[1] ^ K1) + w[0];
        b = fold(b ^ w[1] ^ K2, w[0] ^ K0) + w[1];
        a ^= a >> 29;
    }
    uint64_t digest[2] = {fold(a ^ K1, b ^ K2), fold(a ^ K2, b ^ K0) ^ a};
    memcpy(out, digest, 16);
}
