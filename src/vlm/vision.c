// vision.c - the vision tower: patches, class row, positions, blocks; forward and backward.
//
// What is looked at is a list of tiles, in runs that fit the tower's memory; tiles of a run may
// have different sizes. Rows of one tile: the class row first (where there is one), then the
// patches in the order they come in or, where the tower attends in windows, window by window.
// Whatever stands outside counts feature rows in the order of the patches.
#include <stdlib.h>

#include "mem.h"
#include "model.h"

static const rv_dev none = {0};

// ---- tiles and image rows ----

static rv_status add_tile(rv_vlm *m, rv_tile t, rv_err *e) {
    if (m->n_tiles == m->cap_tiles) {
        int64_t cap = m->cap_tiles ? 2 * m->cap_tiles : 64;
        rv_tile *grown = rv_realloc(m->tiles, cap, sizeof *grown);
        if (!grown) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory: %lld tiles", (long long)cap);
        }
        m->tiles = grown;
        m->cap_tiles = cap;
    }
    m->tiles[m->n_tiles++] = t;
    return RV_OK;
}

// The feature row with which the same tiles begin in the list; -1: they are not there.
static int64_t find_tiles(const rv_vlm *m, const rv_view *v) {
    for (int64_t i = 0; i < m->n_tiles; i++) {
        const rv_tile *t = &m->tiles[i];
        if (t->patches == v->patches && t->together == v->tiles && t->h == v->h && t->w == v->w) {
            return t->feature0;
        }
    }
    return -1;
}

// Looking once at equal views is enough where the tower learns nothing.
static rv_status add_view(rv_vlm *m, const rv_view *v, int64_t *features, int64_t *first,
                          rv_err *e) {
    *first = rv_vlm_flows(m, m->stage_connector) ? -1 : find_tiles(m, v);
    if (*first >= 0) {
        return RV_OK;
    }
    *first = *features;
    for (int32_t k = 0; k < v->tiles; k++) {
        int64_t numbers = (int64_t)v->h * v->w * rv_patch_numbers(&m->arch);
        RV_TRY(add_tile(m,
                        (rv_tile){.patches = v->patches + k * numbers,
                                  .together = k ? 0 : v->tiles,
                                  .h = v->h,
                                  .w = v->w,
                                  .feature0 = *features},
                        e));
        *features += rv_tile_features(&m->arch.vision, v->h, v->w);
    }
    return RV_OK;
}

rv_status rv_vision_plan(rv_vlm *m, const rv_view *views, int64_t n, rv_err *e) {
    int64_t features = 0, first;
    m->n_tiles = m->n_source = 0;
    for (int64_t i = 0; i < n; i++) {
        const rv_view *v = &views[i];
        RV_TRY(add_view(m, v, &features, &first, e));
        for (int64_t k = 0; k < v->rows; k++) {
            int64_t at = v->order ? v->order[k] : k;
            m->source[m->n_source++] = at < 0 ? -1 : (int32_t)(first + at);
        }
    }
    return RV_OK;
}

// ---- one run ----

// Tiles t0 .. t1 - 1 of the list; how many rows, patches and feature rows they have.
typedef struct {
    int64_t t0, t1, rows, patches, feature0, features;
} run;

// The next run behind `t0`: as many tiles as fit.
static run next_run(const rv_vlm *m, int64_t t0) {
    const rv_arch_vision *v = &m->arch.vision;
    run r = {.t0 = t0, .t1 = t0, .feature0 = t0 < m->n_tiles ? m->tiles[t0].feature0 : 0};
    for (; r.t1 < m->n_tiles; r.t1++) {
        const rv_tile *t = &m->tiles[r.t1];
        int64_t rows = rv_tile_rows(v, t->h, t->w);
        if (r.t1 > t0 && r.rows + rows > m->vision.rows) {
            break;
        }
        r.rows += rows;
        r.patches += (int64_t)t->h * t->w;
        r.features += rv_tile_features(v, t->h, t->w);
    }
    return r;
}

// Fills the tower row of each patch (m->place) and where tiles and windows begin.
static rv_pass pass_of(rv_vlm *m, const run *r, bool keep) {
    const rv_arch_vision *v = &m->arch.vision;
    int32_t *place = m->place, row = 0;
    int64_t windows = 0;
    m->vision_cu[0] = m->window_cu[0] = 0;
    for (int64_t i = r->t0; i < r->t1; i++) {
        const rv_tile *t = &m->tiles[i];
        int64_t n = (int64_t)t->h * t->w;
        if (v->window) {
            windows += rv_tile_windows(v, t->h, t->w, place, m->window_cu + windows, row);
        }
        for (int64_t k = 0; k < n && !v->window; k++) {
            place[k] = row + v->class_token + (int32_t)k;
        }
        place += n;
        row += (int32_t)rv_tile_rows(v, t->h, t->w);
        m->vision_cu[i - r->t0 + 1] = row;
    }
    return (rv_pass){.rows = r->rows,
                     .cu = m->vision_cu,
                     .n_seq = r->t1 - r->t0,
                     .window_cu = m->window_cu,
                     .n_windows = windows,
                     .angle = m->vision_angle,
                     .keep = keep};
}

// Fills m->vision_index with each tower row's learned position, or with its row and column.
static void number_places(rv_vlm *m, const run *r, bool learned) {
    const rv_arch_vision *v = &m->arch.vision;
    const int32_t *place = m->place;
    for (int64_t i = r->t0; i < r->t1; i++) {
        const rv_tile *t = &m->tiles[i];
        int64_t n = (int64_t)t->h * t->w, y, x;
        if (learned && v->class_token) {
            m->vision_index[m->vision_cu[i - r->t0]] = 0;
        }
        for (int64_t k = 0; k < n; k++, place++) {
            rv_tile_place(v, t->w, k, &y, &x);
            if (learned) {
                m->vision_index[*place] = (int32_t)rv_tile_position(v, t->h, t->w, y, x);
            } else {
                m->vision_index[2 * *place] = (int32_t)y;
                m->vision_index[2 * *place + 1] = (int32_t)x;
            }
        }
    }
}

// Fills m->vision_index with 0 for class rows, -1 for others.
static void mark_class_rows(rv_vlm *m, const run *r) {
    for (int64_t i = 0; i < r->rows; i++) {
        m->vision_index[i] = -1;
    }
    for (int64_t i = 0; i < r->t1 - r->t0; i++) {
        m->vision_index[m->vision_cu[i]] = 0;
    }
}

static void upload(rv_vlm *m, const run *r) {
    int64_t row = rv_patch_numbers(&m->arch) * (int64_t)sizeof(float), at = 0;
    for (int64_t i = r->t0; i < r->t1; i++) {
        const rv_tile *t = &m->tiles[i];
        int64_t bytes = (int64_t)t->h * t->w * row;
        m->be->upload(m->ctx, rv_dev_at(m->patches, at), t->patches, (size_t)bytes);
        at += bytes;
    }
}

// ---- forward ----

// Embedded patches, class rows and positions in t->x[0]; what the pre-norm reads stays in
// m->embedded.
static void embed(rv_vlm *m, const run *r) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    rv_dev x = v->pre_norm ? m->embedded : t->x[0];
    upload(m, r);
    rv_layer_forward(m, &m->patch, m->patch_out, m->patches, r->patches, RV_ACT_NONE, none, none,
                     none);
    if (m->class_row >= 0) {
        mark_class_rows(m, r);
        m->be->gather_rows(m->ctx, x, m->params[m->class_row].value, m->vision_index, r->rows,
                           v->width);
    }
    m->be->scatter_rows(m->ctx, x, m->patch_out, m->place, r->patches, v->width);
    if (m->position >= 0) {
        number_places(m, r, true);
        m->be->gather_rows(m->ctx, t->norm, m->params[m->position].value, m->vision_index, r->rows,
                           v->width);
        m->be->axpy(m->ctx, x, t->norm, 1, r->rows * v->width);
    }
    if (v->rope_theta > 0) {
        number_places(m, r, false);
        m->be->gather_rows(m->ctx, m->vision_angle, m->vision_angles, m->vision_index, 2 * r->rows,
                           t->attn.head_dim / 2);
    }
    if (v->pre_norm) {
        rv_norm_forward(m, &m->pre_norm, t->x[0], x, r->rows, v->width, v->eps);
    }
}

static rv_status run_forward(rv_vlm *m, const run *r, bool keep, rv_err *e) {
    rv_pass p = pass_of(m, r, keep);
    embed(m, r);
    return rv_tower_forward(m, &m->vision, &p, e);
}

// Image rows at .. that take a feature row of the run: theirs in m->take, the tower's (in merged
// rows) in m->vision_index. Returns how many, at the most the tower's rows; *at goes on.
static int64_t next_taken(rv_vlm *m, const run *r, int64_t *at) {
    const rv_arch_vision *v = &m->arch.vision;
    int32_t each = (int32_t)(v->merge * v->merge);
    int64_t n = 0, most = m->vision.rows / each;
    bool whole = v->class_token && !v->drop_class;
    for (; *at < m->n_source && n < most; (*at)++) {
        int64_t f = m->source[*at] - r->feature0;
        if (m->source[*at] >= 0 && f >= 0 && f < r->features) {
            m->take[n] = (int32_t)*at;
            m->vision_index[n++] = whole ? (int32_t)f : m->place[f * each] / each;
        }
    }
    return n;
}

// Brings the tower's output to the image rows that want it.
static void give_rows(rv_vlm *m, const run *r, rv_dev out) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t width = (int64_t)v->width * v->merge * v->merge, n;
    rv_dev y = t->out;
    if (v->post_norm) {
        rv_norm_forward(m, &m->post_norm, t->norm, y, r->rows, v->width, v->eps);
        y = t->norm;
    }
    for (int64_t at = 0; (n = next_taken(m, r, &at)) > 0;) {
        m->be->gather_rows(m->ctx, m->patch_out, y, m->vision_index, n, width);
        m->be->scatter_rows(m->ctx, out, m->patch_out, m->take, n, width);
    }
}

rv_status rv_vision_forward(rv_vlm *m, rv_dev out, bool keep, rv_err *e) {
    for (run r = next_run(m, 0); r.t1 > r.t0; r = next_run(m, r.t1)) {
        RV_TRY(run_forward(m, &r, keep && r.t1 - r.t0 == m->n_tiles, e));
        give_rows(m, &r, out);
    }
    return RV_OK;
}

// ---- backward ----

// The gradient of the tower's output, t->dx, from that of the image rows.
static void take_rows(rv_vlm *m, const run *r, rv_dev dout) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    int64_t width = (int64_t)v->width * v->merge * v->merge, n;
    rv_dev dy = v->post_norm ? t->dx2 : t->dx;
    m->be->zero(m->ctx, dy, (size_t)(r->rows * v->width) * sizeof(float));
    for (int64_t at = 0; (n = next_taken(m, r, &at)) > 0;) {
        m->be->gather_rows(m->ctx, m->patch_out, dout, m->take, n, width);
        m->be->scatter_add_rows(m->ctx, dy, m->patch_out, m->vision_index, n, width);
    }
    if (v->post_norm) {
        rv_norm_backward(m, &m->post_norm, t->dx, dy, t->out, r->rows, v->width, v->eps, false);
    }
}

static void embed_backward(rv_vlm *m, const run *r) {
    const rv_arch_vision *v = &m->arch.vision;
    rv_tower *t = &m->vision;
    rv_dev dx = t->dx;
    if (v->pre_norm) {
        dx = t->dx2;
        rv_norm_backward(m, &m->pre_norm, dx, t->dx, m->embedded, r->rows, v->width, v->eps, false);
    }
    if (m->position >= 0 && m->params[m->position].info.trained) {
        number_places(m, r, true);
        m->be->scatter_add_rows(m->ctx, m->params[m->position].grad, dx, m->vision_index, r->rows,
                                v->width);
    }
    if (m->class_row >= 0 && m->params[m->class_row].info.trained) {
        mark_class_rows(m, r);
        m->be->scatter_add_rows(m->ctx, m->params[m->class_row].grad, dx, m->vision_index, r->rows,
                                v->width);
    }
    m->be->gather_rows(m->ctx, m->patch_out, dx, m->place, r->patches, v->width);
    upload(m, r);
    rv_layer_backward(m, &m->patch, none, false, m->patch_out, m->patches, r->patches, none, none);
}

rv_status rv_vision_backward(rv_vlm *m, rv_dev dout, rv_err *e) {
    for (run r = next_run(m, 0); r.t1 > r.t0; r = next_run(m, r.t1)) {
        if (r.t1 - r.t0 < m->n_tiles) { // more than fit: their activations are made again
            RV_TRY(run_forward(m, &r, true, e));
        }
        rv_pass p = pass_of(m, &r, true);
        take_rows(m, &r, dout);
        RV_TRY(rv_tower_backward(m, &m->vision, &p, e));
        if (m->floor <= m->params[m->patch.weight].stage) {
            embed_backward(m, &r);
        }
    }
    return RV_OK;
}
