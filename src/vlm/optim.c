// optim.c - gradients as a whole and the AdamW step.
#include <math.h>

#include "model.h"

enum { GRADIENTS = 1 }; // the arena of gradients: one stretch of memory, its padding zero

void rv_vlm_zero_grad(rv_vlm *m) {
    if (m->grad_bytes) {
        m->be->zero(m->ctx, m->memory[GRADIENTS], m->grad_bytes);
    }
}

double rv_vlm_grad_norm(rv_vlm *m) {
    double sum = 0;
    if (m->grad_bytes) {
        m->be->sum_squares(m->ctx, &sum, m->memory[GRADIENTS],
                           (int64_t)(m->grad_bytes / sizeof(float)));
    }
    return sqrt(sum);
}

static rv_status not_finite(rv_vlm *m, rv_err *e) {
    for (int64_t i = 0; i < m->n_params; i++) {
        const rv_param *p = &m->params[i];
        double sum = 0;
        if (p->info.trained) {
            m->be->sum_squares(m->ctx, &sum, p->grad, p->elems);
        }
        if (!isfinite(sum)) {
            return RV_FAIL(e, RV_ENUMERIC, "the gradient of %s is not finite", p->info.role);
        }
    }
    return RV_FAIL(e, RV_ENUMERIC, "the gradient's norm is not finite");
}

rv_status rv_vlm_adamw(rv_vlm *m, const rv_adamw *how, float value_lr, rv_err *e) {
    RV_TRY(rv_vlm_ready(m, e));
    if (!isfinite(rv_vlm_grad_norm(m)) || !isfinite(how->grad_scale)) {
        return not_finite(m, e);
    }
    rv_vlm_forget(m);
    for (int64_t i = 0; i < m->n_params; i++) {
        rv_param *p = &m->params[i];
        if (!p->info.trained) {
            continue;
        }
        rv_adamw step = *how;
        step.lr = p->info.part == RV_PART_VALUE ? value_lr : how->lr;
        m->be->adamw(m->ctx, p->value, p->grad, p->m, p->v, p->elems, &step);
        if (p->info.matrix) {
            m->be->weight_refresh(m->ctx, &p->w, p->value);
        }
    }
    m->epoch++;
    return RV_OK;
}

// Spread, so that it tells the adapter in use.
uint64_t rv_vlm_epoch(const rv_vlm *m) {
    return (RV_ADAPTERS + 1) * m->epoch + (uint64_t)(m->lora + 1);
}
