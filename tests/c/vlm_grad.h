// vlm_grad.h - gradients of a tiny model: against finite differences, and against each other.
#pragma once

#include "vlm_tiny.h"

static inline double loss_of(tiny *t, const rv_batch *b, const tiny_scores *g) {
    tiny_scores *s = tiny_score(t, b, false);
    double sum = 0;
    for (int64_t i = 0; i < b->n_ask; i++) {
        sum += (double)g->logp[i] * (double)s->logp[i];
        sum += (double)g->entropy[i] * (double)s->entropy[i];
    }
    for (int64_t i = 0; i < b->n_value; i++) {
        sum += (double)g->value[i] * (double)s->value[i];
    }
    for (int64_t i = 0; i < b->n_hidden * 16; i++) {
        sum += (double)g->hidden[i] * (double)s->hidden[i];
    }
    free(s);
    return sum;
}

static inline void backward(tiny *t, const rv_batch *b, const tiny_scores *g, float value_grad) {
    rv_err e = {0};
    free(tiny_score(t, b, true));
    must(rv_vlm_backward(t->m, &g->s, value_grad, &e), &e);
}

// The loss with parameter `i` moved by `by` along `d`.
static inline double moved(tiny *t, const rv_batch *b, const tiny_scores *g, int64_t i,
                           const float *x, const float *d, double by) {
    int64_t n = tiny_count(rv_vlm_param(t->m, i));
    float *y = calloc((size_t)n, sizeof *y);
    rv_err e = {0};
    for (int64_t k = 0; k < n; k++) {
        y[k] = (float)((double)x[k] + by * (double)d[k]);
    }
    must(rv_vlm_param_set(t->m, i, RV_OF_PARAM, y, RV_F32, &e), &e);
    free(y);
    return loss_of(t, b, g);
}

static inline double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++) {
        sum += (double)a[k] * (double)b[k];
    }
    return sum;
}

// Compares a parameter's gradient with differences along it and along a random direction; returns
// the largest error relative to `scale`.
static inline double difference(tiny *t, const rv_batch *b, const tiny_scores *g, int64_t i,
                                const float *grad, double scale) {
    int64_t n = tiny_count(rv_vlm_param(t->m, i));
    float *x = tiny_get(t, i, RV_OF_PARAM), *d = calloc((size_t)n, sizeof *d);
    rv_rng r = rv_rng_make((uint64_t)i, RV_STREAM_USER, 3, 0);
    double worst = 0, eps = 4e-3;
    for (int round = 0; round < 2; round++) {
        for (int64_t k = 0; k < n; k++) {
            d[k] = round ? (float)rv_rng_normal(&r) : grad[k];
        }
        double norm = sqrt(dot(d, d, n));
        for (int64_t k = 0; k < n; k++) {
            d[k] = norm > 0 ? (float)((double)d[k] / norm) : 0;
        }
        // Richardson: the error of the plain difference falls from eps^2 to eps^4
        double wide = (moved(t, b, g, i, x, d, eps) - moved(t, b, g, i, x, d, -eps)) / (2 * eps);
        double near = (moved(t, b, g, i, x, d, eps / 2) - moved(t, b, g, i, x, d, -eps / 2)) / eps;
        double error = fabs((4 * near - wide) / 3 - dot(d, grad, n)) / scale;
        worst = error > worst ? error : worst;
    }
    rv_err e = {0};
    must(rv_vlm_param_set(t->m, i, RV_OF_PARAM, x, RV_F32, &e), &e);
    free(x);
    free(d);
    return worst;
}

static inline float **gradients(const tiny *t) {
    int64_t n = rv_vlm_param_count(t->m);
    float **g = calloc((size_t)n, sizeof *g);
    for (int64_t i = 0; i < n; i++) {
        g[i] = rv_vlm_param(t->m, i)->trained ? tiny_get(t, i, RV_OF_GRAD) : NULL;
    }
    return g;
}

static inline void free_gradients(const tiny *t, float **g) {
    for (int64_t i = 0; i < rv_vlm_param_count(t->m); i++) {
        free(g[i]);
    }
    free(g);
}

static inline void check_differences(tiny *t, const rv_batch *b, const tiny_scores *g) {
    backward(t, b, g, 1);
    float **grads = gradients(t);
    double norm = rv_vlm_grad_norm(t->m), worst = 0;
    const char *where = "";
    for (int64_t i = 0; i < rv_vlm_param_count(t->m); i++) {
        if (!grads[i]) {
            continue;
        }
        int64_t n = tiny_count(rv_vlm_param(t->m, i));
        double own = sqrt(dot(grads[i], grads[i], n));
        double error = difference(t, b, g, i, grads[i], own > 0.02 * norm ? own : 0.02 * norm);
        if (error > worst) {
            worst = error;
            where = rv_vlm_param(t->m, i)->role;
        }
        if (own == 0 && !strstr(rv_vlm_param(t->m, i)->role, ".k.bias")) {
            fail_msg("%s has no gradient", rv_vlm_param(t->m, i)->role);
        }
    }
    print_message("worst difference %.2g (%s), gradient norm %.3g\n", worst, where, norm);
    assert_true(worst < 1e-2);
    free_gradients(t, grads);
}

// A fresh model's gradients of a batch; `prepare` as for tiny_new.
static inline void model_matches_differences(const rv_arch *a, const rv_vlm_options *o, int threads,
                                             void (*prepare)(rv_vlm *), const rv_batch *b) {
    tiny t = tiny_new(a, o, threads, prepare);
    tiny_scores *g = tiny_upstream(1);
    check_differences(&t, b, g);
    free(g);
    tiny_free(&t);
}

static inline void add_adapters(rv_vlm *m) {
    rv_err e = {0};
    int64_t n = rv_vlm_param_count(m);
    for (int64_t i = 0, k = 0; i < n; i++) {
        if (rv_vlm_param(m, i)->linear) {
            rv_lora_spec spec = {.r = 1 + (int)(k++ % 5), .scale = 0.7f, .train = true};
            must(rv_vlm_lora_add(m, 0, i, &spec, &e), &e);
        }
    }
}

static inline rv_vlm_options frozen_options(void) {
    rv_vlm_options o = tiny_options();
    memset(o.train, 0, sizeof o.train);
    return o;
}

static inline void same_gradients(const tiny *t, float **a, const tiny *u, float **b) {
    for (int64_t i = 0; i < rv_vlm_param_count(t->m); i++) {
        const rv_param_info *p = rv_vlm_param(t->m, i);
        int64_t j = rv_vlm_param_find(u->m, p->role);
        if (a[i] && j >= 0 && b[j]) {
            same_bits(p->role, a[i], b[j], tiny_count(p));
        }
    }
}

// What is trained, recomputed, cut, adapted or threaded changes no bit of what is left.
static inline void compare_with_full(const rv_arch *a, const rv_batch *b, rv_vlm_options o,
                                     int threads, void (*prepare)(rv_vlm *), bool adapters_on) {
    rv_vlm_options full_options = tiny_options();
    tiny_scores *g = tiny_upstream(2);
    tiny full = tiny_new(a, &full_options, 1, NULL), t = tiny_new(a, &o, threads, prepare);
    backward(&full, b, g, 0.5f);
    rv_vlm_lora_use(t.m, adapters_on ? 0 : -1);
    backward(&t, b, g, 0.5f);
    float **x = gradients(&full), **y = gradients(&t);
    same_gradients(&full, x, &t, y);
    free_gradients(&full, x);
    free_gradients(&t, y);
    free(g);
    tiny_free(&full);
    tiny_free(&t);
}
