// ops_cpu_reduce.c - reductions and softmax: fp64 accumulators, index order, one rounding.
#include <math.h>

#include "ops_cpu.h"
#include "ops_cpu_math.h"

// One output's inputs: `n` elements read through the cursor, several times where needed.
typedef struct {
    rv_cursor c;
    rv_tile tile;
    void *base;
    int64_t n;
    double param;
} row;

typedef struct {
    double f;
    int64_t i;
} scalar;

// Runs `body` with x[0 .. m-1] the next elements, `at` the position of x[0].
#define WALK(r, ctype, body)                                                                       \
    do {                                                                                           \
        rv_cursor_start(&(r)->c, (r)->base);                                                       \
        int64_t step_ = (r)->c.straight ? (r)->n : RV_TILE;                                        \
        for (int64_t at = 0; at < (r)->n; at += step_) {                                           \
            int64_t m = (r)->n - at < step_ ? (r)->n - at : step_;                                 \
            const ctype *x = rv_cursor_read(&(r)->c, &(r)->tile, m);                               \
            for (int64_t j = 0; j < m; j++) {                                                      \
                body;                                                                              \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static double sum_floats(row *r) {
    double s = 0;
    WALK(r, float, s += (double)x[j]);
    return s;
}

static int64_t sum_ints(row *r) {
    uint64_t s = 0; // wraps
    WALK(r, int64_t, s += (uint64_t)x[j]);
    return (int64_t)s;
}

static scalar sum_f(row *r) { return (scalar){.f = sum_floats(r)}; }
static scalar sum_i(row *r) { return (scalar){.i = sum_ints(r)}; }
static scalar mean_f(row *r) { return (scalar){.f = sum_floats(r) / (double)r->n}; }
static scalar mean_i(row *r) { return (scalar){.f = (double)sum_ints(r) / (double)r->n}; }

static scalar prod_f(row *r) {
    double p = 1;
    WALK(r, float, p *= (double)x[j]);
    return (scalar){.f = p};
}

static scalar prod_i(row *r) {
    uint64_t p = 1;
    WALK(r, int64_t, p *= (uint64_t)x[j]);
    return (scalar){.i = (int64_t)p};
}

// The extreme element and its first position; a NaN beats every number.
#define EXTREMUM(name, better)                                                                     \
    static float name##_float(row *r, int64_t *where) {                                            \
        float best = 0;                                                                            \
        int64_t p = -1;                                                                            \
        WALK(                                                                                      \
            r, float, if (p < 0 || x[j] better best || (x[j] != x[j] && best == best)) {           \
                best = x[j];                                                                       \
                p = at + j;                                                                        \
            });                                                                                    \
        *where = p;                                                                                \
        return best;                                                                               \
    }                                                                                              \
    static int64_t name##_int(row *r, int64_t *where) {                                            \
        int64_t best = 0, p = -1;                                                                  \
        WALK(                                                                                      \
            r, int64_t, if (p < 0 || x[j] better best) {                                           \
                best = x[j];                                                                       \
                p = at + j;                                                                        \
            });                                                                                    \
        *where = p;                                                                                \
        return best;                                                                               \
    }                                                                                              \
    static scalar name##_f(row *r) {                                                               \
        int64_t p;                                                                                 \
        return (scalar){.f = (double)name##_float(r, &p)};                                         \
    }                                                                                              \
    static scalar name##_i(row *r) {                                                               \
        int64_t p;                                                                                 \
        return (scalar){.i = name##_int(r, &p)};                                                   \
    }                                                                                              \
    static scalar arg##name##_f(row *r) {                                                          \
        scalar s = {0};                                                                            \
        (void)name##_float(r, &s.i);                                                               \
        return s;                                                                                  \
    }                                                                                              \
    static scalar arg##name##_i(row *r) {                                                          \
        scalar s = {0};                                                                            \
        (void)name##_int(r, &s.i);                                                                 \
        return s;                                                                                  \
    }
EXTREMUM(max, >)
EXTREMUM(min, <)

static scalar any_f(row *r) {
    int64_t any = 0;
    WALK(r, float, any |= x[j] != 0);
    return (scalar){.i = any};
}
static scalar any_i(row *r) {
    int64_t any = 0;
    WALK(r, int64_t, any |= x[j] != 0);
    return (scalar){.i = any};
}
static scalar all_f(row *r) {
    int64_t all = 1;
    WALK(r, float, all &= x[j] != 0);
    return (scalar){.i = all};
}
static scalar all_i(row *r) {
    int64_t all = 1;
    WALK(r, int64_t, all &= x[j] != 0);
    return (scalar){.i = all};
}

static scalar var_f(row *r) {
    double mean = sum_floats(r) / (double)r->n, s = 0;
    WALK(r, float, {
        double d = (double)x[j] - mean;
        s += d * d;
    });
    double left = (double)r->n - r->param;
    return (scalar){.f = s / (left > 0 ? left : 0)};
}

static scalar norm_f(row *r) {
    double s = 0;
    WALK(r, float, s += (double)x[j] * (double)x[j]);
    return (scalar){.f = sqrt(s)};
}

// log of the sum of e^(x - max); 0 where the maximum, infinite or NaN, says it all.
static double log_sum(row *r, double max) {
    if (!(fabs(max) < (double)INFINITY)) {
        return 0;
    }
    double s = 0;
    WALK(r, float, s += rv_exp_core(rv_limit((double)x[j] - max, -700, 0)));
    return log(s);
}

static scalar logsumexp_f(row *r) {
    int64_t p;
    double max = r->n ? (double)max_float(r, &p) : -(double)INFINITY;
    return (scalar){.f = max + log_sum(r, max)};
}

typedef scalar (*kernel)(row *r);
// `into` is the domain the result is stored from where it is not the inputs'.
static const struct {
    kernel f, i;
    rv_dtype into_f, into_i;
} kernels[RV_NREDUCES] = {
    [RV_REDUCE_SUM] = {sum_f, sum_i, RV_F32, RV_I64},
    [RV_REDUCE_MEAN] = {mean_f, mean_i, RV_F32, RV_F32},
    [RV_REDUCE_PROD] = {prod_f, prod_i, RV_F32, RV_I64},
    [RV_REDUCE_MAX] = {max_f, max_i, RV_F32, RV_I64},
    [RV_REDUCE_MIN] = {min_f, min_i, RV_F32, RV_I64},
    [RV_REDUCE_ARGMAX] = {argmax_f, argmax_i, RV_I64, RV_I64},
    [RV_REDUCE_ARGMIN] = {argmin_f, argmin_i, RV_I64, RV_I64},
    [RV_REDUCE_ANY] = {any_f, any_i, RV_I64, RV_I64},
    [RV_REDUCE_ALL] = {all_f, all_i, RV_I64, RV_I64},
    [RV_REDUCE_VAR] = {var_f, NULL, RV_F32, RV_F32},
    [RV_REDUCE_NORM] = {norm_f, NULL, RV_F32, RV_F32},
    [RV_REDUCE_LOGSUMEXP] = {logsumexp_f, NULL, RV_F32, RV_F32},
};

// The next output in row-major order: moves both addresses; false after the last.
static bool next_output(int64_t *index, const rv_loop *l, int keep, char **y, char **x) {
    for (int d = keep - 1; d >= 0; d--) {
        int64_t sy = l->at[0].stride[d] * (int64_t)rv_dtype_size(l->at[0].type);
        int64_t sx = l->at[1].stride[d] * (int64_t)rv_dtype_size(l->at[1].type);
        *y += sy;
        *x += sx;
        if (++index[d] < l->dim[d]) {
            return true;
        }
        *y -= sy * l->dim[d];
        *x -= sx * l->dim[d];
        index[d] = 0;
    }
    return false;
}

static int64_t count_dims(const rv_loop *l, int from, int to) {
    int64_t n = 1;
    for (int d = from; d < to; d++) {
        n *= l->dim[d];
    }
    return n;
}

void rv_cpu_reduce(rv_reduce_op op, const rv_loop *l, int keep) {
    bool floats = l->domain == RV_F32;
    kernel run = floats ? kernels[op].f : kernels[op].i;
    rv_dtype into = floats ? kernels[op].into_f : kernels[op].into_i;
    RV_ASSERT(run);
    if (count_dims(l, 0, keep) == 0) {
        return;
    }
    row r;
    r.c = rv_cursor_make(l, 1, keep, l->ndim - keep, l->domain);
    r.n = count_dims(l, keep, l->ndim);
    r.param = l->param[0];
    char *y = l->at[0].data, *x = l->at[1].data;
    int64_t index[RV_MAXDIM] = {0};
    do {
        r.base = x;
        scalar s = run(&r);
        rv_cpu_store(y, l->at[0].type, into, s.f, s.i);
    } while (next_output(index, l, keep, &y, &x));
}

void rv_cpu_softmax(const rv_loop *l, bool log) {
    int keep = l->ndim - 1;
    if (count_dims(l, 0, l->ndim) == 0) {
        return;
    }
    row r;
    r.c = rv_cursor_make(l, 1, keep, 1, RV_F32);
    r.n = l->dim[keep];
    rv_cursor out = rv_cursor_make(l, 0, keep, 1, RV_F32);
    rv_tile result;
    char *y = l->at[0].data, *x = l->at[1].data;
    int64_t index[RV_MAXDIM] = {0};
    do {
        r.base = x;
        int64_t p;
        double max = (double)max_float(&r, &p), rest = log_sum(&r, max);
        rv_cursor_start(&r.c, x);
        rv_cursor_start(&out, y);
        for (int64_t at = 0; at < r.n; at += RV_TILE) {
            int64_t m = r.n - at < RV_TILE ? r.n - at : RV_TILE;
            const float *v = rv_cursor_read(&r.c, &r.tile, m);
            float *to = rv_cursor_target(&out, &result);
            for (int64_t j = 0; j < m; j++) {
                double d = (double)v[j] - max - rest; // the maximum first: it may swallow the rest
                to[j] = (float)(log ? d : rv_exp_core(rv_limit(d, -700, 0)));
            }
            rv_cursor_write(&out, to, m);
        }
    } while (next_output(index, l, keep, &y, &x));
}
