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

static rv_status positive(const char *name, float x, rv_err *e) {
    return x > 0 ? RV_OK
                 : RV_FAIL(e, RV_EARG, "%s is %g: wanted a positive number", name, (double)x);
}

// A field that may be zero: none.
static rv_status at_least_zero(const char *name, int value, rv_err *e) {
    return value >= 0 ? RV_OK
                      : RV_FAIL(e, RV_EARG, "%s is %d: wanted 0 (none) or more", name, value);
}

// Switches of the tower that don't go together.
static rv_status check_switches(const rv_arch_vision *v, const rv_arch_connector *c, rv_err *e) {
    if (v->drop_class && !v->class_token) {
        return RV_FAIL(e, RV_EARG, "vision.drop_class is set, but vision.class_token is not");
    }
    if (v->class_token && (v->merge > 1 || v->window || v->rope_theta > 0)) {
        return RV_FAIL(e, RV_EUNSUPPORTED,
                       "vision.class_token goes with no merge, window or rope_theta");
    }
    if (v->class_token && !v->positions) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "vision.class_token goes with learned positions only");
    }
    if (v->gated && v->act != RV_ACT_SILU) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "vision.act: only silu is built in for a gated MLP");
    }
    if (v->full && !v->window) {
        return RV_FAIL(e, RV_EARG, "vision.full names layers, but vision.window is 0");
    }
    if (v->window && v->layers > RV_MAX_VISION_LAYERS) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "vision.layers is %d: wanted at most %d with windows",
                       v->layers, RV_MAX_VISION_LAYERS);
    }
    if (v->window && v->layers < RV_MAX_VISION_LAYERS && v->full >> v->layers) {
        return RV_FAIL(e, RV_EARG, "vision.full names a layer behind the last of %d", v->layers);
    }
    return c->norm == RV_NORM_NONE ? RV_OK : positive("connector.eps", c->eps, e);
}

static rv_status check_connector(const rv_arch *a, rv_err *e) {
    const rv_arch_connector *c = &a->connector;
    int64_t in = (int64_t)a->vision.width * a->vision.merge * a->vision.merge;
    RV_TRY(at_least_zero("connector.hidden", c->hidden, e));
    if (c->hidden > MOST) {
        return RV_FAIL(e, RV_EARG, "connector.hidden is %d: wanted at most %d", c->hidden, MOST);
    }
    if (c->in != in) {
        return RV_FAIL(e, RV_EARG,
                       "connector.in is %d, but vision.width times merge squared is %lld", c->in,
                       (long long)in);
    }
    if (c->out != a->text.width) {
        return RV_FAIL(e, RV_EARG, "connector.out is %d, but text.width is %d", c->out,
                       a->text.width);
    }
    return RV_OK;
}

// The tower's rotary angles: half of a head's pairs turn by the row, half by the column.
static rv_status check_turning(const rv_arch_vision *v, rv_err *e) {
    if (v->rope_theta < 0) {
        return RV_FAIL(e, RV_EARG, "vision.rope_theta is %g: wanted 0 (none) or more",
                       (double)v->rope_theta);
    }
    if (v->rope_theta > 0 && v->width / v->heads % 4) {
        return RV_FAIL(e, RV_EARG,
                       "vision heads of %d numbers: wanted a multiple of 4 for rotary "
                       "angles",
                       v->width / v->heads);
    }
    return RV_OK;
}

static rv_status check_grid(const rv_arch_vision *v, rv_err *e) {
    if (v->temporal > 2 || v->merge > 1 << 6 || v->patch > 1 << 10) {
        return RV_FAIL(e, RV_EARG,
                       "vision.temporal %d, merge %d, patch %d: wanted at most 2, 64 and 1024",
                       v->temporal, v->merge, v->patch);
    }
    if (v->image_size && (v->image_size < v->patch || v->image_size > 1 << 14)) {
        return RV_FAIL(e, RV_EARG, "vision.image_size is %d: wanted %d (vision.patch) to %d",
                       v->image_size, v->patch, 1 << 14);
    }
    if (v->image_size) {
        RV_TRY(divides("vision.merge", v->merge, "the patches of a side", v->image_size / v->patch,
                       e));
    }
    RV_TRY(at_least_zero("vision.positions", v->positions, e));
    RV_TRY(at_least_zero("vision.window", v->window, e));
    if (v->positions > 1 << 12) {
        return RV_FAIL(e, RV_EARG, "vision.positions is %d: wanted at most %d", v->positions,
                       1 << 12);
    }
    return RV_OK;
}

static rv_status check_vision(const rv_arch *a, rv_err *e) {
    const rv_arch_vision *v = &a->vision;
    const field fields[] = {
        {"vision.patch", v->patch},
        {"vision.temporal", v->temporal},
        {"vision.merge", v->merge},
        {"vision.width", v->width},
        {"vision.layers", v->layers},
        {"vision.heads", v->heads},
        {"vision.mlp", v->mlp},
        {"connector.in", a->connector.in},
        {"connector.out", a->connector.out},
        {"max_view_patches", a->max_view_patches},
        {"max_view_rows", a->max_view_rows},
    };
    RV_TRY(in_range(fields, (int)(sizeof fields / sizeof *fields), e));
    RV_TRY(positive("vision.eps", v->eps, e));
    RV_TRY(divides("vision.heads", v->heads, "vision.width", v->width, e));
    RV_TRY(check_grid(v, e));
    RV_TRY(check_turning(v, e));
    RV_TRY(check_switches(v, &a->connector, e));
    return check_connector(a, e);
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
    RV_TRY(positive("text.eps", t->eps, e));
    RV_TRY(at_least_zero("text.window", t->window, e));
    if (t->act != RV_ACT_SILU) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "text.act: only silu is built in for the gated MLP");
    }
    RV_TRY(rv_rotary_check(t, e));
    return a->vision.width ? check_vision(a, e) : RV_OK;
}
