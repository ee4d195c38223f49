// image_exif.c - which way up a camera held a picture: EXIF's orientation in JPEG and PNG files.
#include <string.h>

#include "image.h"

typedef struct {
    const uint8_t *p;
    size_t n;
    bool little; // byte order
} bytes;

static uint32_t number(const bytes *b, size_t at, int size) {
    uint32_t v = 0;
    for (int i = 0; i < size; i++) {
        int shift = 8 * (b->little ? i : size - 1 - i);
        v |= (uint32_t)b->p[at + (size_t)i] << shift;
    }
    return v;
}

// The tag 0x0112 of the first directory of a TIFF structure; 1 where there is none.
static int tiff_orientation(const uint8_t *p, size_t n) {
    if (n < 8 || (memcmp(p, "II*\0", 4) != 0 && memcmp(p, "MM\0*", 4) != 0)) {
        return 1;
    }
    bytes b = {p, n, p[0] == 'I'};
    size_t at = number(&b, 4, 4);
    if (at > n - 2) {
        return 1;
    }
    size_t entries = number(&b, at, 2), left = (n - at - 2) / 12;
    for (size_t i = 0; i < entries && i < left; i++) {
        size_t entry = at + 2 + 12 * i;
        if (number(&b, entry, 2) == 0x0112 && number(&b, entry + 2, 2) == 3) {
            uint32_t v = number(&b, entry + 8, 2);
            return v >= 1 && v <= 8 ? (int)v : 1;
        }
    }
    return 1;
}

static int jpeg_orientation(const bytes *b) {
    size_t at = 2;
    while (b->n - at >= 4 && b->p[at] == 0xFF && b->p[at + 1] != 0xDA) {
        size_t len = number(b, at + 2, 2);
        if (b->p[at + 1] == 0xFF) { // fill byte
            at++;
            continue;
        }
        if (len < 2 || len > b->n - at - 2) {
            break;
        }
        if (b->p[at + 1] == 0xE1 && len >= 8 && memcmp(b->p + at + 4, "Exif\0\0", 6) == 0) {
            return tiff_orientation(b->p + at + 10, len - 8);
        }
        at += len + 2;
    }
    return 1;
}

static int png_orientation(const bytes *b) {
    size_t at = 8;
    while (b->n - at >= 12) {
        size_t len = number(b, at, 4);
        if (len > b->n - at - 12) {
            break;
        }
        if (memcmp(b->p + at + 4, "eXIf", 4) == 0) {
            return tiff_orientation(b->p + at + 8, len);
        }
        at += len + 12;
    }
    return 1;
}

int rv_image_orientation(const void *data, size_t n) {
    bytes b = {data, n, false};
    if (n >= 4 && memcmp(data, "\xff\xd8\xff", 3) == 0) {
        return jpeg_orientation(&b);
    }
    if (n >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) {
        return png_orientation(&b);
    }
    return 1;
}

rv_status rv_image_orient(rv_image *im, int orientation, rv_err *e) {
    if (orientation <= 1 || orientation > 8) {
        return RV_OK;
    }
    bool swap = orientation >= 5;
    bool mirror = orientation == 2 || orientation == 3 || orientation >= 7;
    bool upend = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    rv_image out;
    RV_TRY(rv_image_new(&out, swap ? im->h : im->w, swap ? im->w : im->h, NULL, e));
    for (int y = 0; y < out.h; y++) {
        for (int x = 0; x < out.w; x++) {
            int sx = swap ? y : x, sy = swap ? x : y;
            sx = mirror ? im->w - 1 - sx : sx;
            sy = upend ? im->h - 1 - sy : sy;
            memcpy(rv_image_at(&out, x, y), rv_image_at(im, sx, sy), 3);
        }
    }
    rv_image_free(im);
    *im = out;
    return RV_OK;
}
