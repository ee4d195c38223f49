// processor_impl.h - what the pipelines of image preprocessing share.
#pragma once

#include "processor.h"

// Where tiles go: patches of ph x pw pixels, in squares of merge x merge, each written `temporal`
// times. A patch as large as the tile gives planes.
typedef struct {
    int64_t h, w; // patches of a tile
    int ph, pw, temporal, merge;
    const float (*value)[256];
    float *out;
} rv_sink;

/// Writes the tile number `tile` (from 0): the part of `im` whose top left corner lies at (x, y),
/// which may be outside; what is outside is black.
void rv_sink_tile(const rv_sink *s, int64_t tile, const rv_image *im, int64_t x, int64_t y);

// How transformers lays out a pipeline's `pixel_values`.
typedef enum { RV_PLANES, RV_TILES, RV_PATCHES } rv_pixel_form;

typedef struct rv_pipeline {
    rv_pixel_form form;
    const char *const *options; // NULL-ended: those it takes beside patch, temporal, merge,
                                // max_patches
    /// Reads the keys of its own; `p` holds the type's defaults in what all pipelines share.
    rv_status (*read)(rv_processor *p, const json_t *config, const json_t *options, rv_err *e);
    /// Fills tiles, tile_w, tile_h, grid and best of a layout.
    rv_status (*layout)(const rv_processor *p, rv_layout *l, rv_err *e);
    /// Gives all tiles to the sink.
    rv_status (*draw)(const rv_processor *p, const rv_image *im, const rv_layout *l,
                      const rv_sink *sink, rv_err *e);
    /// Pixels of all tiles together of the largest view; 0: no bound.
    int64_t (*most_pixels)(const rv_processor *p);
} rv_pipeline;

extern const rv_pipeline rv_pipeline_clip, rv_pipeline_anyres, rv_pipeline_qwen2vl,
    rv_pipeline_idefics3;

// What a class of transformers takes where the file is silent.
typedef struct {
    const char *name;
    const rv_pipeline *pipeline;
    const double *mean, *std;
    rv_filter filter;
    int size;
    bool crop, square; // CLIP: crops; size is w x h, not the shortest edge
} rv_processor_type;

/// The type of a processor that is being read.
const rv_processor_type *rv_processor_type_of(const rv_processor *p);

// A size in the file: {"height", "width"}, {"shortest_edge", "longest_edge"} or an integer
// (`edge`); what is absent is 0.
typedef struct {
    int64_t edge, shortest, longest, w, h;
} rv_size;

/// Reads a size; an absent key leaves `size` as it is. Errors: RV_EFORMAT.
rv_status rv_processor_size(const json_t *o, const char *key, int64_t most, rv_size *size,
                            rv_err *e);

/// Reads three numbers, or one for all; an absent key gives `fallback`. Errors: RV_EFORMAT.
rv_status rv_processor_triple(const json_t *o, const char *key, const double fallback[3],
                              double out[3], rv_err *e);
