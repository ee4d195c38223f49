#include "index.h"

#include <string.h>

#include "elementwise.h"
#include "loop.h"
#include "view.h"

static rv_status give_up(rv_tensor **out, rv_status s) {
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

static rv_axis axis_of(const rv_tensor *x, int dim) {
    rv_axis a = {1, x->ndim ? x->dim[dim] : 1, 1};
    for (int d = 0; d < x->ndim; d++) {
        *(d < dim ? &a.outer : &a.inner) *= d == dim ? 1 : x->dim[d];
    }
    return a;
}

// Positions as the table wants them: contiguous i64 counted from 0.
static rv_status positions(rv_tensor **out, rv_tensor *idx, int base, const char *op, rv_err *e) {
    *out = NULL;
    if (rv_dtype_is_float(idx->type) || idx->type == RV_BOOL) {
        return RV_FAIL(e, RV_ETYPE, "%s: positions must be integers, got %s of shape %s", op,
                       rv_dtype_name(idx->type), rv_tensor_shape_str(idx).s);
    }
    rv_tensor *wide = NULL, *shift = NULL;
    RV_TRY(rv_tensor_to(&wide, idx, RV_I64, e));
    rv_status s = RV_OK;
    if (base == 0) {
        s = rv_tensor_compact(out, wide, e);
    } else {
        s = rv_tensor_number(&shift, idx->buf->tape, true, base, 0, e);
        s = s == RV_OK ? rv_tensor_binary(out, RV_MAP_SUB, wide, shift, e) : s;
    }
    rv_tensor_free(wide);
    rv_tensor_free(shift);
    return s;
}

// ---- index_select ----

static rv_status add_at(rv_tensor **out, const rv_shape *shape, rv_tensor *g, rv_tensor *idx,
                        int dim, bool flat, rv_err *e) {
    rv_tensor *dense = NULL;
    RV_TRY(rv_tensor_full(out, g->buf->tape, RV_F32, shape->ndim, shape->dim, 0, e));
    RV_TRY(rv_tensor_compact(&dense, g, e));
    int64_t count = flat ? rv_tensor_numel(idx) : idx->dim[dim];
    rv_status s =
        g->buf->tape->ops->scatter_add(rv_tensor_data(*out), rv_tensor_data(dense),
                                       rv_tensor_data(idx), flat, axis_of(*out, dim), count, e);
    rv_tensor_free(dense);
    return s;
}

// saved[0]: positions; arg[0]: dim, arg[1]: one position for a whole slice.
static rv_status take_grad(rv_grad *g, rv_err *e) {
    return add_at(&g->out[0], &g->in[0], g->g, g->saved[0], (int)g->arg[0], g->arg[1] != 0, e);
}

rv_status rv_tensor_index_select(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx, int base,
                                 rv_err *e) {
    *out = NULL;
    if (idx->ndim != 1) {
        return RV_FAIL(e, RV_ESHAPE,
                       "index_select: wanted positions of one dim, got shape %s for an input of %s",
                       rv_tensor_shape_str(idx).s, rv_tensor_shape_str(x).s);
    }
    rv_tensor *at = NULL, *dense = NULL;
    rv_status s = positions(&at, idx, base, "index_select", e);
    s = s == RV_OK ? rv_tensor_compact(&dense, x, e) : s;
    if (s == RV_OK) {
        int64_t dims[RV_MAXDIM];
        memcpy(dims, x->dim, sizeof dims);
        dims[dim] = idx->dim[0];
        s = rv_tensor_new(out, x->buf->tape, x->type, x->ndim, dims, e);
    }
    if (s == RV_OK) {
        s = x->buf->tape->ops->index_select(rv_tensor_data(*out), rv_tensor_data(dense),
                                            rv_tensor_data(at), axis_of(x, dim), idx->dim[0],
                                            rv_dtype_size(x->type), e);
        if (s != RV_OK) {
            rv_err_context(e, "index_select: dim %d of shape %s", dim + 1,
                           rv_tensor_shape_str(x).s);
        }
    }
    rv_record r = {"index_select", take_grad, {at}, {dim, 1}, {0}};
    s = s == RV_OK ? rv_tape_record(*out, &x, 1, &r, e) : s;
    rv_tensor_free(at);
    rv_tensor_free(dense);
    return give_up(out, s);
}

// ---- gather, scatter_add ----

static rv_status check_same_but(const char *op, const rv_tensor *x, const rv_tensor *idx, int dim,
                                rv_err *e) {
    bool fits = x->ndim == idx->ndim;
    for (int d = 0; d < x->ndim && fits; d++) {
        fits = d == dim || x->dim[d] == idx->dim[d];
    }
    if (!fits) {
        return RV_FAIL(e, RV_ESHAPE,
                       "%s: positions of shape %s for an input of %s: all dims but %d must agree",
                       op, rv_tensor_shape_str(idx).s, rv_tensor_shape_str(x).s, dim + 1);
    }
    return RV_OK;
}

rv_status rv_tensor_gather(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx, int base,
                           rv_err *e) {
    *out = NULL;
    RV_TRY(check_same_but("gather", x, idx, dim, e));
    rv_tensor *at = NULL, *dense = NULL;
    rv_status s = positions(&at, idx, base, "gather", e);
    s = s == RV_OK ? rv_tensor_compact(&dense, x, e) : s;
    s = s == RV_OK ? rv_tensor_new(out, x->buf->tape, x->type, idx->ndim, idx->dim, e) : s;
    if (s == RV_OK) {
        s = x->buf->tape->ops->gather(rv_tensor_data(*out), rv_tensor_data(dense),
                                      rv_tensor_data(at), axis_of(x, dim),
                                      idx->ndim ? idx->dim[dim] : 1, rv_dtype_size(x->type), e);
        if (s != RV_OK) {
            rv_err_context(e, "gather: dim %d of shape %s", dim + 1, rv_tensor_shape_str(x).s);
        }
    }
    rv_record r = {"gather", take_grad, {at}, {dim, 0}, {0}};
    s = s == RV_OK ? rv_tape_record(*out, &x, 1, &r, e) : s;
    rv_tensor_free(at);
    rv_tensor_free(dense);
    return give_up(out, s);
}

// saved[0]: positions; arg[0]: dim.
static rv_status scatter_grad(rv_grad *g, rv_err *e) {
    if (g->want[0]) {
        g->out[0] = rv_tensor_ref(g->g);
    }
    if (g->want[1]) {
        return rv_tensor_gather(&g->out[1], g->g, (int)g->arg[0], g->saved[0], 0, e);
    }
    return RV_OK;
}

rv_status rv_tensor_scatter_add(rv_tensor **out, rv_tensor *x, int dim, rv_tensor *idx,
                                rv_tensor *src, int base, rv_err *e) {
    *out = NULL;
    RV_TRY(check_same_but("scatter_add", x, idx, dim, e));
    if (!rv_tensor_same_shape(idx, src)) {
        return RV_FAIL(e, RV_ESHAPE, "scatter_add: positions of shape %s for a source of %s",
                       rv_tensor_shape_str(idx).s, rv_tensor_shape_str(src).s);
    }
    if (!rv_dtype_is_float(x->type) || !rv_dtype_is_float(src->type)) {
        return RV_FAIL(e, RV_ETYPE, "scatter_add: wanted floating types, got %s and %s",
                       rv_dtype_name(x->type), rv_dtype_name(src->type));
    }
    rv_tensor *at = NULL, *flat = NULL, *dense = NULL, *sum = NULL;
    rv_status s = positions(&at, idx, base, "scatter_add", e);
    s = s == RV_OK ? rv_tensor_to(&flat, src, RV_F32, e) : s;
    s = s == RV_OK ? rv_tensor_compact(&dense, flat, e) : s;
    s = s == RV_OK ? rv_tensor_new(&sum, x->buf->tape, RV_F32, x->ndim, x->dim, e) : s;
    s = s == RV_OK ? rv_copy_into(sum, x, "scatter_add", e) : s;
    if (s == RV_OK) {
        s = x->buf->tape->ops->scatter_add(rv_tensor_data(sum), rv_tensor_data(dense),
                                           rv_tensor_data(at), false, axis_of(x, dim),
                                           idx->ndim ? idx->dim[dim] : 1, e);
        if (s != RV_OK) {
            rv_err_context(e, "scatter_add: dim %d of shape %s", dim + 1, rv_tensor_shape_str(x).s);
        }
    }
    s = s == RV_OK ? rv_tensor_to(out, sum, x->type, e) : s;
    rv_record r = {"scatter_add", scatter_grad, {at}, {dim}, {0}};
    s = s == RV_OK ? rv_tape_record(*out, (rv_tensor *[]){x, src}, 2, &r, e) : s;
    rv_tensor *mine[] = {at, flat, dense, sum};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        rv_tensor_free(mine[i]);
    }
    return give_up(out, s);
}

// ---- masks ----

static rv_status check_mask(const rv_tensor *mask, const char *op, rv_err *e) {
    if (mask->type != RV_BOOL) {
        return RV_FAIL(e, RV_ETYPE, "%s: wanted a bool mask, got %s of shape %s", op,
                       rv_dtype_name(mask->type), rv_tensor_shape_str(mask).s);
    }
    return RV_OK;
}

rv_status rv_tensor_nonzero(rv_tensor **out, rv_tensor *mask, int base, rv_err *e) {
    *out = NULL;
    RV_TRY(check_mask(mask, "nonzero", e));
    rv_tensor *dense = NULL, *shift = NULL, *from0 = NULL;
    RV_TRY(rv_tensor_compact(&dense, mask, e));
    rv_tape *tape = mask->buf->tape;
    int64_t n = rv_tensor_numel(mask), count = tape->ops->nonzero(NULL, rv_tensor_data(dense), n);
    rv_status s = rv_tensor_new(&from0, tape, RV_I64, 1, &count, e);
    if (s == RV_OK) {
        tape->ops->nonzero(rv_tensor_data(from0), rv_tensor_data(dense), n);
        s = rv_tensor_number(&shift, tape, true, base, 0, e);
        s = s == RV_OK ? rv_tensor_binary(out, RV_MAP_ADD, from0, shift, e) : s;
    }
    rv_tensor_free(dense);
    rv_tensor_free(shift);
    rv_tensor_free(from0);
    return s;
}

rv_status rv_tensor_masked_select(rv_tensor **out, rv_tensor *x, rv_tensor *mask, rv_err *e) {
    *out = NULL;
    RV_TRY(check_mask(mask, "masked_select", e));
    rv_shape shape;
    RV_TRY(rv_loop_broadcast(&shape, "masked_select", (const rv_tensor *[]){x, mask}, 2, e));
    rv_tensor *wide_x = NULL, *wide_mask = NULL, *flat = NULL, *at = NULL;
    rv_status s = rv_tensor_expand(&wide_x, x, shape.ndim, shape.dim, e);
    s = s == RV_OK ? rv_tensor_expand(&wide_mask, mask, shape.ndim, shape.dim, e) : s;
    s = s == RV_OK ? rv_tensor_reshape(&flat, wide_x, 1, (int64_t[]){-1}, e) : s;
    s = s == RV_OK ? rv_tensor_nonzero(&at, wide_mask, 0, e) : s;
    s = s == RV_OK ? rv_tensor_index_select(out, flat, 0, at, 0, e) : s;
    rv_tensor *mine[] = {wide_x, wide_mask, flat, at};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        rv_tensor_free(mine[i]);
    }
    return s;
}

// ---- sort ----

// Sorted positions of all of x along `dim`, from 0.
static rv_status sort_positions(rv_tensor **at, rv_tensor *x, int dim, bool descending, rv_err *e) {
    rv_dtype domain = rv_dtype_is_float(x->type) ? RV_F32 : RV_I64;
    rv_tensor *wide = NULL, *dense = NULL, *keys = NULL;
    rv_status s = rv_tensor_to(&wide, x, domain, e);
    s = s == RV_OK ? rv_tensor_compact(&dense, wide, e) : s;
    s = s == RV_OK ? rv_tensor_new(&keys, x->buf->tape, domain, x->ndim, x->dim, e) : s;
    s = s == RV_OK ? rv_tensor_new(at, x->buf->tape, RV_I64, x->ndim, x->dim, e) : s;
    if (s == RV_OK) {
        s = x->buf->tape->ops->sort(rv_tensor_data(keys), rv_tensor_data(*at),
                                    rv_tensor_data(dense), axis_of(x, dim), descending, domain, e);
    }
    rv_tensor_free(wide);
    rv_tensor_free(dense);
    rv_tensor_free(keys);
    return give_up(at, s);
}

rv_status rv_tensor_sort(rv_tensor **values, rv_tensor **where, rv_tensor *x, int dim,
                         bool descending, int64_t k, int base, rv_err *e) {
    *values = NULL;
    rv_tensor *at = NULL, *first = NULL, *shift = NULL;
    int64_t n = x->ndim ? x->dim[dim] : 1;
    if (k > n) {
        return RV_FAIL(e, RV_EARG, "topk: %lld elements of dim %d of shape %s", (long long)k,
                       dim + 1, rv_tensor_shape_str(x).s);
    }
    bool grad = x->buf->tape->grad;
    x->buf->tape->grad = false; // only the gather below is recorded
    rv_status s = sort_positions(&at, x, dim, descending, e);
    x->buf->tape->grad = grad;
    RV_TRY(s);
    s = k < 0 || x->ndim == 0 ? rv_tensor_alias(&first, at, e)
                              : rv_tensor_slice(&first, at, dim, 0, k, 1, e);
    s = s == RV_OK ? rv_tensor_gather(values, x, dim, first, 0, e) : s;
    if (s == RV_OK && where) {
        s = rv_tensor_number(&shift, x->buf->tape, true, base, 0, e);
        s = s == RV_OK ? rv_tensor_binary(where, RV_MAP_ADD, first, shift, e) : s;
    }
    rv_tensor_free(at);
    rv_tensor_free(first);
    rv_tensor_free(shift);
    return give_up(values, s);
}
