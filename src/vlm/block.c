// block.c - a pre-norm transformer block, forward and backward, and the stack of them.
//
//   mid = x + o(attention(q(n), k(n), v(n))),  n = norm1(x)
//   out = mid + down(silu(gate(u)) * up(u)) or mid + down(act(up(u))),  u = norm2(mid)
//
// The vision tower (LayerNorm or RMSNorm, plain or gated MLP, windows) and the decoder (RMSNorm,
// gated MLP, rotary angles, cache) are the same code; q, k and v may be one linear layer. In the
// last block only rows from a sequence's first picked one on ask, and only the picked ones go on
// after the attention: all but keys and values works row by row, so their bits are those of the
// full computation. Norms and the MLP's inner activation are recomputed
// backward; only what a matrix product made is kept.
#include "intr.h"
#include "model.h"

static const rv_dev none = {0};

static bool picks(const rv_tower *t, int i, const rv_pass *p) {
    return p->pick && i == t->n_blocks - 1;
}

// Rows after the attention.
static int64_t rows_out(const rv_tower *t, int i, const rv_pass *p) {
    return picks(t, i, p) ? p->n_pick : p->rows;
}

static rv_dev input(const rv_tower *t, int i, bool keep) { return t->x[keep ? i : i & 1]; }

static rv_dev output(const rv_tower *t, int i, bool keep) {
    return i == t->n_blocks - 1 ? t->out : input(t, i + 1, keep);
}

static const rv_saved *saved(const rv_tower *t, int i, bool keep) {
    return &t->saved[keep && t->n_saved > 1 ? i : 0];
}

static int64_t q_width(const rv_tower *t) { return (int64_t)t->attn.n_head * t->attn.head_dim; }

// True where a block attends inside windows.
static bool windowed(const rv_tower *t, int i) { return t->windows && !(t->full >> i & 1); }

static void project(rv_vlm *m, const rv_block *b, const rv_saved *s, int which, rv_dev y, rv_dev x,
                    int64_t rows, rv_dev residual) {
    rv_layer_forward(m, &b->linear[which], y, x, rows, RV_ACT_NONE, none, residual,
                     s->lora_h[which]);
}

// Layers first.. of the same rows.
static void project_all(rv_vlm *m, const rv_block *b, const rv_saved *s, int first, int n,
                        const rv_dev *y, rv_dev x, int64_t rows) {
    rv_layers_forward(m, &b->linear[first], n, y, x, rows, &s->lora_h[first]);
}

static void rotate_q(rv_vlm *m, const rv_tower *t, rv_dev q, rv_dev angle, int64_t rows,
                     float sign) {
    if (!rv_dev_none(angle)) {
        m->be->rope(m->ctx, q, t->q_stride, angle, rows, t->attn.n_head, t->attn.head_dim, sign);
    }
}

static void rotate_k(rv_vlm *m, const rv_tower *t, rv_dev k, rv_dev angle, int64_t rows,
                     float sign) {
    if (!rv_dev_none(angle)) {
        m->be->rope(m->ctx, k, t->kv_stride, angle, rows, t->attn.n_kv, t->attn.head_dim, sign);
    }
}

// What a block's queries are made of: normed rows, angles, and how many.
typedef struct {
    rv_dev n, angle;
    int64_t rows;
} queries;

// All rows, or those that ask in the last block: gathered, since they are fewer. Reads t->norm.
static queries queries_of(rv_vlm *m, const rv_tower *t, int i, const rv_pass *p) {
    if (!picks(t, i, p)) {
        return (queries){t->norm, p->angle, p->rows};
    }
    m->be->gather_rows(m->ctx, t->pick, t->norm, p->ask, p->n_ask, t->width);
    m->be->gather_rows(m->ctx, t->angle, p->angle, p->ask, p->n_ask, t->attn.head_dim);
    return (queries){t->pick, t->angle, p->n_ask};
}

// Queries of the rows that ask, keys and values of all rows; in one call where the rows are the
// same.
static queries project_qkv(rv_vlm *m, const rv_tower *t, int i, const rv_pass *p,
                           const rv_saved *s) {
    const rv_block *b = &t->blocks[i];
    const rv_dev to[] = {s->q, s->k, s->v};
    const queries q = queries_of(m, t, i, p);
    if (!picks(t, i, p)) {
        project_all(m, b, s, RV_Q, t->fused ? 1 : 3, to, t->norm, p->rows);
        return q;
    }
    project(m, b, s, RV_Q, s->q, q.n, q.rows, none);
    if (!t->fused) {
        project_all(m, b, s, RV_K, 2, to + 1, t->norm, p->rows);
    }
    return q;
}

// Attention of packed sequences: o of the rows that ask.
static void attend(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    const rv_block *b = &t->blocks[i];
    rv_norm_forward(m, &b->norm1, t->norm, input(t, i, p->keep), p->rows, t->width, t->eps);
    queries q = project_qkv(m, t, i, p, s);
    rotate_q(m, t, s->q, q.angle, q.rows, 1);
    rotate_k(m, t, s->k, p->angle, p->rows, 1);
    m->be->attention(m->ctx, s->o, p->keep ? s->lse : none, s->q, s->k, s->v, t->q_stride,
                     t->kv_stride, windowed(t, i) ? p->window_cu : p->cu,
                     picks(t, i, p) ? p->ask_cu : NULL, windowed(t, i) ? p->n_windows : p->n_seq,
                     &t->attn);
}

// Attention on the cache: o of the rows that go on; the others only leave keys and values.
static void attend_cached(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    const rv_block *b = &t->blocks[i];
    rv_dev pool = rv_dev_at(p->pool, (int64_t)p->pool_bytes * i);
    rv_norm_forward(m, &b->norm1, t->norm, input(t, i, false), p->rows, t->width, t->eps);
    queries q = project_qkv(m, t, i, p, s);
    rotate_k(m, t, s->k, p->angle, p->rows, 1);
    m->be->kv_write(m->ctx, pool, s->k, s->v, t->kv_stride, p->write, p->n_seq, &t->attn);
    if (rows_out(t, i, p) == 0) {
        return;
    }
    rotate_q(m, t, s->q, q.angle, q.rows, 1);
    m->be->attention_cached(m->ctx, s->o, s->q, t->q_stride, pool,
                            picks(t, i, p) ? p->read : p->write,
                            picks(t, i, p) ? p->n_read : p->n_seq, &t->attn);
}

// The picked rows of o in t->pick, or o itself.
static rv_dev picked_o(rv_vlm *m, const rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    if (!picks(t, i, p) || p->write) {
        return s->o;
    }
    m->be->gather_rows(m->ctx, t->pick, s->o, p->ask_pick, p->n_pick, q_width(t));
    return t->pick;
}

// From the attention's output to t->norm, what the MLP sees; fills s->mid.
static void mend(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    const rv_block *b = &t->blocks[i];
    int64_t rows = rows_out(t, i, p);
    rv_dev x = input(t, i, p->keep);
    if (picks(t, i, p)) {
        m->be->gather_rows(m->ctx, s->mid, x, p->pick, rows, t->width);
        x = s->mid;
    }
    project(m, b, s, RV_O, s->mid, picked_o(m, t, i, p, s), rows, x);
    rv_norm_forward(m, &b->norm2, t->norm, s->mid, rows, t->width, t->eps);
}

// A slice of the MLP's rows: what is kept of them, and how many they are. The wide arrays that no
// backward pass reads hold one slice.
typedef struct {
    rv_saved s;
    int64_t row0, n;
} slice;

static rv_dev rows_at(rv_dev d, int64_t row, int64_t width) {
    return rv_dev_none(d) ? d : rv_dev_at(d, row * width * (int64_t)sizeof(float));
}

static slice slice_of(const rv_tower *t, const rv_saved *s, bool keep, int64_t row0, int64_t rows) {
    slice c = {*s, row0, rows - row0 < RV_MLP_ROWS ? rows - row0 : RV_MLP_ROWS};
    c.s.mid = rows_at(s->mid, row0, t->width);
    c.s.gate = rows_at(s->gate, keep ? row0 : 0, t->mlp);
    c.s.up = rows_at(s->up, keep ? row0 : 0, t->mlp);
    for (int k = RV_GATE; k <= RV_DOWN; k++) {
        c.s.lora_h[k] = rows_at(s->lora_h[k], row0, t->rank[k]);
    }
    return c;
}

// The inner activation of a slice in t->inner; fills gate and up.
static void inner(rv_vlm *m, rv_tower *t, const rv_block *b, const slice *c, bool keep) {
    rv_dev x = rows_at(t->norm, c->row0, t->width);
    if (t->gated) {
        project_all(m, b, &c->s, RV_GATE, 2, (rv_dev[]){c->s.gate, c->s.up}, x, c->n);
        m->be->swiglu(m->ctx, t->inner, c->s.gate, c->s.up, c->n * t->mlp);
    } else {
        rv_layer_forward(m, &b->linear[RV_UP], t->inner, x, c->n, t->act, keep ? c->s.up : none,
                         none, c->s.lora_h[RV_UP]);
    }
}

// Through the MLP to `y`; none: only what the backward pass needs.
static void mlp_forward(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s,
                        rv_dev y) {
    const rv_block *b = &t->blocks[i];
    for (int64_t r = 0, rows = rows_out(t, i, p); r < rows; r += RV_MLP_ROWS) {
        slice c = slice_of(t, s, p->keep, r, rows);
        inner(m, t, b, &c, p->keep);
        if (rv_dev_none(y)) {
            rv_layer_remember(m, &b->linear[RV_DOWN], t->inner, c.n, c.s.lora_h[RV_DOWN]);
        } else {
            project(m, b, &c.s, RV_DOWN, rows_at(y, r, t->width), t->inner, c.n, c.s.mid);
        }
    }
}

static void block_forward(rv_vlm *m, rv_tower *t, int i, const rv_pass *p) {
    const rv_saved *s = saved(t, i, p->keep);
    if (p->write) {
        attend_cached(m, t, i, p, s);
    } else {
        attend(m, t, i, p, s);
    }
    if (rows_out(t, i, p) > 0) {
        mend(m, t, i, p, s);
        mlp_forward(m, t, i, p, s, output(t, i, p->keep));
    }
}

rv_status rv_tower_forward(rv_vlm *m, rv_tower *t, const rv_pass *p, rv_err *e) {
    for (int i = 0; i < t->n_blocks; i++) {
        if (rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted");
        }
        block_forward(m, t, i, p);
    }
    return RV_OK;
}

static void back(rv_vlm *m, const rv_tower *t, const rv_block *b, const rv_saved *s, int which,
                 rv_dev dx, bool add, rv_dev dy, rv_dev x, int64_t rows) {
    rv_layer_backward(m, &b->linear[which], dx, add, dy, x, rows, s->lora_h[which], t->lora_g);
}

// Through a slice of the MLP: `dx`, the gradient of the output, becomes that of `mid`.
static void slice_backward(rv_vlm *m, rv_tower *t, const rv_block *b, const slice *c, rv_dev dx) {
    const rv_saved *s = &c->s;
    if (t->gated) {
        m->be->swiglu(m->ctx, t->inner, s->gate, s->up, c->n * t->mlp);
    } else {
        m->be->act(m->ctx, t->inner, s->up, c->n * t->mlp, t->act);
    }
    back(m, t, b, s, RV_DOWN, t->dinner, false, dx, t->inner, c->n);
    rv_norm_forward(m, &b->norm2, t->norm, s->mid, c->n, t->width, t->eps);
    if (t->gated) {
        rv_dev dup = t->inner; // its content has been used
        m->be->swiglu_backward(m->ctx, t->dgate, dup, t->dinner, s->gate, s->up, c->n * t->mlp);
        back(m, t, b, s, RV_GATE, t->dn, false, t->dgate, t->norm, c->n);
        back(m, t, b, s, RV_UP, t->dn, true, dup, t->norm, c->n);
    } else {
        m->be->act_backward(m->ctx, t->dinner, t->dinner, s->up, c->n * t->mlp, t->act);
        back(m, t, b, s, RV_UP, t->dn, false, t->dinner, t->norm, c->n);
    }
    rv_norm_backward(m, &b->norm2, dx, t->dn, s->mid, c->n, t->width, t->eps, true);
}

static void mlp_backward(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    for (int64_t r = 0, rows = rows_out(t, i, p); r < rows; r += RV_MLP_ROWS) {
        slice c = slice_of(t, s, true, r, rows);
        slice_backward(m, t, &t->blocks[i], &c, rows_at(t->dx, r, t->width));
    }
}

static void swap(rv_dev *a, rv_dev *b) {
    rv_dev x = *a;
    *a = *b;
    *b = x;
}

// Spreads the picked rows' gradients: t->dx over all rows, and t->d_o, from t->dq, over those that
// ask.
static void spread(rv_vlm *m, rv_tower *t, const rv_pass *p) {
    size_t row = sizeof(float) * (size_t)t->width, o_row = sizeof(float) * (size_t)q_width(t);
    m->be->zero(m->ctx, t->dx2, (size_t)p->rows * row);
    m->be->scatter_rows(m->ctx, t->dx2, t->dx, p->pick, p->n_pick, t->width);
    swap(&t->dx, &t->dx2);
    m->be->zero(m->ctx, t->d_o, (size_t)p->n_ask * o_row);
    m->be->scatter_rows(m->ctx, t->d_o, t->dq, p->ask_pick, p->n_pick, q_width(t));
}

// Through the queries' layer: writes dn, zero where no row asks.
static void queries_backward(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s,
                             const queries *q, rv_dev dn) {
    const bool part = picks(t, i, p) && !rv_dev_none(dn);
    back(m, t, &t->blocks[i], s, RV_Q, part ? t->dx2 : dn, false, t->dq, q->n, q->rows);
    if (part) {
        m->be->zero(m->ctx, dn, sizeof(float) * (size_t)(p->rows * t->width));
        m->be->scatter_rows(m->ctx, dn, t->dx2, p->ask, p->n_ask, t->width);
    }
}

// Through the keys' layer. A constant added to every key shifts all scores of a query alike, and
// softmax takes it out again: without rotary angles the bias has no gradient, only rounding noise,
// which Adam would blow up to whole steps.
static void keys_backward(rv_vlm *m, const rv_tower *t, const rv_block *b, const rv_saved *s,
                          const rv_pass *p, rv_dev dx) {
    rv_layer keys = b->linear[RV_K];
    if (rv_dev_none(p->angle)) {
        keys.bias = -1;
    }
    rv_layer_backward(m, &keys, dx, true, t->dk, t->norm, p->rows, s->lora_h[RV_K], t->lora_g);
}

// Through the attention: t->dx, the gradient of `mid`, becomes that of x.
static void attention_backward(rv_vlm *m, rv_tower *t, int i, const rv_pass *p, const rv_saved *s) {
    const rv_block *b = &t->blocks[i];
    bool part = picks(t, i, p), flows = rv_vlm_flows(m, b->stage);
    back(m, t, b, s, RV_O, part ? t->dq : t->d_o, false, t->dx, picked_o(m, t, i, p, s),
         rows_out(t, i, p));
    if (part) {
        spread(m, t, p);
    }
    m->be->attention_backward(m->ctx, t->dq, t->dk, t->dv, t->d_o, s->q, s->k, s->v, s->o, s->lse,
                              t->q_stride, t->kv_stride, windowed(t, i) ? p->window_cu : p->cu,
                              part ? p->ask_cu : NULL, windowed(t, i) ? p->n_windows : p->n_seq,
                              &t->attn);
    rv_dev x = input(t, i, true), dn = flows ? t->dn : none;
    rv_norm_forward(m, &b->norm1, t->norm, x, p->rows, t->width, t->eps);
    queries q = queries_of(m, t, i, p);
    rotate_q(m, t, t->dq, q.angle, q.rows, -1);
    rotate_k(m, t, t->dk, p->angle, p->rows, -1);
    queries_backward(m, t, i, p, s, &q, dn);
    if (!t->fused) {
        keys_backward(m, t, b, s, p, dn);
        back(m, t, b, s, RV_V, dn, true, t->dv, t->norm, p->rows);
    }
    if (flows) {
        rv_norm_backward(m, &b->norm1, t->dx, t->dn, x, p->rows, t->width, t->eps, true);
    }
}

rv_status rv_tower_backward(rv_vlm *m, rv_tower *t, const rv_pass *p, rv_err *e) {
    for (int i = t->n_blocks - 1; i >= 0 && m->floor <= t->blocks[i].stage; i--) {
        if (rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted");
        }
        const rv_saved *s = saved(t, i, true);
        if (t->n_saved < t->n_blocks && i < t->n_blocks - 1) {
            attend(m, t, i, p, s);
            mend(m, t, i, p, s);
            mlp_forward(m, t, i, p, s, none);
        }
        mlp_backward(m, t, i, p, s);
        attention_backward(m, t, i, p, s);
    }
    return RV_OK;
}
