// memory.c - all device memory of a model: laid out, counted, taken once.
//
// lay_out runs twice: first with nothing behind the arenas, to count, then with the memory taken.
// Activations that never live at the same time share their place.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "model.h"
#include "positions.h"

// What the backward pass alone reads and the key/value cache are never needed at the same time:
// they share an arena.
enum { WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, SHARED, N_ARENAS };

rv_dev rv_arena_bytes(rv_arena *a, size_t bytes) {
    rv_dev d = {a->base + a->used};
    a->used += (size_t)rv_round_up((int64_t)bytes, 64);
    a->most = a->used > a->most ? a->used : a->most;
    return d;
}

rv_dev rv_arena_take(rv_arena *a, int64_t n) {
    return rv_arena_bytes(a, (size_t)n * sizeof(float));
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- what needs a gradient ----

static void find_floor(rv_vlm *m) {
    m->floor = INT_MAX;
    for (int64_t i = 0; i < m->n_params; i++) {
        const rv_param *p = &m->params[i];
        if (p->info.trained && p->info.part != RV_PART_VALUE && p->stage < m->floor) {
            m->floor = p->stage;
        }
    }
}

// ---- parameters ----

static void lay_parameters(rv_vlm *m, rv_arena *a) {
    for (int64_t i = 0; i < m->n_params; i++) {
        rv_param *p = &m->params[i];
        if (p->info.matrix) {
            m->be->weight_size(&p->w);
            p->w.fwd = rv_arena_bytes(&a[WEIGHTS], p->w.fwd_bytes);
            p->elems = m->be->weight_elems(&p->w);
            p->value = !p->info.trained       ? (rv_dev){0}
                       : p->w.store == RV_F32 ? p->w.fwd
                                              : rv_arena_take(&a[OPTIMIZER], p->elems);
        } else {
            p->elems = 1;
            for (int k = 0; k < p->info.ndim; k++) {
                p->elems *= p->info.dim[k];
            }
            p->value = rv_arena_take(&a[WEIGHTS], p->elems);
        }
        if (p->info.trained) {
            p->grad = rv_arena_take(&a[GRADIENTS], p->elems);
            p->m = rv_arena_take(&a[OPTIMIZER], p->elems);
            p->v = rv_arena_take(&a[OPTIMIZER], p->elems);
        }
    }
}

// ---- activations ----

// Patches of the largest tile, and the longest side that a tile may have.
static int64_t tile_patches(const rv_arch *a) {
    int64_t side = a->vision.image_size / a->vision.patch;
    return a->vision.image_size ? side * side : a->max_view_patches;
}

static int64_t sides_of(const rv_arch *a) { return tile_patches(a) / a->vision.merge + 1; }

static int64_t rank_of(const rv_vlm *m, const rv_layer *l) {
    return l->weight >= 0 ? rv_lora_rank(m, &m->params[l->weight]) : 0;
}

// Queries, keys and values: arrays of their own, or side by side in rows of one.
static void lay_heads(const rv_tower *t, rv_arena *a, rv_dev *q, rv_dev *k, rv_dev *v) {
    int64_t width = (int64_t)t->attn.n_head * t->attn.head_dim * (int64_t)sizeof(float);
    int64_t kv = (int64_t)t->attn.n_kv * t->attn.head_dim * (int64_t)sizeof(float);
    *q = rv_arena_take(a, t->rows * t->q_stride);
    *k = t->fused ? rv_dev_at(*q, width) : rv_arena_take(a, t->rows * t->kv_stride);
    *v = t->fused ? rv_dev_at(*k, kv) : rv_arena_take(a, t->rows * t->kv_stride);
}

static int64_t slice_rows(const rv_tower *t) { return least(t->rows, RV_MLP_ROWS); }

static void lay_saved(rv_vlm *m, rv_tower *t, rv_arena *a, rv_saved *s, bool learns) {
    int64_t q = (int64_t)t->attn.n_head * t->attn.head_dim;
    lay_heads(t, a, &s->q, &s->k, &s->v);
    s->o = rv_arena_take(a, t->rows * q);
    s->mid = rv_arena_take(a, t->rows * t->width);
    s->lse = rv_arena_take(a, learns ? t->rows * t->attn.n_head : 0);
    int64_t wide = learns ? t->rows : slice_rows(t);
    s->gate = rv_arena_take(a, t->gated ? wide * t->mlp : 0);
    s->up = rv_arena_take(a, t->gated || learns ? wide * t->mlp : 0);
    for (int k = 0; k < RV_NLINEAR; k++) {
        t->rank[k] = 0;
        for (int i = 0; i < t->n_blocks; i++) {
            t->rank[k] = most(t->rank[k], rank_of(m, &t->blocks[i].linear[k]));
        }
        s->lora_h[k] = rv_arena_take(a, t->rows * t->rank[k]);
    }
}

// What a pass through the blocks works in, and behind it, in `kept`, what the backward pass needs
// of all blocks.
static void lay_kept(rv_vlm *m, rv_tower *t, rv_arena *a, rv_arena *kept, bool learns) {
    t->n_x = learns ? (int)most(2, t->n_blocks) : 2;
    t->n_saved = learns && !m->o.recompute ? t->n_blocks : 1;
    for (int i = 0; i < t->n_x; i++) {
        t->x[i] = rv_arena_take(i < 2 ? a : kept, t->rows * t->width);
    }
    for (int i = 0; i < t->n_saved; i++) {
        lay_saved(m, t, i < 1 ? a : kept, &t->saved[i], learns);
    }
    t->out = rv_arena_take(a, t->rows * t->width);
}

static void lay_gradients(rv_tower *t, rv_arena *a, bool learns) {
    t->dx = rv_arena_take(a, learns ? t->rows * t->width : 0);
    t->dx2 = rv_arena_take(a, learns ? t->rows * t->width : 0);
}

// Patches and what is made of them live in front of the blocks and behind them, where no block's
// inner activation does.
static int64_t patches_bytes(const rv_vlm *m) {
    return rv_round_up(m->vision.rows * rv_patch_numbers(&m->arch) * (int64_t)sizeof(float), 64);
}

static int64_t patches_room(const rv_vlm *m) {
    return patches_bytes(m) / (int64_t)sizeof(float) + m->vision.rows * m->arch.vision.width;
}

// What every block uses and none keeps.
static void lay_shared(rv_vlm *m, rv_tower *t, rv_arena *a, bool learns) {
    int64_t q = (int64_t)t->attn.n_head * t->attn.head_dim, r = 0;
    t->norm = rv_arena_take(a, t->rows * t->width);
    t->inner =
        rv_arena_take(a, most(slice_rows(t) * t->mlp, t == &m->vision ? patches_room(m) : 0));
    if (t == &m->text) {
        t->pick = rv_arena_take(a, t->rows * most(t->width, q));
        t->angle = rv_arena_take(a, t->rows * t->attn.head_dim);
    }
    if (!learns) {
        return;
    }
    for (int k = 0; k < RV_NLINEAR; k++) {
        r = most(r, t->rank[k]);
    }
    t->dn = rv_arena_take(a, t->rows * t->width);
    lay_heads(t, a, &t->dq, &t->dk, &t->dv);
    t->d_o = rv_arena_take(a, t->rows * q);
    t->dinner = rv_arena_take(a, slice_rows(t) * t->mlp);
    t->dgate = rv_arena_take(a, t->gated ? slice_rows(t) * t->mlp : 0);
    t->lora_g = rv_arena_take(a, t->rows * r);
}

static void lay_head(rv_vlm *m, rv_arena *a) {
    int64_t n = m->head_rows, v = m->arch.text.vocab, c = m->arch.text.width;
    m->rows_h = rv_arena_take(a, n * c);
    m->drows_h = rv_arena_take(a, n * c);
    m->logits = rv_arena_take(a, n * v);
    rv_dev *const row[] = {&m->logp,   &m->entropy,   &m->lse,
                           &m->g_logp, &m->g_entropy, &m->value_out};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        *row[i] = rv_arena_take(a, n);
    }
    m->head_lora_h = rv_arena_take(a, n * rank_of(m, &m->head));
    m->head_lora_g = rv_arena_take(a, n * rank_of(m, &m->head));
    for (int i = 0; m->o.value_head && i < 2; i++) {
        int64_t width = m->params[m->value[i].weight].w.n;
        m->value_h[i] = rv_arena_take(a, n * width);
        m->dvalue_h[i] = rv_arena_take(a, n * width);
    }
}

static void lay_connector(rv_vlm *m, rv_arena *a, bool learns) {
    int64_t rows = m->image_rows;
    const rv_arch_connector *c = &m->arch.connector;
    bool norm = m->merge_norm.weight >= 0;
    m->merged = rv_arena_take(a, norm ? rows * c->in : 0);
    m->dmerged = rv_arena_take(a, norm && learns ? rows * c->in : 0);
    m->connector_h = rv_arena_take(a, rows * c->hidden);
    m->dfeatures = rv_arena_take(a, learns ? rows * c->out : 0);
    m->dconnector = rv_arena_take(a, learns ? rows * c->hidden : 0);
    m->dseen = rv_arena_take(a, learns ? rows * c->in : 0);
    for (int i = 0; i < 2; i++) {
        m->connector_lora_g[i] = rv_arena_take(a, learns ? rows * rank_of(m, &m->connector[i]) : 0);
    }
}

// What the vision tower's forward pass leaves.
static void lay_seeing(rv_vlm *m, rv_arena *a, rv_arena *kept, bool learns) {
    const rv_arch_vision *v = &m->arch.vision;
    lay_kept(m, &m->vision, a, kept, learns);
    m->embedded = rv_arena_take(a, v->pre_norm ? m->vision.rows * v->width : 0);
    if (v->rope_theta > 0) {
        m->vision_angle = rv_arena_take(a, m->vision.rows * m->vision.attn.head_dim);
    }
}

// The widest layer whose adapter has a bias.
static int64_t widest_bias(const rv_vlm *m) {
    int64_t n = 0;
    for (int64_t i = 0; i < m->n_params; i++) {
        n = most(n, rv_lora_bias(&m->params[i]));
    }
    return n;
}

static void lay_activations(rv_vlm *m, rv_arena *a, rv_arena *kept) {
    const rv_arch *h = &m->arch;
    bool seen = h->vision.width > 0;
    bool vision = seen && rv_vlm_flows(m, m->stage_connector);
    bool connector = seen && rv_vlm_flows(m, m->stage_embed);
    bool text = rv_vlm_flows(m, m->stage_head);
    int64_t images = m->image_rows, c = h->text.width;
    lay_kept(m, &m->text, a, kept, text);
    lay_gradients(&m->text, a, text);
    m->hidden = rv_arena_take(a, m->o.max_rows * c);
    m->lora_bias = rv_arena_take(a, widest_bias(m));
    m->angle = rv_arena_take(a, m->o.max_rows * h->text.head_dim);
    m->angles = rv_arena_take(a, m->positions * h->text.head_dim);
    if (seen) {
        if (h->vision.rope_theta > 0) {
            m->vision_angles = rv_arena_take(a, sides_of(h) * m->vision.attn.head_dim / 2);
        }
        m->features = rv_arena_take(a, images * c);
        m->known_rows = rv_arena_take(a, m->known.rows * c);
        m->seen = rv_arena_take(a, images * h->connector.in);
        m->connector_pre = rv_arena_take(a, connector ? images * h->connector.hidden : 0);
        for (int i = 0; i < 2; i++) {
            m->connector_lora_h[i] = rv_arena_take(a, images * rank_of(m, &m->connector[i]));
        }
    }
    if (vision) {
        lay_seeing(m, a, kept, true);
    }
    size_t mark = rv_arena_mark(a);
    lay_shared(m, &m->text, a, text);
    rv_arena_release(a, mark);
    lay_head(m, a);
    rv_arena_release(a, mark);
    if (seen) {
        lay_connector(m, a, connector);
        if (!vision) {
            lay_seeing(m, a, kept, false);
        }
        lay_gradients(&m->vision, a, vision);
        lay_shared(m, &m->vision, a, vision);
        m->patches = m->vision.inner;
        m->patch_out = rv_dev_at(m->vision.inner, patches_bytes(m));
        rv_arena_release(a, mark);
    }
}

// ---- counting and taking ----

static size_t cache_bytes(const rv_vlm *m) { return m->kv_layer_bytes * (size_t)m->text.n_blocks; }

static void lay_cache(rv_vlm *m, rv_arena *a) {
    m->kv_layer_bytes = (size_t)m->o.kv_blocks * m->be->kv_block_bytes(&m->text.attn);
    m->kv = rv_arena_bytes(a, cache_bytes(m));
}

void rv_vlm_kv_take(rv_vlm *m) {
    if (m->kv_used && m->kept_bytes) {
        m->kv_used = false;
        m->epoch++;
    }
}

void rv_vlm_kv_give(rv_vlm *m) {
    size_t bytes = cache_bytes(m) < m->kept_bytes ? cache_bytes(m) : m->kept_bytes;
    if (!m->kv_used && bytes) {
        m->be->zero(m->ctx, m->kv, bytes); // no stale NaN behind a sequence's end
    }
    m->kv_used = true;
}

// Rows of views to remember while the decoder alone learns: in a sixteenth of the weights' memory.
static int64_t known_rows(const rv_vlm *m, size_t weights) {
    bool learns = rv_vlm_flows(m, m->stage_head), seen = m->arch.vision.width > 0;
    if (!seen || !learns || rv_vlm_flows(m, m->stage_embed)) {
        return 0;
    }
    int64_t bytes = least((int64_t)weights / 16, (int64_t)512 << 20);
    return bytes / ((int64_t)sizeof(float) * m->arch.text.width);
}

static void lay_out(rv_vlm *m, rv_arena a[N_ARENAS]) {
    lay_parameters(m, a);
    m->known.rows = known_rows(m, a[WEIGHTS].used);
    lay_activations(m, &a[ACTIVATIONS], &a[SHARED]);
    m->kept_bytes = a[SHARED].used;
    rv_arena_release(&a[SHARED], 0);
    lay_cache(m, &a[SHARED]);
}

static int64_t longest(const rv_vlm *m) {
    int64_t cached = m->o.max_tokens ? m->o.max_tokens : m->o.kv_blocks * RV_KV_BLOCK;
    return least(m->arch.text.max_positions, most(m->o.max_rows, cached));
}

static size_t scratch_bytes(const rv_vlm *m) {
    size_t n = m->be->attention_scratch(m->ctx, &m->text.attn, m->positions), seen = 0;
    if (m->arch.vision.width) {
        seen = m->be->attention_scratch(m->ctx, &m->vision.attn, tile_patches(&m->arch) + 1);
    }
    return n > seen ? n : seen;
}

static void size_pieces(rv_vlm *m) {
    const rv_arch *a = &m->arch;
    enum { LOGITS = 4 << 20 }; // numbers in a chunk of logits
    m->text.rows = m->o.max_rows;
    m->positions = longest(m);
    m->angle_pieces = rv_rotary_pieces(&a->text);
    m->head_rows = most(64, least(RV_HEAD_ROWS, LOGITS / a->text.vocab / 32 * 32));
    if (a->vision.width) {
        int64_t patches = tile_patches(a), rows = patches + a->vision.class_token, tiles;
        m->image_rows = m->o.image_rows ? m->o.image_rows : m->o.max_rows;
        m->image_rows = most(m->image_rows, a->max_view_rows);
        // Most rows are text, so the tower's kept activations have room for a third of the rows;
        // a piece with more images runs the tower again in the backward pass.
        int64_t all = most(1, m->image_rows * a->vision.merge * a->vision.merge / patches);
        tiles = rv_vlm_flows(m, m->stage_connector) ? all / 3 : 1024 / rows;
        m->vision.rows = least(all, most(1, tiles)) * rows;
    }
}

// Weights of adapters, as lay_parameters takes them.
static size_t adapter_bytes(const rv_vlm *m) {
    rv_arena a = {0};
    for (int64_t i = 0; i < m->n_params; i++) {
        const rv_param *p = &m->params[i];
        if (strstr(p->info.role, ".lora_")) {
            rv_arena_bytes(&a, p->w.fwd_bytes);
        }
    }
    return a.used;
}

// Numbers of m->host: what head_rows rows of hidden states or one of logits need.
static int64_t host_floats(const rv_vlm *m) {
    return most(m->arch.text.vocab, m->head_rows * m->arch.text.width);
}

static size_t host_bytes(const rv_vlm *m) {
    size_t row = (5 + (size_t)m->angle_pieces) * sizeof(int32_t) + sizeof(rv_place) +
                 2 * sizeof(rv_attn_seq);
    size_t seen = 5 * sizeof(int32_t), shown = 3 * sizeof(int32_t) + sizeof(rv_view);
    return (size_t)m->o.max_rows * row + (size_t)host_floats(m) * sizeof(float) +
           (size_t)m->cap_params * sizeof(rv_param) + (size_t)m->vision.rows * seen +
           (size_t)m->image_rows * shown;
}

// Counts everything with nothing taken; leaves the sizes of the arenas.
static void count_memory(rv_vlm *m, size_t bytes[N_ARENAS]) {
    rv_arena a[N_ARENAS] = {{0}};
    find_floor(m);
    size_pieces(m);
    lay_out(m, a);
    for (int i = 0; i < N_ARENAS; i++) {
        bytes[i] = a[i].most;
    }
    rv_plan p = {.adapters = adapter_bytes(m),
                 .gradients = bytes[GRADIENTS],
                 .optimizer = bytes[OPTIMIZER],
                 .activations = bytes[ACTIVATIONS] + bytes[SHARED] - cache_bytes(m),
                 .kv_cache = cache_bytes(m),
                 .scratch = scratch_bytes(m),
                 .host = host_bytes(m)};
    p.weights = bytes[WEIGHTS] - p.adapters;
    p.total = p.weights + p.adapters + p.gradients + p.optimizer + p.activations + p.kv_cache +
              p.scratch + p.host;
    m->plan = p;
}

void rv_vlm_memory(rv_vlm *m, rv_plan *out) {
    if (!m->ready) {
        size_t bytes[N_ARENAS];
        count_memory(m, bytes);
    }
    *out = m->plan;
}

rv_status rv_vlm_plan(rv_plan *out, const rv_backend *be, const rv_arch *arch,
                      const rv_vlm_options *o, rv_err *e) {
    rv_ctx *ctx;
    RV_TRY(be->ctx_new(&ctx, 0, 0, e));
    rv_vlm *m;
    rv_status s = rv_vlm_new(&m, be, ctx, arch, o, e);
    if (s == RV_OK) {
        rv_vlm_memory(m, out);
        rv_vlm_free(m);
    }
    be->ctx_free(ctx);
    return s;
}

static bool take_host(rv_vlm *m) {
    int64_t n = m->o.max_rows + 1;
    int32_t **const arrays[] = {&m->cu,   &m->ids, &m->image_row, &m->pick,
                                &m->rank, &m->ask, &m->ask_cu,    &m->ask_pick};
    bool ok = true;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        ok = (*arrays[i] = rv_calloc(n, sizeof(int32_t))) && ok;
    }
    int64_t seen = m->vision.rows, images = most(m->image_rows, seen);
    m->vision_index = rv_calloc(2 * seen, sizeof *m->vision_index);
    m->vision_cu = rv_calloc(seen + 1, sizeof *m->vision_cu);
    m->window_cu = rv_calloc(seen + 1, sizeof *m->window_cu);
    m->place = rv_calloc(seen, sizeof *m->place);
    m->source = rv_calloc(images, sizeof *m->source);
    m->take = rv_calloc(images, sizeof *m->take);
    m->shown = rv_calloc(images, sizeof *m->shown);
    m->fresh = rv_calloc(images, sizeof *m->fresh);
    bool known = rv_features_new(&m->known, m->known.rows, NULL) == RV_OK;
    m->host = rv_calloc(host_floats(m), sizeof *m->host);
    m->n_host = host_floats(m);
    m->angle_row = rv_calloc(n * m->angle_pieces, sizeof *m->angle_row);
    m->places = rv_calloc(n, sizeof *m->places);
    m->write = rv_calloc(n, sizeof *m->write);
    m->read = rv_calloc(n, sizeof *m->read);
    return ok && m->vision_index && m->vision_cu && m->window_cu && m->place && m->source &&
           m->take && m->shown && m->fresh && known && m->host && m->angle_row && m->places &&
           m->write && m->read;
}

static rv_status upload_angles(rv_vlm *m, rv_err *e) {
    const rv_arch *a = &m->arch;
    bool seen = a->vision.width && a->vision.rope_theta > 0;
    int64_t sides = seen ? sides_of(a) : 0, n = m->positions * a->text.head_dim;
    int64_t across = sides * m->vision.attn.head_dim / 2;
    float *table = rv_calloc(most(n, across), sizeof *table);
    if (!table) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory: rotary angles of %lld positions",
                       (long long)m->positions);
    }
    rv_rotary_table(&a->text, table, m->positions);
    m->be->upload(m->ctx, m->angles, table, (size_t)n * sizeof *table);
    if (seen) {
        rv_tile_angles(&a->vision, table, sides);
        m->be->upload(m->ctx, m->vision_angles, table, (size_t)across * sizeof *table);
    }
    free(table);
    return RV_OK;
}

rv_status rv_vlm_ready(rv_vlm *m, rv_err *e) {
    if (m->ready) {
        return RV_OK;
    }
    size_t bytes[N_ARENAS];
    count_memory(m, bytes);
    rv_arena a[N_ARENAS] = {{0}};
    for (int i = 0; i < N_ARENAS; i++) {
        if (bytes[i] && rv_dev_none(m->memory[i])) {
            RV_TRY(m->be->alloc(m->ctx, &m->memory[i], bytes[i], e));
        }
        a[i].base = m->memory[i].addr;
    }
    RV_TRY(m->be->reserve(m->ctx, m->plan.scratch, e));
    if (!m->host && !take_host(m)) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory");
    }
    m->grad_bytes = bytes[GRADIENTS];
    lay_out(m, a);
    RV_TRY(upload_angles(m, e));
    m->ready = true;
    return RV_OK;
}

static void tower_free(rv_tower *t) {
    free(t->blocks);
    free(t->x);
    free(t->saved);
}

void rv_vlm_free(rv_vlm *m) {
    if (!m) {
        return;
    }
    for (int i = 0; i < N_ARENAS; i++) {
        if (!rv_dev_none(m->memory[i])) {
            m->be->free(m->ctx, m->memory[i]);
        }
    }
    void *const host[] = {m->params, m->cu,           m->ids,       m->angle_row, m->image_row,
                          m->pick,   m->rank,         m->host,      m->write,     m->read,
                          m->pieces, m->vision_index, m->vision_cu, m->window_cu, m->place,
                          m->source, m->take,         m->shown,     m->fresh,     m->tiles,
                          m->places, m->ask,          m->ask_cu,    m->ask_pick};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        free(host[i]);
    }
    rv_features_free(&m->known);
    tower_free(&m->vision);
    tower_free(&m->text);
    free(m);
}
