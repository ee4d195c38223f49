// arch.c - which numbers make a model.
#include "arch.h"

#include "model.h"
#include "positions.h"

// No dimension of a model comes near: products stay far below 2^63.
enum { MOST = 1 << 24, MOST_LAYERS = 1 << 12 };

typedef struct {
    const char *name;
    int value;
} field;

static rv_status in_range(const field *f, int n, rv_err *e) {
    for (int i = 0; i < n; i++) {
        if (f[i].value < 1 || f[i].value > MOST) {
            return RV_FAIL(e, RV_EARG, "%s is %d: wanted a number from 1 to %d", f[i].name,
                           f[i].value, MOST);
        }
    }
    return RV_OK;
}

static rv_status divides(const char *part, int p, const char *whole, int w, rv_err *e) {
    return w % p == 0 ? RV_OK
                      : RV_FAIL(e, RV_EARG, "%s (%d) does not divide %s (%d)", part, p, whole, w);
}

// Rows of features that one image gives.
static int feature_rows(const rv_arch_vision *v) {
    int side = v->image_size / v->patch;
    return side * side + (v->class_token && !v->drop_class);
}

static rv_status check_vision(const rv_arch *a, rv_err *e) {
    const rv_arch_vision *v = &a->vision;
    const rv_arch_connector *c = &a->connector;
    const field fields[] = {
        {"vision.image_size", v->image_size},
        {"vision.patch", v->patch},
        {"vision.width", v->width},
        {"vision.layers", v->layers},
        {"vision.heads", v->heads},
        {"vision.mlp", v->mlp},
        {"connector.in", c->in},
        {"connector.hidden", c->hidden},
        {"connector.out", c->out},
    };
    RV_TRY(in_range(fields, (int)(sizeof fields / sizeof *fields), e));
    RV_TRY(divides("vision.heads", v->heads, "vision.width", v->width, e));
    if (v->image_size < v->patch || v->image_size > 1 << 14) {
        return RV_FAIL(e, RV_EARG, "vision.image_size is %d: wanted %d (vision.patch) to %d",
                       v->image_size, v->patch, 1 << 14);
    }
    if (c->in != v->width) {
        return RV_FAIL(e, RV_EARG, "connector.in is %d, but vision.width is %d", c->in, v->width);
    }
    if (c->out != a->text.width) {
        return RV_FAIL(e, RV_EARG, "connector.out is %d, but text.width is %d", c->out,
                       a->text.width);
    }
    if (v->drop_class && !v->class_token) {
        return RV_FAIL(e, RV_EARG, "vision.drop_class is set, but vision.class_token is not");
    }
    if (a->image_tokens != feature_rows(v)) {
        return RV_FAIL(e, RV_EARG, "image_tokens is %d, but the vision tower gives %d rows",
                       a->image_tokens, feature_rows(v));
    }
    return RV_OK;
}

rv_status rv_arch_check(const rv_arch *a, rv_err *e) {
    const rv_arch_text *t = &a->text;
    const field fields[] = {
        {"text.vocab", t->vocab},       {"text.width", t->width},
        {"text.layers", t->layers},     {"text.heads", t->heads},
        {"text.kv_heads", t->kv_heads}, {"text.head_dim", t->head_dim},
        {"text.mlp", t->mlp},           {"text.max_positions", t->max_positions},
    };
    RV_TRY(in_range(fields, (int)(sizeof fields / sizeof *fields), e));
    if (t->layers > MOST_LAYERS || a->vision.layers > MOST_LAYERS) {
        return RV_FAIL(e, RV_EARG, "%d + %d layers: wanted at most %d in a tower", a->vision.layers,
                       t->layers, MOST_LAYERS);
    }
    RV_TRY(divides("text.kv_heads", t->kv_heads, "text.heads", t->heads, e));
    if (t->head_dim % 2) {
        return RV_FAIL(e, RV_EARG, "text.head_dim is %d: wanted an even number", t->head_dim);
    }
    if (!(t->eps > 0) || (a->vision.width && !(a->vision.eps > 0))) {
        return RV_FAIL(e, RV_EARG, "%s.eps is %g: wanted a positive number",
                       t->eps > 0 ? "vision" : "text",
                       (double)(t->eps > 0 ? a->vision.eps : t->eps));
    }
    if (t->window < 0) {
        return RV_FAIL(e, RV_EARG, "text.window is %d: wanted 0 (none) or more", t->window);
    }
    if (t->act != RV_ACT_SILU) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "text.act: only silu is built in for the gated MLP");
    }
    RV_TRY(rv_rotary_check(t, e));
    return a->vision.width ? check_vision(a, e) : RV_OK;
}
