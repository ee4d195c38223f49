// lora.c - adapters: pairs of low-rank matrices beside linear weights, never merged.
#include <stdio.h>

#include "model.h"

static void role_of(char role[64], const rv_param *w, const char *which, int adapter) {
    if (adapter) {
        snprintf(role, 64, "%.44s.%s.%d", w->info.role, which, adapter);
    } else {
        snprintf(role, 64, "%.44s.%s", w->info.role, which);
    }
}

static int64_t add_matrix(rv_vlm *m, const rv_param *w, const char *role, int64_t n, int64_t k,
                          bool train) {
    int64_t i = rv_param_add_matrix(m, w->info.part, w->stage, role, n, k, true);
    m->params[i].info.trained = train;
    return i;
}

static rv_status check(const rv_vlm *m, int adapter, int64_t i, int r, rv_err *e) {
    if (i < 0 || i >= m->n_params || !m->params[i].info.linear) {
        return RV_FAIL(e, RV_EARG, "no adapter goes beside %s: it is no linear layer's weight",
                       i < 0 || i >= m->n_params ? "nothing" : m->params[i].info.role);
    }
    const rv_param *w = &m->params[i];
    if (adapter < 0 || adapter >= RV_ADAPTERS) {
        return RV_FAIL(e, RV_EARG, "%s: adapter %d: a model takes %d", w->info.role, adapter + 1,
                       RV_ADAPTERS);
    }
    if (m->ready) {
        return RV_FAIL(e, RV_EARG, "%s: adapters are added before parameters are set",
                       w->info.role);
    }
    if (w->lora[adapter].a) {
        return RV_FAIL(e, RV_EARG, "%s has an adapter already", w->info.role);
    }
    if (r < 1 || r > 1 << 14) {
        return RV_FAIL(e, RV_EARG, "%s: an adapter of rank %d, wanted 1 to %d", w->info.role, r,
                       1 << 14);
    }
    return RV_OK;
}

rv_status rv_vlm_lora_add(rv_vlm *m, int adapter, int64_t i, const rv_lora_spec *o, rv_err *e) {
    RV_TRY(check(m, adapter, i, o->r, e));
    rv_param *w = &m->params[i];
    rv_adapter *l = &w->lora[adapter];
    m->adapted_below = m->adapted_below || w->stage < m->stage_embed;
    char role[64];
    role_of(role, w, "lora_a", adapter);
    l->a = add_matrix(m, w, role, o->r, w->w.k, o->train);
    role_of(role, w, "lora_b", adapter);
    l->b = add_matrix(m, w, role, w->w.n, o->r, o->train);
    l->scale = o->scale;
    if (o->bias) {
        role_of(role, w, "lora_bias", adapter);
        l->bias = rv_param_add(m, w->info.part, w->stage, role, 1, &w->w.n);
        m->params[l->bias].info.trained = o->train;
    }
    return RV_OK;
}

void rv_vlm_lora_use(rv_vlm *m, int adapter) {
    if (adapter != m->lora && m->adapted_below) {
        rv_features_forget(m);
    }
    m->lora = adapter;
    m->resident = -1;
}

int rv_vlm_lora_used(const rv_vlm *m) { return m->lora; }

int64_t rv_lora_rank(const rv_vlm *m, const rv_param *w) {
    int64_t r = 0;
    for (int i = 0; i < RV_ADAPTERS; i++) {
        int64_t own = w->lora[i].a ? m->params[w->lora[i].a].w.n : 0;
        r = own > r ? own : r;
    }
    return r;
}

int64_t rv_lora_bias(const rv_param *w) {
    for (int i = 0; i < RV_ADAPTERS; i++) {
        if (w->lora[i].bias) {
            return w->w.n;
        }
    }
    return 0;
}
