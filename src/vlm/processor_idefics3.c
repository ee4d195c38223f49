// processor_idefics3.c - the pipeline of Idefics3 and SmolVLM: the picture enlarged and cut into
// tiles, then the whole of it; or the whole of it alone.
//
// Sources: transformers Idefics3ImageProcessor, SmolVLMImageProcessor.
#include "processor_impl.h"

enum { LONGEST = 4096 }; // of the enlarged picture, whatever the file says

static rv_status read_edge(const json_t *o, const char *key, int fallback, int *out, rv_err *e) {
    rv_size size = {.longest = fallback};
    RV_TRY(rv_processor_size(o, key, RV_IMAGE_MAX_SIDE, &size, e));
    if (!size.longest || size.w || size.shortest) {
        return RV_FAIL(e, RV_EFORMAT, "\"%s\": wanted {\"longest_edge\"}", key);
    }
    *out = (int)size.longest;
    return RV_OK;
}

static rv_status idefics3_read(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    rv_idefics3 *k = &p->as.idefics3;
    int side = rv_processor_type_of(p)->size;
    k->do_resize = k->split = true;
    RV_TRY(rv_json_bool(o, "do_resize", &k->do_resize, e));
    RV_TRY(rv_json_bool(o, "do_image_splitting", &k->split, e));
    RV_TRY(rv_json_bool(options, "splitting", &k->split, e));
    RV_TRY(read_edge(o, "size", 4 * side, &k->edge, e));
    RV_TRY(read_edge(o, "max_image_size", side, &k->side, e));
    int64_t edge = k->edge;
    RV_TRY(rv_json_int(options, "longest_edge", 1, RV_IMAGE_MAX_SIDE, &edge, e));
    k->edge = (int)edge;
    return RV_OK;
}

typedef struct {
    int64_t w, h;
} extent;

// The picture with its longer side at `edge`; the other one truncated and made even.
static extent enlarge(int64_t w, int64_t h, int64_t edge) {
    double aspect = (double)w / (double)h;
    if (w >= h) {
        h = (int64_t)((double)edge / aspect);
        return (extent){edge, h + h % 2 > 1 ? h + h % 2 : 1};
    }
    w = (int64_t)((double)edge * aspect);
    return (extent){w + w % 2 > 1 ? w + w % 2 : 1, edge};
}

// The same below a bound, without the evenness.
static extent bounded(extent s) {
    double aspect = (double)s.w / (double)s.h;
    if (s.w >= s.h && s.w > LONGEST) {
        s = (extent){LONGEST, (int64_t)(LONGEST / aspect)};
    } else if (s.h > s.w && s.h > LONGEST) {
        s = (extent){(int64_t)(LONGEST * aspect), LONGEST};
    }
    return (extent){s.w > 1 ? s.w : 1, s.h > 1 ? s.h : 1};
}

static extent enlarged(const rv_idefics3 *k, int64_t w, int64_t h) {
    return k->do_resize ? bounded(enlarge(w, h, k->edge)) : (extent){w, h};
}

static int64_t up(int64_t v, int64_t unit) { return (v + unit - 1) / unit * unit; }

// Both sides multiples of a tile's, the aspect ratio nearly kept.
static extent tiled(extent s, int64_t side) {
    double aspect = (double)s.w / (double)s.h;
    if (s.w >= s.h) {
        int64_t w = up(s.w, side);
        return (extent){w, up((int64_t)((double)w / aspect), side)};
    }
    int64_t h = up(s.h, side);
    return (extent){up((int64_t)((double)h * aspect), side), h};
}

static rv_status idefics3_layout(const rv_processor *p, rv_layout *l, rv_err *e) {
    (void)e;
    const rv_idefics3 *k = &p->as.idefics3;
    extent s = tiled(enlarged(k, l->width, l->height), k->side);
    l->tiles = 1;
    l->tile_w = l->tile_h = k->side;
    if (k->split && (s.w > k->side || s.h > k->side)) {
        l->best_w = s.w;
        l->best_h = s.h;
        l->grid_rows = s.h / k->side;
        l->grid_cols = s.w / k->side;
        l->tiles = 1 + l->grid_rows * l->grid_cols;
    }
    return RV_OK;
}

// Puts the image in place of `im`, in another size; a size that stays costs nothing.
static rv_status to_size(rv_image *im, extent s, rv_filter filter, rv_err *e) {
    rv_image out;
    if (im->w == s.w && im->h == s.h) {
        return RV_OK;
    }
    RV_TRY(rv_image_resize(&out, im, s.w, s.h, filter, e));
    rv_image_free(im);
    *im = out;
    return RV_OK;
}

// All tiles of the enlarged picture, and the whole of it last.
static rv_status draw_tiles(const rv_processor *p, rv_image *large, const rv_layout *l,
                            const rv_sink *sink, rv_err *e) {
    const rv_idefics3 *k = &p->as.idefics3;
    if (l->grid_rows) {
        RV_TRY(to_size(large, (extent){l->best_w, l->best_h}, p->filter, e));
    }
    for (int64_t i = 0; i < l->tiles - 1; i++) {
        rv_sink_tile(sink, i, large, i % l->grid_cols * k->side, i / l->grid_cols * k->side);
    }
    RV_TRY(to_size(large, (extent){k->side, k->side}, p->filter, e));
    rv_sink_tile(sink, l->tiles - 1, large, 0, 0);
    return RV_OK;
}

static rv_status idefics3_draw(const rv_processor *p, const rv_image *im, const rv_layout *l,
                               const rv_sink *sink, rv_err *e) {
    extent s = enlarged(&p->as.idefics3, im->w, im->h);
    rv_image large;
    RV_TRY(rv_image_resize(&large, im, s.w, s.h, p->filter, e));
    rv_status st = draw_tiles(p, &large, l, sink, e);
    rv_image_free(&large);
    return st;
}

// A square picture has the most tiles.
static int64_t idefics3_most_pixels(const rv_processor *p) {
    const rv_idefics3 *k = &p->as.idefics3;
    int64_t tile = (int64_t)k->side * k->side;
    if (!k->split) {
        return tile;
    }
    if (!k->do_resize) {
        return 0;
    }
    int64_t edge = k->edge + k->edge % 2; // a shorter side made even may pass an odd longer one
    int64_t n = up(edge < LONGEST ? edge : LONGEST, k->side) / k->side;
    return n > 1 ? (n * n + 1) * tile : tile;
}

static const char *const idefics3_options[] = {"splitting", "longest_edge", NULL};

const rv_pipeline rv_pipeline_idefics3 = {RV_TILES,        idefics3_options, idefics3_read,
                                          idefics3_layout, idefics3_draw,    idefics3_most_pixels};
