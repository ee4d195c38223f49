// features.c - image rows of views: those that were looked at before, and those that are new.
//
// Where nothing below the decoder learns, a view's features stay what they are while the decoder is
// trained: the epochs of an update, and the generation before it, need not look at an image again.
// Views that carry a key are found by it; what is found has the bits of what would be computed.
#include "model.h"

static const int64_t real = sizeof(float);

static int64_t row_bytes(const rv_vlm *m) { return m->arch.text.width * real; }

static bool has_key(const rv_view *v) { return v->key[0] || v->key[1]; }

// Where the features of a view stand among those known; NULL: they are new.
static const rv_feature *find(rv_vlm *m, const rv_view *v) {
    const rv_feature *f = m->known.rows && has_key(v) ? rv_features_find(&m->known, v->key) : NULL;
    return f && f->rows == v->rows ? f : NULL;
}

// Keeps a view's features, rows of m->features from `row` on; the oldest ones make room.
static void remember(rv_vlm *m, const rv_view *v, int64_t row) {
    bool is_new;
    if (!has_key(v) || v->rows > m->known.rows) {
        return;
    }
    const rv_feature *f = rv_features_claim(&m->known, v->key, v->rows, ++m->known_step, &is_new);
    if (f && is_new) {
        m->be->copy(m->ctx, rv_dev_at(m->known_rows, f->row0 * row_bytes(m)),
                    rv_dev_at(m->features, row * row_bytes(m)), (size_t)(v->rows * row_bytes(m)));
    }
}

static void remember_all(rv_vlm *m, int64_t n) {
    for (int64_t i = 0, row = 0; i < n; row += m->fresh[i++].rows) {
        remember(m, &m->fresh[i], row);
    }
}

void rv_features_forget(rv_vlm *m) { rv_features_clear(&m->known); }

// ---- in the decoder's input ----

// Puts rows `from` of `features` to rows `to` of the decoder's input.
static void put(rv_vlm *m, rv_dev features, const int32_t *from, const int32_t *to, int64_t n) {
    if (n) {
        m->be->gather_rows(m->ctx, m->text.norm, features, from, n, m->arch.text.width);
        m->be->scatter_rows(m->ctx, m->text.x[0], m->text.norm, to, n, m->arch.text.width);
    }
}

// Sorts the views' rows: those of new views to the front of m->shown, those known to its end.
// Returns where the known ones begin; `fresh`: the number of new views.
static int64_t sort_rows(rv_vlm *m, const rv_view *views, int64_t n, int64_t rows, int64_t *fresh) {
    int64_t row = 0, first = 0, known = rows;
    *fresh = 0;
    for (int64_t i = 0; i < n; row += views[i++].rows) {
        const rv_feature *f = find(m, &views[i]);
        for (int64_t k = 0; f && k < f->rows; k++) {
            m->take[--known] = (int32_t)(f->row0 + k);
            m->shown[known] = m->image_row[row + k];
        }
        for (int64_t k = 0; !f && k < views[i].rows; k++) {
            m->shown[first++] = m->image_row[row + k];
        }
        if (!f) {
            m->fresh[(*fresh)++] = views[i];
        }
    }
    return known;
}

rv_status rv_features_show(rv_vlm *m, const rv_view *views, int64_t n, bool keep, rv_err *e) {
    int64_t rows = 0, fresh;
    for (int64_t i = 0; i < n; i++) {
        rows += views[i].rows;
    }
    int64_t known = sort_rows(m, views, n, rows, &fresh);
    put(m, m->known_rows, m->take + known, m->shown + known, rows - known);
    if (fresh == 0) {
        return RV_OK;
    }
    RV_TRY(rv_features_forward(m, m->fresh, fresh, keep, e));
    m->be->scatter_rows(m->ctx, m->text.x[0], m->features, m->shown, known, m->arch.text.width);
    remember_all(m, fresh);
    return RV_OK;
}

// ---- for generation ----

// Computes the first `n` fresh views and puts each where it is wanted.
static rv_status flush(rv_vlm *m, rv_dev out, int64_t n, rv_err *e) {
    if (n == 0) {
        return RV_OK;
    }
    RV_TRY(rv_features_forward(m, m->fresh, n, false, e));
    for (int64_t i = 0, row = 0; i < n; row += m->fresh[i++].rows) {
        m->be->copy(m->ctx, rv_dev_at(out, m->shown[i] * row_bytes(m)),
                    rv_dev_at(m->features, row * row_bytes(m)),
                    (size_t)(m->fresh[i].rows * row_bytes(m)));
    }
    remember_all(m, n);
    return RV_OK;
}

rv_status rv_vlm_encode(rv_vlm *m, rv_dev out, const rv_view *views, int64_t n, rv_err *e) {
    int64_t row = 0, fresh = 0, rows = 0;
    if (!m->arch.vision.width && n) {
        return RV_FAIL(e, RV_EARG, "images came, but the model has no vision tower");
    }
    for (int64_t i = 0; i < n; i++) {
        RV_TRY(rv_view_check(&m->arch, &views[i], e));
    }
    RV_TRY(rv_vlm_ready(m, e));
    m->resident = -1;
    for (int64_t i = 0; i < n; row += views[i++].rows) {
        const rv_feature *f = find(m, &views[i]);
        if (f) {
            m->be->copy(m->ctx, rv_dev_at(out, row * row_bytes(m)),
                        rv_dev_at(m->known_rows, f->row0 * row_bytes(m)),
                        (size_t)(f->rows * row_bytes(m)));
            continue;
        }
        if (rows + views[i].rows > m->image_rows) {
            RV_TRY(flush(m, out, fresh, e));
            fresh = rows = 0;
        }
        m->fresh[fresh] = views[i];
        m->shown[fresh++] = (int32_t)row;
        rows += views[i].rows;
    }
    return flush(m, out, fresh, e);
}
