// elementwise.c - activations, SwiGLU, sums of arrays, rotary positions.
#include "isa.h"

#include "act.h"

enum { UNIT = 64 }; // threads take multiples of a cache line or more

typedef struct {
    float *y, *y2;
    const float *x, *g, *u;
    float alpha;
    rv_act act;
    int64_t stride;
    int heads, dim;
} args;

static void act_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    act_run(a->act, a->y + lo, a->x + lo, hi - lo);
}

void ISA(rv_act_run)(rv_ctx *c, rv_dev y, rv_dev x, int64_t count, rv_act act) {
    args a = {.y = rv_f32(y), .x = rv_f32(x), .act = act};
    rv_for(c, count, 16, UNIT, act_range, &a);
}

static void act_backward_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    act_back(a->act, a->y + lo, a->g + lo, a->x + lo, hi - lo);
}

void ISA(rv_act_backward)(rv_ctx *c, rv_dev dx, rv_dev dy, rv_dev x, int64_t count, rv_act act) {
    args a = {.y = rv_f32(dx), .g = rv_f32(dy), .x = rv_f32(x), .act = act};
    rv_for(c, count, 16, UNIT, act_backward_range, &a);
}

static void swiglu_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        a->y[i] = act_value(RV_ACT_SILU, a->g[i]) * a->u[i];
    }
}

void ISA(rv_swiglu)(rv_ctx *c, rv_dev y, rv_dev gate, rv_dev up, int64_t count) {
    args a = {.y = rv_f32(y), .g = rv_f32(gate), .u = rv_f32(up)};
    rv_for(c, count, 16, UNIT, swiglu_range, &a);
}

static void swiglu_backward_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        float g = a->g[i], u = a->u[i], dy = a->x[i], s = fn_sigmoid(g);
        a->y[i] = dy * u * (s * (1 + g * (1 - s)));
        a->y2[i] = dy * (g * s);
    }
}

void ISA(rv_swiglu_backward)(rv_ctx *c, rv_dev dgate, rv_dev dup, rv_dev dy, rv_dev gate, rv_dev up,
                             int64_t count) {
    args a = {
        .y = rv_f32(dgate), .y2 = rv_f32(dup), .x = rv_f32(dy), .g = rv_f32(gate), .u = rv_f32(up)};
    rv_for(c, count, 24, UNIT, swiglu_backward_range, &a);
}

static void axpy_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        a->y[i] = __builtin_fmaf(a->alpha, a->x[i], a->y[i]);
    }
}

void ISA(rv_axpy)(rv_ctx *c, rv_dev y, rv_dev x, float alpha, int64_t count) {
    args a = {.y = rv_f32(y), .x = rv_f32(x), .alpha = alpha};
    rv_for(c, count, 1, UNIT, axpy_range, &a);
}

static void scale_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        a->y[i] *= a->alpha;
    }
}

void ISA(rv_scale)(rv_ctx *c, rv_dev x, float alpha, int64_t count) {
    args a = {.y = rv_f32(x), .alpha = alpha};
    rv_for(c, count, 1, UNIT, scale_range, &a);
}

static void rope_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const args *a = arg;
    int64_t half = a->dim / 2;
    for (int64_t r = lo; r < hi; r++) {
        const float *cs = a->x + r * a->dim;
        for (int h = 0; h < a->heads; h++) {
            float *x = a->y + r * a->stride + h * a->dim;
            for (int64_t i = 0; i < half; i++) {
                float cos = cs[2 * i], sin = cs[2 * i + 1] * a->alpha, p = x[i], q = x[i + half];
                x[i] = __builtin_fmaf(p, cos, -(q * sin));
                x[i + half] = __builtin_fmaf(q, cos, p * sin);
            }
        }
    }
}

void ISA(rv_rope)(rv_ctx *c, rv_dev x, int64_t stride, rv_dev cs, int64_t m, int heads,
                  int head_dim, float sign) {
    args a = {.y = rv_f32(x),
              .x = rv_f32(cs),
              .stride = stride,
              .alpha = sign,
              .heads = heads,
              .dim = head_dim};
    rv_for(c, m, heads * head_dim * 8, 1, rope_rows, &a);
}
