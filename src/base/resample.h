// resample.h - images in other sizes, bit for bit as Pillow (up to 12) resizes them.
#pragma once

#include "image.h"

#ifdef __cplusplus
extern "C" {
#endif

// The numbers are Pillow's codes, which preprocessor_config.json stores as "resample".
typedef enum {
    RV_LANCZOS = 1,
    RV_BILINEAR = 2,
    RV_BICUBIC = 3,
    RV_BOX = 4,
    RV_HAMMING = 5,
} rv_filter;

/// Name of a filter ("bicubic"), or NULL when Pillow's code `code` is none of the above.
const char *rv_filter_name(int code);

/// Makes `out` the image in size w x h. A filter as wide as the scale asks for (antialiased when
/// shrinking), rows first, then columns, rounded to 8 bits in between; a dimension that stays is
/// not touched. Errors: RV_EARG (size), RV_ENOMEM.
/// Source: Pillow, src/libImaging/Resample.c.
rv_status rv_image_resize(rv_image *out, const rv_image *im, int64_t w, int64_t h, rv_filter filter,
                          rv_err *e);

// The part of a resized image that is wanted.
typedef struct {
    int64_t x, y, w, h;
} rv_window;

/// Makes `out` the window of the image resized to w x h, without computing the rest: the size may
/// be far beyond what an image can have. Errors: RV_EARG (a window outside), RV_ENOMEM.
rv_status rv_image_resize_window(rv_image *out, const rv_image *im, int64_t w, int64_t h,
                                 rv_window window, rv_filter filter, rv_err *e);

#ifdef __cplusplus
}
#endif
