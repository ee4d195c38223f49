#include "positions.h"

#include <math.h>

#include "model.h"

// ---- places ----

static bool three_axes(const rv_arch_text *t) { return t->mrope[0] + t->mrope[1] + t->mrope[2]; }

static rv_place at_all(int32_t i) { return (rv_place){{i, i, i}}; }

static int32_t largest(int32_t a, int32_t b) { return a > b ? a : b; }

int32_t rv_places(rv_place *out, const rv_arch *a, const int32_t *ids, int64_t n,
                  const rv_view **views) {
    const bool grids = three_axes(&a->text);
    const int32_t m = a->vision.merge > 0 ? a->vision.merge : 1;
    int32_t next = 0;
    int64_t row = 0; // of the image at hand
    for (int64_t i = 0; i < n; i++) {
        if (!grids || ids[i] != a->image_token) {
            out[i] = at_all(next++);
            continue;
        }
        const rv_view *v = *views;
        int32_t h = v->h / m, w = v->w / m;
        int32_t tile = (int32_t)(row / (h * w)), inside = (int32_t)(row % (h * w));
        out[i] = (rv_place){{next + tile, next + inside / w, next + inside % w}};
        if (++row == v->rows) {
            next += largest(v->tiles, largest(h, w));
            row = 0;
            *views = v + 1;
        }
    }
    return next;
}

// ---- angles ----

static rv_status check_sections(const rv_arch_text *t, rv_err *e) {
    int64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        if (t->mrope[i] < 0) {
            return RV_FAIL(e, RV_EARG, "text.mrope: section %d is %d: wanted 0 or more", i + 1,
                           t->mrope[i]);
        }
        sum += t->mrope[i];
    }
    if (sum && sum != t->head_dim / 2) {
        return RV_FAIL(e, RV_EARG,
                       "text.mrope: %d + %d + %d frequencies, but text.head_dim %d has %d",
                       t->mrope[0], t->mrope[1], t->mrope[2], t->head_dim, t->head_dim / 2);
    }
    return RV_OK;
}

static rv_status check_llama3(const rv_arch_text *t, rv_err *e) {
    if (t->rope_low_freq > 0 && t->rope_high_freq > t->rope_low_freq &&
        t->rope_original_positions >= 1) {
        return RV_OK;
    }
    return RV_FAIL(e, RV_EARG,
                   "llama3 rope: wanted 0 < rope_low_freq < rope_high_freq and "
                   "rope_original_positions > 0, got %g, %g and %d",
                   (double)t->rope_low_freq, (double)t->rope_high_freq, t->rope_original_positions);
}

static rv_status check_yarn(const rv_arch_text *t, rv_err *e) {
    if (t->rope_slow > 0 && t->rope_fast >= t->rope_slow && t->rope_attention > 0 &&
        t->rope_original_positions >= 1 && t->rope_theta > 1) {
        return RV_OK;
    }
    return RV_FAIL(e, RV_EARG,
                   "yarn rope: wanted 0 < rope_slow <= rope_fast, rope_attention > 0 and "
                   "rope_original_positions > 0, got %g, %g, %g and %d",
                   (double)t->rope_slow, (double)t->rope_fast, (double)t->rope_attention,
                   t->rope_original_positions);
}

rv_status rv_rotary_check(const rv_arch_text *t, rv_err *e) {
    if (!(t->rope_theta > 0)) {
        return RV_FAIL(e, RV_EARG, "text.rope_theta is %g: wanted a positive number",
                       (double)t->rope_theta);
    }
    if (t->rope != RV_ROPE_PLAIN && !(t->rope_factor > 0)) {
        return RV_FAIL(e, RV_EARG, "text.rope_factor is %g: wanted a positive number",
                       (double)t->rope_factor);
    }
    RV_TRY(check_sections(t, e));
    return t->rope == RV_ROPE_LLAMA3 ? check_llama3(t, e)
           : t->rope == RV_ROPE_YARN ? check_yarn(t, e)
                                     : RV_OK;
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

// The index, a real number, of the frequency that turns so often within the original positions.
static double yarn_index(const rv_arch_text *t, float turns) {
    double wave = (double)t->rope_original_positions / ((double)turns * 6.283185307179586);
    return t->head_dim * log(wave) / (2 * log((double)t->rope_theta));
}

// YaRN (Peng et al. 2023, section 3.2): frequencies that turn often are kept, those that turn
// seldom are slowed by `factor`, a ramp over the index `i` in between. `wave` is 1 / frequency.
static float yarn(const rv_arch_text *t, int i, float wave) {
    double from = fmax(floor(yarn_index(t, t->rope_fast)), 0);
    double to = fmin(ceil(yarn_index(t, t->rope_slow)), t->head_dim - 1);
    double width = from == to ? 0.001 : to - from; // as transformers: no division by zero
    float slow = fminf(fmaxf(((float)i - (float)from) / (float)width, 0), 1);
    return 1 / (t->rope_factor * wave) * slow + 1 / wave * (1 - slow);
}

static float frequency(const rv_arch_text *t, int i) {
    float power = (float)(2 * i) / (float)t->head_dim;
    float wave = (float)pow((double)t->rope_theta, (double)power);
    switch (t->rope) {
    case RV_ROPE_LINEAR:
        return 1 / wave / t->rope_factor;
    case RV_ROPE_LLAMA3:
        return llama3(t, 1 / wave);
    case RV_ROPE_YARN:
        return yarn(t, i, wave);
    default:
        return 1 / wave;
    }
}

// Frequencies and angles are rounded to fp32 where transformers rounds them; cos and sin of that
// angle are taken in double. YaRN lengthens queries and keys by rope_attention.
void rv_rotary_table(const rv_arch_text *t, float *out, int64_t positions) {
    const int half = t->head_dim / 2;
    const float length = t->rope == RV_ROPE_YARN ? t->rope_attention : 1;
    for (int i = 0; i < half; i++) {
        const float freq = frequency(t, i);
        for (int64_t p = 0; p < positions; p++) {
            double angle = (double)((float)p * freq);
            out[(p * half + i) * 2] = (float)cos(angle) * length;
            out[(p * half + i) * 2 + 1] = (float)sin(angle) * length;
        }
    }
}

static int common(int a, int b) { return b ? common(b, a % b) : a; }

int rv_rotary_pieces(const rv_arch_text *t) {
    const int *s = t->mrope;
    return three_axes(t) ? t->head_dim / 2 / common(s[0], common(s[1], s[2])) : 1;
}

void rv_rotary_rows(const rv_arch_text *t, int32_t *out, rv_place at) {
    const int pieces = rv_rotary_pieces(t), size = t->head_dim / 2 / pieces;
    for (int i = 0; i < pieces; i++) {
        int axis = i * size < t->mrope[0] ? 0 : i * size < t->mrope[0] + t->mrope[1] ? 1 : 2;
        out[i] = at.axis[pieces > 1 ? axis : 0] * pieces + i;
    }
}

void rv_gather_angles(rv_vlm *m, int64_t rows) {
    const rv_arch_text *t = &m->arch.text;
    const int pieces = m->angle_pieces;
    for (int64_t i = 0; i < rows; i++) {
        rv_rotary_rows(t, m->angle_row + i * pieces, m->places[i]);
    }
    m->be->gather_rows(m->ctx, m->angle, m->angles, m->angle_row, rows * pieces,
                       t->head_dim / pieces);
}
