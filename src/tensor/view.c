#include "view.h"

#include <stdlib.h>
#include <string.h>

#include "elementwise.h"
#include "loop.h"

static rv_status give_up(rv_tensor **out, rv_status s) {
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

// The gradient of a view of another shape.
static rv_status reshape_grad(rv_grad *g, rv_err *e) {
    return rv_tensor_reshape(&g->out[0], g->g, g->in[0].ndim, g->in[0].dim, e);
}

// ---- slices ----

static rv_status slice_grad(rv_grad *g, rv_err *e) {
    rv_tensor *part = NULL;
    RV_TRY(rv_tensor_full(&g->out[0], g->tape, RV_F32, g->in[0].ndim, g->in[0].dim, 0, e));
    int dim = (int)g->arg[0];
    RV_TRY(rv_tensor_slice(&part, g->out[0], dim, g->arg[1], g->g->dim[dim], g->arg[2], e));
    rv_status s = rv_copy_into(part, g->g, "slice", e);
    rv_tensor_free(part);
    return s;
}

rv_status rv_tensor_slice(rv_tensor **out, rv_tensor *x, int dim, int64_t start, int64_t count,
                          int64_t step, rv_err *e) {
    *out = NULL;
    int64_t n = x->dim[dim];
    bool fits = start >= 0 && count >= 0 && step > 0 && start <= n &&
                (count == 0 || (count - 1) <= (n - 1 - start) / step);
    if (!fits || (count > 0 && start >= n)) {
        return RV_FAIL(e, RV_EARG,
                       "slice: %lld elements from %lld in steps of %lld do not lie in dim %d of "
                       "shape %s",
                       (long long)count, (long long)start + 1, (long long)step, dim + 1,
                       rv_tensor_shape_str(x).s);
    }
    RV_TRY(rv_tensor_alias(out, x, e));
    rv_tensor *y = *out;
    y->offset += count ? start * x->stride[dim] : 0;
    y->dim[dim] = count;
    y->stride[dim] *= step;
    rv_record r = {"slice", slice_grad, {NULL}, {dim, start, step}, {0}};
    return give_up(out, rv_tape_record(y, &x, 1, &r, e));
}

rv_status rv_tensor_select(rv_tensor **out, rv_tensor *x, int dim, int64_t at, rv_err *e) {
    rv_tensor *one = NULL;
    *out = NULL;
    RV_TRY(rv_tensor_slice(&one, x, dim, at, 1, 1, e));
    rv_status s = rv_tensor_alias(out, one, e);
    if (s == RV_OK) {
        rv_tensor *y = *out;
        for (int d = dim; d < y->ndim - 1; d++) {
            y->dim[d] = y->dim[d + 1];
            y->stride[d] = y->stride[d + 1];
        }
        y->ndim--;
        rv_record r = {"select", reshape_grad, {NULL}, {0}, {0}};
        s = rv_tape_record(y, &one, 1, &r, e);
    }
    rv_tensor_free(one);
    return give_up(out, s);
}

// ---- order, shape ----

static rv_status permute_grad(rv_grad *g, rv_err *e) {
    int back[RV_MAXDIM];
    for (int d = 0; d < g->g->ndim; d++) {
        back[g->arg[0] >> (4 * d) & 15] = d;
    }
    return rv_tensor_permute(&g->out[0], g->g, back, e);
}

rv_status rv_tensor_permute(rv_tensor **out, rv_tensor *x, const int *order, rv_err *e) {
    RV_TRY(rv_tensor_alias(out, x, e));
    rv_tensor *y = *out;
    int64_t packed = 0;
    for (int d = 0; d < x->ndim; d++) {
        y->dim[d] = x->dim[order[d]];
        y->stride[d] = x->stride[order[d]];
        packed |= (int64_t)order[d] << (4 * d);
    }
    rv_record r = {"permute", permute_grad, {NULL}, {packed}, {0}};
    return give_up(out, rv_tape_record(y, &x, 1, &r, e));
}

// Fills in a size of -1; false when the numbers of elements differ.
static bool complete(int64_t *dim, int ndim, int64_t n) {
    int open = -1;
    int64_t known = 1;
    for (int d = 0; d < ndim; d++) {
        if (dim[d] == -1 && open < 0) {
            open = d;
        } else if (dim[d] < 0 || __builtin_mul_overflow(known, dim[d], &known)) {
            return false;
        }
    }
    if (open >= 0) {
        if (known == 0 || n % known) {
            return false;
        }
        dim[open] = n / known;
        return true;
    }
    return known == n;
}

rv_status rv_tensor_reshape(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim,
                            rv_err *e) {
    *out = NULL;
    int64_t full[RV_MAXDIM];
    memcpy(full, dim, (size_t)ndim * sizeof *dim);
    if (!complete(full, ndim, rv_tensor_numel(x))) {
        return RV_FAIL(e, RV_ESHAPE, "reshape: shape %s (%lld elements) does not fit into %s",
                       rv_tensor_shape_str(x).s, (long long)rv_tensor_numel(x),
                       rv_shape_str(ndim, dim).s);
    }
    rv_tensor *dense = NULL;
    RV_TRY(rv_tensor_compact(&dense, x, e));
    rv_status s = rv_tensor_alias(out, dense, e);
    if (s == RV_OK) {
        rv_tensor *y = *out;
        y->ndim = ndim;
        int64_t stride = 1;
        for (int d = ndim - 1; d >= 0; d--) {
            y->dim[d] = full[d];
            y->stride[d] = stride;
            stride *= full[d] > 1 ? full[d] : 1;
        }
        rv_record r = {"reshape", reshape_grad, {NULL}, {0}, {0}};
        s = rv_tape_record(y, &dense, 1, &r, e);
    }
    rv_tensor_free(dense);
    return give_up(out, s);
}

// The tape sums a gradient down to the input's shape by itself.
static rv_status expand_grad(rv_grad *g, rv_err *e) {
    (void)e;
    g->out[0] = rv_tensor_ref(g->g);
    return RV_OK;
}

rv_status rv_tensor_expand(rv_tensor **out, rv_tensor *x, int ndim, const int64_t *dim, rv_err *e) {
    *out = NULL;
    int extra = ndim - x->ndim;
    bool fits = extra >= 0;
    int64_t full[RV_MAXDIM], stride[RV_MAXDIM];
    for (int d = 0; d < ndim && fits; d++) {
        int64_t have = d < extra ? 1 : x->dim[d - extra];
        full[d] = dim[d] == -1 && d >= extra ? have : dim[d];
        fits = full[d] >= 0 && (have == 1 || have == full[d]);
        stride[d] = d < extra || have == 1 ? 0 : x->stride[d - extra];
    }
    if (!fits) {
        return RV_FAIL(e, RV_ESHAPE, "expand: shape %s does not grow to %s",
                       rv_tensor_shape_str(x).s, rv_shape_str(ndim, dim).s);
    }
    RV_TRY(rv_tensor_alias(out, x, e));
    rv_tensor *y = *out;
    y->ndim = ndim;
    memcpy(y->dim, full, (size_t)ndim * sizeof *full);
    memcpy(y->stride, stride, (size_t)ndim * sizeof *stride);
    rv_record r = {"expand", expand_grad, {NULL}, {0}, {0}};
    return give_up(out, rv_tape_record(y, &x, 1, &r, e));
}

// ---- joining ----

// arg[0]: dim.
static rv_status cat_grad(rv_grad *g, rv_err *e) {
    int dim = (int)g->arg[0];
    int64_t at = 0;
    for (int i = 0; i < g->n_in; i++) {
        int64_t n = g->in[i].dim[dim];
        if (g->want[i]) {
            RV_TRY(rv_tensor_slice(&g->out[i], g->g, dim, at, n, 1, e));
        }
        at += n;
    }
    return RV_OK;
}

static rv_status cat_shape(rv_shape *shape, rv_tensor *const *x, int n, int dim, rv_err *e) {
    if (n == 0) {
        return RV_FAIL(e, RV_EARG, "cat: wanted at least one tensor");
    }
    *shape = (rv_shape){x[0]->ndim, {0}};
    memcpy(shape->dim, x[0]->dim, sizeof shape->dim);
    for (int i = 1; i < n; i++) {
        bool fits = x[i]->ndim == shape->ndim;
        for (int d = 0; d < shape->ndim && fits; d++) {
            fits = d == dim || x[i]->dim[d] == x[0]->dim[d];
        }
        if (!fits) {
            return RV_FAIL(
                e, RV_ESHAPE, "cat: tensor %d has shape %s, which does not join %s along dim %d",
                i + 1, rv_tensor_shape_str(x[i]).s, rv_tensor_shape_str(x[0]).s, dim + 1);
        }
        shape->dim[dim] += x[i]->dim[dim];
    }
    return RV_OK;
}

rv_status rv_tensor_cat(rv_tensor **out, rv_tensor *const *x, int n, int dim, rv_err *e) {
    *out = NULL;
    rv_shape shape;
    RV_TRY(cat_shape(&shape, x, n, dim, e));
    rv_dtype type = rv_loop_common_type((const rv_tensor *const *)x, n);
    RV_TRY(rv_tensor_new(out, x[0]->buf->tape, type, shape.ndim, shape.dim, e));
    int64_t at = 0;
    rv_status s = RV_OK;
    for (int i = 0; i < n && s == RV_OK; i++) {
        rv_tensor *part = NULL;
        s = rv_tensor_slice(&part, *out, dim, at, x[i]->dim[dim], 1, e);
        s = s == RV_OK ? rv_copy_into(part, x[i], "cat", e) : s;
        rv_tensor_free(part);
        at += x[i]->dim[dim];
    }
    rv_record r = {"cat", cat_grad, {NULL}, {dim}, {0}};
    return give_up(out, s == RV_OK ? rv_tape_record(*out, x, n, &r, e) : s);
}
