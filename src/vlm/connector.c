// connector.c - from the vision tower's rows to the decoder's: the norm before the merge, one or
// two linear layers, and the newline row.
//
// The tower's rows are brought together image row by image row first, so what follows is computed
// for the rows that the prompts show and no others.
#include "model.h"

static const rv_dev none = {0};

// The rows that the first linear layer reads: normalised where the connector has a norm.
static rv_dev merged(rv_vlm *m) {
    const rv_arch_vision *v = &m->arch.vision;
    if (m->merge_norm.weight < 0) {
        return m->seen;
    }
    rv_norm_forward(m, &m->merge_norm, m->merged, m->seen, m->n_source * v->merge * v->merge,
                    v->width, m->arch.connector.eps);
    return m->merged;
}

static void put_newlines(rv_vlm *m) {
    size_t row = (size_t)m->arch.connector.out * sizeof(float);
    for (int64_t i = 0; m->newline >= 0 && i < m->n_source; i++) {
        if (m->source[i] < 0) {
            m->be->copy(m->ctx, rv_dev_at(m->features, i * (int64_t)row),
                        m->params[m->newline].value, row);
        }
    }
}

rv_status rv_features_forward(rv_vlm *m, const rv_view *views, int64_t n, bool keep, rv_err *e) {
    const rv_arch_connector *c = &m->arch.connector;
    bool vision = keep && rv_vlm_flows(m, m->stage_connector);
    bool kept = keep && rv_vlm_flows(m, m->stage_embed);
    RV_TRY(rv_vision_plan(m, views, n, e));
    if (m->newline >= 0) { // its rows see nothing
        m->be->zero(m->ctx, m->seen, (size_t)(m->n_source * c->in) * sizeof(float));
    }
    RV_TRY(rv_vision_forward(m, m->seen, vision, e));
    rv_dev x = merged(m);
    if (c->hidden) {
        rv_layer_forward(m, &m->connector[0], m->connector_h, x, m->n_source, c->act,
                         kept ? m->connector_pre : none, none, m->connector_lora_h[0]);
        rv_layer_forward(m, &m->connector[1], m->features, m->connector_h, m->n_source, RV_ACT_NONE,
                         none, none, m->connector_lora_h[1]);
    } else {
        rv_layer_forward(m, &m->connector[0], m->features, x, m->n_source, RV_ACT_NONE, none, none,
                         m->connector_lora_h[0]);
    }
    put_newlines(m);
    return RV_OK;
}

// The newline's gradient; its rows go no further.
static void newlines_backward(rv_vlm *m) {
    int64_t width = m->arch.connector.out, row = width * (int64_t)sizeof(float);
    const rv_param *p = &m->params[m->newline];
    for (int64_t i = 0; i < m->n_source; i++) {
        m->take[i] = m->source[i] < 0 ? 0 : -1;
    }
    if (p->info.trained) {
        m->be->scatter_add_rows(m->ctx, p->grad, m->dfeatures, m->take, m->n_source, width);
    }
    for (int64_t i = 0; i < m->n_source; i++) {
        if (m->source[i] < 0) {
            m->be->zero(m->ctx, rv_dev_at(m->dfeatures, i * row), (size_t)row);
        }
    }
}

// Through the second linear layer: the gradient of the first one's output.
static rv_dev hidden_backward(rv_vlm *m) {
    const rv_arch_connector *c = &m->arch.connector;
    bool flows = rv_vlm_flows(m, m->stage_connector + 2);
    m->be->act(m->ctx, m->connector_h, m->connector_pre, m->n_source * c->hidden, c->act);
    rv_layer_backward(m, &m->connector[1], flows ? m->dconnector : none, false, m->dfeatures,
                      m->connector_h, m->n_source, m->connector_lora_h[1], m->connector_lora_g[1]);
    if (flows) {
        m->be->act_backward(m->ctx, m->dconnector, m->dconnector, m->connector_pre,
                            m->n_source * c->hidden, c->act);
    }
    return m->dconnector;
}

rv_status rv_features_backward(rv_vlm *m, const rv_view *views, int64_t n, rv_err *e) {
    const rv_arch_connector *c = &m->arch.connector;
    const rv_arch_vision *v = &m->arch.vision;
    bool vision = rv_vlm_flows(m, m->stage_connector), norm = m->merge_norm.weight >= 0;
    bool first = rv_vlm_flows(m, m->stage_connector + 1);
    RV_TRY(rv_vision_plan(m, views, n, e));
    if (m->newline >= 0) {
        newlines_backward(m);
    }
    rv_dev dy = c->hidden ? hidden_backward(m) : m->dfeatures;
    if (!rv_vlm_flows(m, m->stage_connector + 2)) {
        return RV_OK;
    }
    rv_dev dx = norm ? (first ? m->dmerged : none) : vision ? m->dseen : none;
    rv_layer_backward(m, &m->connector[0], dx, false, dy, merged(m), m->n_source,
                      m->connector_lora_h[0], m->connector_lora_g[0]);
    if (norm && first) {
        rv_norm_backward(m, &m->merge_norm, m->dseen, m->dmerged, m->seen,
                         m->n_source * v->merge * v->merge, v->width, c->eps, false);
    }
    return vision ? rv_vision_backward(m, m->dseen, e) : RV_OK;
}
