// cached.c - generation's steps: new tokens on the key/value cache, values.
//
// New tokens of all sequences are packed and run in pieces of at most max_rows rows. How they are
// cut does not matter to a bit of the result.
#include "intr.h"
#include "model.h"

static const int64_t real = sizeof(float);

static rv_status check_extend(const rv_vlm *m, rv_dev features, const rv_extend *x, int64_t s,
                              rv_err *e) {
    int64_t blocks = (x->pos0 + x->n + RV_KV_BLOCK - 1) / RV_KV_BLOCK;
    if (x->n < 1 || x->pos0 < 0 || x->pos0 + x->n > m->positions) {
        return RV_FAIL(e, RV_EARG,
                       "sequence %lld: %lld new tokens at position %lld, but the model has %lld "
                       "positions",
                       (long long)s + 1, (long long)x->n, (long long)x->pos0,
                       (long long)m->positions);
    }
    for (int64_t i = 0; i < blocks; i++) {
        if (x->table[i] < 0 || x->table[i] >= m->o.kv_blocks) {
            return RV_FAIL(e, RV_EARG, "sequence %lld: cache block %d of %lld", (long long)s + 1,
                           x->table[i], (long long)m->o.kv_blocks);
        }
    }
    for (int64_t i = 0; i < x->n; i++) {
        bool image = x->feature && x->feature[i] >= 0;
        if (image && rv_dev_none(features)) {
            return RV_FAIL(e, RV_EARG, "sequence %lld: an image row, but no features",
                           (long long)s + 1);
        }
        if (!image && (x->ids[i] < 0 || x->ids[i] >= m->arch.text.vocab)) {
            return RV_FAIL(e, RV_EARG, "sequence %lld, token %lld: id %d is outside 0 to %d",
                           (long long)s + 1, (long long)i + 1, x->ids[i], m->arch.text.vocab - 1);
        }
    }
    return RV_OK;
}

// Rows packed so far for one run; the host arrays of the model hold them.
typedef struct {
    int64_t rows, n_write, n_pick, n_image;
} pack;

// Adds tokens at .. at+n-1 of a sequence; the last token of all is picked when `last`.
static void pack_tokens(rv_vlm *m, pack *k, const rv_extend *x, int64_t at, int64_t n, bool last) {
    m->write[k->n_write++] = (rv_attn_seq){k->rows, n, x->pos0 + at, x->table};
    for (int64_t i = at; i < at + n; i++, k->rows++) {
        bool image = x->feature && x->feature[i] >= 0;
        m->ids[k->rows] = image ? -1 : x->ids[i];
        int32_t p = (int32_t)(x->pos0 + i);
        m->places[k->rows] = x->places ? x->places[i] : (rv_place){{p, p, p}};
        if (image) {
            m->rank[k->n_image] = x->feature[i];
            m->image_row[k->n_image++] = (int32_t)k->rows;
        }
    }
    if (last) {
        m->read[k->n_pick] = (rv_attn_seq){k->n_pick, 1, x->pos0 + at + n - 1, x->table};
        m->pick[k->n_pick++] = (int32_t)k->rows - 1;
    }
}

// Runs the packed rows; m->hidden receives the picked ones.
static rv_status run(rv_vlm *m, const pack *k, rv_dev features, rv_err *e) {
    const rv_arch_text *t = &m->arch.text;
    rv_pass p = {.rows = k->rows,
                 .n_seq = k->n_write,
                 .angle = m->angle,
                 .pick = m->pick,
                 .n_pick = k->n_pick,
                 .ask = m->pick,
                 .n_ask = k->n_pick,
                 .write = m->write,
                 .read = m->read,
                 .n_read = k->n_pick,
                 .pool = m->kv,
                 .pool_bytes = m->kv_layer_bytes};
    m->be->embed(m->ctx, m->text.x[0], &m->params[m->embed].w, m->ids, k->rows);
    if (k->n_image) {
        m->be->gather_rows(m->ctx, m->text.norm, features, m->rank, k->n_image, t->width);
        m->be->scatter_rows(m->ctx, m->text.x[0], m->text.norm, m->image_row, k->n_image, t->width);
    }
    rv_gather_angles(m, k->rows);
    RV_TRY(rv_tower_forward(m, &m->text, &p, e));
    if (k->n_pick) {
        rv_norm_forward(m, &m->last_norm, m->hidden, m->text.out, k->n_pick, t->width, t->eps);
    }
    return RV_OK;
}

// Runs a full pack and writes its outputs behind the `done` rows that are there.
static rv_status flush(rv_vlm *m, pack *k, rv_dev logits, rv_dev hidden, rv_dev features,
                       int64_t *done, rv_err *e) {
    int64_t v = m->arch.text.vocab * real, c = m->arch.text.width * real;
    RV_TRY(run(m, k, features, e));
    if (!rv_dev_none(hidden)) {
        m->be->copy(m->ctx, rv_dev_at(hidden, *done * c), m->hidden, (size_t)(k->n_pick * c));
    }
    if (!rv_dev_none(logits)) {
        rv_head_logits(m, rv_dev_at(logits, *done * v), m->hidden, k->n_pick);
    }
    *done += k->n_pick;
    *k = (pack){0};
    return RV_OK;
}

rv_status rv_vlm_extend(rv_vlm *m, rv_dev logits, rv_dev hidden, rv_dev features,
                        const rv_extend *seqs, int64_t n_seq, rv_err *e) {
    RV_TRY(rv_vlm_ready(m, e));
    for (int64_t s = 0; s < n_seq; s++) {
        RV_TRY(check_extend(m, features, &seqs[s], s, e));
    }
    bool wanted = !rv_dev_none(logits) || !rv_dev_none(hidden);
    rv_vlm_kv_give(m);
    int64_t done = 0;
    pack k = {0};
    m->resident = -1;
    for (int64_t s = 0; s < n_seq; s++) {
        for (int64_t at = 0, n; at < seqs[s].n; at += n) {
            int64_t room = m->o.max_rows - k.rows;
            n = seqs[s].n - at < room ? seqs[s].n - at : room;
            pack_tokens(m, &k, &seqs[s], at, n, wanted && at + n == seqs[s].n);
            if (k.rows == m->o.max_rows) {
                RV_TRY(flush(m, &k, logits, hidden, features, &done, e));
            }
        }
    }
    return k.rows ? flush(m, &k, logits, hidden, features, &done, e) : RV_OK;
}

rv_status rv_vlm_value(rv_vlm *m, float *out, rv_dev hidden, int64_t n, rv_err *e) {
    if (!m->o.value_head) {
        return RV_FAIL(e, RV_EARG, "a value is asked of a model without a value head");
    }
    RV_TRY(rv_vlm_ready(m, e));
    m->resident = -1;
    rv_head_values(m, out, hidden, n);
    return RV_OK;
}

void rv_vlm_kv_copy(rv_vlm *m, int32_t to, int32_t from) {
    size_t bytes = m->be->kv_block_bytes(&m->text.attn);
    for (int i = 0; i < m->text.n_blocks; i++) {
        rv_dev pool = rv_dev_at(m->kv, (int64_t)m->kv_layer_bytes * i);
        m->be->copy(m->ctx, rv_dev_at(pool, (int64_t)bytes * to),
                    rv_dev_at(pool, (int64_t)bytes * from), bytes);
    }
}
