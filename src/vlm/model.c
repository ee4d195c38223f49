// model.c - the list of parameters by role, and their values.
//
// Stages number the parts on the way from the pixels to the outputs: a part's input needs a
// gradient when something of a lower stage is trained.
#include "model.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

int64_t rv_param_add(rv_vlm *m, rv_part part, int stage, const char *role, int n,
                     const int64_t *dim) {
    RV_ASSERT(m->n_params < m->cap_params);
    rv_param *p = &m->params[m->n_params];
    p->stage = stage;
    snprintf(p->info.role, sizeof p->info.role, "%s", role);
    p->info.part = part;
    p->info.ndim = n;
    memcpy(p->info.dim, dim, (size_t)n * sizeof *dim);
    p->info.trained = m->o.train[part];
    return m->n_params++;
}

static int64_t add_vector(rv_vlm *m, rv_part part, int stage, const char *role, int64_t n) {
    return rv_param_add(m, part, stage, role, 1, &n);
}

// A prepared (n, k) weight. What learns beside a 16-bit base (adapters, the value head) is kept in
// fp32 unless the arithmetic is bf16 anyway.
int64_t rv_param_add_matrix(rv_vlm *m, rv_part part, int stage, const char *role, int64_t n,
                            int64_t k, bool small) {
    int64_t dim[2] = {n, k}, i = rv_param_add(m, part, stage, role, 2, dim);
    rv_dtype store = small && !m->o.round_x ? RV_F32 : m->o.store;
    m->params[i].info.matrix = true;
    m->params[i].w = (rv_weight){.n = n, .k = k, .store = store, .round_x = m->o.round_x};
    return i;
}

static void add_layer(rv_vlm *m, rv_layer *l, rv_part part, int stage, const char *role, int64_t n,
                      int64_t k, bool bias) {
    char name[64];
    *l = (rv_layer){-1, -1};
    snprintf(name, sizeof name, "%s.weight", role);
    l->weight = rv_param_add_matrix(m, part, stage, name, n, k, part == RV_PART_VALUE);
    m->params[l->weight].info.linear = part != RV_PART_VALUE;
    m->params[l->weight].layer = l;
    if (bias) {
        snprintf(name, sizeof name, "%s.bias", role);
        l->bias = add_vector(m, part, stage, name, n);
    }
}

static void add_norm(rv_vlm *m, rv_norm *n, rv_part part, int stage, const char *role,
                     int64_t width, bool bias) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", role);
    n->weight = add_vector(m, part, stage, name, width);
    snprintf(name, sizeof name, "%s.bias", role);
    n->bias = bias ? add_vector(m, part, stage, name, width) : -1;
}

// The linear layers of block `i` and which of them have a bias.
static void add_block(rv_vlm *m, rv_tower *t, int i, rv_part part, const char *tower,
                      const char *const names[RV_NLINEAR], const bool bias[RV_NLINEAR], int stage) {
    rv_block *b = &t->blocks[i];
    int64_t q = (int64_t)t->attn.n_head * t->attn.head_dim;
    int64_t kv = (int64_t)t->attn.n_kv * t->attn.head_dim;
    const int64_t out[RV_NLINEAR] = {
        t->fused ? q + 2 * kv : q, kv, kv, t->width, t->mlp, t->mlp, t->width};
    const int64_t in[RV_NLINEAR] = {t->width, t->width, t->width, q, t->width, t->width, t->mlp};
    char role[48];
    b->stage = stage;
    snprintf(role, sizeof role, "%s.layers.%d.norm1", tower, i);
    add_norm(m, &b->norm1, part, stage, role, t->width, !t->rms);
    snprintf(role, sizeof role, "%s.layers.%d.norm2", tower, i);
    add_norm(m, &b->norm2, part, stage, role, t->width, !t->rms);
    for (int k = 0; k < RV_NLINEAR; k++) {
        b->linear[k] = (rv_layer){-1, -1};
        if (names[k]) {
            snprintf(role, sizeof role, "%s.layers.%d.%s", tower, i, names[k]);
            add_layer(m, &b->linear[k], part, stage, role, out[k], in[k], bias[k]);
        }
    }
}

static void describe_vision(rv_vlm *m) {
    const rv_arch_vision *v = &m->arch.vision;
    const char *const names[RV_NLINEAR] = {
        v->fused_qkv ? "qkv" : "q", v->fused_qkv ? NULL : "k", v->fused_qkv ? NULL : "v", "o",
        v->gated ? "gate" : NULL,   v->gated ? "up" : "fc1",   v->gated ? "down" : "fc2"};
    static const bool bias[RV_NLINEAR] = {true, true, true, true, true, true, true};
    int64_t at[2] = {(int64_t)v->positions * v->positions + v->class_token, v->width};
    m->class_row = v->class_token ? add_vector(m, RV_PART_VISION, 0, "vision.class", v->width) : -1;
    add_layer(m, &m->patch, RV_PART_VISION, 0, "vision.patch", v->width, rv_patch_numbers(&m->arch),
              v->patch_bias);
    m->params[m->patch.weight].info.linear = false; // a convolution in the files: adapters pass by
    m->position = -1;
    if (v->positions) {
        m->position = rv_param_add(m, RV_PART_VISION, 0, "vision.position", 2, at);
    }
    if (v->pre_norm) {
        add_norm(m, &m->pre_norm, RV_PART_VISION, 0, "vision.pre_norm", v->width, !v->rms);
    }
    for (int i = 0; i < v->layers; i++) {
        add_block(m, &m->vision, i, RV_PART_VISION, "vision", names, bias, 1 + i);
    }
    if (v->post_norm) {
        add_norm(m, &m->post_norm, RV_PART_VISION, 1 + v->layers, "vision.post_norm", v->width,
                 !v->rms);
    }
}

// Stages: the norm, the first linear layer, the second one and the newline row.
static void describe_connector(rv_vlm *m) {
    const rv_arch_connector *c = &m->arch.connector;
    int s = m->stage_connector, last = c->hidden ? c->hidden : c->out;
    if (c->norm != RV_NORM_NONE) {
        add_norm(m, &m->merge_norm, RV_PART_CONNECTOR, s, "connector.norm", m->arch.vision.width,
                 c->norm == RV_NORM_LAYER);
    }
    add_layer(m, &m->connector[0], RV_PART_CONNECTOR, s + 1, "connector.0", last, c->in, c->bias);
    m->connector[1] = (rv_layer){-1, -1};
    if (c->hidden) {
        add_layer(m, &m->connector[1], RV_PART_CONNECTOR, s + 2, "connector.1", c->out, c->hidden,
                  c->bias);
    }
    if (c->newline) {
        m->newline = add_vector(m, RV_PART_CONNECTOR, s + 2, "connector.newline", c->out);
    }
}

static void describe_text(rv_vlm *m) {
    const rv_arch_text *t = &m->arch.text;
    static const char *const names[RV_NLINEAR] = {"q", "k", "v", "o", "gate", "up", "down"};
    const bool bias[RV_NLINEAR] = {t->qkv_bias, t->qkv_bias, t->qkv_bias, t->o_bias,
                                   t->mlp_bias, t->mlp_bias, t->mlp_bias};
    m->embed = rv_param_add_matrix(m, RV_PART_LANGUAGE, m->stage_embed, "text.embed.weight",
                                   t->vocab, t->width, false);
    for (int i = 0; i < t->layers; i++) {
        add_block(m, &m->text, i, RV_PART_LANGUAGE, "text", names, bias, m->stage_embed + 1 + i);
    }
    add_norm(m, &m->last_norm, RV_PART_LANGUAGE, m->stage_head - 1, "text.norm", t->width, false);
    if (!t->tied) {
        add_layer(m, &m->head, RV_PART_HEAD, m->stage_head, "text.head", t->vocab, t->width,
                  t->head_bias);
        return;
    }
    m->head = (rv_layer){m->embed, -1};
    if (t->head_bias) {
        m->head.bias = add_vector(m, RV_PART_HEAD, m->stage_head, "text.head.bias", t->vocab);
    }
}

static int64_t part_of(int64_t width, int64_t by) { return width / by > 0 ? width / by : 1; }

static void describe_value(rv_vlm *m) {
    int64_t h = m->arch.text.width, size[4] = {h, part_of(h, 4), part_of(h, 8), 1};
    for (int i = 0; i < 3; i++) {
        char role[16];
        snprintf(role, sizeof role, "value.%d", 2 * i);
        add_layer(m, &m->value[i], RV_PART_VALUE, m->stage_head + 1 + i, role, size[i + 1], size[i],
                  true);
    }
}

static rv_attn heads(int n, int kv, int64_t width, bool causal, int64_t window) {
    // transformers multiplies by head_dim^-0.5, taken in double and rounded once
    return (rv_attn){n,      kv,    (int)width, (float)(1.0 / __builtin_sqrt((double)width)),
                     causal, window};
}

static bool tower_new(rv_tower *t, int blocks) {
    t->n_blocks = blocks;
    t->blocks = rv_calloc(blocks, sizeof *t->blocks);
    t->x = rv_calloc(blocks + 2, sizeof *t->x);
    t->saved = rv_calloc(blocks, sizeof *t->saved);
    return t->blocks && t->x && t->saved;
}

static bool tables_new(rv_vlm *m) {
    // a block has at most 18 parameters and 7 layers with adapters of 3; outside stand fewer
    m->cap_params =
        128 + (18 + 7 * 3 * RV_ADAPTERS) * ((int64_t)m->arch.vision.layers + m->arch.text.layers);
    m->params = rv_calloc(m->cap_params, sizeof *m->params);
    return m->params && tower_new(&m->text, m->arch.text.layers) &&
           (!m->arch.vision.width || tower_new(&m->vision, m->arch.vision.layers));
}

// How rows of q, k and v lie.
static void stride(rv_tower *t) {
    int64_t q = (int64_t)t->attn.n_head * t->attn.head_dim;
    int64_t kv = (int64_t)t->attn.n_kv * t->attn.head_dim;
    t->q_stride = t->fused ? q + 2 * kv : q;
    t->kv_stride = t->fused ? t->q_stride : kv;
}

static void describe_towers(rv_vlm *m) {
    const rv_arch_vision *v = &m->arch.vision;
    const rv_arch_text *t = &m->arch.text;
    if (v->width) {
        m->vision.width = v->width;
        m->vision.mlp = v->mlp;
        m->vision.eps = v->eps;
        m->vision.act = v->act;
        m->vision.gated = v->gated;
        m->vision.rms = v->rms;
        m->vision.fused = v->fused_qkv;
        m->vision.windows = v->window > 0;
        m->vision.full = v->full;
        m->vision.attn = heads(v->heads, v->heads, v->width / v->heads, false, 0);
        stride(&m->vision);
    }
    m->text.width = t->width;
    m->text.mlp = t->mlp;
    m->text.eps = t->eps;
    m->text.act = t->act;
    m->text.gated = m->text.rms = true;
    m->text.attn = heads(t->heads, t->kv_heads, t->head_dim, true, t->window);
    stride(&m->text);
}

static void describe(rv_vlm *m) {
    m->stage_connector = 2 + m->arch.vision.layers;
    m->stage_embed = m->stage_connector + 3;
    m->stage_head = m->stage_embed + m->arch.text.layers + 2;
    m->class_row = m->position = m->newline = m->merge_norm.weight = -1;
    describe_towers(m);
    if (m->arch.vision.width) {
        describe_vision(m);
        describe_connector(m);
    }
    describe_text(m);
    if (m->o.value_head) {
        describe_value(m);
    }
}

// The linear layers of frozen blocks, as bitsandbytes has it but for the connector, which is small.
static void quantise(rv_vlm *m) {
    for (int64_t i = 0; i < m->n_params; i++) {
        rv_param *p = &m->params[i];
        bool block = p->info.part == RV_PART_LANGUAGE || p->info.part == RV_PART_VISION;
        if (m->o.base != RV_F32 && block && p->info.linear && !p->info.trained) {
            p->w.store = m->o.base;
            p->w.round_x = false;
        }
    }
}

static rv_status check_base(const rv_vlm_options *o, rv_err *e) {
    if (o->base != RV_F32 && o->base != RV_I8 && o->base != RV_NF4) {
        return RV_FAIL(e, RV_ETYPE, "base is %s: wanted i8, nf4, or f32 for none",
                       rv_dtype_name(o->base));
    }
    if (o->base != RV_F32 && o->train[RV_PART_LANGUAGE]) {
        return RV_FAIL(e, RV_EARG, "a base in %s is frozen: train an adapter beside it",
                       rv_dtype_name(o->base));
    }
    return RV_OK;
}

static rv_status check_options(const rv_vlm_options *o, rv_err *e) {
    RV_TRY(check_base(o, e));
    if (o->store != RV_F32 && o->store != RV_BF16 && o->store != RV_F16) {
        return RV_FAIL(e, RV_ETYPE, "store is %s: wanted f32, bf16 or f16",
                       rv_dtype_name(o->store));
    }
    if (o->round_x && o->store != RV_BF16) {
        return RV_FAIL(e, RV_ETYPE, "round_x goes with store bf16, not %s",
                       rv_dtype_name(o->store));
    }
    if (o->max_rows < 1 || o->max_rows > 1 << 24) {
        return RV_FAIL(e, RV_EARG, "max_rows is %lld: wanted a number from 1 to %d",
                       (long long)o->max_rows, 1 << 24);
    }
    if (o->image_rows < 0 || o->image_rows > o->max_rows) {
        return RV_FAIL(e, RV_EARG, "image_rows is %lld: wanted 0 to max_rows, %lld",
                       (long long)o->image_rows, (long long)o->max_rows);
    }
    if (o->kv_blocks < 0 || o->kv_blocks > 1 << 24) {
        return RV_FAIL(e, RV_EARG, "kv_blocks is %lld: wanted a number from 0 to %d",
                       (long long)o->kv_blocks, 1 << 24);
    }
    return RV_OK;
}

rv_status rv_vlm_new(rv_vlm **out, const rv_backend *be, rv_ctx *ctx, const rv_arch *arch,
                     const rv_vlm_options *o, rv_err *e) {
    *out = NULL;
    RV_TRY(rv_arch_check(arch, e));
    RV_TRY(check_options(o, e));
    rv_vlm *m = rv_calloc(1, sizeof *m);
    if (!m) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    m->be = be;
    m->ctx = ctx;
    m->arch = *arch;
    m->o = *o;
    m->resident = -1;
    if (!tables_new(m)) {
        rv_vlm_free(m);
        return RV_FAIL(e, RV_ENOMEM, "out of memory: %d + %d layers", arch->vision.layers,
                       arch->text.layers);
    }
    describe(m);
    quantise(m);
    *out = m;
    return RV_OK;
}

const rv_arch *rv_vlm_arch(const rv_vlm *m) { return &m->arch; }
const rv_backend *rv_vlm_backend(const rv_vlm *m) { return m->be; }
rv_ctx *rv_vlm_ctx(const rv_vlm *m) { return m->ctx; }

int64_t rv_vlm_param_count(const rv_vlm *m) { return m->n_params; }
const rv_param_info *rv_vlm_param(const rv_vlm *m, int64_t i) { return &m->params[i].info; }

int64_t rv_vlm_param_find(const rv_vlm *m, const char *role) {
    for (int64_t i = 0; i < m->n_params; i++) {
        if (strcmp(m->params[i].info.role, role) == 0) {
            return i;
        }
    }
    return -1;
}

static rv_status check_param(const rv_vlm *m, int64_t i, rv_err *e) {
    return i >= 0 && i < m->n_params ? RV_OK
                                     : RV_FAIL(e, RV_EARG, "parameter %lld: the model has %lld",
                                               (long long)i, (long long)m->n_params);
}

static int64_t count(const rv_param *p) {
    int64_t n = 1;
    for (int i = 0; i < p->info.ndim; i++) {
        n *= p->info.dim[i];
    }
    return n;
}

// The device memory behind one of a parameter's four arrays.
static rv_status array_of(const rv_param *p, rv_of what, rv_dev *out, rv_err *e) {
    *out = what == RV_OF_PARAM    ? p->value
           : what == RV_OF_GRAD   ? p->grad
           : what == RV_OF_ADAM_M ? p->m
                                  : p->v;
    if (rv_dev_none(*out) && what != RV_OF_PARAM) {
        return RV_FAIL(e, RV_EARG, "%s is not trained: it has no gradient", p->info.role);
    }
    return RV_OK;
}

rv_status rv_vlm_train(rv_vlm *m, int64_t i, rv_err *e) {
    RV_TRY(check_param(m, i, e));
    rv_param *p = &m->params[i];
    if (m->ready) {
        return RV_FAIL(e, RV_EARG, "%s: what learns is settled before parameters are set",
                       p->info.role);
    }
    p->info.trained = true;
    if (p->w.store == RV_I8 || p->w.store == RV_NF4) { // what learns is not quantised
        p->w.store = m->o.store;
        p->w.round_x = m->o.round_x;
    }
    return RV_OK;
}

static void write_array(rv_vlm *m, const rv_param *p, rv_dev to, const float *x) {
    if (p->info.matrix) {
        m->be->weight_pack(m->ctx, &p->w, to, x);
    } else {
        m->be->upload(m->ctx, to, x, (size_t)count(p) * sizeof *x);
    }
}

rv_status rv_vlm_param_set(rv_vlm *m, int64_t i, rv_of what, const void *data, rv_dtype t,
                           rv_err *e) {
    RV_TRY(check_param(m, i, e));
    RV_TRY(rv_vlm_ready(m, e));
    rv_param *p = &m->params[i];
    rv_dev to;
    RV_TRY(array_of(p, what, &to, e));
    if (what == RV_OF_PARAM) {
        m->epoch++;
        rv_vlm_forget(m);
        if (p->stage < m->stage_embed) {
            rv_features_forget(m);
        }
        if (p->info.matrix) {
            RV_TRY(m->be->weight_prepare(m->ctx, &p->w, data, t, e));
        }
    }
    if (rv_dev_none(to) || to.addr == p->w.fwd.addr) {
        return RV_OK;
    }
    float *x = NULL;
    if (t != RV_F32) {
        x = rv_calloc(count(p), sizeof *x);
        if (!x) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory: %s", p->info.role);
        }
        rv_convert(x, RV_F32, data, t, count(p));
    }
    write_array(m, p, to, x ? x : data);
    free(x);
    return RV_OK;
}

rv_status rv_vlm_param_get(const rv_vlm *m, int64_t i, rv_of what, float *data, rv_err *e) {
    RV_TRY(check_param(m, i, e));
    if (!m->ready) {
        return RV_FAIL(e, RV_EARG, "no parameter has been set yet");
    }
    const rv_param *p = &m->params[i];
    rv_dev from;
    RV_TRY(array_of(p, what, &from, e));
    if (!p->info.matrix) {
        m->be->download(m->ctx, data, from, (size_t)count(p) * sizeof *data);
    } else if (rv_dev_none(from)) {
        m->be->weight_read(m->ctx, &p->w, data);
    } else {
        m->be->weight_unpack(m->ctx, &p->w, data, from);
    }
    return RV_OK;
}
