#include "processor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

// The types that run the CLIP pipeline, and what each takes where the file is silent.
static const struct {
    const char *name;
    bool crop;
    int size;
    bool square; // size is w x h, not the shortest edge
    rv_filter filter;
    double mean[3], std[3];
} types[] = {
    {"CLIPImageProcessor",
     true,
     224,
     false,
     RV_BICUBIC,
     {0.48145466, 0.4578275, 0.40821073},
     {0.26862954, 0.26130258, 0.27577711}},
    {"LlavaImageProcessor",
     true,
     224,
     false,
     RV_BICUBIC,
     {0.48145466, 0.4578275, 0.40821073},
     {0.26862954, 0.26130258, 0.27577711}},
    {"SiglipImageProcessor", false, 224, true, RV_BICUBIC, {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

// Index of a type's name; "Fast" and "Pil" behind it name other implementations of the same.
static int find_type(const char *name) {
    for (int i = 0; i < N_TYPES; i++) {
        size_t n = strlen(types[i].name);
        if (strncmp(name, types[i].name, n) == 0 &&
            (!name[n] || strcmp(name + n, "Fast") == 0 || strcmp(name + n, "Pil") == 0)) {
            return i;
        }
    }
    return -1;
}

static rv_status read_type(const json_t *o, int *type, rv_err *e) {
    const char *name = NULL;
    RV_TRY(rv_json_string(o, "image_processor_type", &name, e));
    if (!name) { // files of before 2023
        const char *old = NULL;
        RV_TRY(rv_json_string(o, "feature_extractor_type", &old, e));
        name = old && strcmp(old, "CLIPFeatureExtractor") == 0 ? types[0].name : old;
    }
    *type = name ? find_type(name) : -1;
    if (*type < 0) {
        return RV_FAIL(e, RV_EUNSUPPORTED,
                       "image processor type %s%s%s is not known; known are %s, %s and %s",
                       name ? "\"" : "", name ? name : "(not given)", name ? "\"" : "",
                       types[0].name, types[1].name, types[2].name);
    }
    return RV_OK;
}

// A size: an integer, {"height", "width"} or {"shortest_edge"}.
static rv_status read_size(const json_t *o, const char *key, int *edge, int *w, int *h, rv_err *e) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    int64_t n[3] = {0, 0, 0};
    if (json_is_integer(v)) {
        RV_TRY(rv_json_int(o, key, 1, RV_IMAGE_MAX_SIDE, &n[0], e));
    } else if (json_is_object(v)) {
        rv_status s = rv_json_int(v, "shortest_edge", 1, RV_IMAGE_MAX_SIDE, &n[0], e);
        s = s == RV_OK ? rv_json_int(v, "width", 1, RV_IMAGE_MAX_SIDE, &n[1], e) : s;
        s = s == RV_OK ? rv_json_int(v, "height", 1, RV_IMAGE_MAX_SIDE, &n[2], e) : s;
        if (s != RV_OK) {
            rv_err_context(e, "\"%s\"", key);
            return s;
        }
    }
    if (!n[0] && (!n[1] || !n[2])) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"%s\": wanted an integer, {\"shortest_edge\"} or {\"height\", \"width\"}",
                       key);
    }
    *edge = (int)n[0];
    *w = (int)n[1];
    *h = (int)n[2];
    return RV_OK;
}

// Three numbers, or one for all.
static rv_status read_triple(const json_t *o, const char *key, double out[3], rv_err *e) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    bool ok = json_is_number(v) || (json_is_array(v) && json_array_size(v) == 3);
    for (size_t c = 0; ok && c < 3; c++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, c) : v;
        ok = json_is_number(x);
        out[c] = json_number_value(x);
    }
    return ok ? RV_OK : RV_FAIL(e, RV_EFORMAT, "\"%s\": wanted three numbers", key);
}

static rv_status read_geometry(rv_processor *p, const json_t *o, int type, rv_err *e) {
    p->do_resize = true;
    p->do_crop = types[type].crop;
    p->shortest_edge = types[type].square ? 0 : types[type].size;
    p->w = p->h = p->crop_w = p->crop_h = types[type].size;
    RV_TRY(rv_json_bool(o, "do_pad", &p->do_pad, e));
    RV_TRY(rv_json_bool(o, "do_resize", &p->do_resize, e));
    RV_TRY(rv_json_bool(o, "do_center_crop", &p->do_crop, e));
    RV_TRY(read_size(o, "size", &p->shortest_edge, &p->w, &p->h, e));
    int edge = 0;
    RV_TRY(read_size(o, "crop_size", &edge, &p->crop_w, &p->crop_h, e));
    if (edge) {
        p->crop_w = p->crop_h = edge;
    }
    int64_t code = types[type].filter;
    RV_TRY(rv_json_int(o, "resample", 0, 5, &code, e));
    if (!rv_filter_name((int)code)) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "\"resample\": code %d (nearest) is not supported",
                       (int)code);
    }
    p->filter = (rv_filter)code;
    if (p->do_pad && strcmp(types[type].name, "LlavaImageProcessor") != 0) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "\"do_pad\": only LlavaImageProcessor pads to a square");
    }
    return RV_OK;
}

// Rescaling in double, normalising in float: the roundings of transformers.
static rv_status read_values(rv_processor *p, const json_t *o, int type, rv_err *e) {
    bool rescale = true, normalize = true;
    double factor = 1.0 / 255.0, mean[3], std[3];
    memcpy(mean, types[type].mean, sizeof mean);
    memcpy(std, types[type].std, sizeof std);
    RV_TRY(rv_json_bool(o, "do_rescale", &rescale, e));
    RV_TRY(rv_json_bool(o, "do_normalize", &normalize, e));
    RV_TRY(rv_json_number(o, "rescale_factor", &factor, e));
    RV_TRY(read_triple(o, "image_mean", mean, e));
    RV_TRY(read_triple(o, "image_std", std, e));
    for (int c = 0; c < 3; c++) {
        if (std[c] == 0.0) {
            return RV_FAIL(e, RV_EFORMAT, "\"image_std\": wanted numbers other than 0");
        }
        double gray = mean[c] * 255;
        p->pad_rgb[c] = (uint8_t)(gray < 0 ? 0 : gray > 255 ? 255 : gray);
        for (int v = 0; v < 256; v++) {
            float x = rescale ? (float)(v * factor) : (float)v;
            p->value[c][v] = normalize ? (x - (float)mean[c]) / (float)std[c] : x;
        }
    }
    return RV_OK;
}

static rv_status read_config(rv_processor *p, const json_t *o, rv_err *e) {
    int type;
    *p = (rv_processor){0};
    RV_TRY(read_type(o, &type, e));
    RV_TRY(read_geometry(p, o, type, e));
    return read_values(p, o, type, e);
}

rv_status rv_processor_load(rv_processor *p, const char *dir, rv_err *e) {
    char path[4096];
    json_t *root = NULL;
    rv_err first;
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    rv_status s = rv_json_load(&root, path, &first);
    const json_t *o = root;
    if (s == RV_EFILE) { // newer checkpoints keep it inside the processor's file
        snprintf(path, sizeof path, "%s/processor_config.json", dir);
        o = rv_json_load(&root, path, NULL) == RV_OK ? json_object_get(root, "image_processor")
                                                     : NULL;
        s = json_is_object(o) ? RV_OK : s;
    }
    if (s != RV_OK) {
        json_decref(root);
        return RV_FAIL(e, s, "%s", first.msg);
    }
    s = read_config(p, o, e);
    if (s != RV_OK) {
        rv_err_context(e, "%s", path);
    }
    json_decref(root);
    return s;
}

// Size after the resize.
static void resized(const rv_processor *p, int64_t w, int64_t h, int64_t *rw, int64_t *rh) {
    if (p->do_pad) {
        w = h = w > h ? w : h;
    }
    if (p->do_resize && p->shortest_edge > 0) {
        double edge = p->shortest_edge;
        *rw = w <= h ? p->shortest_edge : (int64_t)(edge * (double)w / (double)h);
        *rh = w <= h ? (int64_t)(edge * (double)h / (double)w) : p->shortest_edge;
    } else {
        *rw = p->do_resize ? p->w : w;
        *rh = p->do_resize ? p->h : h;
    }
}

void rv_processor_size(const rv_processor *p, const rv_image *im, int64_t *w, int64_t *h) {
    resized(p, im->w, im->h, w, h);
    if (p->do_crop) {
        *w = p->crop_w;
        *h = p->crop_h;
    }
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

static void write_planes(const rv_processor *p, const rv_image *im, float *out, int64_t w,
                         int64_t h, int64_t x0, int64_t y0) {
    for (int c = 0; c < 3; c++) {
        float *plane = out + c * w * h;
        for (int64_t i = 0; (im->w < w || im->h < h) && i < w * h; i++) {
            plane[i] = p->value[c][0];
        }
        for (int y = 0; y < im->h; y++) {
            const uint8_t *from = rv_image_at(im, 0, y) + c;
            float *to = plane + (y0 + y) * w + x0;
            for (int x = 0; x < im->w; x++) {
                to[x] = p->value[c][from[3 * x]];
            }
        }
    }
}

rv_status rv_processor_pixels(const rv_processor *p, const rv_image *im, float *out, rv_err *e) {
    rv_image square = {0, 0, NULL}, part;
    if (p->do_pad && im->w != im->h) {
        RV_TRY(pad_square(&square, im, p->pad_rgb, e));
        im = &square;
    }
    int64_t rw, rh, w, h;
    resized(p, im->w, im->h, &rw, &rh);
    rv_processor_size(p, im, &w, &h);
    overlap x = center(rw, w), y = center(rh, h);
    rv_window window = {x.from, y.from, x.n, y.n};
    rv_status s = rv_image_resize_window(&part, im, rw, rh, window, p->filter, e);
    if (s == RV_OK) {
        write_planes(p, &part, out, w, h, x.to, y.to);
        rv_image_free(&part);
    }
    rv_image_free(&square);
    return s;
}
