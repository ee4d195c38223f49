// processor.h - image preprocessing as Hugging Face's image processors do it, Pillow path.
//
// A processor is the numbers of a preprocessor_config.json. The family "CLIP" is one pipeline:
// pad to a square, resize, crop the middle, scale, normalise, planes first; every step is a switch
// of the file. A family with another pipeline (tiles, patches by resolution) is a further kind with
// a function of its own beside rv_processor_pixels.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "err.h"
#include "image.h"
#include "resample.h"

typedef struct {
    bool do_pad; // first: to a square, the image in the middle of the mean colour
    uint8_t pad_rgb[3];
    bool do_resize;
    int shortest_edge; // > 0: keeps the aspect ratio; else w x h
    int w, h;
    rv_filter filter;
    bool do_crop; // the middle crop_w x crop_h; black where the image is smaller
    int crop_w, crop_h;
    float value[3][256]; // what a byte of channel c becomes
} rv_processor;

/// Reads DIR/preprocessor_config.json, or the "image_processor" of DIR/processor_config.json.
/// Errors: RV_EFILE, RV_EFORMAT (file, key, what was wanted), RV_EUNSUPPORTED (a processor type
/// that is not known, naming the known ones).
rv_status rv_processor_load(rv_processor *p, const char *dir, rv_err *e);

/// Size in pixels of what `im` becomes.
void rv_processor_size(const rv_processor *p, const rv_image *im, int64_t *w, int64_t *h);

/// Writes the pixels (3, h, w) that the tower sees, h and w as rv_processor_size says.
/// Errors: RV_ENOMEM, RV_EARG (sizes that no image can have).
rv_status rv_processor_pixels(const rv_processor *p, const rv_image *im, float *out, rv_err *e);
