// head.c - what comes out of hidden states: log-probabilities, entropies, logits, values.
//
// Rows go through the output matrix in chunks, so that the (rows, V) logits never exist at once;
// the backward pass makes each chunk again. A row's bits do not depend on its chunk.
#include <string.h>

#include "model.h"

static const rv_dev none = {0};

// Outputs of one kind in a piece, taken up to head_rows at a time.
typedef struct {
    const int32_t *rows; // of the batch
    int64_t at, end;
    const float *g1, *g2; // with `sift`: outputs whose gradients are all zero are left out
    bool sift;
    int32_t pick[RV_HEAD_ROWS]; // index among the picked rows
    int32_t which[RV_HEAD_ROWS];
    int64_t n;
} chunk;

static bool wanted(const chunk *c, int64_t i) {
    return !c->sift || (c->g1 && c->g1[i] != 0) || (c->g2 && c->g2[i] != 0);
}

// Fills the next chunk with outputs whose rows lie in the piece; false when there are none left.
static bool next(const rv_vlm *m, const rv_piece *p, chunk *c) {
    for (c->n = 0; c->at < c->end && c->n < m->head_rows; c->at++) {
        int64_t row = c->rows[c->at] - p->row0;
        if (row >= 0 && row < p->rows && wanted(c, c->at)) {
            c->pick[c->n] = m->rank[row];
            c->which[c->n++] = (int32_t)c->at;
        }
    }
    return c->n > 0;
}

static chunk asked(const rv_batch *b, const rv_piece *p) {
    return (chunk){.rows = b->ask_row, .at = p->ask0, .end = p->ask0 + p->n_ask};
}

static void gather(rv_vlm *m, const chunk *c) {
    m->be->gather_rows(m->ctx, m->rows_h, m->hidden, c->pick, c->n, m->arch.text.width);
}

static void logits_of(rv_vlm *m, rv_dev logits, rv_dev h, int64_t n) {
    rv_layer_forward(m, &m->head, logits, h, n, RV_ACT_NONE, none, none, m->head_lora_h);
}

// Copies a device array of the chunk's outputs to their places in `out` (host), `width` a row.
static void deliver(rv_vlm *m, const chunk *c, float *out, rv_dev from, int64_t width) {
    const size_t row = (size_t)width * sizeof(float);
    const int64_t most = m->n_host / width;
    for (int64_t i = 0, n; out && i < c->n; i += n) {
        n = c->n - i < most ? c->n - i : most;
        m->be->download(m->ctx, m->host, rv_dev_at(from, i * (int64_t)row), (size_t)n * row);
        for (int64_t k = 0; k < n; k++) {
            memcpy(out + c->which[i + k] * width, m->host + k * width, row);
        }
    }
}

// The chunk's share of an upstream gradient (host; NULL: zero) in `to`.
static void fetch(rv_vlm *m, const chunk *c, rv_dev to, const float *g, int64_t width) {
    for (int64_t i = 0; i < c->n; i++) {
        for (int64_t k = 0; k < width; k++) {
            m->host[i * width + k] = g ? g[c->which[i] * width + k] : 0;
        }
    }
    m->be->upload(m->ctx, to, m->host, (size_t)(c->n * width) * sizeof(float));
}

static void ids_of(const rv_batch *b, const chunk *c, int32_t ids[RV_HEAD_ROWS]) {
    for (int64_t i = 0; i < c->n; i++) {
        ids[i] = b->ask_id ? b->ask_id[c->which[i]] : -1;
    }
}

// value_out (n) of rows `h`; the hidden layers stay in value_h for the backward pass.
static void values_of(rv_vlm *m, rv_dev h, int64_t n) {
    rv_layer_forward(m, &m->value[0], m->value_h[0], h, n, RV_ACT_RELU, none, none, none);
    rv_layer_forward(m, &m->value[1], m->value_h[1], m->value_h[0], n, RV_ACT_RELU, none, none,
                     none);
    rv_layer_forward(m, &m->value[2], m->value_out, m->value_h[1], n, RV_ACT_NONE, none, none,
                     none);
}

void rv_head_logits(rv_vlm *m, rv_dev logits, rv_dev hidden, int64_t n) {
    int64_t v = m->arch.text.vocab, c = m->arch.text.width, size = (int64_t)sizeof(float);
    for (int64_t i = 0; i < n; i += m->head_rows) {
        int64_t k = n - i < m->head_rows ? n - i : m->head_rows;
        logits_of(m, rv_dev_at(logits, i * v * size), rv_dev_at(hidden, i * c * size), k);
    }
}

void rv_head_values(rv_vlm *m, float *out, rv_dev hidden, int64_t n) {
    int64_t row = m->arch.text.width * (int64_t)sizeof(float);
    for (int64_t i = 0; i < n; i += m->head_rows) {
        int64_t k = n - i < m->head_rows ? n - i : m->head_rows;
        values_of(m, rv_dev_at(hidden, i * row), k);
        m->be->download(m->ctx, out + i, m->value_out, (size_t)k * sizeof(float));
    }
}

void rv_head_forward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *out) {
    int64_t v = m->arch.text.vocab;
    int32_t ids[RV_HEAD_ROWS];
    bool any = out->logp || out->entropy || out->logits;
    for (chunk c = asked(b, p); any && next(m, p, &c);) {
        gather(m, &c);
        logits_of(m, m->logits, m->rows_h, c.n);
        deliver(m, &c, out->logits, m->logits, v);
        ids_of(b, &c, ids);
        m->be->logprob(m->ctx, m->logp, out->entropy ? m->entropy : none, none, m->logits, ids, c.n,
                       v, b->temperature);
        deliver(m, &c, out->logp, m->logp, 1);
        deliver(m, &c, out->entropy, m->entropy, 1);
    }
    for (chunk c = {.rows = b->value_row, .end = b->n_value}; out->value && next(m, p, &c);) {
        gather(m, &c);
        values_of(m, m->rows_h, c.n);
        deliver(m, &c, out->value, m->value_out, 1);
    }
    for (chunk c = {.rows = b->hidden_row, .end = b->n_hidden}; out->hidden && next(m, p, &c);) {
        gather(m, &c);
        deliver(m, &c, out->hidden, m->rows_h, m->arch.text.width);
    }
}

static void logits_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *g,
                            rv_dev dh) {
    int64_t v = m->arch.text.vocab, width = m->arch.text.width;
    rv_dev entropy = g->entropy ? m->entropy : none;
    int32_t ids[RV_HEAD_ROWS];
    chunk c = asked(b, p);
    c.g1 = g->logp;
    c.g2 = g->entropy;
    c.sift = true;
    while (next(m, p, &c)) {
        gather(m, &c);
        logits_of(m, m->logits, m->rows_h, c.n);
        ids_of(b, &c, ids);
        m->be->logprob(m->ctx, none, entropy, m->lse, m->logits, ids, c.n, v, b->temperature);
        fetch(m, &c, m->g_logp, g->logp, 1);
        fetch(m, &c, m->g_entropy, g->entropy, 1);
        m->be->logprob_backward(m->ctx, m->logits, m->g_logp, g->entropy ? m->g_entropy : none,
                                m->lse, entropy, ids, c.n, v, b->temperature);
        rv_layer_backward(m, &m->head, rv_dev_none(dh) ? none : m->drows_h, false, m->logits,
                          m->rows_h, c.n, m->head_lora_h, m->head_lora_g);
        if (!rv_dev_none(dh)) {
            m->be->scatter_add_rows(m->ctx, dh, m->drows_h, c.pick, c.n, width);
        }
    }
}

static void values_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const float *g,
                            float value_grad, rv_dev dh) {
    int64_t width = m->arch.text.width;
    bool into = !rv_dev_none(dh) && value_grad != 0;
    if (!into && !m->params[m->value[0].weight].info.trained) {
        return;
    }
    for (chunk c = {.rows = b->value_row, .end = b->n_value, .g1 = g, .sift = true};
         next(m, p, &c);) {
        gather(m, &c);
        values_of(m, m->rows_h, c.n);
        fetch(m, &c, m->value_out, g, 1);
        rv_dev dy = m->value_out;
        for (int i = 2; i > 0; i--) {
            int64_t n = m->params[m->value[i - 1].weight].w.n;
            rv_layer_backward(m, &m->value[i], m->dvalue_h[i - 1], false, dy, m->value_h[i - 1],
                              c.n, none, none);
            dy = m->dvalue_h[i - 1]; // ReLU: the output is positive where the input was
            m->be->act_backward(m->ctx, dy, dy, m->value_h[i - 1], c.n * n, RV_ACT_RELU);
        }
        rv_layer_backward(m, &m->value[0], into ? m->drows_h : none, false, dy, m->rows_h, c.n,
                          none, none);
        if (into) {
            m->be->scale(m->ctx, m->drows_h, value_grad, c.n * width);
            m->be->scatter_add_rows(m->ctx, dh, m->drows_h, c.pick, c.n, width);
        }
    }
}

void rv_head_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *g,
                      float value_grad, rv_dev dh) {
    int64_t width = m->arch.text.width;
    if (!rv_dev_none(dh)) {
        m->be->zero(m->ctx, dh, (size_t)(m->n_pick * width) * sizeof(float));
    }
    if (g->logp || g->entropy) {
        logits_backward(m, b, p, g, dh);
    }
    if (g->value) {
        values_backward(m, b, p, g->value, value_grad, dh);
    }
    chunk c = {.rows = b->hidden_row, .end = b->n_hidden};
    while (g->hidden && !rv_dev_none(dh) && next(m, p, &c)) {
        fetch(m, &c, m->drows_h, g->hidden, width);
        m->be->scatter_add_rows(m->ctx, dh, m->drows_h, c.pick, c.n, width);
    }
}
