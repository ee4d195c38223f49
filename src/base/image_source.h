// image_source.h - between the readers of image files.
#pragma once

#include "image.h"

// A file's bytes, and its name for messages.
typedef struct {
    const uint8_t *p;
    size_t n;
    const char *name;
} rv_image_source;

/// Wants the size in the header of a file of that format to be one that an image can have.
/// Errors: RV_EFORMAT.
rv_status rv_image_check_size(const rv_image_source *s, const char *format, int64_t w, int64_t h,
                              rv_err *e);

/// Decodes a JPEG file (image_jpeg.c). Errors: RV_EFORMAT, RV_ENOMEM; `out` is then "no image".
rv_status rv_image_jpeg(rv_image *out, const rv_image_source *s, rv_err *e);
