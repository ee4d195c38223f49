// act.h - activations and their derivatives on short runs of floats.
#pragma once

#include "backend.h"
#include "fn.h"

RV_INLINE float act_gelu_tanh_arg(float x) { // 2 sqrt(2 / pi) (x + 0.044715 x^3)
    return 1.5957691216057308f * (x + 0.044715f * x * x * x);
}

RV_INLINE float act_value(const rv_act a, float x) {
    switch (a) {
    case RV_ACT_GELU_ERF:
        return x * fn_phi(x);
    case RV_ACT_GELU_TANH: // (1 + tanh u) / 2 = sigmoid(2 u)
        return x * fn_sigmoid(act_gelu_tanh_arg(x));
    case RV_ACT_QUICK_GELU:
        return x * fn_sigmoid(1.702f * x);
    case RV_ACT_SILU:
        return x * fn_sigmoid(x);
    case RV_ACT_RELU:
        return x > 0 ? x : x != x ? x : 0;
    default:
        return x;
    }
}

RV_INLINE float act_slope(const rv_act a, float x) {
    switch (a) {
    case RV_ACT_GELU_ERF:
        return fn_phi(x) + x * (0.3989422804014327f * fn_exp(-0.5f * x * x));
    case RV_ACT_GELU_TANH: {
        float s = fn_sigmoid(act_gelu_tanh_arg(x));
        return s + x * s * (1 - s) * 1.5957691216057308f * (1 + 0.134145f * x * x);
    }
    case RV_ACT_QUICK_GELU: {
        float s = fn_sigmoid(1.702f * x);
        return s * (1 + 1.702f * x * (1 - s));
    }
    case RV_ACT_SILU: {
        float s = fn_sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    case RV_ACT_RELU:
        return x > 0 ? 1 : 0;
    default:
        return 1;
    }
}

// One loop per activation, so that each is vector code.
#define ACT_LOOP(a, body)                                                                          \
    case a:                                                                                        \
        for (int64_t i = 0; i < n; i++) {                                                          \
            body(a)                                                                                \
        }                                                                                          \
        break;
#define ACT_SWITCH(act, body)                                                                      \
    switch (act) {                                                                                 \
        ACT_LOOP(RV_ACT_NONE, body)                                                                \
        ACT_LOOP(RV_ACT_GELU_ERF, body)                                                            \
        ACT_LOOP(RV_ACT_GELU_TANH, body)                                                           \
        ACT_LOOP(RV_ACT_QUICK_GELU, body)                                                          \
        ACT_LOOP(RV_ACT_SILU, body)                                                                \
        ACT_LOOP(RV_ACT_RELU, body)                                                                \
    }

/// y = act(x); y may be x.
static __attribute__((unused)) void act_run(rv_act act, float *y, const float *x, int64_t n) {
#define ACT_FORWARD(a) y[i] = act_value(a, x[i]);
    ACT_SWITCH(act, ACT_FORWARD)
#undef ACT_FORWARD
}

/// dx = dy act'(x); dx may be dy.
static __attribute__((unused)) void act_back(rv_act act, float *dx, const float *dy, const float *x,
                                             int64_t n) {
#define ACT_BACKWARD(a) dx[i] = dy[i] * act_slope(a, x[i]);
    ACT_SWITCH(act, ACT_BACKWARD)
#undef ACT_BACKWARD
}
