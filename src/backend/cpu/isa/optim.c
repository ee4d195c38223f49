// optim.c - the gradient's norm and AdamW.
#include "isa.h"
#include "sum.h"

enum { BLOCK = 4096, BLOCKS = 256 }; // partial sums are of fixed blocks, whatever the threads

typedef struct {
    const float *x;
    int64_t n;
    double part[BLOCKS];
} square_args;

static void square_blocks(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    square_args *a = arg;
    for (int64_t b = lo; b < hi; b++) {
        const float *x = a->x + b * BLOCK;
        int64_t n = a->n - b * BLOCK < BLOCK ? a->n - b * BLOCK : BLOCK;
        SUM(s, n, (double)x[i] * (double)x[i])
        a->part[b] = s;
    }
}

void ISA(rv_sum_squares)(rv_ctx *c, double *out, rv_dev x, int64_t count) {
    square_args a;
    const int64_t most = (int64_t)BLOCK * BLOCKS;
    for (int64_t at = 0; at < count; at += most) {
        a.x = rv_f32(x) + at;
        a.n = count - at < most ? count - at : most;
        int64_t blocks = (a.n + BLOCK - 1) / BLOCK;
        rv_for(c, blocks, BLOCK, 1, square_blocks, &a);
        for (int64_t b = 0; b < blocks; b++) {
            *out += a.part[b];
        }
    }
}

typedef struct {
    float *restrict w, *restrict m, *restrict v;
    const float *restrict g;
    float decay, grad_scale, one_beta1, beta2, one_beta2, step, root, eps;
} adam_args;

static void adam_range(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const adam_args a = *(const adam_args *)arg;
    for (int64_t i = lo; i < hi; i++) {
        float g = a.g[i] * a.grad_scale;
        float m = a.m[i] + (g - a.m[i]) * a.one_beta1;
        float v = a.v[i] * a.beta2 + g * g * a.one_beta2;
        a.m[i] = m;
        a.v[i] = v;
        float denominator = __builtin_sqrtf(v) / a.root + a.eps;
        a.w[i] = a.w[i] * a.decay - a.step * (m / denominator);
    }
}

// beta^n for a whole n >= 1, by fixed operations.
static double power(double beta, int64_t n) {
    double r = 1;
    for (; n > 0; n /= 2, beta *= beta) {
        r = n % 2 ? r * beta : r;
    }
    return r;
}

void ISA(rv_adamw_step)(rv_ctx *c, rv_dev w, rv_dev g, rv_dev m, rv_dev v, int64_t count,
                        const rv_adamw *how) {
    double lr = (double)how->lr, b1 = (double)how->beta1, b2 = (double)how->beta2;
    adam_args a = {
        .w = rv_f32(w),
        .m = rv_f32(m),
        .v = rv_f32(v),
        .g = rv_f32(g),
        .decay = (float)(1 - lr * (double)how->weight_decay),
        .grad_scale = how->grad_scale,
        .one_beta1 = (float)(1 - b1),
        .beta2 = how->beta2,
        .one_beta2 = (float)(1 - b2),
        .step = (float)(lr / (1 - power(b1, how->step))),
        .root = (float)__builtin_sqrt(1 - power(b2, how->step)),
        .eps = how->eps,
    };
    rv_for(c, count, 8, 64, adam_range, &a);
}
