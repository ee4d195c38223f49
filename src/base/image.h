// image.h - images: uint8 RGB, made, read, written, cut and compared.
//
// An image owns its pixels: rows from the top, pixels from the left, three bytes R, G, B each, with
// no padding. Reading accepts PNG, JPEG and BMP and nothing else; whatever the file holds (grey,
// palette, 16 bits, alpha), the result is RGB.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RV_IMAGE_MAX_SIDE   16384
#define RV_IMAGE_MAX_PIXELS (1 << 26)

typedef struct {
    int w, h;    // both at least 1; 0 x 0 is "no image"
    uint8_t *px; // (h, w, 3)
} rv_image;

/// Makes an image filled with one colour; NULL: with whatever the memory held. Errors: RV_EARG (a
/// side outside 1..RV_IMAGE_MAX_SIDE, or too many pixels), RV_ENOMEM; `im` is then "no image".
rv_status rv_image_new(rv_image *im, int64_t w, int64_t h, const uint8_t rgb[3], rv_err *e);

/// Frees the pixels; `im` becomes "no image". Freeing that again does nothing.
void rv_image_free(rv_image *im);

/// Makes `out` a copy of `im`.
rv_status rv_image_copy(rv_image *out, const rv_image *im, rv_err *e);

/// Makes `out` the w x h pixels of `im` from (x, y) on. Errors: RV_EARG when they leave the image.
rv_status rv_image_crop(rv_image *out, const rv_image *im, int64_t x, int64_t y, int64_t w,
                        int64_t h, rv_err *e);

static inline size_t rv_image_bytes(const rv_image *im) {
    return (size_t)im->w * (size_t)im->h * 3;
}
static inline uint8_t *rv_image_at(const rv_image *im, int x, int y) {
    return im->px + ((size_t)y * (size_t)im->w + (size_t)x) * 3;
}

/// Size and all pixels equal.
bool rv_image_equal(const rv_image *a, const rv_image *b);

/// 128-bit digest of size and pixels, for caches (fast; no defence against forgery).
void rv_image_hash(const rv_image *im, uint8_t out[16]);

/// Writes the pixels as runs of equal ones, for keeping (free() them). False, and NULL: that would
/// not be half as large, or there is no memory for it.
bool rv_image_pack(const rv_image *im, uint8_t **runs, size_t *n);

/// Makes `im` the w x h picture that was packed. Errors: RV_ENOMEM.
rv_status rv_image_unpack(rv_image *im, int w, int h, const uint8_t *runs, size_t n, rv_err *e);

/// Reads an image from the bytes of a PNG, JPEG or BMP file; `name` stands in messages.
/// Alpha is composited on white with Pillow's rounding; 16-bit samples give their high byte; with
/// `exif` the picture is turned as EXIF's orientation says, else that is ignored. Errors:
/// RV_EFORMAT (what is wrong, with the format's or the chunk's name), RV_ENOMEM.
rv_status rv_image_decode(rv_image *out, const void *bytes, size_t n, const char *name, bool exif,
                          rv_err *e);

/// Reads an image file. Errors: as decode, and RV_EFILE.
rv_status rv_image_load(rv_image *out, const char *path, bool exif, rv_err *e);

/// EXIF's orientation of a JPEG or PNG file, 1 (upright) to 8; 1 where the file says nothing.
int rv_image_orientation(const void *bytes, size_t n);

/// Turns and mirrors an image in place so that one of that orientation stands upright.
/// Errors: RV_ENOMEM.
rv_status rv_image_orient(rv_image *im, int orientation, rv_err *e);

/// Encodes as PNG into fresh memory that the caller frees with free(). Errors: RV_ENOMEM.
rv_status rv_image_png(uint8_t **bytes, size_t *n, const rv_image *im, rv_err *e);

/// Writes a PNG file atomically. Errors: RV_EFILE, RV_ENOMEM.
rv_status rv_image_save(const rv_image *im, const char *path, rv_err *e);

#ifdef __cplusplus
}
#endif
