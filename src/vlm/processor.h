// processor.h - image preprocessing as Hugging Face's image processors do it, Pillow path.
//
// A processor is a preprocessor_config.json and the pipeline that its image_processor_type names:
//   CLIP      one picture: (pad to a square,) resize, crop the middle          processor_clip.c
//   anyres    the whole picture, then tiles of it in the best resolution       processor_anyres.c
//   Qwen2-VL  one picture of a size near its own                               processor_qwen2vl.c
//   Idefics3  tiles of the enlarged picture, then the whole of it              processor_idefics3.c
// Each makes tiles of uint8 pixels; scaled and normalised they become patches, the rows that the
// vision tower takes (rv_view in vlm.h), or pixels as transformers lays out `pixel_values`.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "err.h"
#include "image.h"
#include "json.h"
#include "resample.h"

enum { RV_PINPOINTS = 64 };

typedef struct {
    bool do_pad; // first: to a square, the image in the middle of the mean colour
    uint8_t pad_rgb[3];
    bool do_resize;
    int shortest_edge; // > 0: keeps the aspect ratio; else w x h
    int w, h;
    bool do_crop; // the middle crop_w x crop_h; black where the image is smaller
    int crop_w, crop_h;
} rv_clip;

typedef struct {
    int side; // of a tile
    int n;
    int w[RV_PINPOINTS], h[RV_PINPOINTS]; // the resolutions to choose from
} rv_anyres;

typedef struct {
    bool do_resize;
    int64_t min_pixels, max_pixels;
} rv_qwen2vl;

typedef struct {
    bool do_resize, split;
    int edge; // of the enlarged picture, the longer one
    int side; // of a tile
} rv_idefics3;

typedef struct rv_processor {
    const struct rv_pipeline *pipeline;
    const char *type; // the image_processor_type
    int patch;        // sides of a patch; 0: unknown, then there are pixels but no patches
    int temporal;     // how often a patch holds the picture
    int merge;        // sides of the squares of patches that follow one another
    int64_t max_patches;
    rv_filter filter;
    float value[3][256]; // what a byte of channel c becomes
    union {
        rv_clip clip;
        rv_anyres anyres;
        rv_qwen2vl qwen2vl;
        rv_idefics3 idefics3;
    } as;
} rv_processor;

// What becomes of an image of a size.
typedef struct {
    int64_t width, height;        // of the image
    int64_t tiles;                // pictures that the tower sees
    int64_t tile_w, tile_h;       // their pixels
    int64_t w, h;                 // their patches; 0 when the patches' size is not known
    int64_t grid_rows, grid_cols; // tiles that the image was cut into; 0: not cut
    int64_t best_w, best_h;       // pixels of that grid; 0: not cut
} rv_layout;

/// Reads DIR/preprocessor_config.json, or the "image_processor" of DIR/processor_config.json.
/// `options` is NULL or an object: patch, temporal, merge (the tower's, where the file is silent),
/// max_patches (an image with more is refused), and what changes the file's pipeline: pad (CLIP),
/// anyres = false (the CLIP pipeline instead), min_pixels, max_pixels (Qwen2-VL), splitting,
/// longest_edge (Idefics3).
/// Errors: RV_EFILE, RV_EFORMAT (file, key, what was wanted), RV_EARG (an option), RV_EUNSUPPORTED
/// (a processor type that is not known, naming the known ones).
rv_status rv_processor_load(rv_processor *p, const char *dir, const json_t *options, rv_err *e);

/// As rv_processor_load, from a configuration that is already read; `name` stands in messages.
rv_status rv_processor_read(rv_processor *p, const json_t *config, const char *name,
                            const json_t *options, rv_err *e);

/// Says what becomes of an image of width x height, without making it.
/// Errors: RV_EARG (no patches fit, more than max_patches, a shape that the pipeline refuses).
rv_status rv_processor_layout(const rv_processor *p, int64_t width, int64_t height, rv_layout *l,
                              rv_err *e);

/// Most patches that any image can become; 0 when there is no bound.
int64_t rv_processor_most_patches(const rv_processor *p);

/// Writes the patches (tiles h w, 3 temporal patch patch) in the tower's order: tile by tile, in a
/// tile squares of merge x merge patches in raster order, in a square row by row; a patch's numbers
/// by channel, time, row, column. `l` is the image's layout. Errors: RV_ENOMEM, RV_EARG.
rv_status rv_processor_patches(const rv_processor *p, const rv_image *im, const rv_layout *l,
                               float *out, rv_err *e);

/// Shape of transformers' `pixel_values` for one image, and its length: (3, H, W) of the CLIP
/// pipeline, (tiles, 3, H, W) of those that cut, the patches of Qwen2-VL.
int rv_processor_pixel_shape(const rv_processor *p, const rv_layout *l, int64_t dim[4]);

/// Writes those pixels. Errors: as rv_processor_patches.
rv_status rv_processor_pixels(const rv_processor *p, const rv_image *im, const rv_layout *l,
                              float *out, rv_err *e);
