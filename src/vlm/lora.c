// lora.c - adapters: pairs of low-rank matrices beside linear weights, never merged.
#include <stdio.h>

#include "model.h"

static int64_t add(rv_vlm *m, const rv_param *w, const char *which, int64_t n, int64_t k,
                   bool train) {
    char role[64];
    snprintf(role, sizeof role, "%.52s.%s", w->info.role, which);
    int64_t i = rv_param_add_matrix(m, w->info.part, w->stage, role, n, k, true);
    m->params[i].info.trained = train;
    return i;
}

rv_status rv_vlm_lora_add(rv_vlm *m, int64_t i, int r, float scale, bool train, rv_err *e) {
    if (i < 0 || i >= m->n_params || !m->params[i].info.linear) {
        return RV_FAIL(e, RV_EARG, "no adapter goes beside %s: it is no linear layer's weight",
                       i < 0 || i >= m->n_params ? "nothing" : m->params[i].info.role);
    }
    const rv_param *w = &m->params[i];
    if (m->ready) {
        return RV_FAIL(e, RV_EARG, "%s: adapters are added before parameters are set",
                       w->info.role);
    }
    if (w->layer->lora_a >= 0) {
        return RV_FAIL(e, RV_EARG, "%s has an adapter already", w->info.role);
    }
    if (r < 1 || r > 1 << 14) {
        return RV_FAIL(e, RV_EARG, "%s: an adapter of rank %d, wanted 1 to %d", w->info.role, r,
                       1 << 14);
    }
    w->layer->lora_a = add(m, w, "lora_a", r, w->w.k, train);
    w->layer->lora_b = add(m, w, "lora_b", w->w.n, r, train);
    w->layer->lora_scale = scale;
    return RV_OK;
}

void rv_vlm_lora_enable(rv_vlm *m, bool on) {
    m->lora_on = on;
    m->resident = -1;
}
