// vlm_tiny.h - a tiny model with odd sizes, random weights and random batches, for the tests of the
// model.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard_backend.h"
#include "rng.h"
#include "vlm.h"

enum { TINY_IMAGE = 30, TINY_VOCAB = 37, TINY_TOKENS = 4 };

static inline rv_arch tiny_arch(void) {
    return (rv_arch){
        .vision = {.image_size = 8,
                   .patch = 4,
                   .temporal = 1,
                   .merge = 1,
                   .positions = 2,
                   .width = 12,
                   .layers = 2,
                   .heads = 2,
                   .mlp = 20,
                   .act = RV_ACT_QUICK_GELU,
                   .eps = 1e-5f,
                   .class_token = true,
                   .pre_norm = true,
                   .drop_class = true},
        .connector = {.in = 12, .hidden = 18, .out = 16, .act = RV_ACT_GELU_ERF, .bias = true},
        .text = {.vocab = TINY_VOCAB,
                 .width = 16,
                 .layers = 3,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 6,
                 .mlp = 24,
                 .act = RV_ACT_SILU,
                 .eps = 1e-5f,
                 .rope_theta = 10000,
                 .max_positions = 512},
        .image_token = TINY_IMAGE,
        .max_view_patches = TINY_TOKENS,
        .max_view_rows = TINY_TOKENS};
}

// Everything switched on that the first one leaves out.
static inline rv_arch tiny_other_arch(void) {
    rv_arch a = tiny_arch();
    a.vision.class_token = a.vision.drop_class = a.vision.pre_norm = false;
    a.vision.post_norm = a.vision.patch_bias = true;
    a.vision.act = RV_ACT_GELU_TANH;
    a.connector.act = RV_ACT_QUICK_GELU;
    a.connector.bias = false;
    a.text.tied = true;
    a.text.qkv_bias = a.text.o_bias = a.text.mlp_bias = a.text.head_bias = true;
    a.text.window = 9;
    a.text.rope = RV_ROPE_LLAMA3;
    a.text.rope_factor = 8;
    a.text.rope_low_freq = 1;
    a.text.rope_high_freq = 4;
    a.text.rope_original_positions = 64;
    return a;
}

static inline rv_vlm_options tiny_options(void) {
    rv_vlm_options o = {.store = RV_F32, .value_head = true, .max_rows = 256, .kv_blocks = 16};
    for (int i = 0; i < RV_NPARTS; i++) {
        o.train[i] = true;
    }
    return o;
}

static inline void must(rv_status s, const rv_err *e) {
    if (s != RV_OK) {
        fail_msg("%s", e->msg);
    }
}

// A model on a context of its own; the adapters are added by `prepare` (may be NULL).
typedef struct {
    const rv_backend *be;
    rv_ctx *ctx;
    rv_vlm *m;
} tiny;

static inline int64_t tiny_count(const rv_param_info *p) {
    int64_t n = 1;
    for (int i = 0; i < p->ndim; i++) {
        n *= p->dim[i];
    }
    return n;
}

// Random values that depend on the role alone, so that models with other options agree.
static inline void tiny_fill(rv_vlm *m) {
    rv_err e = {0};
    for (int64_t i = 0; i < rv_vlm_param_count(m); i++) {
        const rv_param_info *p = rv_vlm_param(m, i);
        int64_t n = tiny_count(p);
        uint64_t seed = 7;
        for (const char *c = p->role; *c; c++) {
            seed = seed * 31 + (unsigned char)*c;
        }
        rv_rng r = rv_rng_make(seed, RV_STREAM_INIT, 0, 0);
        bool norm = strstr(p->role, "norm") && strstr(p->role, "weight");
        double scale = p->matrix ? 1.2 / sqrt((double)(n / p->dim[0])) : 0.2;
        float *x = calloc((size_t)n, sizeof *x);
        for (int64_t k = 0; k < n; k++) {
            x[k] = (float)(norm + scale * rv_rng_normal(&r));
        }
        must(rv_vlm_param_set(m, i, RV_OF_PARAM, x, RV_F32, &e), &e);
        free(x);
    }
}

// While set, new models run on the table on which a host's peek into device memory crashes (slow).
static bool tiny_guarded;

static inline tiny tiny_new(const rv_arch *a, const rv_vlm_options *o, int threads,
                            void (*prepare)(rv_vlm *)) {
    tiny t = {.be = tiny_guarded ? guard_backend() : rv_backend_cpu()};
    rv_err e = {0};
    must(t.be->ctx_new(&t.ctx, 0, threads, &e), &e);
    must(rv_vlm_new(&t.m, t.be, t.ctx, a, o, &e), &e);
    if (prepare) {
        prepare(t.m);
    }
    tiny_fill(t.m);
    return t;
}

static inline void tiny_free(tiny *t) {
    rv_vlm_free(t->m);
    t->be->ctx_free(t->ctx);
}

// A batch of `n` sequences of changing lengths; every third has no image, one has many.
enum { TINY_SEQS = 9, TINY_ROWS = 400, TINY_VIEWS = 36 };

typedef struct {
    rv_batch b;
    int32_t ids[TINY_ROWS], cu[TINY_SEQS + 1], ask_row[TINY_ROWS], ask_id[TINY_ROWS];
    int32_t value_row[TINY_SEQS], hidden_row[TINY_SEQS];
    rv_view images[TINY_VIEWS];
    float patches[TINY_VIEWS][TINY_TOKENS * 3 * 4 * 4];
} tiny_batch;

static inline tiny_batch *tiny_batch_new(int64_t n, uint64_t seed) {
    tiny_batch *t = calloc(1, sizeof *t);
    rv_rng r = rv_rng_make(seed, RV_STREAM_USER, 0, 0);
    rv_batch *b = &t->b;
    int32_t at = 0;
    for (int64_t s = 0; s < n; s++) {
        // at max_rows 110, eleven are more than the vision tower keeps
        int images = s == 7 ? 11 : s % 3 == 2 ? 0 : s % 4 == 3 ? 2 : 1;
        int before = 1 + (int)rv_rng_below(&r, 4), after = 3 + (int)rv_rng_below(&r, 20);
        after += s == 4 ? 60 : 0; // more than one cache block
        for (int i = 0; i < before; i++) {
            t->ids[at++] = (int32_t)rv_rng_below(&r, TINY_IMAGE);
        }
        for (int i = 0; i < images * TINY_TOKENS; i++) {
            t->ids[at++] = TINY_IMAGE;
        }
        b->n_images += images;
        for (int i = 0; i < after; i++) {
            t->ids[at++] = (int32_t)rv_rng_below(&r, TINY_IMAGE);
        }
        t->cu[s + 1] = at;
        t->value_row[b->n_value++] = at - 1 - after / 2;
        if (s % 2) {
            t->hidden_row[b->n_hidden++] = at - 2;
        }
        for (int i = after / 2; i > 0; i--) {
            t->ask_row[b->n_ask] = at - 1 - i;
            t->ask_id[b->n_ask++] = t->ids[at - i];
        }
    }
    for (size_t i = 0; i < TINY_VIEWS; i++) {
        for (size_t k = 0; k < sizeof *t->patches / sizeof **t->patches; k++) {
            t->patches[i][k] = (float)rv_rng_normal(&r);
        }
        t->images[i] = (rv_view){t->patches[i], 1, 2, 2, NULL, TINY_TOKENS, {0}};
    }
    b->ids = t->ids;
    b->cu = t->cu;
    b->n = n;
    b->images = t->images;
    b->ask_row = t->ask_row;
    b->ask_id = t->ask_id;
    b->value_row = t->value_row;
    b->hidden_row = t->hidden_row;
    b->temperature = 0.7f;
    return t;
}

// Space for all outputs of a batch; also for their gradients.
typedef struct {
    rv_scores s;
    float logp[TINY_ROWS], entropy[TINY_ROWS], value[TINY_SEQS], hidden[TINY_SEQS * 16];
    float logits[TINY_ROWS * TINY_VOCAB];
} tiny_scores;

static inline tiny_scores *tiny_scores_new(void) {
    tiny_scores *t = calloc(1, sizeof *t);
    t->s = (rv_scores){t->logp, t->entropy, t->value, t->hidden, t->logits};
    return t;
}

static inline tiny_scores *tiny_score(tiny *t, const rv_batch *b, bool keep) {
    tiny_scores *out = tiny_scores_new();
    rv_err e = {0};
    must(rv_vlm_score(t->m, b, keep, &out->s, &e), &e);
    return out;
}

// Random gradients of all outputs.
static inline tiny_scores *tiny_upstream(uint64_t seed) {
    tiny_scores *g = tiny_scores_new();
    rv_rng r = rv_rng_make(seed, RV_STREAM_USER, 1, 0);
    float *const arrays[] = {g->logp, g->entropy, g->value, g->hidden};
    const size_t sizes[] = {TINY_ROWS, TINY_ROWS, TINY_SEQS, TINY_SEQS * 16};
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < sizes[k]; i++) {
            arrays[k][i] = (float)(0.3 * rv_rng_normal(&r));
        }
    }
    return g;
}

static inline float *tiny_get(const tiny *t, int64_t i, rv_of what) {
    float *x = calloc((size_t)tiny_count(rv_vlm_param(t->m, i)), sizeof *x);
    rv_err e = {0};
    must(rv_vlm_param_get(t->m, i, what, x, &e), &e);
    return x;
}

// Fails unless two arrays hold the same bits.
static inline void same_bits(const char *what, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a)) {
            fail_msg("%s %lld of %lld: %.9g is not %.9g", what, (long long)i, (long long)n,
                     (double)a[i], (double)b[i]);
        }
    }
}

static inline void same_scores(const tiny_scores *a, const tiny_scores *b) {
    same_bits("logit", a->logits, b->logits, TINY_ROWS * TINY_VOCAB);
    same_bits("log-probability", a->logp, b->logp, TINY_ROWS);
    same_bits("entropy", a->entropy, b->entropy, TINY_ROWS);
    same_bits("value", a->value, b->value, TINY_SEQS);
    same_bits("hidden", a->hidden, b->hidden, TINY_SEQS * 16);
}
