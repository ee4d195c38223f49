#include "processor.h"

#include <stdio.h>
#include <string.h>

#include "processor_impl.h"

static const double clip_mean[3] = {0.48145466, 0.4578275, 0.40821073},
                    clip_std[3] = {0.26862954, 0.26130258, 0.27577711}, half[3] = {0.5, 0.5, 0.5};

// The classes of transformers that are known.
static const rv_processor_type types[] = {
    {"CLIPImageProcessor", &rv_pipeline_clip, clip_mean, clip_std, RV_BICUBIC, 224, true, false},
    {"LlavaImageProcessor", &rv_pipeline_clip, clip_mean, clip_std, RV_BICUBIC, 224, true, false},
    {"SiglipImageProcessor", &rv_pipeline_clip, half, half, RV_BICUBIC, 224, false, true},
    {"LlavaNextImageProcessor", &rv_pipeline_anyres, clip_mean, clip_std, RV_BICUBIC, 224, true,
     false},
    {"Qwen2VLImageProcessor", &rv_pipeline_qwen2vl, clip_mean, clip_std, RV_BICUBIC, 0, false,
     false},
    {"Idefics3ImageProcessor", &rv_pipeline_idefics3, half, half, RV_LANCZOS, 364, false, false},
    {"SmolVLMImageProcessor", &rv_pipeline_idefics3, half, half, RV_LANCZOS, 364, false, false},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

// Other names of the types above, as older files spell them.
static const char *const aliases[][2] = {
    {"CLIPFeatureExtractor", "CLIPImageProcessor"},
    {"Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor"},
};

// Keys that only one type has, for files that name none.
static const char *const telling[][2] = {
    {"image_grid_pinpoints", "LlavaNextImageProcessor"},
    {"merge_size", "Qwen2VLImageProcessor"},
    {"do_image_splitting", "Idefics3ImageProcessor"},
    {"crop_size", "CLIPImageProcessor"},
};

// A type by its name; "Fast" and "Pil" behind it name other implementations of the same.
static const rv_processor_type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++) {
        name = strcmp(name, aliases[i][0]) == 0 ? aliases[i][1] : name;
    }
    for (int i = 0; i < N_TYPES; i++) {
        size_t n = strlen(types[i].name);
        if (strncmp(name, types[i].name, n) == 0 &&
            (!name[n] || strcmp(name + n, "Fast") == 0 || strcmp(name + n, "Pil") == 0)) {
            return &types[i];
        }
    }
    return NULL;
}

// "a, b and c".
static void write_list(char *out, size_t size, const char *const *names, int n) {
    size_t at = 0;
    for (int i = 0; i < n && at < size; i++) {
        const char *glue = i == 0 ? "" : i == n - 1 ? " and " : ", ";
        at += (size_t)snprintf(out + at, size - at, "%s%s", glue, names[i]);
    }
}

static rv_status unknown_type(const char *name, rv_err *e) {
    const char *names[N_TYPES];
    for (int i = 0; i < N_TYPES; i++) {
        names[i] = types[i].name;
    }
    char list[512];
    write_list(list, sizeof list, names, N_TYPES);
    return RV_FAIL(e, RV_EUNSUPPORTED, "image processor type %s%s%s is not known; known are %s",
                   name ? "\"" : "", name ? name : "(not given)", name ? "\"" : "", list);
}

static rv_status read_type(const json_t *o, const rv_processor_type **type, rv_err *e) {
    const char *name = NULL;
    RV_TRY(rv_json_string(o, "image_processor_type", &name, e));
    if (!name) { // files of before 2023
        RV_TRY(rv_json_string(o, "feature_extractor_type", &name, e));
    }
    for (size_t i = 0; !name && i < sizeof telling / sizeof telling[0]; i++) {
        name = json_object_get(o, telling[i][0]) ? telling[i][1] : NULL;
    }
    *type = name ? find_type(name) : NULL;
    return *type ? RV_OK : unknown_type(name, e);
}

const rv_processor_type *rv_processor_type_of(const rv_processor *p) { return find_type(p->type); }

rv_status rv_processor_size(const json_t *o, const char *key, int64_t most, rv_size *size,
                            rv_err *e) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        return RV_OK;
    }
    rv_size n = {0};
    if (json_is_object(v)) {
        rv_status s = rv_json_int(v, "shortest_edge", 1, most, &n.shortest, e);
        s = s == RV_OK ? rv_json_int(v, "longest_edge", 1, most, &n.longest, e) : s;
        s = s == RV_OK ? rv_json_int(v, "width", 1, most, &n.w, e) : s;
        s = s == RV_OK ? rv_json_int(v, "height", 1, most, &n.h, e) : s;
        if (s != RV_OK) {
            rv_err_context(e, "\"%s\"", key);
            return s;
        }
    } else if (json_is_integer(v)) {
        RV_TRY(rv_json_int(o, key, 1, most, &n.edge, e));
    }
    if ((!n.edge && !n.shortest && !n.longest && !n.w) || !n.w != !n.h) {
        return RV_FAIL(e, RV_EFORMAT,
                       "\"%s\": wanted an integer, {\"shortest_edge\"}, {\"longest_edge\"} or "
                       "{\"height\", \"width\"}",
                       key);
    }
    *size = n;
    return RV_OK;
}

rv_status rv_processor_triple(const json_t *o, const char *key, const double fallback[3],
                              double out[3], rv_err *e) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        memcpy(out, fallback, 3 * sizeof *out);
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

// Rescaling in double, normalising in float: the roundings of transformers.
static rv_status read_values(rv_processor *p, const json_t *o, const rv_processor_type *type,
                             rv_err *e) {
    bool rescale = true, normalize = true;
    double factor = 1.0 / 255.0, mean[3], std[3];
    RV_TRY(rv_json_bool(o, "do_rescale", &rescale, e));
    RV_TRY(rv_json_bool(o, "do_normalize", &normalize, e));
    RV_TRY(rv_json_number(o, "rescale_factor", &factor, e));
    RV_TRY(rv_processor_triple(o, "image_mean", type->mean, mean, e));
    RV_TRY(rv_processor_triple(o, "image_std", type->std, std, e));
    for (int c = 0; c < 3; c++) {
        if (std[c] == 0.0) {
            return RV_FAIL(e, RV_EFORMAT, "\"image_std\": wanted numbers other than 0");
        }
        for (int v = 0; v < 256; v++) {
            float x = rescale ? (float)(v * factor) : (float)v;
            p->value[c][v] = normalize ? (x - (float)mean[c]) / (float)std[c] : x;
        }
    }
    return RV_OK;
}

static rv_status read_filter(rv_processor *p, const json_t *o, rv_err *e) {
    int64_t code = p->filter;
    RV_TRY(rv_json_int(o, "resample", 0, 5, &code, e));
    if (!rv_filter_name((int)code)) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "\"resample\": code %d (nearest) is not supported",
                       (int)code);
    }
    p->filter = (rv_filter)code;
    return RV_OK;
}

static const char *const shared_options[] = {"patch", "temporal", "merge", "max_patches", NULL};

static bool listed(const char *const *list, const char *word) {
    while (*list && strcmp(*list, word) != 0) {
        list++;
    }
    return *list != NULL;
}

static rv_status foreign_option(const rv_processor *p, const char *key, rv_err *e) {
    const char *names[32];
    int n = 0;
    for (const char *const *o = shared_options; *o; o++) {
        names[n++] = *o;
    }
    for (const char *const *o = p->pipeline->options; *o; o++) {
        names[n++] = *o;
    }
    char list[256];
    write_list(list, sizeof list, names, n);
    return RV_FAIL(e, RV_EARG, "option \"%s\": %s takes %s", key, p->type, list);
}

static rv_status check_options(const rv_processor *p, const json_t *options, rv_err *e) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)options, key, v) {
        if (!listed(shared_options, key) && !listed(p->pipeline->options, key)) {
            return foreign_option(p, key, e);
        }
    }
    return RV_OK;
}

// A number of the tower: what the file says (`key`), or the option; both must agree.
static rv_status read_side(const json_t *o, const char *key, const json_t *options,
                           const char *option, int *out, rv_err *e) {
    int64_t file = 0, told = 0;
    RV_TRY(rv_json_int(o, key, 1, 1024, &file, e));
    RV_TRY(rv_json_int(options, option, 1, 1024, &told, e));
    if (file && told && file != told) {
        return RV_FAIL(e, RV_EFORMAT, "\"%s\": is %lld, but the vision tower's is %lld", key,
                       (long long)file, (long long)told);
    }
    *out = file ? (int)file : told ? (int)told : *out;
    return RV_OK;
}

static rv_status read_patch(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    // Only Qwen2-VL's files know the tower: elsewhere such keys are left over from something else.
    const json_t *own = p->pipeline == &rv_pipeline_qwen2vl ? o : NULL;
    p->patch = own ? 14 : 0;
    p->temporal = p->merge = own ? 2 : 1;
    p->max_patches = INT64_MAX;
    RV_TRY(read_side(own, "patch_size", options, "patch", &p->patch, e));
    RV_TRY(read_side(own, "temporal_patch_size", options, "temporal", &p->temporal, e));
    RV_TRY(read_side(own, "merge_size", options, "merge", &p->merge, e));
    return rv_json_int(options, "max_patches", 1, INT64_MAX, &p->max_patches, e);
}

static rv_status read_config(rv_processor *p, const json_t *o, const json_t *options, rv_err *e) {
    const rv_processor_type *type = NULL;
    bool anyres = true;
    RV_TRY(read_type(o, &type, e));
    RV_TRY(rv_json_bool(options, "anyres", &anyres, e));
    if (!anyres && type->pipeline == &rv_pipeline_anyres) {
        type = find_type("CLIPImageProcessor");
    }
    *p = (rv_processor){.pipeline = type->pipeline, .type = type->name, .filter = type->filter};
    RV_TRY(check_options(p, options, e));
    RV_TRY(read_filter(p, o, e));
    RV_TRY(read_values(p, o, type, e));
    RV_TRY(read_patch(p, o, options, e));
    return p->pipeline->read(p, o, options, e);
}

rv_status rv_processor_read(rv_processor *p, const json_t *config, const char *name,
                            const json_t *options, rv_err *e) {
    rv_status s = read_config(p, config, options, e);
    if (s != RV_OK) {
        rv_err_context(e, "%s", name);
    }
    return s;
}

rv_status rv_processor_load(rv_processor *p, const char *dir, const json_t *options, rv_err *e) {
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
    if (s == RV_OK) {
        s = rv_processor_read(p, o, path, options, e);
    } else {
        s = RV_FAIL(e, s, "%s", first.msg);
    }
    json_decref(root);
    return s;
}

// Wants whole patches, and whole squares of patches.
static rv_status count_patches(const rv_processor *p, rv_layout *l, rv_err *e) {
    int64_t unit = (int64_t)p->patch * p->merge;
    l->h = l->tile_h / p->patch;
    l->w = l->tile_w / p->patch;
    if (l->tile_h % unit != 0 || l->tile_w % unit != 0) {
        return RV_FAIL(e, RV_EARG,
                       "an image of %lld x %lld pixels becomes %lld x %lld: wanted multiples of "
                       "%lld (patches of %d, merged %d x %d)",
                       (long long)l->width, (long long)l->height, (long long)l->tile_w,
                       (long long)l->tile_h, (long long)unit, p->patch, p->merge, p->merge);
    }
    int64_t n = l->tiles * l->h * l->w;
    if (n > p->max_patches) {
        return RV_FAIL(e, RV_EARG,
                       "an image of %lld x %lld pixels becomes %lld patches (%lld of %lld x %lld): "
                       "wanted at most %lld",
                       (long long)l->width, (long long)l->height, (long long)n, (long long)l->tiles,
                       (long long)l->w, (long long)l->h, (long long)p->max_patches);
    }
    return RV_OK;
}

rv_status rv_processor_layout(const rv_processor *p, int64_t width, int64_t height, rv_layout *l,
                              rv_err *e) {
    *l = (rv_layout){.width = width, .height = height};
    if (width < 1 || height < 1 || width > RV_IMAGE_MAX_SIDE || height > RV_IMAGE_MAX_SIDE) {
        return RV_FAIL(e, RV_EARG, "an image of %lld x %lld pixels: wanted sides from 1 to %d",
                       (long long)width, (long long)height, RV_IMAGE_MAX_SIDE);
    }
    RV_TRY(p->pipeline->layout(p, l, e));
    int64_t tile = l->tile_w * l->tile_h;
    if (tile < 1 || tile > RV_IMAGE_MAX_PIXELS || l->tiles > RV_IMAGE_MAX_PIXELS / tile) {
        return RV_FAIL(e, RV_EARG,
                       "an image of %lld x %lld pixels becomes %lld of %lld x %lld: wanted from 1 "
                       "to %d pixels",
                       (long long)width, (long long)height, (long long)l->tiles,
                       (long long)l->tile_w, (long long)l->tile_h, RV_IMAGE_MAX_PIXELS);
    }
    return p->patch ? count_patches(p, l, e) : RV_OK;
}

int64_t rv_processor_most_patches(const rv_processor *p) {
    int64_t pixels = p->pipeline->most_pixels(p);
    int64_t n = p->patch ? pixels / ((int64_t)p->patch * p->patch) : 0;
    return p->max_patches < n || (n == 0 && p->max_patches < INT64_MAX) ? p->max_patches : n;
}

rv_status rv_processor_patches(const rv_processor *p, const rv_image *im, const rv_layout *l,
                               float *out, rv_err *e) {
    rv_sink sink = {l->h, l->w, p->patch, p->patch, p->temporal, p->merge, p->value, out};
    return p->pipeline->draw(p, im, l, &sink, e);
}

int rv_processor_pixel_shape(const rv_processor *p, const rv_layout *l, int64_t dim[4]) {
    if (p->pipeline->form == RV_PATCHES) {
        dim[0] = l->tiles * l->h * l->w;
        dim[1] = (int64_t)3 * p->temporal * p->patch * p->patch;
        return 2;
    }
    int n = 0;
    if (p->pipeline->form == RV_TILES) {
        dim[n++] = l->tiles;
    }
    dim[n++] = 3;
    dim[n++] = l->tile_h;
    dim[n++] = l->tile_w;
    return n;
}

rv_status rv_processor_pixels(const rv_processor *p, const rv_image *im, const rv_layout *l,
                              float *out, rv_err *e) {
    if (p->pipeline->form == RV_PATCHES) {
        return rv_processor_patches(p, im, l, out, e);
    }
    rv_sink sink = {1, 1, (int)l->tile_h, (int)l->tile_w, 1, 1, p->value, out};
    return p->pipeline->draw(p, im, l, &sink, e);
}
