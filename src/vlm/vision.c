// vision.c - the vision tower: patches, class row, positions, blocks; forward and backward.
//
// Rows of one image: the class row first (where there is one), then the patches in raster order.
#include "model.h"

static int64_t patches_of(const rv_arch_vision *v) {
    int64_t side = v->image_size / v->patch;
    return side * side;
}

static int64_t rows_of(const rv_arch_vision *v) { return patches_of(v) + v->class_token; }

static int64_t image_size(const rv_vlm *m) {
    return 3 * (int64_t)m->arch.vision.image_size * m->arch.vision.image_size;
}

// Fills m->vision_index with the row of the tower that each patch of `n` images takes.
static void patch_rows(rv_vlm *m, int64_t n) {
    int64_t patches = patches_of(&m->arch.vision), rows = rows_of(&m->arch.vision);
    for (int64_t i = 0; i < n * patches; i++) {
        m->vision_index[i] = (int32_t)(i / patches * rows + i % patches + (rows - patches));
    }
}

// Fills m->vision_index with each row's position in its image; for `only_class`, -1 but for class
// rows.
static void position_rows(rv_vlm *m, int64_t n, bool only_class) {
    int64_t rows = rows_of(&m->arch.vision);
    for (int64_t i = 0; i < n * rows; i++) {
        int32_t at = (int32_t)(i % rows);
        m->vision_index[i] = only_class && at > 0 ? -1 : at;
    }
}

static rv_pass pass_of(rv_vlm *m, int64_t n, bool keep) {
    int64_t rows = rows_of(&m->arch.vision);
    for (int64_t i = 0; i <= n; i++) {
        m->vision_cu[i] = (int32_t)(i * rows);
    }
    return (rv_pass){.rows = n * rows, .cu = m->vision_cu, .n_seq = n, .keep = keep};
}

// Cuts pixels into patches on the device: (n P, 3 p p).
static void cut(rv_vlm *m, const float *pixels, int64_t n) {
    const rv_arch_vision *v = &m->arch.vision;
    m->be->upload(m->ctx, m->pixels, pixels, (size_t)(n * image_size(m)) * sizeof *pixels);
    m->be->patchify(m->ctx, m->patches, m->pixels, n, v->image_size, v->patch);
}

// Embedded patches, class rows and positions in t->x[0]. `x` of the pre-norm is kept in
// t->embedded.
static void embed(rv_vlm *m, const float *pixels, int64_t n) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t patches = n * patches_of(v), rows = n * rows_of(v);
    rv_dev x = v->pre_norm ? m->embedded : t->x[0];
    cut(m, pixels, n);
    rv_layer_forward(m, &m->patch, m->patch_out, m->patches, patches, RV_ACT_NONE, (rv_dev){0},
                     (rv_dev){0}, (rv_dev){0});
    if (m->class_row >= 0) {
        position_rows(m, n, true);
        m->be->gather_rows(m->ctx, t->norm, m->params[m->class_row].value, m->vision_index, rows,
                           v->width);
    } else {
        m->be->zero(m->ctx, t->norm, (size_t)(rows * v->width) * sizeof(float));
    }
    patch_rows(m, n);
    m->be->scatter_rows(m->ctx, t->norm, m->patch_out, m->vision_index, patches, v->width);
    position_rows(m, n, false);
    m->be->gather_rows(m->ctx, x, m->params[m->position].value, m->vision_index, rows, v->width);
    m->be->axpy(m->ctx, x, t->norm, 1, rows * v->width);
    if (v->pre_norm) {
        rv_norm_forward(m, &m->pre_norm, t->x[0], x, rows, v->width, v->eps);
    }
}

// The rows of the tower's output that are features.
static void features_of(rv_vlm *m, rv_dev out, int64_t n) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t rows = n * rows_of(v);
    rv_dev y = t->out;
    if (v->post_norm) {
        rv_norm_forward(m, &m->post_norm, t->norm, y, rows, v->width, v->eps);
        y = t->norm;
    }
    if (v->drop_class) {
        patch_rows(m, n);
        m->be->gather_rows(m->ctx, out, y, m->vision_index, n * patches_of(v), v->width);
    } else {
        m->be->copy(m->ctx, out, y, (size_t)(rows * v->width) * sizeof(float));
    }
}

// Images through the tower.
static rv_status run(rv_vlm *m, const float *pixels, int64_t n, bool keep, rv_err *e) {
    embed(m, pixels, n);
    rv_pass p = pass_of(m, n, keep);
    return rv_tower_forward(m, &m->vision, &p, e);
}

rv_status rv_vision_forward(rv_vlm *m, rv_dev out, const float *pixels, int64_t n, bool keep,
                            rv_err *e) {
    int64_t row = (int64_t)sizeof(float) * m->arch.vision.width * m->arch.image_tokens;
    for (int64_t i = 0, k; i < n; i += k) {
        k = n - i < m->vision_images ? n - i : m->vision_images;
        RV_TRY(run(m, pixels + i * image_size(m), k, keep && n <= m->vision_images, e));
        features_of(m, rv_dev_at(out, i * row), k);
    }
    return RV_OK;
}

// The gradient of the tower's output, t->dx, from that of the features.
static void features_backward(rv_vlm *m, rv_dev dout, int64_t n) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t rows = n * rows_of(v);
    size_t bytes = (size_t)(rows * v->width) * sizeof(float);
    rv_dev dy = v->post_norm ? t->dx2 : t->dx;
    if (v->drop_class) {
        patch_rows(m, n);
        m->be->zero(m->ctx, dy, bytes);
        m->be->scatter_rows(m->ctx, dy, dout, m->vision_index, n * patches_of(v), v->width);
    } else {
        m->be->copy(m->ctx, dy, dout, bytes);
    }
    if (v->post_norm) {
        rv_norm_backward(m, &m->post_norm, t->dx, dy, t->out, rows, v->width, v->eps, false);
    }
}

static void embed_backward(rv_vlm *m, const float *pixels, int64_t n) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t patches = n * patches_of(v), rows = n * rows_of(v);
    rv_dev dx = t->dx;
    if (v->pre_norm) {
        dx = t->dx2;
        rv_norm_backward(m, &m->pre_norm, dx, t->dx, m->embedded, rows, v->width, v->eps, false);
    }
    position_rows(m, n, false);
    m->be->scatter_add_rows(m->ctx, m->params[m->position].grad, dx, m->vision_index, rows,
                            v->width);
    if (m->class_row >= 0) {
        position_rows(m, n, true);
        m->be->scatter_add_rows(m->ctx, m->params[m->class_row].grad, dx, m->vision_index, rows,
                                v->width);
    }
    patch_rows(m, n);
    m->be->gather_rows(m->ctx, m->patch_out, dx, m->vision_index, patches, v->width);
    cut(m, pixels, n);
    rv_layer_backward(m, &m->patch, (rv_dev){0}, false, m->patch_out, m->patches, patches,
                      (rv_dev){0}, (rv_dev){0});
}

rv_status rv_vision_backward(rv_vlm *m, rv_dev dout, const float *pixels, int64_t n, rv_err *e) {
    int64_t row = (int64_t)sizeof(float) * m->arch.vision.width * m->arch.image_tokens;
    for (int64_t i = 0, k; i < n; i += k) {
        const float *x = pixels + i * image_size(m);
        k = n - i < m->vision_images ? n - i : m->vision_images;
        if (n > m->vision_images) { // more than fit: their activations are made again
            RV_TRY(run(m, x, k, true, e));
        }
        rv_pass p = pass_of(m, k, true);
        features_backward(m, rv_dev_at(dout, i * row), k);
        RV_TRY(rv_tower_backward(m, &m->vision, &p, e));
        if (m->params[m->position].info.trained) {
            embed_backward(m, x, k);
        }
    }
    return RV_OK;
}
