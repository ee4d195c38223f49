// view.c - the geometry of a view: how many rows its tiles give, where each patch stands, windows.
#include <math.h>

#include "model.h"

int64_t rv_patch_numbers(const rv_arch *a) {
    return 3 * (int64_t)a->vision.temporal * a->vision.patch * a->vision.patch;
}

int64_t rv_tile_rows(const rv_arch_vision *v, int64_t h, int64_t w) {
    return h * w + v->class_token;
}

int64_t rv_tile_features(const rv_arch_vision *v, int64_t h, int64_t w) {
    return h / v->merge * (w / v->merge) + (v->class_token && !v->drop_class);
}

int64_t rv_view_features(const rv_arch *a, const rv_view *v) {
    return v->tiles * rv_tile_features(&a->vision, v->h, v->w);
}

void rv_tile_place(const rv_arch_vision *v, int64_t w, int64_t i, int64_t *row, int64_t *col) {
    int64_t m = v->merge, unit = i / (m * m), in = i % (m * m), across = w / m;
    *row = unit / across * m + in / m;
    *col = unit % across * m + in % m;
}

// SigLIP's buckets: the learned row below a patch's relative place; a full grid has its own.
static int64_t bucket(int64_t i, int64_t n, int64_t side) { return i * side / n; }

int64_t rv_tile_position(const rv_arch_vision *v, int64_t h, int64_t w, int64_t row, int64_t col) {
    return v->class_token + bucket(row, h, v->positions) * v->positions +
           bucket(col, w, v->positions);
}

// As transformers: frequencies and angles rounded to fp32, cos and sin of that angle.
void rv_tile_angles(const rv_arch_vision *v, float *out, int64_t sides) {
    int dim = v->width / v->heads / 2, half = dim / 2;
    for (int i = 0; i < half; i++) {
        float power = (float)(2 * i) / (float)dim;
        float freq = 1.0f / (float)pow((double)v->rope_theta, (double)power);
        for (int64_t p = 0; p < sides; p++) {
            double angle = (double)((float)p * freq);
            out[(p * half + i) * 2] = (float)cos(angle);
            out[(p * half + i) * 2 + 1] = (float)sin(angle);
        }
    }
}

// Windows in raster order, merged units inside each in raster order; those at the right and at the
// bottom may be smaller.
int64_t rv_tile_windows(const rv_arch_vision *v, int64_t h, int64_t w, int32_t *place, int32_t *cu,
                        int32_t row0) {
    int64_t m = v->merge, side = v->window, lh = h / m, lw = w / m, n = 0;
    int32_t unit = 0, each = (int32_t)(m * m);
    for (int64_t y0 = 0; y0 < lh; y0 += side) {
        for (int64_t x0 = 0; x0 < lw; x0 += side) {
            for (int64_t y = y0; y < y0 + side && y < lh; y++) {
                for (int64_t x = x0; x < x0 + side && x < lw; x++, unit++) {
                    for (int32_t k = 0; k < each; k++) {
                        place[(y * lw + x) * each + k] = row0 + unit * each + k;
                    }
                }
            }
            cu[++n] = row0 + unit * each;
        }
    }
    return n;
}

static rv_status check_grid(const rv_arch *a, const rv_view *v, rv_err *e) {
    const rv_arch_vision *t = &a->vision;
    if (v->tiles < 1 || v->h < 1 || v->w < 1 || v->rows < 1 || !v->patches) {
        return RV_FAIL(e, RV_ESHAPE,
                       "%d tiles of %d x %d patches for %lld tokens: wanted 1 or more of each",
                       v->tiles, v->h, v->w, (long long)v->rows);
    }
    if (v->h % t->merge || v->w % t->merge) {
        return RV_FAIL(e, RV_ESHAPE, "a grid of %d x %d patches: wanted multiples of %d", v->h,
                       v->w, t->merge);
    }
    if (t->image_size && (v->h != t->image_size / t->patch || v->w != t->image_size / t->patch)) {
        return RV_FAIL(e, RV_ESHAPE, "a grid of %d x %d patches: the tower takes %d x %d only",
                       v->h, v->w, t->image_size / t->patch, t->image_size / t->patch);
    }
    if ((int64_t)v->h * v->w > a->max_view_patches / v->tiles) {
        return RV_FAIL(e, RV_ESHAPE,
                       "%d x %d x %d patches: the model is made for at most %d in an image",
                       v->tiles, v->h, v->w, a->max_view_patches);
    }
    if (v->rows > a->max_view_rows) {
        return RV_FAIL(e, RV_ESHAPE, "%lld tokens: the model is made for at most %d for an image",
                       (long long)v->rows, a->max_view_rows);
    }
    return RV_OK;
}

rv_status rv_view_check(const rv_arch *a, const rv_view *v, rv_err *e) {
    RV_TRY(check_grid(a, v, e));
    int64_t features = rv_view_features(a, v);
    if (!v->order && v->rows != features) {
        return RV_FAIL(e, RV_ESHAPE, "%lld tokens without an order, but %lld feature rows",
                       (long long)v->rows, (long long)features);
    }
    for (int64_t i = 0; v->order && i < v->rows; i++) {
        int32_t least = a->connector.newline ? -1 : 0;
        if (v->order[i] < least || v->order[i] >= features) {
            return RV_FAIL(e, RV_ESHAPE, "order[%lld] is %d: wanted %d to %lld", (long long)i + 1,
                           v->order[i], least, (long long)features - 1);
        }
    }
    return RV_OK;
}
