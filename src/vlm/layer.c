// layer.c - linear layers and norms by parameter numbers: what is trained, what stands beside.
#include "model.h"

static bool adapted(const rv_vlm *m, const rv_layer *l) { return m->lora_on && l->lora_a >= 0; }

// The backend's description of a layer; `lora` is where the adapter's is put.
static rv_linear describe(const rv_vlm *m, const rv_layer *l, rv_lora *lora, rv_dev lora_h) {
    rv_linear d = {.w = &m->params[l->weight].w};
    if (l->bias >= 0) {
        d.bias = m->params[l->bias].value;
    }
    if (adapted(m, l)) {
        *lora = (rv_lora){&m->params[l->lora_a].w, &m->params[l->lora_b].w, l->lora_scale};
        d.lora = lora;
        d.lora_h = lora_h;
    }
    return d;
}

void rv_layer_forward(rv_vlm *m, const rv_layer *l, rv_dev y, rv_dev x, int64_t rows, rv_act act,
                      rv_dev pre, rv_dev residual, rv_dev lora_h) {
    rv_lora lora;
    rv_linear d = describe(m, l, &lora, lora_h);
    d.act = act;
    d.pre = pre;
    d.residual = residual;
    m->be->linear(m->ctx, y, x, rows, &d);
}

// lora_g = scale dy B, where no dx asks for it.
static void adapter_gradient(rv_vlm *m, const rv_layer *l, rv_dev dy, int64_t rows, rv_dev lora_g) {
    const rv_weight *b = &m->params[l->lora_b].w;
    rv_linear d = {.w = b};
    m->be->linear_dx(m->ctx, lora_g, dy, rows, &d, (rv_dev){0}, false);
    m->be->scale(m->ctx, lora_g, l->lora_scale, rows * b->k);
}

void rv_layer_backward(rv_vlm *m, const rv_layer *l, rv_dev dx, bool add, rv_dev dy, rv_dev x,
                       int64_t rows, rv_dev lora_h, rv_dev lora_g) {
    const rv_param *w = &m->params[l->weight];
    bool learns = adapted(m, l) && m->params[l->lora_a].info.trained;
    rv_lora lora;
    rv_linear d = describe(m, l, &lora, lora_h);
    if (!rv_dev_none(dx)) {
        m->be->linear_dx(m->ctx, dx, dy, rows, &d, lora_g, add);
    } else if (learns) {
        adapter_gradient(m, l, dy, rows, lora_g);
    }
    if (w->info.trained) {
        rv_dev db = l->bias >= 0 ? m->params[l->bias].grad : (rv_dev){0};
        m->be->linear_dw(m->ctx, w->grad, db, dy, x, rows, &w->w);
    }
    if (learns) {
        m->be->lora_dw(m->ctx, m->params[l->lora_a].grad, m->params[l->lora_b].grad, dy, x, lora_g,
                       rows, &d);
    }
}

void rv_norm_forward(rv_vlm *m, const rv_norm *n, rv_dev y, rv_dev x, int64_t rows, int64_t width,
                     float eps) {
    rv_dev w = m->params[n->weight].value;
    if (n->bias >= 0) {
        m->be->layernorm(m->ctx, y, x, w, m->params[n->bias].value, rows, width, eps);
    } else {
        m->be->rmsnorm(m->ctx, y, x, w, rows, width, eps);
    }
}

void rv_norm_backward(rv_vlm *m, const rv_norm *n, rv_dev dx, rv_dev dy, rv_dev x, int64_t rows,
                      int64_t width, float eps, bool add) {
    const rv_param *w = &m->params[n->weight];
    rv_dev dw = w->info.trained ? w->grad : (rv_dev){0};
    if (n->bias >= 0) {
        rv_dev db = w->info.trained ? m->params[n->bias].grad : (rv_dev){0};
        m->be->layernorm_backward(m->ctx, dx, dw, db, dy, x, w->value, rows, width, eps, add);
    } else {
        m->be->rmsnorm_backward(m->ctx, dx, dw, dy, x, w->value, rows, width, eps, add);
    }
}
