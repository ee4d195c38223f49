// ops_cpu_map.c - the elementwise kernels.
#include <math.h>

#include "ops_cpu.h"
#include "ops_cpu_math.h"

// Kernels are compiled for AVX2 too and chosen when the program starts. No contraction, so the bits
// are the same.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

// Same-index loops only, so the compiler may vectorise even where output and input are one array.
#define EACH _Pragma("omp simd") for (int64_t j = 0; j < n; j++)

#define F1(name, expr)                                                                             \
    CLONES static void name##_f(void *out, const void *const *in, const double *p, int64_t n) {    \
        float *y = out;                                                                            \
        const float *x = in[0];                                                                    \
        (void)p;                                                                                   \
        EACH {                                                                                     \
            float a = x[j];                                                                        \
            y[j] = expr;                                                                           \
        }                                                                                          \
    }
#define I1(name, expr)                                                                             \
    CLONES static void name##_i(void *out, const void *const *in, const double *p, int64_t n) {    \
        int64_t *y = out;                                                                          \
        const int64_t *x = in[0];                                                                  \
        (void)p;                                                                                   \
        EACH {                                                                                     \
            int64_t a = x[j];                                                                      \
            y[j] = expr;                                                                           \
        }                                                                                          \
    }
#define BOTH2(suffix, ctype, rtype, name, expr)                                                    \
    CLONES static void name##suffix(void *out, const void *const *in, const double *p,             \
                                    int64_t n) {                                                   \
        rtype *y = out;                                                                            \
        const ctype *x1 = in[0], *x2 = in[1];                                                      \
        (void)p;                                                                                   \
        EACH {                                                                                     \
            ctype a = x1[j], b = x2[j];                                                            \
            y[j] = (rtype)(expr);                                                                  \
        }                                                                                          \
    }
#define F2(name, expr) BOTH2(_f, float, float, name, expr)
#define I2(name, expr) BOTH2(_i, int64_t, int64_t, name, expr)
#define B2(name, expr) BOTH2(_f, float, uint8_t, name, expr) BOTH2(_i, int64_t, uint8_t, name, expr)
#define TEST1(suffix, ctype, name, expr)                                                           \
    CLONES static void name##suffix(void *out, const void *const *in, const double *p,             \
                                    int64_t n) {                                                   \
        uint8_t *y = out;                                                                          \
        const ctype *x = in[0];                                                                    \
        (void)p;                                                                                   \
        EACH {                                                                                     \
            ctype a = x[j];                                                                        \
            (void)a;                                                                               \
            y[j] = (uint8_t)(expr);                                                                \
        }                                                                                          \
    }
#define B1(name, expr_f, expr_i)                                                                   \
    TEST1(_f, float, name, expr_f)                                                                 \
    TEST1(_i, int64_t, name, expr_i)
#define F3(name, expr)                                                                             \
    CLONES static void name##_f(void *out, const void *const *in, const double *p, int64_t n) {    \
        float *y = out;                                                                            \
        const float *x1 = in[0], *x2 = in[1], *x3 = in[2];                                         \
        (void)p;                                                                                   \
        EACH {                                                                                     \
            float a = x1[j], b = x2[j], c = x3[j];                                                 \
            y[j] = expr;                                                                           \
        }                                                                                          \
    }

// Wrapping arithmetic: overflow of integers is defined, as in Lua.
#define WRAP(a, op, b) (int64_t)((uint64_t)(a)op(uint64_t)(b))

F1(copy, a)
I1(copy, a)
F1(neg, -a)
I1(neg, WRAP(0, -, a))
F1(abs, fabsf(a))
I1(abs, a < 0 ? WRAP(0, -, a) : a)
F1(sign, (float)((a > 0) - (a < 0)))
I1(sign, (a > 0) - (a < 0))
F1(relu, a < 0 ? 0 : a)
I1(relu, a < 0 ? 0 : a)
F1(square, a *a)
I1(square, WRAP(a, *, a))
F1(floor, floorf(a))
I1(floor, a)
F1(ceil, ceilf(a))
I1(ceil, a)
F1(round, nearbyintf(a))
I1(round, a)
F1(exp, rv_exp(a))
F1(log, rv_log(a))
F1(sqrt, sqrtf(a))
F1(tanh, rv_tanh(a))
F1(sigmoid, rv_sigmoid(a))
F1(sin, sinf(a))
F1(cos, cosf(a))
CLONES static void clamp_f(void *out, const void *const *in, const double *p, int64_t n) {
    float *y = out, lo = (float)p[0], hi = (float)p[1];
    const float *x = in[0];
    EACH {
        float a = x[j] < lo ? lo : x[j]; // NaN stays
        y[j] = a > hi ? hi : a;
    }
}

static void clamp_i(void *out, const void *const *in, const double *p, int64_t n) {
    int64_t *y = out;
    const int64_t *x = in[0];
    int64_t lo = p[0] > -0x1p63 ? (int64_t)ceil(p[0]) : INT64_MIN;
    int64_t hi = p[1] < 0x1p63 ? (int64_t)floor(p[1]) : INT64_MAX;
    EACH { y[j] = x[j] < lo ? lo : x[j] > hi ? hi : x[j]; }
}

B1(logical_not, a == 0, a == 0)
B1(isnan, a != a, 0)
B1(isinf, fabsf(a) == INFINITY, 0)
B1(isfinite, fabsf(a) < INFINITY, 1)

F2(add, a + b)
I2(add, WRAP(a, +, b))
F2(sub, a - b)
I2(sub, WRAP(a, -, b))
F2(mul, a *b)
I2(mul, WRAP(a, *, b))
F2(div, a / b)
F2(floor_divide, floorf(a / b))
F2(pow, b == 2 ? a * a : b == 1 ? a : powf(a, b))
F2(maximum, ((a != a) | (a > b)) ? a : b)
I2(maximum, a > b ? a : b)
F2(minimum, ((a != a) | (a < b)) ? a : b)
I2(minimum, a < b ? a : b)

// a - floor(a / b) b with b's sign, exact where fmod is.
static float mod_float(float a, float b) {
    float m = fmodf(a, b);
    return m * b < 0 ? m + b : m;
}
F2(mod, mod_float(a, b))

static int64_t floor_div(int64_t a, int64_t b) {
    if (b == -1) {
        return WRAP(0, -, a); // INT64_MIN / -1 traps
    }
    int64_t q = a / b;
    return q * b != a && (a ^ b) < 0 ? q - 1 : q;
}
// rv_cpu_map has refused zeros among the divisors
static void floor_divide_i(void *out, const void *const *in, const double *p, int64_t n) {
    (void)p;
    for (int64_t j = 0; j < n; j++) {
        ((int64_t *)out)[j] = floor_div(((const int64_t *)in[0])[j], ((const int64_t *)in[1])[j]);
    }
}
static void mod_i(void *out, const void *const *in, const double *p, int64_t n) {
    (void)p;
    for (int64_t j = 0; j < n; j++) {
        int64_t a = ((const int64_t *)in[0])[j], b = ((const int64_t *)in[1])[j];
        ((int64_t *)out)[j] = WRAP(a, -, WRAP(floor_div(a, b), *, b));
    }
}

B2(eq, a == b)
B2(ne, a != b)
B2(lt, a < b)
B2(le, a <= b)
B2(gt, a > b)
B2(ge, a >= b)
B2(logical_and, (a != 0) & (b != 0))
B2(logical_or, (a != 0) | (b != 0))
B2(logical_xor, (a != 0) != (b != 0))

F3(where, a != 0 ? b : c)
static void where_i(void *out, const void *const *in, const double *p, int64_t n) {
    int64_t *y = out;
    const int64_t *a = in[0], *b = in[1], *c = in[2];
    (void)p;
    EACH { y[j] = a[j] != 0 ? b[j] : c[j]; }
}

// Gradients: a is the upstream gradient.
F2(abs_grad, b > 0 ? a : b < 0 ? -a : 0)
F2(relu_grad, b > 0 ? a : 0)
F2(square_grad, 2 * a * b)
F2(sqrt_grad, a / (2 * b))
F2(tanh_grad, a *(1 - b * b))
F2(sigmoid_grad, a *b *(1 - b))
F2(sin_grad, a *cosf(b))
F2(cos_grad, -a *sinf(b))
CLONES static void clamp_grad_f(void *out, const void *const *in, const double *p, int64_t n) {
    float *y = out, lo = (float)p[0], hi = (float)p[1];
    const float *g = in[0], *x = in[1];
    EACH { y[j] = ((x[j] >= lo) & (x[j] <= hi)) ? g[j] : 0; }
}
F3(pow_grad_base, c == 0 ? 0 : c == 2 ? a * 2 * b : a * c * powf(b, c - 1))
F3(pow_grad_exp, b == 0 && c >= 0 ? 0 : a * powf(b, c) * logf(b))
F3(greater_grad, a *(b < c ? 0.0f : b == c ? 0.5f : 1.0f))

typedef void (*kernel)(void *out, const void *const *in, const double *p, int64_t n);

// A kernel for each domain; integer ones only where the operation has them.
#define KERNEL_N(name)                                                                             \
    { name##_f, name##_i }
#define KERNEL_F(name)                                                                             \
    { name##_f, NULL }
static const struct {
    kernel f, i;
} kernels[RV_NMAPS] = {
#define ENTRY(id, name, n, domain, result) [RV_MAP_##id] = KERNEL_##domain(name),
    RV_MAP_OPS(ENTRY)
#undef ENTRY
};

#define RESULT_S false
#define RESULT_B true
static const bool gives_bool[RV_NMAPS] = {
#define ENTRY(id, name, n, domain, result) [RV_MAP_##id] = RESULT_##result,
    RV_MAP_OPS(ENTRY)
#undef ENTRY
};

static rv_status check_divisor(rv_map_op op, const int64_t *b, int64_t n, int64_t first,
                               rv_err *e) {
    for (int64_t j = 0; j < n; j++) {
        if (b[j] == 0) {
            return RV_FAIL(e, RV_EARG, "%s: integer division by zero at element %lld",
                           op == RV_MAP_MOD ? "mod" : "floor_divide", (long long)(first + j + 1));
        }
    }
    return RV_OK;
}

rv_status rv_cpu_map(rv_map_op op, const rv_loop *l, rv_err *e) {
    int64_t total = 1;
    for (int d = 0; d < l->ndim; d++) {
        total *= l->dim[d];
    }
    bool floats = l->domain == RV_F32;
    kernel run = floats ? kernels[op].f : kernels[op].i;
    RV_ASSERT(run);
    bool divides = !floats && (op == RV_MAP_FLOORDIV || op == RV_MAP_MOD);
    rv_cursor c[RV_OPERANDS];
    rv_tile tile[RV_OPERANDS];
    bool long_run = true; // nothing has to go through a tile
    for (int k = 0; k < l->n; k++) {
        c[k] = rv_cursor_make(l, k, 0, l->ndim, k == 0 && gives_bool[op] ? RV_BOOL : l->domain);
        long_run = long_run && c[k].straight;
    }
    int64_t step = long_run && !divides ? total : RV_TILE;
    for (int64_t done = 0; done < total; done += step) {
        int64_t n = total - done < step ? total - done : step;
        const void *in[RV_OPERANDS];
        for (int k = 1; k < l->n; k++) {
            in[k - 1] = rv_cursor_read(&c[k], &tile[k], n);
        }
        if (divides) {
            RV_TRY(check_divisor(op, in[1], n, done, e));
        }
        void *y = rv_cursor_target(&c[0], &tile[0]);
        run(y, in, l->param, n);
        rv_cursor_write(&c[0], y, n);
    }
    return RV_OK;
}
