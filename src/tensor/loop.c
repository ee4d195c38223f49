#include "loop.h"

#include <stdio.h>
#include <string.h>

static rv_status fail_broadcast(const char *op, const rv_tensor *const *t, int n, rv_err *e) {
    if (n == 3) {
        return RV_FAIL(e, RV_ESHAPE, "%s: shapes %s, %s and %s do not broadcast", op,
                       rv_tensor_shape_str(t[0]).s, rv_tensor_shape_str(t[1]).s,
                       rv_tensor_shape_str(t[2]).s);
    }
    return RV_FAIL(e, RV_ESHAPE, "%s: shapes %s and %s do not broadcast", op,
                   rv_tensor_shape_str(t[0]).s, rv_tensor_shape_str(t[n - 1]).s);
}

rv_status rv_loop_broadcast(rv_shape *out, const char *op, const rv_tensor *const *t, int n,
                            rv_err *e) {
    out->ndim = 0;
    for (int i = 0; i < n; i++) {
        out->ndim = t[i]->ndim > out->ndim ? t[i]->ndim : out->ndim;
    }
    for (int d = 0; d < out->ndim; d++) {
        int64_t size = 1;
        for (int i = 0; i < n; i++) {
            int own = d - (out->ndim - t[i]->ndim);
            int64_t here = own < 0 ? 1 : t[i]->dim[own];
            if (size != 1 && here != 1 && here != size) {
                return fail_broadcast(op, t, n, e);
            }
            size = here != 1 ? here : size;
        }
        out->dim[d] = size;
    }
    return RV_OK;
}

static int kind_of(rv_dtype t) { return t == RV_BOOL ? 0 : rv_dtype_is_float(t) ? 2 : 1; }

static int rank_of(rv_dtype t) {
    switch (t) {
    case RV_BOOL:
        return 0;
    case RV_U8:
        return 1;
    case RV_I32:
        return 2;
    case RV_I64:
        return 3;
    case RV_BF16:
        return 4;
    default:
        return 5;
    }
}

rv_dtype rv_loop_common_type(const rv_tensor *const *t, int n) {
    int have = 0;
    rv_dtype common = RV_BOOL;
    for (int level = 2; level >= 0; level--) { // with dims, without, plain numbers
        for (int i = 0; i < n; i++) {
            int own = t[i]->number ? 0 : t[i]->ndim == 0 ? 1 : 2;
            if (own != level) {
                continue;
            }
            bool same_level = have == 0 || have == level;
            if (have == 0 || (same_level && rank_of(t[i]->type) > rank_of(common)) ||
                (!same_level && kind_of(t[i]->type) > kind_of(common))) {
                common = t[i]->type;
                have = level + (level == 0); // numbers share the level below 1
            }
        }
    }
    return common;
}

// Drops size-1 dims and merges neighbours that every operand walks as one.
static void simplify(rv_loop *l) {
    int nd = 0;
    for (int d = 0; d < l->ndim; d++) {
        if (l->dim[d] == 1) {
            continue;
        }
        bool merge = nd > 0;
        for (int i = 0; i < l->n && merge; i++) {
            merge = l->at[i].stride[nd - 1] == l->at[i].stride[d] * l->dim[d];
        }
        int to = merge ? nd - 1 : nd++;
        l->dim[to] = merge ? l->dim[to] * l->dim[d] : l->dim[d];
        for (int i = 0; i < l->n; i++) {
            l->at[i].stride[to] = l->at[i].stride[d];
        }
    }
    l->ndim = nd;
}

void rv_loop_make(rv_loop *l, rv_dtype domain, const rv_tensor *out, const rv_tensor *const *in,
                  int n_in) {
    l->ndim = out->ndim;
    l->n = n_in + 1;
    l->domain = domain;
    l->param[0] = l->param[1] = 0;
    memcpy(l->dim, out->dim, sizeof l->dim);
    for (int i = 0; i < l->n; i++) {
        const rv_tensor *t = i ? in[i - 1] : out;
        l->at[i].data = rv_tensor_data(t);
        l->at[i].type = t->type;
        for (int d = 0; d < l->ndim; d++) {
            int own = d - (l->ndim - t->ndim);
            l->at[i].stride[d] = own < 0 || t->dim[own] == 1 ? 0 : t->stride[own];
        }
    }
    simplify(l);
}

bool rv_loop_overlaps(const rv_tensor *a, const rv_tensor *b) {
    if (a->buf != b->buf) {
        return false;
    }
    return a->offset != b->offset || a->type != b->type || !rv_tensor_same_shape(a, b) ||
           memcmp(a->stride, b->stride, (size_t)a->ndim * sizeof a->stride[0]) != 0;
}
