// connector.c - the MLP from the vision tower's rows to the decoder's: down(act(up(x))).
#include "model.h"

static const rv_dev none = {0};

rv_status rv_features_forward(rv_vlm *m, const float *pixels, int64_t n, bool keep, rv_err *e) {
    int64_t rows = n * m->arch.image_tokens;
    bool vision = keep && rv_vlm_flows(m, m->stage_connector);
    bool kept = keep && rv_vlm_flows(m, m->stage_embed);
    RV_TRY(rv_vision_forward(m, m->seen, pixels, n, vision, e));
    rv_layer_forward(m, &m->connector[0], m->connector_h, m->seen, rows, m->arch.connector.act,
                     kept ? m->connector_pre : none, none, m->connector_lora_h[0]);
    rv_layer_forward(m, &m->connector[1], m->features, m->connector_h, rows, RV_ACT_NONE, none,
                     none, m->connector_lora_h[1]);
    return RV_OK;
}

rv_status rv_features_backward(rv_vlm *m, const float *pixels, int64_t n, rv_err *e) {
    const rv_arch_connector *c = &m->arch.connector;
    int64_t rows = n * m->arch.image_tokens;
    bool vision = rv_vlm_flows(m, m->stage_connector);
    bool hidden = rv_vlm_flows(m, m->stage_connector + 1);
    m->be->act(m->ctx, m->connector_h, m->connector_pre, rows * c->hidden, c->act);
    rv_layer_backward(m, &m->connector[1], hidden ? m->dconnector : none, false, m->dfeatures,
                      m->connector_h, rows, m->connector_lora_h[1], m->connector_lora_g[1]);
    if (hidden) {
        m->be->act_backward(m->ctx, m->dconnector, m->dconnector, m->connector_pre,
                            rows * c->hidden, c->act);
        rv_layer_backward(m, &m->connector[0], vision ? m->dseen : none, false, m->dconnector,
                          m->seen, rows, m->connector_lora_h[0], m->connector_lora_g[0]);
    }
    return vision ? rv_vision_backward(m, m->dseen, pixels, n, e) : RV_OK;
}
