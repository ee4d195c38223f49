// layer.c - linear layers and norms by parameter numbers: what is trained, what stands beside.
#include "model.h"

static const rv_adapter *adapter_of(const rv_vlm *m, const rv_layer *l) {
    const rv_adapter *a = m->lora < 0 ? NULL : &m->params[l->weight].lora[m->lora];
    return a && a->a ? a : NULL;
}

// The layer's bias, with its adapter's on top.
static rv_dev bias_of(rv_vlm *m, const rv_layer *l, const rv_adapter *a) {
    const rv_dev own = l->bias >= 0 ? m->params[l->bias].value : (rv_dev){0};
    if (!a || !a->bias) {
        return own;
    }
    const rv_param *more = &m->params[a->bias];
    const size_t bytes = (size_t)more->elems * sizeof(float);
    if (rv_dev_none(own)) {
        m->be->zero(m->ctx, m->lora_bias, bytes);
    } else {
        m->be->copy(m->ctx, m->lora_bias, own, bytes);
    }
    m->be->axpy(m->ctx, m->lora_bias, more->value, a->scale, more->elems);
    return m->lora_bias;
}

// The backend's description of a layer; `lora` is where the adapter's is put.
static rv_linear describe(rv_vlm *m, const rv_layer *l, rv_lora *lora, rv_dev lora_h) {
    const rv_adapter *a = adapter_of(m, l);
    rv_linear d = {.w = &m->params[l->weight].w};
    if (a) {
        *lora = (rv_lora){&m->params[a->a].w, &m->params[a->b].w, a->scale};
        d.lora = lora;
        d.lora_h = lora_h;
    }
    return d;
}

void rv_layer_forward(rv_vlm *m, const rv_layer *l, rv_dev y, rv_dev x, int64_t rows, rv_act act,
                      rv_dev pre, rv_dev residual, rv_dev lora_h) {
    rv_lora lora;
    rv_linear d = describe(m, l, &lora, lora_h);
    d.bias = bias_of(m, l, adapter_of(m, l));
    d.act = act;
    d.pre = pre;
    d.residual = residual;
    m->be->linear(m->ctx, y, x, rows, &d);
}

void rv_layers_forward(rv_vlm *m, const rv_layer *l, int n, const rv_dev *y, rv_dev x, int64_t rows,
                       const rv_dev *lora_h) {
    rv_lora lora[RV_LINEARS];
    rv_linear d[RV_LINEARS];
    bool one_by_one = false; // adapters' biases share their place
    for (int i = 0; i < n; i++) {
        const rv_adapter *a = adapter_of(m, &l[i]);
        one_by_one = one_by_one || (a && a->bias);
    }
    for (int i = 0; i < n; i++) {
        if (one_by_one) {
            rv_layer_forward(m, &l[i], y[i], x, rows, RV_ACT_NONE, (rv_dev){0}, (rv_dev){0},
                             lora_h[i]);
        } else {
            d[i] = describe(m, &l[i], &lora[i], lora_h[i]);
            d[i].bias = bias_of(m, &l[i], NULL);
        }
    }
    if (!one_by_one) {
        m->be->linears(m->ctx, y, x, rows, d, n);
    }
}

void rv_layer_remember(rv_vlm *m, const rv_layer *l, rv_dev x, int64_t rows, rv_dev lora_h) {
    const rv_adapter *a = adapter_of(m, l);
    if (a) {
        const rv_linear d = {.w = &m->params[a->a].w};
        m->be->linear(m->ctx, lora_h, x, rows, &d);
    }
}

// lora_g = scale dy B, where no dx asks for it.
static void find_lora_g(rv_vlm *m, const rv_adapter *a, rv_dev dy, int64_t rows, rv_dev lora_g) {
    const rv_weight *b = &m->params[a->b].w;
    rv_linear d = {.w = b};
    m->be->linear_dx(m->ctx, lora_g, dy, rows, &d, (rv_dev){0}, false);
    m->be->scale(m->ctx, lora_g, a->scale, rows * b->k);
}

// Adds to the gradients of the adapter that `d` describes.
static void adapter_backward(rv_vlm *m, const rv_adapter *a, const rv_linear *d, rv_dev dy,
                             rv_dev x, int64_t rows, rv_dev lora_g) {
    m->be->lora_dw(m->ctx, m->params[a->a].grad, m->params[a->b].grad, dy, x, lora_g, rows, d);
    if (a->bias) {
        const rv_param *bias = &m->params[a->bias];
        m->be->zero(m->ctx, m->lora_bias, (size_t)bias->elems * sizeof(float));
        m->be->linear_dw(m->ctx, (rv_dev){0}, m->lora_bias, dy, x, rows, d->w);
        m->be->axpy(m->ctx, bias->grad, m->lora_bias, a->scale, bias->elems);
    }
}

void rv_layer_backward(rv_vlm *m, const rv_layer *l, rv_dev dx, bool add, rv_dev dy, rv_dev x,
                       int64_t rows, rv_dev lora_h, rv_dev lora_g) {
    const rv_param *w = &m->params[l->weight];
    const rv_adapter *a = adapter_of(m, l);
    const bool learns = a && m->params[a->a].info.trained;
    rv_lora lora;
    rv_linear d = describe(m, l, &lora, lora_h);
    if (!rv_dev_none(dx)) {
        m->be->linear_dx(m->ctx, dx, dy, rows, &d, lora_g, add);
    } else if (learns) {
        find_lora_g(m, a, dy, rows, lora_g);
    }
    const rv_dev db = l->bias >= 0 ? m->params[l->bias].grad : (rv_dev){0};
    if (!rv_dev_none(w->grad) || !rv_dev_none(db)) {
        m->be->linear_dw(m->ctx, w->grad, db, dy, x, rows, &w->w);
    }
    if (learns) {
        adapter_backward(m, a, &d, dy, x, rows, lora_g);
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
    const rv_dev dw = w->grad;
    if (n->bias >= 0) {
        const rv_dev db = m->params[n->bias].grad;
        m->be->layernorm_backward(m->ctx, dx, dw, db, dy, x, w->value, rows, width, eps, add);
    } else {
        m->be->rmsnorm_backward(m->ctx, dx, dw, dy, x, w->value, rows, width, eps, add);
    }
}
