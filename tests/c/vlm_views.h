// vlm_views.h - tiny models with the towers of all families, and batches of views for them.
#pragma once

#include "vlm_tiny.h"

enum { FUSED, WINDOWED, SHUFFLED, TILED, N_TOWERS };
enum { VIEWS = 6, VIEW_ROWS = 64, VIEW_PATCHES = 100, VIEW_NUMBERS = 48 };

// A fused layer for queries, keys and values, angles by row and column, merging with a norm before.
static inline void fused_arch(rv_arch *a) {
    a->vision = (rv_arch_vision){.patch = 2,
                                 .temporal = 2,
                                 .merge = 2,
                                 .width = 16,
                                 .layers = 3,
                                 .heads = 2,
                                 .mlp = 20,
                                 .act = RV_ACT_QUICK_GELU,
                                 .eps = 1e-6f,
                                 .fused_qkv = true,
                                 .rope_theta = 100};
    a->connector = (rv_arch_connector){.norm = RV_NORM_LAYER,
                                       .eps = 1e-6f,
                                       .in = 64,
                                       .hidden = 24,
                                       .out = 16,
                                       .act = RV_ACT_GELU_ERF,
                                       .bias = true};
    memcpy(a->text.mrope, (int[]){1, 1, 1}, sizeof a->text.mrope);
}

// Learned positions in buckets, a norm behind the last layer, one linear layer.
static inline void shuffled_arch(rv_arch *a) {
    a->vision = (rv_arch_vision){.patch = 3,
                                 .temporal = 1,
                                 .merge = 2,
                                 .width = 12,
                                 .layers = 2,
                                 .heads = 3,
                                 .mlp = 20,
                                 .act = RV_ACT_GELU_TANH,
                                 .eps = 1e-6f,
                                 .patch_bias = true,
                                 .post_norm = true,
                                 .positions = 4};
    a->connector = (rv_arch_connector){.in = 48, .out = 16};
}

static inline rv_arch views_arch(int kind) {
    rv_arch a = tiny_arch();
    a.max_view_patches = VIEW_PATCHES;
    a.max_view_rows = VIEW_ROWS;
    if (kind == FUSED || kind == WINDOWED) {
        fused_arch(&a);
    }
    if (kind == WINDOWED) {
        a.vision.rms = a.vision.gated = true;
        a.vision.act = RV_ACT_SILU;
        a.vision.window = 2;
        a.vision.full = 2; // the second layer
        a.connector.norm = RV_NORM_RMS;
    }
    if (kind == SHUFFLED) {
        shuffled_arch(&a);
    }
    if (kind == TILED) {
        a.connector.newline = true;
    }
    return a;
}

typedef struct {
    rv_batch b;
    int32_t ids[TINY_ROWS], cu[TINY_SEQS + 1], ask_row[TINY_ROWS], ask_id[TINY_ROWS];
    int32_t value_row[TINY_SEQS], hidden_row[TINY_SEQS];
    rv_view images[VIEWS];
    int32_t order[VIEWS][VIEW_ROWS];
    float patches[VIEWS][VIEW_PATCHES * VIEW_NUMBERS];
} views_batch;

// Grids of a kind's views: tiles, h, w. Windows of 2 x 2 merged units divide few of them.
static const int32_t grids[N_TOWERS][VIEWS][3] = {
    {{1, 4, 6}, {1, 10, 6}, {1, 2, 2}, {1, 6, 10}, {1, 4, 4}, {1, 4, 6}},
    {{1, 4, 6}, {1, 10, 6}, {1, 2, 2}, {1, 6, 10}, {1, 4, 4}, {1, 4, 6}},
    {{3, 4, 4}, {1, 6, 4}, {2, 2, 2}, {1, 2, 10}, {1, 8, 8}, {3, 4, 4}},
    {{5, 2, 2}, {1, 2, 2}, {3, 2, 2}, {7, 2, 2}, {2, 2, 2}, {5, 2, 2}}};

// The rows of the first tile, then those of the others from the last to the first without each
// fifth, a newline behind every third.
static inline int64_t tile_order(int32_t *order, int64_t features) {
    int64_t n = 0;
    for (int32_t i = 0; i < 4; i++) {
        order[n++] = i;
    }
    for (int64_t i = features - 1; i >= 4; i--) {
        if (i % 5) {
            order[n++] = (int32_t)i;
        }
        if (i % 3 == 0) {
            order[n++] = -1;
        }
    }
    return n;
}

static inline void make_view(views_batch *t, const rv_arch *a, int kind, int i, rv_rng *r) {
    const int32_t *g = grids[kind][i];
    rv_view *v = &t->images[i];
    *v = (rv_view){t->patches[i], g[0], g[1], g[2], NULL, 0, {0}};
    v->rows = rv_view_features(a, v);
    if (kind == TILED) {
        v->rows = tile_order(t->order[i], v->rows);
        v->order = t->order[i];
    }
    for (int64_t k = 0; k < g[0] * g[1] * g[2] * rv_patch_numbers(a); k++) {
        t->patches[i][k] = (float)rv_rng_normal(r);
    }
    rv_err e = {0};
    must(rv_view_check(a, v, &e), &e);
}

static inline int32_t add_text(views_batch *t, int32_t at, int64_t n, rv_rng *r) {
    while (n-- > 0) {
        t->ids[at++] = (int32_t)rv_rng_below(r, TINY_IMAGE);
    }
    return at;
}

// The image tokens of a view, where the kind allows it with a text between tiles.
static inline int32_t add_view(views_batch *t, int32_t at, int kind, int i, rv_rng *r) {
    const rv_view *v = &t->images[i];
    for (int64_t k = 0; k < v->rows; k++) {
        if (kind == SHUFFLED && k && k % (v->rows / v->tiles) == 0) {
            at = add_text(t, at, 2, r);
        }
        t->ids[at++] = TINY_IMAGE;
    }
    return at;
}

// Sequences of one view each but the second, which has none, and the last, which has two.
static inline views_batch *views_batch_new(const rv_arch *a, int kind, uint64_t seed) {
    views_batch *t = calloc(1, sizeof *t);
    rv_rng r = rv_rng_make(seed, RV_STREAM_USER, 0, 0);
    rv_batch *b = &t->b;
    int32_t at = 0;
    for (int i = 0; i < VIEWS; i++) {
        make_view(t, a, kind, i, &r);
    }
    for (int s = 0, image = 0; s < VIEWS; s++) {
        at = add_text(t, at, 1 + s % 3, &r);
        for (int k = s == 1 ? 0 : s == VIEWS - 1 ? 2 : 1; k > 0; k--) {
            at = add_view(t, at, kind, image++, &r);
        }
        at = add_text(t, at, 5 + s, &r);
        t->cu[s + 1] = at;
        t->value_row[b->n_value++] = at - 4;
        t->hidden_row[b->n_hidden++] = at - 2;
        for (int k = 3; k > 0; k--) {
            t->ask_row[b->n_ask] = at - 1 - k;
            t->ask_id[b->n_ask++] = t->ids[at - k];
        }
        t->ask_row[b->n_ask] = at - 1;
        t->ask_id[b->n_ask++] = -1;
    }
    assert_true(at <= TINY_ROWS);
    b->ids = t->ids;
    b->cu = t->cu;
    b->n = VIEWS;
    b->images = t->images;
    b->n_images = VIEWS;
    b->ask_row = t->ask_row;
    b->ask_id = t->ask_id;
    b->value_row = t->value_row;
    b->hidden_row = t->hidden_row;
    b->temperature = 0.7f;
    return t;
}
