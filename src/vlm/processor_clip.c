// processor_clip.c - the CLIP pipeline: one picture, resized and cropped; original LLaVA's padding.
//
// Sources: transformers CLIPImageProcessor, LlavaImageProcessor, SiglipImageProcessor.
#include <string.h>

#include "processor_impl.h"

static rv_status read_resize(rv_clip *k, const rv_processor_type *type, const json_t *o,
                             rv_err *e) {
    rv_size size = {0};
    k->do_resize = true;
    k->shortest_edge = type->square ? 0 : type->size;
    k->w = k->h = type->size;
    RV_TRY(rv_json_bool(o, "do_resize", &k->do_resize, e));
    RV_TRY(rv_processor_size(o, "size", RV_IMAGE_MAX_SIDE, &size, e));
    if (size.longest) {
        return RV_FAIL(e, RV_EFORMAT, "\"size\": %s takes no \"longest_edge\"", type->name);
    }
    if (size.edge && type->square) {
        size.w = size.h = size.edge;
    } else if (size.edge) {
        size.shortest = size.edge;
    }
    if (size.shortest && size.w) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"size\": wanted \"shortest_edge\" or \"height\" and \"width\", got both");
    }
    if (size.shortest || size.w) {
        k->shortest_edge = (int)size.shortest;
        k->w = (int)size.w;
        k->h = (int)size.h;
    }
    return RV_OK;
}

static rv_status read_crop(rv_clip *k, const rv_processor_type *type, const json_t *o, rv_err *e) {
    rv_size size = {.w = type->size, .h = type->size};
    k->do_crop = type->crop;
    RV_TRY(rv_json_bool(o, "do_center_crop", &k->do_crop, e));
    RV_TRY(rv_processor_size(o, "crop_size", RV_IMAGE_MAX_SIDE, &size, e));
    if (size.edge || size.shortest) {
        size.w = size.h = size.edge ? size.edge : size.shortest;
    }
    k->crop_w = (int)size.w;
    k->crop_h = (int)size.h;
    return RV_OK;
}

// The mean colour, truncated; the original code does so too.
static void read_pad_color(rv_processor *p, const double mean[3]) {
    for (int c = 0; c < 3; c++) {
        double gray = mean[c] * 255;
        p->as.clip.pad_rgb[c] = (uint8_t)(gray < 0 ? 0 : gray > 255 ? 255 : gray);
    }
}

static rv_status clip_read(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    const rv_processor_type *type = rv_processor_type_of(p);
    rv_clip *k = &p->as.clip;
    double mean[3];
    RV_TRY(read_resize(k, type, o, e));
    RV_TRY(read_crop(k, type, o, e));
    RV_TRY(rv_processor_triple(o, "image_mean", type->mean, mean, e));
    read_pad_color(p, mean);
    if (strcmp(type->name, "LlavaImageProcessor") == 0) {
        RV_TRY(rv_json_bool(o, "do_pad", &k->do_pad, e));
    }
    return rv_json_bool(options, "pad", &k->do_pad, e);
}

// Size after padding and resizing.
static void resized(const rv_clip *k, int64_t w, int64_t h, int64_t *rw, int64_t *rh) {
    if (k->do_pad) {
        w = h = w > h ? w : h;
    }
    if (k->do_resize && k->shortest_edge > 0) {
        double edge = k->shortest_edge;
        *rw = w <= h ? k->shortest_edge : (int64_t)(edge * (double)w / (double)h);
        *rh = w <= h ? (int64_t)(edge * (double)h / (double)w) : k->shortest_edge;
    } else {
        *rw = k->do_resize ? k->w : w;
        *rh = k->do_resize ? k->h : h;
    }
}

static rv_status clip_layout(const rv_processor *p, rv_layout *l, rv_err *e) {
    const rv_clip *k = &p->as.clip;
    (void)e;
    l->tiles = 1;
    resized(k, l->width, l->height, &l->tile_w, &l->tile_h);
    if (k->do_crop) {
        l->tile_w = k->crop_w;
        l->tile_h = k->crop_h;
    }
    return RV_OK;
}

// The image in the middle of a square of the mean colour.
static rv_status pad_square(rv_image *out, const rv_image *im, const uint8_t rgb[3], rv_err *e) {
    int side = im->w > im->h ? im->w : im->h;
    RV_TRY(rv_image_new(out, side, side, rgb, e));
    for (int y = 0; y < im->h; y++) {
        memcpy(rv_image_at(out, (side - im->w) / 2, (side - im->h) / 2 + y), rv_image_at(im, 0, y),
               (size_t)im->w * 3);
    }
    return RV_OK;
}

// Where `have` pixels meet a crop of `want` along one axis.
typedef struct {
    int64_t from, n, to; // pixels from .. from + n - 1 land at `to`
} overlap;

static overlap center(int64_t have, int64_t want) {
    if (have >= want) {
        return (overlap){(have - want) / 2, want, 0};
    }
    return (overlap){0, have, (want - have + 1) / 2};
}

static rv_status clip_draw(const rv_processor *p, const rv_image *im, const rv_layout *l,
                           const rv_sink *sink, rv_err *e) {
    const rv_clip *k = &p->as.clip;
    rv_image square = {0, 0, NULL}, part;
    if (k->do_pad && im->w != im->h) {
        RV_TRY(pad_square(&square, im, k->pad_rgb, e));
        im = &square;
    }
    int64_t rw, rh;
    resized(k, im->w, im->h, &rw, &rh);
    overlap x = center(rw, l->tile_w), y = center(rh, l->tile_h);
    rv_window window = {x.from, y.from, x.n, y.n};
    rv_status s = rv_image_resize_window(&part, im, rw, rh, window, p->filter, e);
    if (s == RV_OK) {
        rv_sink_tile(sink, 0, &part, -x.to, -y.to);
        rv_image_free(&part);
    }
    rv_image_free(&square);
    return s;
}

static int64_t clip_most_pixels(const rv_processor *p) {
    const rv_clip *k = &p->as.clip;
    if (k->do_crop) {
        return (int64_t)k->crop_w * k->crop_h;
    }
    if (k->do_resize && k->shortest_edge == 0) {
        return (int64_t)k->w * k->h;
    }
    return k->do_resize && k->do_pad ? (int64_t)k->shortest_edge * k->shortest_edge : 0;
}

static const char *const clip_options[] = {"pad", "anyres", NULL};

const rv_pipeline rv_pipeline_clip = {RV_PLANES,   clip_options, clip_read,
                                      clip_layout, clip_draw,    clip_most_pixels};
