// processor_anyres.c - LLaVA-NeXT's pipeline: the whole picture, then tiles of it in the best of
// some resolutions.
//
// Sources: transformers LlavaNextImageProcessor, select_best_resolution, get_patch_output_size.
#include <math.h>

#include "processor_impl.h"

// The resolutions of LLaVA-1.6, (height, width) as in the file.
static const int default_pinpoints[][2] = {
    {336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};

static rv_status read_pinpoint(rv_anyres *k, const json_t *pair, rv_err *e) {
    const json_t *h = json_array_get(pair, 0), *w = json_array_get(pair, 1);
    if (!json_is_integer(h) || !json_is_integer(w) || json_array_size(pair) != 2) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"image_grid_pinpoints\": wanted pairs [height, width] of integers");
    }
    json_int_t y = json_integer_value(h), x = json_integer_value(w);
    if (y < 1 || x < 1 || y > RV_IMAGE_MAX_SIDE || x > RV_IMAGE_MAX_SIDE || y % k->side != 0 ||
        x % k->side != 0) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"image_grid_pinpoints\": [%lld, %lld] is not made of tiles of %d x %d",
                       (long long)y, (long long)x, k->side, k->side);
    }
    k->h[k->n] = (int)y;
    k->w[k->n] = (int)x;
    k->n++;
    return RV_OK;
}

static rv_status read_pinpoints(rv_anyres *k, const json_t *o, rv_err *e) {
    const json_t *list = json_object_get(o, "image_grid_pinpoints");
    json_t *own = NULL;
    if (!list || json_is_null(list)) {
        list = own = json_array();
        for (size_t i = 0; i < sizeof default_pinpoints / sizeof default_pinpoints[0]; i++) {
            json_array_append_new(
                own, json_pack("[ii]", default_pinpoints[i][0], default_pinpoints[i][1]));
        }
    }
    rv_status s = RV_OK;
    size_t n = json_array_size(list);
    if (n < 1 || n > RV_PINPOINTS) {
        s = RV_FAIL(e, RV_EFORMAT, "\"image_grid_pinpoints\": wanted a list of 1 to %d pairs",
                    RV_PINPOINTS);
    }
    for (size_t i = 0; s == RV_OK && i < n; i++) {
        s = read_pinpoint(k, json_array_get(list, i), e);
    }
    json_decref(own);
    return s;
}

// The tiles are squares: the whole picture's size and the crop must be the same one.
static rv_status anyres_read(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    (void)options;
    rv_anyres *k = &p->as.anyres;
    rv_size size = {.shortest = 224}, crop = {.w = 224, .h = 224};
    RV_TRY(rv_processor_size(o, "size", RV_IMAGE_MAX_SIDE, &size, e));
    RV_TRY(rv_processor_size(o, "crop_size", RV_IMAGE_MAX_SIDE, &crop, e));
    int64_t w = size.w ? size.w : size.edge + size.shortest, h = size.w ? size.h : w;
    int64_t cw = crop.w ? crop.w : crop.edge + crop.shortest, ch = crop.w ? crop.h : cw;
    if (w < 1 || w != h || cw != w || ch != w) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"size\" and \"crop_size\": wanted the same square, got %lld x %lld and "
                       "%lld x %lld",
                       (long long)w, (long long)h, (long long)cw, (long long)ch);
    }
    k->side = (int)w;
    return read_pinpoints(k, o, e);
}

// The resolution that keeps most of the image's pixels, then the one that wastes least.
static int best_resolution(const rv_anyres *k, int64_t width, int64_t height) {
    int best = 0;
    int64_t most = 0, least = INT64_MAX;
    for (int i = 0; i < k->n; i++) {
        double sx = (double)k->w[i] / (double)width, sy = (double)k->h[i] / (double)height;
        double scale = sx < sy ? sx : sy;
        int64_t w = (int64_t)((double)width * scale), h = (int64_t)((double)height * scale);
        int64_t kept = w * h < width * height ? w * h : width * height;
        int64_t waste = (int64_t)k->w[i] * k->h[i] - kept;
        if (kept > most || (kept == most && waste < least)) {
            best = i;
            most = kept;
            least = waste;
        }
    }
    return best;
}

static rv_status anyres_layout(const rv_processor *p, rv_layout *l, rv_err *e) {
    (void)e;
    const rv_anyres *k = &p->as.anyres;
    int best = best_resolution(k, l->width, l->height);
    l->best_w = k->w[best];
    l->best_h = k->h[best];
    l->tile_w = l->tile_h = k->side;
    l->grid_rows = l->best_h / k->side;
    l->grid_cols = l->best_w / k->side;
    l->tiles = 1 + l->grid_rows * l->grid_cols;
    return RV_OK;
}

// Size of the image inside the best resolution, its aspect ratio kept.
static void fit(const rv_layout *l, int64_t *w, int64_t *h) {
    double sx = (double)l->best_w / (double)l->width, sy = (double)l->best_h / (double)l->height;
    if (sx < sy) {
        int64_t y = (int64_t)ceil((double)l->height * sx);
        *w = l->best_w;
        *h = y < l->best_h ? y : l->best_h;
    } else {
        int64_t x = (int64_t)ceil((double)l->width * sy);
        *h = l->best_h;
        *w = x < l->best_w ? x : l->best_w;
    }
}

static rv_status anyres_draw(const rv_processor *p, const rv_image *im, const rv_layout *l,
                             const rv_sink *sink, rv_err *e) {
    const rv_anyres *k = &p->as.anyres;
    rv_image part;
    RV_TRY(rv_image_resize(&part, im, k->side, k->side, p->filter, e));
    rv_sink_tile(sink, 0, &part, 0, 0);
    rv_image_free(&part);
    int64_t w, h;
    fit(l, &w, &h);
    RV_TRY(rv_image_resize(&part, im, w, h, p->filter, e));
    int64_t x = (l->best_w - w) / 2, y = (l->best_h - h) / 2;
    for (int64_t i = 0; i < l->tiles - 1; i++) {
        rv_sink_tile(sink, 1 + i, &part, i % l->grid_cols * k->side - x,
                     i / l->grid_cols * k->side - y);
    }
    rv_image_free(&part);
    return RV_OK;
}

static int64_t anyres_most_pixels(const rv_processor *p) {
    const rv_anyres *k = &p->as.anyres;
    int64_t most = 0;
    for (int i = 0; i < k->n; i++) {
        int64_t pixels = (int64_t)k->w[i] * k->h[i];
        most = pixels > most ? pixels : most;
    }
    return most + (int64_t)k->side * k->side;
}

static const char *const anyres_options[] = {"anyres", NULL};

const rv_pipeline rv_pipeline_anyres = {RV_TILES,      anyres_options, anyres_read,
                                        anyres_layout, anyres_draw,    anyres_most_pixels};
