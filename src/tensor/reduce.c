#include "reduce.h"

#include <math.h>
#include <string.h>

#include "elementwise.h"
#include "view.h"

static const char *const names[RV_NREDUCES] = {
#define NAME(id, name) [RV_REDUCE_##id] = #name,
    RV_REDUCE_OPS(NAME)
#undef NAME
};

static bool has(uint32_t dims, int d) { return dims >> d & 1; }

static rv_status give_up(rv_tensor **out, rv_status s) {
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

// The loop of a reduction: kept dims first, neighbours merged in each group. Returns how many are
// kept. `out` has the reduced dims with size 1 (or, for softmax, its own).
static int make_loop(rv_loop *l, rv_dtype domain, const rv_tensor *out, const rv_tensor *x,
                     uint32_t dims) {
    const rv_tensor *t[2] = {out, x};
    int keep = 0, nd = 0;
    *l = (rv_loop){.n = 2, .domain = domain};
    for (int k = 0; k < 2; k++) {
        l->at[k].data = rv_tensor_data(t[k]);
        l->at[k].type = t[k]->type;
    }
    for (int group = 0; group < 2; group++) {
        int first = nd;
        for (int d = 0; d < x->ndim; d++) {
            if (has(dims, d) != (group == 1) || x->dim[d] == 1) {
                continue;
            }
            bool merge = nd > first;
            for (int k = 0; k < 2; k++) {
                int64_t s = t[k]->dim[d] == 1 ? 0 : t[k]->stride[d];
                merge = merge && l->at[k].stride[nd - 1] == s * x->dim[d];
            }
            int to = merge ? nd - 1 : nd++;
            l->dim[to] = merge ? l->dim[to] * x->dim[d] : x->dim[d];
            for (int k = 0; k < 2; k++) {
                l->at[k].stride[to] = t[k]->dim[d] == 1 ? 0 : t[k]->stride[d];
            }
        }
        keep = group == 0 ? nd : keep;
    }
    l->ndim = nd;
    return keep;
}

static rv_dtype result_type(rv_reduce_op op, rv_dtype t) {
    switch (op) {
    case RV_REDUCE_ANY:
    case RV_REDUCE_ALL:
        return RV_BOOL;
    case RV_REDUCE_ARGMAX:
    case RV_REDUCE_ARGMIN:
        return RV_I64;
    case RV_REDUCE_MAX:
    case RV_REDUCE_MIN:
        return t;
    case RV_REDUCE_SUM:
    case RV_REDUCE_PROD:
        return rv_dtype_is_float(t) ? t : RV_I64;
    default:
        return rv_dtype_is_float(t) ? t : RV_F32;
    }
}

static bool only_floats(rv_reduce_op op) {
    return op == RV_REDUCE_VAR || op == RV_REDUCE_NORM || op == RV_REDUCE_LOGSUMEXP;
}

static rv_status check_not_empty(rv_reduce_op op, const rv_tensor *x, uint32_t dims, rv_err *e) {
    bool extreme = op == RV_REDUCE_MAX || op == RV_REDUCE_MIN || op == RV_REDUCE_ARGMAX ||
                   op == RV_REDUCE_ARGMIN;
    for (int d = 0; d < x->ndim && extreme; d++) {
        if (has(dims, d) && x->dim[d] == 0) {
            return RV_FAIL(e, RV_ESHAPE, "%s: shape %s has no elements along dim %d", names[op],
                           rv_tensor_shape_str(x).s, d + 1);
        }
    }
    return RV_OK;
}

// ---- gradients ----
// arg[0]: dims, arg[1]: keep. saved[0]: x, saved[1]: y. A gradient g with the reduced dims back as
// size 1 broadcasts to x.

static rv_status with_dims(rv_tensor **out, rv_grad *g, rv_tensor *t, rv_err *e) {
    int64_t dim[RV_MAXDIM];
    for (int d = 0; d < g->in[0].ndim; d++) {
        dim[d] = has((uint32_t)g->arg[0], d) ? 1 : g->in[0].dim[d];
    }
    return rv_tensor_reshape(out, t, g->in[0].ndim, dim, e);
}

static double reduced_count(const rv_grad *g) {
    double n = 1;
    for (int d = 0; d < g->in[0].ndim; d++) {
        n *= has((uint32_t)g->arg[0], d) ? (double)g->in[0].dim[d] : 1;
    }
    return n;
}

// out = op(a, b), both dropped.
static rv_status combine(rv_tensor **out, rv_map_op op, rv_tensor *a, rv_tensor *b, rv_status s,
                         rv_err *e) {
    s = s == RV_OK ? rv_tensor_binary(out, op, a, b, e) : s;
    rv_tensor_free(a);
    rv_tensor_free(b);
    return s;
}

static rv_status sum_grad(rv_grad *g, rv_err *e) { return with_dims(&g->out[0], g, g->g, e); }

static rv_status scaled(rv_tensor **out, rv_tensor *g, double factor, rv_err *e) {
    rv_tensor *f = NULL;
    rv_status s = rv_tensor_number(&f, g->buf->tape, false, 0, factor, e);
    return combine(out, RV_MAP_MUL, rv_tensor_ref(g), f, s, e);
}

static rv_status mean_grad(rv_grad *g, rv_err *e) {
    rv_tensor *wide = NULL, *n = NULL;
    rv_status s = with_dims(&wide, g, g->g, e);
    s = s == RV_OK ? rv_tensor_number(&n, g->tape, false, 0, reduced_count(g), e) : s;
    return combine(&g->out[0], RV_MAP_DIV, wide, n, s, e);
}

// dx = g (x - mean) 2 / (n - correction).
static rv_status var_grad(rv_grad *g, rv_err *e) {
    rv_tensor *wide = NULL, *mean = NULL, *d = NULL, *x = rv_tensor_ref(g->saved[0]);
    rv_status s = rv_tensor_reduce(&mean, RV_REDUCE_MEAN, x, (uint32_t)g->arg[0], true, 0, e);
    s = combine(&d, RV_MAP_SUB, x, mean, s, e);
    if (s == RV_OK) {
        rv_tensor *raw = NULL;
        s = with_dims(&raw, g, g->g, e);
        s = s == RV_OK ? scaled(&wide, raw, 2 / (reduced_count(g) - g->param[0]), e) : s;
        rv_tensor_free(raw);
    }
    return combine(&g->out[0], RV_MAP_MUL, wide, d, s, e);
}

// dx = g x / y, 0 where y is 0.
static rv_status norm_grad(rv_grad *g, rv_err *e) {
    rv_tensor *ratio = NULL, *zero = NULL, *empty = NULL, *safe = NULL, *wide = NULL;
    rv_tensor *y = g->saved[1];
    rv_status s = rv_tensor_binary(&ratio, RV_MAP_DIV, g->g, y, e);
    s = s == RV_OK ? rv_tensor_number(&zero, g->tape, false, 0, 0, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&empty, RV_MAP_EQ, y, zero, e) : s;
    s = s == RV_OK ? rv_tensor_where(&safe, empty, zero, ratio, e) : s;
    s = s == RV_OK ? with_dims(&wide, g, safe, e) : s;
    rv_tensor_free(ratio);
    rv_tensor_free(zero);
    rv_tensor_free(empty);
    rv_tensor_free(safe);
    return combine(&g->out[0], RV_MAP_MUL, wide, rv_tensor_ref(g->saved[0]), s, e);
}

// dx = g e^(x - y), 0 where y is minus infinity (every x is).
static rv_status logsumexp_grad(rv_grad *g, rv_err *e) {
    rv_tensor *y = NULL, *wide = NULL, *d = NULL, *p = NULL, *bound = NULL;
    rv_status s = with_dims(&y, g, g->saved[1], e);
    s = s == RV_OK ? rv_tensor_clamp(&bound, y, -3.4028234663852886e38, (double)INFINITY, e) : s;
    s = combine(&d, RV_MAP_SUB, rv_tensor_ref(g->saved[0]), bound, s, e);
    rv_tensor_free(y);
    s = s == RV_OK ? rv_tensor_unary(&p, RV_MAP_EXP, d, e) : s;
    rv_tensor_free(d);
    s = s == RV_OK ? with_dims(&wide, g, g->g, e) : s;
    return combine(&g->out[0], RV_MAP_MUL, wide, p, s, e);
}

// The elements equal to the extreme share its gradient.
static rv_status extreme_grad(rv_grad *g, rv_err *e) {
    rv_tensor *y = NULL, *hit = NULL, *n = NULL, *wide = NULL, *share = NULL;
    rv_status s = with_dims(&y, g, g->saved[1], e);
    s = combine(&hit, RV_MAP_EQ, rv_tensor_ref(g->saved[0]), y, s, e);
    s = s == RV_OK ? rv_tensor_reduce(&n, RV_REDUCE_SUM, hit, (uint32_t)g->arg[0], true, 0, e) : s;
    s = s == RV_OK ? with_dims(&wide, g, g->g, e) : s;
    s = combine(&share, RV_MAP_DIV, wide, n, s, e);
    return combine(&g->out[0], RV_MAP_MUL, hit, share, s, e);
}

// Product of the other elements: of all but zeros over x, where x is not the only zero.
static rv_status prod_grad(rv_grad *g, rv_err *e) {
    rv_tensor *x = g->saved[0], *zero = NULL, *one = NULL, *is0 = NULL, *safe = NULL, *rest = NULL;
    rv_tensor *wide = NULL, *each = NULL, *lone = NULL, *count = NULL, *left = NULL, *ok = NULL;
    rv_status s = rv_tensor_number(&zero, g->tape, false, 0, 0, e);
    s = s == RV_OK ? rv_tensor_number(&one, g->tape, false, 0, 1, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&is0, RV_MAP_EQ, x, zero, e) : s;
    s = s == RV_OK ? rv_tensor_where(&safe, is0, one, x, e) : s;
    uint32_t dims = (uint32_t)g->arg[0];
    s = s == RV_OK ? rv_tensor_reduce(&rest, RV_REDUCE_PROD, safe, dims, true, 0, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&each, RV_MAP_DIV, rest, safe, e) : s;
    // zeros among the other elements: their number less this one
    s = s == RV_OK ? rv_tensor_reduce(&count, RV_REDUCE_SUM, is0, dims, true, 0, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&left, RV_MAP_SUB, count, is0, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&ok, RV_MAP_EQ, left, zero, e) : s;
    s = s == RV_OK ? rv_tensor_binary(&lone, RV_MAP_MUL, each, ok, e) : s;
    s = s == RV_OK ? with_dims(&wide, g, g->g, e) : s;
    rv_tensor *mine[] = {zero, one, is0, safe, rest, each, count, left, ok};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        rv_tensor_free(mine[i]);
    }
    return combine(&g->out[0], RV_MAP_MUL, wide, lone, s, e);
}

static rv_status record(rv_tensor **out, rv_reduce_op op, rv_tensor *x, uint32_t dims, double param,
                        rv_err *e) {
    if (!rv_tape_wants(x) || !rv_dtype_is_float((*out)->type)) {
        return RV_OK;
    }
    rv_record r = {names[op], NULL, {x, *out}, {(int64_t)dims}, {param}};
    switch (op) {
    case RV_REDUCE_SUM:
        r.backward = sum_grad;
        break;
    case RV_REDUCE_MEAN:
        r.backward = mean_grad;
        break;
    case RV_REDUCE_PROD:
        r.backward = prod_grad;
        break;
    case RV_REDUCE_VAR:
        r.backward = var_grad;
        break;
    case RV_REDUCE_NORM:
        r.backward = norm_grad;
        break;
    case RV_REDUCE_LOGSUMEXP:
        r.backward = logsumexp_grad;
        break;
    default:
        r.backward = extreme_grad;
    }
    if (op == RV_REDUCE_SUM || op == RV_REDUCE_MEAN) {
        r.saved[0] = r.saved[1] = NULL;
    }
    return rv_tape_record(*out, &x, 1, &r, e);
}

// The same elements without the reduced dims (a fresh tensor: strides are edited in place).
static void drop_dims(rv_tensor *t, uint32_t dims) {
    int nd = 0;
    for (int d = 0; d < t->ndim; d++) {
        if (!has(dims, d)) {
            t->dim[nd] = t->dim[d];
            t->stride[nd++] = t->stride[d];
        }
    }
    t->ndim = nd;
}

rv_status rv_tensor_reduce(rv_tensor **out, rv_reduce_op op, rv_tensor *x, uint32_t dims, bool keep,
                           double param, rv_err *e) {
    *out = NULL;
    if (op == RV_REDUCE_ARGMAX || op == RV_REDUCE_ARGMIN) {
        int many = 0;
        for (int d = 0; d < x->ndim; d++) {
            many += has(dims, d);
        }
        if (many > 1 && many < x->ndim) {
            return RV_FAIL(e, RV_EARG, "%s: wanted one dim or all, got %d", names[op], many);
        }
    }
    RV_TRY(check_not_empty(op, x, dims, e));
    rv_dtype domain = rv_dtype_is_float(x->type) || only_floats(op) ? RV_F32 : RV_I64;
    int64_t dim[RV_MAXDIM];
    for (int d = 0; d < x->ndim; d++) {
        dim[d] = has(dims, d) ? 1 : x->dim[d];
    }
    RV_TRY(rv_tensor_new(out, x->buf->tape, result_type(op, x->type), x->ndim, dim, e));
    rv_loop l;
    int kept = make_loop(&l, domain, *out, x, dims);
    l.param[0] = param;
    x->buf->tape->ops->reduce(op, &l, kept);
    if (!keep) {
        drop_dims(*out, dims);
    }
    return give_up(out, record(out, op, x, dims, param, e));
}

rv_status rv_tensor_std(rv_tensor **out, rv_tensor *x, uint32_t dims, bool keep, double correction,
                        rv_err *e) {
    rv_tensor *var = NULL;
    *out = NULL;
    RV_TRY(rv_tensor_reduce(&var, RV_REDUCE_VAR, x, dims, keep, correction, e));
    rv_status s = rv_tensor_unary(out, RV_MAP_SQRT, var, e);
    rv_tensor_free(var);
    return s;
}

// ---- softmax ----

// softmax: dx = y (g - sum g y); log: dx = g - e^y sum g. saved[1]: y, arg[0]: dim, arg[1]: log.
static rv_status softmax_grad(rv_grad *g, rv_err *e) {
    rv_tensor *y = g->saved[0], *gy = NULL, *sum = NULL, *d = NULL, *p = NULL;
    uint32_t dims = 1u << g->arg[0];
    rv_status s;
    if (g->arg[1]) {
        s = rv_tensor_reduce(&sum, RV_REDUCE_SUM, g->g, dims, true, 0, e);
        s = s == RV_OK ? rv_tensor_unary(&p, RV_MAP_EXP, y, e) : s;
        s = combine(&d, RV_MAP_MUL, p, sum, s, e);
        return combine(&g->out[0], RV_MAP_SUB, rv_tensor_ref(g->g), d, s, e);
    }
    s = rv_tensor_binary(&gy, RV_MAP_MUL, g->g, y, e);
    s = s == RV_OK ? rv_tensor_reduce(&sum, RV_REDUCE_SUM, gy, dims, true, 0, e) : s;
    rv_tensor_free(gy);
    s = combine(&d, RV_MAP_SUB, rv_tensor_ref(g->g), sum, s, e);
    return combine(&g->out[0], RV_MAP_MUL, d, rv_tensor_ref(y), s, e);
}

rv_status rv_tensor_softmax(rv_tensor **out, rv_tensor *x, int dim, bool log, rv_err *e) {
    rv_dtype type = rv_dtype_is_float(x->type) ? x->type : RV_F32;
    RV_TRY(rv_tensor_new(out, x->buf->tape, type, x->ndim, x->dim, e));
    rv_loop l;
    int kept = make_loop(&l, RV_F32, *out, x, 1u << dim);
    if (kept == l.ndim) { // a dim of size 1: rows of one element
        l.dim[l.ndim] = 1;
        l.at[0].stride[l.ndim] = l.at[1].stride[l.ndim] = 0;
        l.ndim++;
    }
    x->buf->tape->ops->softmax(&l, log);
    rv_record r = {log ? "log_softmax" : "softmax", softmax_grad, {*out}, {dim, log}, {0}};
    return give_up(out, rv_tape_record(*out, &x, 1, &r, e));
}

// ---- the gradient of broadcasting ----

rv_status rv_tensor_sum_to(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim,
                           const char *op, rv_err *e) {
    *out = NULL;
    if (x->ndim == ndim && memcmp(x->dim, dim, (size_t)ndim * sizeof *dim) == 0) {
        *out = rv_tensor_ref(x);
        return RV_OK;
    }
    int extra = x->ndim - ndim;
    uint32_t dims = extra > 0 ? (1u << extra) - 1 : 0;
    bool grow = extra < 0;
    for (int d = 0; d < ndim; d++) {
        int64_t have = d + extra < 0 ? 1 : x->dim[d + extra];
        if (have != dim[d] && dim[d] == 1) {
            dims |= 1u << (d + extra);
        } else if (have != dim[d] && have == 1) {
            grow = true;
        } else if (have != dim[d]) {
            return RV_FAIL(e, RV_ESHAPE,
                           "backward of %s: a gradient of shape %s for an input of %s", op,
                           rv_tensor_shape_str(x).s, rv_shape_str(ndim, dim).s);
        }
    }
    rv_tensor *sum = NULL, *flat = NULL;
    RV_TRY(dims ? rv_tensor_reduce(&sum, RV_REDUCE_SUM, x, dims, true, 0, e)
                : rv_tensor_alias(&sum, x, e));
    if (extra > 0) {
        rv_status s = rv_tensor_reshape(&flat, sum, ndim, sum->dim + extra, e);
        rv_tensor_free(sum);
        RV_TRY(s);
        sum = flat;
    }
    if (!grow) {
        *out = sum;
        return RV_OK;
    }
    rv_status s = rv_tensor_expand(out, sum, ndim, dim, e);
    rv_tensor_free(sum);
    return s;
}
