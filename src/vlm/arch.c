// arch.c - which numbers make a model, and the decoder's rotary angles.
#include "arch.h"

#include <math.h>

#include "model.h"

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

static rv_status check_rope(const rv_arch_text *t, rv_err *e) {
    if (!(t->rope_theta > 0)) {
        return RV_FAIL(e, RV_EARG, "text.rope_theta is %g: wanted a positive number",
                       (double)t->rope_theta);
    }
    if (t->rope != RV_ROPE_PLAIN && !(t->rope_factor > 0)) {
        return RV_FAIL(e, RV_EARG, "text.rope_factor is %g: wanted a positive number",
                       (double)t->rope_factor);
    }
    if (t->rope == RV_ROPE_LLAMA3 &&
        (!(t->rope_low_freq > 0) || !(t->rope_high_freq > t->rope_low_freq) ||
         t->rope_original_positions < 1)) {
        return RV_FAIL(e, RV_EARG,
                       "llama3 rope: wanted 0 < rope_low_freq < rope_high_freq and "
                       "rope_original_positions > 0, got %g, %g and %d",
                       (double)t->rope_low_freq, (double)t->rope_high_freq,
                       t->rope_original_positions);
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
    RV_TRY(check_rope(t, e));
    return a->vision.width ? check_vision(a, e) : RV_OK;
}

// Llama 3's scaling: long waves are slowed by `factor`, short ones kept, a ramp in between.
static float llama3(const rv_arch_text *t, float freq) {
    float old = (float)t->rope_original_positions, wave = 6.2831853f / freq;
    if (wave < old / t->rope_high_freq) {
        return freq;
    }
    if (wave > old / t->rope_low_freq) {
        return freq / t->rope_factor;
    }
    float smooth = (old / wave - t->rope_low_freq) / (t->rope_high_freq - t->rope_low_freq);
    return (1 - smooth) * freq / t->rope_factor + smooth * freq;
}

// Frequencies and angles are rounded to fp32 where transformers rounds them; cos and sin of that
// angle are taken in double.
void rv_arch_angles(const rv_arch_text *t, float *out, int64_t positions) {
    int half = t->head_dim / 2;
    for (int i = 0; i < half; i++) {
        float power = (float)(2 * i) / (float)t->head_dim;
        float freq = 1.0f / (float)pow((double)t->rope_theta, (double)power);
        freq = t->rope == RV_ROPE_LINEAR   ? freq / t->rope_factor
               : t->rope == RV_ROPE_LLAMA3 ? llama3(t, freq)
                                           : freq;
        for (int64_t p = 0; p < positions; p++) {
            double angle = (double)((float)p * freq);
            out[(p * half + i) * 2] = (float)cos(angle);
            out[(p * half + i) * 2 + 1] = (float)sin(angle);
        }
    }
}
