// sums.c - cumulative sums, sums of segments, products of matrices (declared in index.h).
#include <string.h>

#include "elementwise.h"
#include "index.h"
#include "intr.h"
#include "loop.h"
#include "reduce.h"
#include "view.h"

static rv_status give_up(rv_tensor **out, rv_status s) {
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

// x as contiguous elements of `type`.
static rv_status dense_as(rv_tensor **out, rv_tensor *x, rv_dtype type, rv_err *e) {
    rv_tensor *wide = NULL;
    *out = NULL;
    RV_TRY(rv_tensor_to(&wide, x, type, e));
    rv_status s = rv_tensor_compact(out, wide, e);
    rv_tensor_free(wide);
    return s;
}

// ---- cumsum ----

static rv_status scan(rv_tensor **out, rv_tensor *x, int dim, bool reverse, rv_err *e) {
    rv_dtype domain = rv_dtype_is_float(x->type) ? RV_F32 : RV_I64;
    rv_tensor *dense = NULL;
    RV_TRY(dense_as(&dense, x, domain, e));
    rv_status s = rv_tensor_new(out, x->buf->tape, domain, x->ndim, x->dim, e);
    if (s == RV_OK) {
        rv_axis a = {1, x->ndim ? x->dim[dim] : 1, 1};
        for (int d = 0; d < x->ndim; d++) {
            *(d < dim ? &a.outer : &a.inner) *= d == dim ? 1 : x->dim[d];
        }
        x->buf->tape->ops->cumsum(rv_tensor_data(*out), rv_tensor_data(dense), a, reverse, domain);
    }
    rv_tensor_free(dense);
    return s;
}

static rv_status cumsum_grad(rv_grad *g, rv_err *e) {
    return scan(&g->out[0], g->g, (int)g->arg[0], true, e);
}

rv_status rv_tensor_cumsum(rv_tensor **out, rv_tensor *x, int dim, rv_err *e) {
    *out = NULL;
    rv_tensor *plain = NULL, *sums = NULL; // without a place on the tape
    RV_TRY(rv_tensor_alias(&plain, x, e));
    rv_status s = scan(&sums, plain, dim, false, e);
    s = s == RV_OK ? rv_tensor_to(out, sums, x->type == RV_BF16 ? RV_BF16 : sums->type, e) : s;
    rv_record r = {"cumsum", cumsum_grad, {NULL}, {dim}, {0}};
    s = s == RV_OK ? rv_tape_record(*out, &x, 1, &r, e) : s;
    rv_tensor_free(plain);
    rv_tensor_free(sums);
    return give_up(out, s);
}

// ---- segments ----

static rv_status check_segments(const rv_tensor *x, const int64_t *off, int64_t n, rv_err *e) {
    if (x->ndim == 0 || !rv_dtype_is_float(x->type)) {
        return RV_FAIL(e, x->ndim ? RV_ETYPE : RV_ESHAPE,
                       "segment_sum: wanted a floating tensor with rows, got %s of shape %s",
                       rv_dtype_name(x->type), rv_tensor_shape_str(x).s);
    }
    for (int64_t s = 0; s < n; s++) {
        if (off[s] < 0 || off[s] > off[s + 1] || off[s + 1] > x->dim[0]) {
            return RV_FAIL(e, RV_EARG,
                           "segment_sum: segment %lld goes from %lld to %lld, but shape %s has "
                           "rows 0 to %lld",
                           (long long)s + 1, (long long)off[s], (long long)off[s + 1],
                           rv_tensor_shape_str(x).s, (long long)x->dim[0]);
        }
    }
    return RV_OK;
}

// saved[0]: offsets (i64), arg[0]: mean.
static rv_status segment_grad(rv_grad *g, rv_err *e) {
    rv_tensor *dense = NULL;
    RV_TRY(rv_tensor_compact(&dense, g->g, e));
    rv_status s = rv_tensor_new(&g->out[0], g->tape, RV_F32, g->in[0].ndim, g->in[0].dim, e);
    if (s == RV_OK) {
        int64_t inner = 1;
        for (int d = 1; d < g->in[0].ndim; d++) {
            inner *= g->in[0].dim[d];
        }
        g->tape->ops->segment_spread(rv_tensor_data(g->out[0]), rv_tensor_data(dense),
                                     rv_tensor_data(g->saved[0]), g->saved[0]->dim[0] - 1,
                                     g->in[0].dim[0], inner, g->arg[0] != 0);
    }
    rv_tensor_free(dense);
    return s;
}

rv_status rv_tensor_segment_sum(rv_tensor **out, rv_tensor *x, const int64_t *off, int64_t n,
                                bool mean, rv_err *e) {
    *out = NULL;
    RV_TRY(check_segments(x, off, n, e));
    rv_tape *tape = x->buf->tape;
    rv_tensor *plain = NULL, *dense = NULL, *sums = NULL, *bounds = NULL;
    int64_t dims[RV_MAXDIM], inner = 1, count = n + 1;
    memcpy(dims, x->dim, sizeof dims);
    dims[0] = n;
    for (int d = 1; d < x->ndim; d++) {
        inner *= x->dim[d];
    }
    rv_status s = rv_tensor_alias(&plain, x, e);
    s = s == RV_OK ? dense_as(&dense, plain, RV_F32, e) : s;
    s = s == RV_OK ? rv_tensor_from(&bounds, tape, RV_I64, 1, &count, off, e) : s;
    s = s == RV_OK ? rv_tensor_new(&sums, tape, RV_F32, x->ndim, dims, e) : s;
    if (s == RV_OK) {
        tape->ops->segment_sum(rv_tensor_data(sums), rv_tensor_data(dense), rv_tensor_data(bounds),
                               n, inner, mean);
        s = rv_tensor_to(out, sums, x->type, e);
    }
    rv_record r = {mean ? "segment_mean" : "segment_sum", segment_grad, {bounds}, {mean}, {0}};
    s = s == RV_OK ? rv_tape_record(*out, &x, 1, &r, e) : s;
    rv_tensor *mine[] = {plain, dense, sums, bounds};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        rv_tensor_free(mine[i]);
    }
    return give_up(out, s);
}

// ---- matmul ----

// The last two dims of `t` changed places.
static rv_status transposed(rv_tensor **out, rv_tensor *t, rv_err *e) {
    int order[RV_MAXDIM];
    for (int d = 0; d < t->ndim; d++) {
        order[d] = d;
    }
    order[t->ndim - 2] = t->ndim - 1;
    order[t->ndim - 1] = t->ndim - 2;
    return rv_tensor_permute(out, t, order, e);
}

static rv_status fail_matmul(const rv_tensor *a, const rv_tensor *b, rv_err *e) {
    return RV_FAIL(e, RV_ESHAPE, "matmul: shapes %s and %s do not fit", rv_tensor_shape_str(a).s,
                   rv_tensor_shape_str(b).s);
}

enum { MATMUL_STRIP = 1 << 26 }; // multiply-adds between two looks for Ctrl-C

// One product of matrices with the shapes and strides of a and b, strip by strip of its rows.
static rv_status multiply_one(float *y, const float *x, const float *w, const rv_tensor *a,
                              const rv_tensor *b, rv_err *e) {
    const int64_t *sa = a->stride + a->ndim - 2, *sb = b->stride + b->ndim - 2;
    int64_t m = a->dim[a->ndim - 2], k = a->dim[a->ndim - 1], n = b->dim[b->ndim - 1];
    int64_t strip = MATMUL_STRIP / (n * k + 1) + 1;
    for (int64_t i = 0; i < m; i += strip) {
        if (i > 0 && rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted");
        }
        int64_t rows = m - i < strip ? m - i : strip;
        a->buf->tape->ops->matmul(y + i * n, x + i * sa[0], w, rows, n, k, sa, sb);
    }
    return RV_OK;
}

// Multiplies batches: a (B.., m, k), b (B.., k, n), already of two or more dims.
static rv_status multiply(rv_tensor **out, rv_tensor *a, rv_tensor *b, rv_err *e) {
    int64_t m = a->dim[a->ndim - 2], k = a->dim[a->ndim - 1], n = b->dim[b->ndim - 1];
    rv_tensor ha = *a, hb = *b; // the batch dims alone, for their broadcast
    ha.ndim -= 2;
    hb.ndim -= 2;
    rv_shape shape;
    if (b->dim[b->ndim - 2] != k ||
        rv_loop_broadcast(&shape, "matmul", (const rv_tensor *[]){&ha, &hb}, 2, NULL) != RV_OK) {
        return fail_matmul(a, b, e);
    }
    int batch = shape.ndim;
    shape.dim[batch] = m;
    shape.dim[batch + 1] = n;
    RV_TRY(rv_tensor_new(out, a->buf->tape, RV_F32, batch + 2, shape.dim, e));
    rv_tensor ho = **out;
    ho.ndim = batch;
    rv_loop l; // walks the batches
    rv_loop_make(&l, RV_F32, &ho, (const rv_tensor *[]){&ha, &hb}, 2);
    int64_t total = 1, index[RV_MAXDIM] = {0};
    for (int d = 0; d < l.ndim; d++) {
        total *= l.dim[d];
    }
    float *p[3] = {l.at[0].data, l.at[1].data, l.at[2].data};
    for (int64_t i = 0; i < total; i++) {
        RV_TRY(multiply_one(p[0], p[1], p[2], a, b, e));
        for (int d = l.ndim - 1; d >= 0; d--) {
            bool carry = ++index[d] == l.dim[d];
            for (int t = 0; t < 3; t++) {
                p[t] += l.at[t].stride[d] * (carry ? 1 - l.dim[d] : 1);
            }
            if (!carry) {
                break;
            }
            index[d] = 0;
        }
    }
    return RV_OK;
}

// y = a b: da = g b^T, db = a^T g, over the batches; vectors were matrices by then.
static rv_status matmul_grad(rv_grad *g, rv_err *e) {
    for (int i = 0; i < 2; i++) {
        if (!g->want[i]) {
            continue;
        }
        rv_tensor *t = NULL;
        RV_TRY(transposed(&t, g->saved[1 - i], e));
        rv_status s = i == 0 ? multiply(&g->out[0], g->g, t, e) : multiply(&g->out[1], t, g->g, e);
        rv_tensor_free(t);
        RV_TRY(s);
    }
    return RV_OK;
}

static rv_status product(rv_tensor **out, rv_tensor *a, rv_tensor *b, rv_dtype type, rv_err *e) {
    rv_tensor *fa = NULL, *fb = NULL, *y = NULL;
    rv_status s = rv_tensor_to(&fa, a, RV_F32, e);
    s = s == RV_OK ? rv_tensor_to(&fb, b, RV_F32, e) : s;
    s = s == RV_OK ? multiply(&y, fa, fb, e) : s;
    rv_record r = {"matmul", matmul_grad, {fa, fb}, {0}, {0}};
    s = s == RV_OK ? rv_tape_record(y, (rv_tensor *[]){fa, fb}, 2, &r, e) : s;
    s = s == RV_OK ? rv_tensor_to(out, y, type, e) : s;
    rv_tensor_free(fa);
    rv_tensor_free(fb);
    rv_tensor_free(y);
    return s;
}

// A vector as a matrix of one row or one column.
static rv_status as_matrix(rv_tensor **out, rv_tensor *v, bool row, rv_err *e) {
    if (v->ndim != 1) {
        *out = rv_tensor_ref(v);
        return RV_OK;
    }
    int64_t dim[2] = {row ? 1 : v->dim[0], row ? v->dim[0] : 1};
    return rv_tensor_reshape(out, v, 2, dim, e);
}

rv_status rv_tensor_matmul(rv_tensor **out, rv_tensor *a, rv_tensor *b, rv_err *e) {
    *out = NULL;
    rv_dtype type = rv_loop_common_type((const rv_tensor *[]){a, b}, 2);
    if (!rv_dtype_is_float(type)) {
        return RV_FAIL(e, RV_ETYPE, "matmul: wanted floating types, got %s and %s",
                       rv_dtype_name(a->type), rv_dtype_name(b->type));
    }
    if (a->ndim == 0 || b->ndim == 0) {
        return fail_matmul(a, b, e);
    }
    rv_tensor *ma = NULL, *mb = NULL, *y = NULL;
    rv_status s = as_matrix(&ma, a, true, e);
    s = s == RV_OK ? as_matrix(&mb, b, false, e) : s;
    s = s == RV_OK ? product(&y, ma, mb, type, e) : s;
    if (s == RV_ESHAPE) {
        s = fail_matmul(a, b, e); // the shapes that were given
    }
    if (s == RV_OK && a->ndim != 1 && b->ndim != 1) {
        *out = rv_tensor_ref(y);
    } else if (s == RV_OK) {
        int64_t dim[RV_MAXDIM];
        int nd = 0;
        for (int d = 0; d < y->ndim; d++) {
            bool dropped = (a->ndim == 1 && d == y->ndim - 2) || (b->ndim == 1 && d == y->ndim - 1);
            if (!dropped) {
                dim[nd++] = y->dim[d];
            }
        }
        s = rv_tensor_reshape(out, y, nd, dim, e);
    }
    rv_tensor_free(ma);
    rv_tensor_free(mb);
    rv_tensor_free(y);
    return s;
}
