// processor_qwen2vl.c - Qwen2-VL's pipeline: one picture of about its own size and shape.
//
// Sources: transformers Qwen2VLImageProcessor, smart_resize.
#include <math.h>

#include "processor_impl.h"

static const double steepest = 200; // longer side : shorter side

static rv_status qwen2vl_read(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    rv_qwen2vl *k = &p->as.qwen2vl;
    rv_size size = {.shortest = 56 * 56, .longest = 28 * 28 * 1280};
    k->do_resize = true;
    RV_TRY(rv_json_bool(o, "do_resize", &k->do_resize, e));
    RV_TRY(rv_processor_size(o, "size", RV_IMAGE_MAX_PIXELS, &size, e));
    if (!size.shortest || !size.longest) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"size\": wanted {\"shortest_edge\", \"longest_edge\"}, the least and the "
                       "most pixels");
    }
    k->min_pixels = size.shortest;
    k->max_pixels = size.longest;
    const json_t *from[] = {o, options};
    for (int i = 0; i < 2; i++) {
        RV_TRY(rv_json_int(from[i], "min_pixels", 1, RV_IMAGE_MAX_PIXELS, &k->min_pixels, e));
        RV_TRY(rv_json_int(from[i], "max_pixels", 1, RV_IMAGE_MAX_PIXELS, &k->max_pixels, e));
    }
    if (k->min_pixels > k->max_pixels) {
        return RV_FAIL(e, RV_EFORMAT, "\"min_pixels\" %lld is above \"max_pixels\" %lld",
                       (long long)k->min_pixels, (long long)k->max_pixels);
    }
    return RV_OK;
}

// Multiples of the side of a square of patches, the product between the least and the most pixels.
// rint rounds half to even, as Python does.
static void smart_resize(const rv_qwen2vl *k, int64_t factor, rv_layout *l) {
    double f = (double)factor, w = (double)l->width, h = (double)l->height;
    double rw = rint(w / f) * f, rh = rint(h / f) * f;
    if (rw * rh > (double)k->max_pixels) {
        double beta = sqrt(w * h / (double)k->max_pixels);
        rw = fmax(f, floor(w / beta / f) * f);
        rh = fmax(f, floor(h / beta / f) * f);
    } else if (rw * rh < (double)k->min_pixels) {
        double beta = sqrt((double)k->min_pixels / (w * h));
        rw = ceil(w * beta / f) * f;
        rh = ceil(h * beta / f) * f;
    }
    l->tile_w = (int64_t)rw;
    l->tile_h = (int64_t)rh;
}

static rv_status qwen2vl_layout(const rv_processor *p, rv_layout *l, rv_err *e) {
    const rv_qwen2vl *k = &p->as.qwen2vl;
    l->tiles = 1;
    l->tile_w = l->width;
    l->tile_h = l->height;
    if (!k->do_resize) {
        return RV_OK;
    }
    double w = (double)l->width, h = (double)l->height;
    if (fmax(w, h) / fmin(w, h) > steepest) {
        return RV_FAIL(e, RV_EARG, "an image of %lld x %lld pixels: wanted sides of at most %g : 1",
                       (long long)l->width, (long long)l->height, steepest);
    }
    smart_resize(k, (int64_t)p->patch * p->merge, l);
    return RV_OK;
}

static rv_status qwen2vl_draw(const rv_processor *p, const rv_image *im, const rv_layout *l,
                              const rv_sink *sink, rv_err *e) {
    rv_image part;
    RV_TRY(rv_image_resize(&part, im, l->tile_w, l->tile_h, p->filter, e));
    rv_sink_tile(sink, 0, &part, 0, 0);
    rv_image_free(&part);
    return RV_OK;
}

// Squares of patches are whole, so the steepest strips end up beyond the bounds: a shrunken one
// keeps a row of squares, an enlarged one is rounded up on both sides.
static int64_t qwen2vl_most_pixels(const rv_processor *p) {
    const rv_qwen2vl *k = &p->as.qwen2vl;
    double f = (double)p->patch * p->merge, least = (double)k->min_pixels;
    double most = (double)k->max_pixels;
    double shrunk = f * sqrt(steepest * most);
    double enlarged = (sqrt(steepest * least) + f) * (sqrt(least / steepest) + f);
    return k->do_resize ? (int64_t)fmax(most, fmax(shrunk, enlarged)) : 0;
}

static const char *const qwen2vl_options[] = {"min_pixels", "max_pixels", NULL};

const rv_pipeline rv_pipeline_qwen2vl = {RV_PATCHES,     qwen2vl_options, qwen2vl_read,
                                         qwen2vl_layout, qwen2vl_draw,    qwen2vl_most_pixels};
