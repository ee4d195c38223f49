// score.c - packed batches: checked, cut into pieces of whole sequences, scored, differentiated.
//
// A piece runs through vision tower, connector, decoder and heads at once. A kept score keeps its
// batch; the activations of one piece stay in their place until something else runs there, and what
// is not there any more is computed again, with the same bits.
#include <stdlib.h>
#include <string.h>

#include "intr.h"
#include "mem.h"
#include "model.h"
#include "positions.h"

static const rv_dev none = {0};

// ---- checks ----

// Checks the ids of a sequence and counts its image rows.
static rv_status check_sequence(const rv_vlm *m, const rv_batch *b, int64_t s, int64_t *rows,
                                rv_err *e) {
    const rv_arch *a = &m->arch;
    int64_t n = (int64_t)b->cu[s + 1] - b->cu[s];
    *rows = 0;
    if (n < 1 || n > m->o.max_rows || n > m->positions) {
        return RV_FAIL(e, RV_EARG, "sequence %lld has %lld tokens: wanted 1 to %lld (%s)",
                       (long long)s + 1, (long long)n,
                       (long long)(m->o.max_rows < m->positions ? m->o.max_rows : m->positions),
                       n > m->o.max_rows ? "max_rows" : "the model's positions");
    }
    for (int64_t i = b->cu[s]; i < b->cu[s + 1]; i++) {
        bool image =
            a->vision.width && b->ids[i] == a->image_token; // may lie behind the vocabulary
        if (!image && (b->ids[i] < 0 || b->ids[i] >= a->text.vocab)) {
            return RV_FAIL(e, RV_EARG, "sequence %lld, token %lld: id %d is outside 0 to %d",
                           (long long)s + 1, (long long)(i - b->cu[s]) + 1, b->ids[i],
                           a->text.vocab - 1);
        }
        *rows += image;
    }
    return RV_OK;
}

// The views, from the batch's `image` on, that a sequence with so many image tokens shows.
static rv_status count_images(const rv_batch *b, int64_t s, int64_t image, int64_t rows,
                              int64_t *images, rv_err *e) {
    int64_t n = 0, sum = 0;
    while (sum < rows && image + n < b->n_images) {
        sum += b->images[image + n++].rows;
    }
    *images = n;
    return sum == rows
               ? RV_OK
               : RV_FAIL(e, RV_ESHAPE,
                         "sequence %lld has %lld image tokens, but %s %lld images have "
                         "%lld rows",
                         (long long)s + 1, (long long)rows,
                         sum > rows ? "its next" : "the remaining", (long long)n, (long long)sum);
}

static rv_status check_views(const rv_vlm *m, const rv_batch *b, rv_err *e) {
    if (b->n_images && (!b->images || !m->arch.vision.width)) {
        return RV_FAIL(e, RV_EARG, "%lld images, but %s", (long long)b->n_images,
                       b->images ? "the model has no vision tower" : "no views");
    }
    for (int64_t i = 0; i < b->n_images; i++) {
        rv_status s = rv_view_check(&m->arch, &b->images[i], e);
        if (s != RV_OK) {
            rv_err_context(e, "image %lld", (long long)i + 1);
            return s;
        }
    }
    return RV_OK;
}

static rv_status check_rows(const char *what, const int32_t *row, int64_t n, int64_t rows,
                            bool ascending, rv_err *e) {
    for (int64_t i = 0; i < n; i++) {
        if (row[i] < 0 || row[i] >= rows) {
            return RV_FAIL(e, RV_EARG, "%s %lld is row %d: the batch has %lld rows", what,
                           (long long)i + 1, row[i], (long long)rows);
        }
        if (ascending && i > 0 && row[i] < row[i - 1]) {
            return RV_FAIL(e, RV_EARG, "%s %lld is row %d after row %d: wanted ascending rows",
                           what, (long long)i + 1, row[i], row[i - 1]);
        }
    }
    return RV_OK;
}

static rv_status check_outputs(const rv_vlm *m, const rv_batch *b, rv_err *e) {
    int64_t rows = b->cu[b->n];
    RV_TRY(check_rows("asked row", b->ask_row, b->n_ask, rows, true, e));
    RV_TRY(check_rows("value", b->value_row, b->n_value, rows, false, e));
    RV_TRY(check_rows("hidden state", b->hidden_row, b->n_hidden, rows, false, e));
    for (int64_t i = 0; b->ask_id && i < b->n_ask; i++) {
        if (b->ask_id[i] < -1 || b->ask_id[i] >= m->arch.text.vocab) {
            return RV_FAIL(e, RV_EARG, "asked id %lld is %d: wanted 0 to %d", (long long)i + 1,
                           b->ask_id[i], m->arch.text.vocab - 1);
        }
    }
    if (b->n_value && !m->o.value_head) {
        return RV_FAIL(e, RV_EARG, "a value is asked of a model without a value head");
    }
    if (b->n_ask && !(b->temperature > 0)) {
        return RV_FAIL(e, RV_EARG, "temperature is %g: wanted a positive number",
                       (double)b->temperature);
    }
    return RV_OK;
}

// ---- pieces ----

static rv_status add_piece(rv_vlm *m, rv_piece p, rv_err *e) {
    if (m->n_pieces == m->cap_pieces) {
        int64_t cap = m->cap_pieces ? 2 * m->cap_pieces : 16;
        rv_piece *grown = rv_realloc(m->pieces, cap, sizeof *grown);
        if (!grown) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory");
        }
        m->pieces = grown;
        m->cap_pieces = cap;
    }
    m->pieces[m->n_pieces++] = p;
    return RV_OK;
}

static void give_asks(const rv_vlm *m, const rv_batch *b) {
    int64_t at = 0;
    for (int64_t i = 0; i < m->n_pieces; i++) {
        rv_piece *p = &m->pieces[i];
        p->ask0 = at;
        while (at < b->n_ask && b->ask_row[at] < p->row0 + p->rows) {
            at++;
        }
        p->n_ask = at - p->ask0;
    }
}

// Checks a batch and cuts it into pieces of at most max_rows rows, and as many of images as have
// room.
static rv_status cut(rv_vlm *m, const rv_batch *b, rv_err *e) {
    rv_piece p = {0};
    int64_t total = 0;
    m->n_pieces = 0;
    if (b->n < 1 || b->cu[0] != 0) {
        return RV_FAIL(e, RV_EARG, "a batch of %lld sequences that begins at row %d",
                       (long long)b->n, b->n < 1 ? 0 : b->cu[0]);
    }
    RV_TRY(check_views(m, b, e));
    for (int64_t s = 0; s < b->n; s++) {
        int64_t image_rows, images;
        RV_TRY(check_sequence(m, b, s, &image_rows, e));
        RV_TRY(count_images(b, s, total, image_rows, &images, e));
        int64_t rows = (int64_t)b->cu[s + 1] - b->cu[s];
        if (image_rows > m->image_rows) {
            return RV_FAIL(e, RV_EARG, "sequence %lld has %lld image tokens: wanted at most %lld",
                           (long long)s + 1, (long long)image_rows, (long long)m->image_rows);
        }
        if (p.n_seq &&
            (p.rows + rows > m->o.max_rows || p.image_rows + image_rows > m->image_rows)) {
            RV_TRY(add_piece(m, p, e));
            p = (rv_piece){.seq0 = s, .row0 = b->cu[s], .image0 = total};
        }
        p.n_seq++;
        p.rows += rows;
        p.image_rows += image_rows;
        p.n_images += images;
        total += images;
    }
    RV_TRY(add_piece(m, p, e));
    if (total != b->n_images) {
        return RV_FAIL(e, RV_ESHAPE, "%lld images came, but the sequences have tokens for %lld",
                       (long long)b->n_images, (long long)total);
    }
    RV_TRY(check_outputs(m, b, e));
    give_asks(m, b);
    return RV_OK;
}

static void mark(rv_vlm *m, const rv_piece *p, const int32_t *row, int64_t at, int64_t end) {
    for (int64_t i = at; i < end; i++) {
        if (row[i] >= p->row0 && row[i] < p->row0 + p->rows) {
            m->rank[row[i] - p->row0] = 0;
        }
    }
}

// Numbers the marked rows, and those of each sequence from its first marked one on.
static void pick_rows(rv_vlm *m, int64_t n_seq) {
    m->n_pick = m->n_ask = 0;
    for (int64_t s = 0; s < n_seq; s++) {
        int32_t r = m->cu[s];
        m->ask_cu[s] = (int32_t)m->n_ask;
        while (r < m->cu[s + 1] && m->rank[r] < 0) {
            r++;
        }
        for (; r < m->cu[s + 1]; r++) {
            if (m->rank[r] == 0) {
                m->rank[r] = (int32_t)m->n_pick;
                m->ask_pick[m->n_pick] = (int32_t)m->n_ask;
                m->pick[m->n_pick++] = r;
            }
            m->ask[m->n_ask++] = r;
        }
    }
    m->ask_cu[n_seq] = (int32_t)m->n_ask;
}

// Fills the host arrays of a piece: ids with -1 for image rows, positions, the picked rows.
static void number_rows(rv_vlm *m, const rv_batch *b, const rv_piece *p) {
    const int32_t *cu = b->cu + p->seq0;
    const rv_view *views = b->images ? b->images + p->image0 : NULL;
    m->n_image_rows = 0;
    for (int64_t s = 0; s < p->n_seq; s++) {
        m->cu[s] = cu[s] - cu[0];
        rv_places(m->places + m->cu[s], &m->arch, b->ids + cu[s], cu[s + 1] - cu[s], &views);
        for (int32_t i = cu[s]; i < cu[s + 1]; i++) {
            int64_t r = i - p->row0;
            bool image = m->arch.vision.width && b->ids[i] == m->arch.image_token;
            m->ids[r] = image ? -1 : b->ids[i];
            m->rank[r] = -1;
            if (image) {
                m->image_row[m->n_image_rows++] = (int32_t)r;
            }
        }
    }
    m->cu[p->n_seq] = (int32_t)p->rows;
    mark(m, p, b->ask_row, p->ask0, p->ask0 + p->n_ask);
    mark(m, p, b->value_row, 0, b->n_value);
    mark(m, p, b->hidden_row, 0, b->n_hidden);
    pick_rows(m, p->n_seq);
}

static rv_pass pass_of(const rv_vlm *m, const rv_piece *p, bool keep) {
    return (rv_pass){.rows = p->rows,
                     .cu = m->cu,
                     .n_seq = p->n_seq,
                     .angle = m->angle,
                     .pick = m->pick,
                     .n_pick = m->n_pick,
                     .ask = m->ask,
                     .ask_cu = m->ask_cu,
                     .ask_pick = m->ask_pick,
                     .n_ask = m->n_ask,
                     .keep = keep && rv_vlm_flows(m, m->stage_head)};
}

// From ids and patches to m->hidden, the picked rows after the last norm.
static rv_status piece_forward(rv_vlm *m, const rv_batch *b, const rv_piece *p, bool keep,
                               rv_err *e) {
    const rv_arch_text *t = &m->arch.text;
    number_rows(m, b, p);
    m->resident = -1;
    if (m->n_pick == 0) {
        return RV_OK;
    }
    rv_pass pass = pass_of(m, p, keep);
    if (pass.keep) {
        rv_vlm_kv_take(m);
    }
    m->be->embed(m->ctx, m->text.x[0], &m->params[m->embed].w, m->ids, p->rows);
    if (p->n_images) {
        RV_TRY(rv_features_show(m, b->images + p->image0, p->n_images, keep, e));
    }
    rv_gather_angles(m, p->rows);
    RV_TRY(rv_tower_forward(m, &m->text, &pass, e));
    rv_norm_forward(m, &m->last_norm, m->hidden, m->text.out, m->n_pick, t->width, t->eps);
    return RV_OK;
}

void rv_vlm_forget(rv_vlm *m) {
    m->kept = (rv_batch){0};
    m->live = false;
    m->resident = -1;
}

// ---- the two entries ----

static rv_status check_keep(const rv_vlm *m, rv_err *e) {
    if (m->live) {
        return RV_FAIL(e, RV_EARG,
                       "a differentiable score is live: run its backward pass or forget it first");
    }
    bool value = m->o.value_head && m->params[m->value[0].weight].info.trained;
    if (m->floor > m->stage_head && !value) {
        return RV_FAIL(e, RV_EARG, "a differentiable score of a model of which nothing is trained");
    }
    return RV_OK;
}

rv_status rv_vlm_score(rv_vlm *m, const rv_batch *b, bool keep, const rv_scores *out, rv_err *e) {
    RV_TRY(rv_vlm_ready(m, e));
    if (keep) {
        RV_TRY(check_keep(m, e));
    }
    RV_TRY(cut(m, b, e));
    // The first piece comes last: the backward pass begins with it and finds its activations.
    for (int64_t i = m->n_pieces - 1; i >= 0; i--) {
        RV_TRY(piece_forward(m, b, &m->pieces[i], keep && i == 0, e));
        rv_head_forward(m, b, &m->pieces[i], out);
    }
    if (keep) {
        m->kept = *b;
        m->kept_lora = m->lora;
        m->live = true;
        m->resident = 0;
    }
    return RV_OK;
}

// Below the decoder: the embedding's rows, and through the connector to the patches.
static rv_status inputs_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, rv_err *e) {
    const rv_param *w = &m->params[m->embed];
    if (w->info.trained) {
        m->be->embed_backward(m->ctx, w->grad, &w->w, m->text.dx, m->ids, p->rows);
    }
    if (!p->n_images || !rv_vlm_flows(m, m->stage_embed)) {
        return RV_OK;
    }
    m->be->gather_rows(m->ctx, m->dfeatures, m->text.dx, m->image_row, m->n_image_rows,
                       m->arch.text.width);
    return rv_features_backward(m, b->images + p->image0, p->n_images, e);
}

static rv_status piece_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *g,
                                float value_grad, rv_err *e) {
    const rv_arch_text *t = &m->arch.text;
    bool flows = rv_vlm_flows(m, m->stage_head);
    if (m->n_pick == 0) {
        return RV_OK;
    }
    rv_head_backward(m, b, p, g, value_grad, flows ? m->text.dx2 : none);
    if (!flows) {
        return RV_OK;
    }
    rv_pass pass = pass_of(m, p, true);
    rv_norm_backward(m, &m->last_norm, m->text.dx, m->text.dx2, m->text.out, m->n_pick, t->width,
                     t->eps, false);
    RV_TRY(rv_tower_backward(m, &m->text, &pass, e));
    return rv_vlm_flows(m, m->stage_embed + 1) ? inputs_backward(m, b, p, e) : RV_OK;
}

static rv_status backward(rv_vlm *m, const rv_scores *g, float value_grad, rv_err *e) {
    for (int64_t i = 0; i < m->n_pieces; i++) {
        if (m->resident != i) {
            RV_TRY(piece_forward(m, &m->kept, &m->pieces[i], true, e));
        }
        m->resident = -1;
        RV_TRY(piece_backward(m, &m->kept, &m->pieces[i], g, value_grad, e));
    }
    return RV_OK;
}

rv_status rv_vlm_backward(rv_vlm *m, const rv_scores *g, float value_grad, rv_err *e) {
    if (!m->live) {
        return RV_FAIL(e, RV_EARG, "no differentiable score is live");
    }
    int lora = m->lora;
    int64_t resident = m->resident;
    rv_status s = cut(m, &m->kept, e); // another score may have cut its own batch since
    m->resident = resident;
    if (s == RV_OK) {
        if (resident == 0) {
            number_rows(m, &m->kept, &m->pieces[0]);
        }
        m->lora = m->kept_lora;
        s = backward(m, g, value_grad, e);
        m->lora = lora;
    }
    rv_vlm_forget(m);
    return s;
}
