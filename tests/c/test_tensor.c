// test_tensor.c - what Lua cannot show of tensors: no operation leaves anything behind when memory
// runs out at any point of it, and foreign nodes are freed exactly once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "elementwise.h"
#include "index.h"
#include "reduce.h"
#include "tape.h"
#include "view.h"

static rv_tape tape;

static int setup(void **state) {
    (void)state;
    tape = rv_tape_make(rv_tensor_ops_cpu());
    return 0;
}

static rv_tensor *floats(int ndim, const int64_t *dim) {
    rv_tensor *t = NULL;
    assert_int_equal(rv_tensor_full(&t, &tape, RV_F32, ndim, dim, 0.5, NULL), RV_OK);
    return t;
}

// ---- one operation on a (2, 3), b (3), positions i (3), mask m (2, 3) ----

typedef struct {
    rv_tensor *a, *b, *i, *m, *bf;
} operands;

typedef rv_status (*operation)(rv_tensor **out, const operands *o, rv_err *e);

#define OP(name, expr)                                                                             \
    static rv_status name(rv_tensor **out, const operands *o, rv_err *e) { return expr; }
OP(op_exp, rv_tensor_unary(out, RV_MAP_EXP, o->a, e))
OP(op_neg, rv_tensor_unary(out, RV_MAP_NEG, o->a, e))
OP(op_add, rv_tensor_binary(out, RV_MAP_ADD, o->a, o->b, e))
OP(op_mul, rv_tensor_binary(out, RV_MAP_MUL, o->a, o->b, e))
OP(op_div, rv_tensor_binary(out, RV_MAP_DIV, o->a, o->b, e))
OP(op_pow, rv_tensor_binary(out, RV_MAP_POW, o->a, o->b, e))
OP(op_mod, rv_tensor_binary(out, RV_MAP_MOD, o->a, o->b, e))
OP(op_max, rv_tensor_binary(out, RV_MAP_MAXIMUM, o->a, o->b, e))
OP(op_clamp, rv_tensor_clamp(out, o->a, 0, 1, e))
OP(op_where, rv_tensor_where(out, o->m, o->a, o->b, e))
OP(op_to, rv_tensor_to(out, o->a, RV_BF16, e))
OP(op_bf16, rv_tensor_binary(out, RV_MAP_MUL, o->bf, o->a, e))
OP(op_clone, rv_tensor_clone(out, o->a, e))
OP(op_sum, rv_tensor_reduce(out, RV_REDUCE_SUM, o->a, 1, false, 0, e))
OP(op_mean, rv_tensor_reduce(out, RV_REDUCE_MEAN, o->a, RV_ALL_DIMS, false, 0, e))
OP(op_prod, rv_tensor_reduce(out, RV_REDUCE_PROD, o->a, 2, false, 0, e))
OP(op_rmax, rv_tensor_reduce(out, RV_REDUCE_MAX, o->a, 2, true, 0, e))
OP(op_var, rv_tensor_reduce(out, RV_REDUCE_VAR, o->a, 2, false, 1, e))
OP(op_std, rv_tensor_std(out, o->a, 2, false, 1, e))
OP(op_norm, rv_tensor_reduce(out, RV_REDUCE_NORM, o->a, 2, false, 0, e))
OP(op_lse, rv_tensor_reduce(out, RV_REDUCE_LOGSUMEXP, o->a, 2, false, 0, e))
OP(op_softmax, rv_tensor_softmax(out, o->a, 1, false, e))
OP(op_log_softmax, rv_tensor_softmax(out, o->a, 0, true, e))
OP(op_slice, rv_tensor_slice(out, o->a, 1, 0, 2, 2, e))
OP(op_select, rv_tensor_select(out, o->a, 1, 2, e))
OP(op_permute, rv_tensor_permute(out, o->a, (int[]){1, 0}, e))
OP(op_expand, rv_tensor_expand(out, o->b, 2, (int64_t[]){4, 3}, e))
OP(op_cat, rv_tensor_cat(out, (rv_tensor *[]){o->a, o->a}, 2, 1, e))
OP(op_index, rv_tensor_index_select(out, o->b, 0, o->i, 1, e))
OP(op_gather, rv_tensor_gather(out, o->b, 0, o->i, 1, e))
OP(op_scatter, rv_tensor_scatter_add(out, o->b, 0, o->i, o->b, 1, e))
OP(op_select_mask, rv_tensor_masked_select(out, o->a, o->m, e))
OP(op_sort, rv_tensor_sort(out, NULL, o->a, 1, false, 2, 1, e))
OP(op_cumsum, rv_tensor_cumsum(out, o->a, 1, e))
OP(op_segments, rv_tensor_segment_sum(out, o->b, (int64_t[]){0, 1, 3}, 2, true, e))
OP(op_matmul, rv_tensor_matmul(out, o->a, o->b, e))

static rv_status op_reshape(rv_tensor **out, const operands *o, rv_err *e) {
    rv_tensor *t = NULL;
    RV_TRY(rv_tensor_permute(&t, o->a, (int[]){1, 0}, e));
    rv_status s = rv_tensor_reshape(out, t, 1, (int64_t[]){-1}, e);
    rv_tensor_free(t);
    return s;
}

static rv_status foreign_backward(void *ctx, rv_tensor *const *g, rv_tensor **in, rv_err *e) {
    (void)ctx;
    return rv_tensor_unary(&in[0], RV_MAP_NEG, g[0], e);
}

static rv_status op_custom(rv_tensor **out, const operands *o, rv_err *e) {
    RV_TRY(rv_tensor_full(out, &tape, RV_F32, 2, o->a->dim, 1, e));
    rv_tensor *in = o->a;
    rv_status s = rv_tape_custom(out, 1, &in, 1, foreign_backward, NULL, NULL, e);
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

static const operation operations[] = {
    op_exp,     op_neg,      op_add,         op_mul,     op_div,    op_pow,         op_mod,
    op_max,     op_clamp,    op_where,       op_to,      op_bf16,   op_clone,       op_sum,
    op_mean,    op_prod,     op_rmax,        op_var,     op_std,    op_norm,        op_lse,
    op_softmax, op_slice,    op_select,      op_permute, op_expand, op_cat,         op_index,
    op_gather,  op_scatter,  op_sort,        op_cumsum,  op_matmul, op_log_softmax, op_reshape,
    op_custom,  op_segments, op_select_mask,
};

// The operation and its backward pass; everything freed.
static rv_status run(operation op, const operands *o, rv_err *e) {
    rv_tensor *y = NULL, *seed = NULL;
    rv_status s = op(&y, o, e);
    if (s == RV_OK) {
        s = rv_tensor_full(&seed, &tape, RV_F32, y->ndim, y->dim, 1, e);
        s = s == RV_OK ? rv_tape_backward(y, seed, e) : s;
    } else {
        assert_null(y);
    }
    rv_tensor_free(seed);
    rv_tensor_free(y);
    rv_tape_zero_grad(o->a);
    rv_tape_zero_grad(o->b);
    return s;
}

static void survives_failures(void **state) {
    (void)state;
    operands o = {floats(2, (int64_t[]){2, 3}), floats(1, (int64_t[]){3}), NULL, NULL, NULL};
    assert_int_equal(rv_tape_requires_grad(o.a, true, NULL), RV_OK);
    assert_int_equal(rv_tape_requires_grad(o.b, true, NULL), RV_OK);
    int64_t where[] = {1, 3, 3}, three = 3, shape[] = {2, 3};
    uint8_t mask[] = {1, 0, 1, 0, 0, 1};
    assert_int_equal(rv_tensor_from(&o.i, &tape, RV_I64, 1, &three, where, NULL), RV_OK);
    assert_int_equal(rv_tensor_from(&o.m, &tape, RV_BOOL, 2, shape, mask, NULL), RV_OK);
    assert_int_equal(rv_tensor_full(&o.bf, &tape, RV_BF16, 1, &three, 2, NULL), RV_OK);
    size_t before = tape.bytes;
    for (size_t k = 0; k < sizeof operations / sizeof *operations; k++) {
        rv_status s = RV_ENOMEM;
        for (size_t n = 1; s != RV_OK; n++) {
            rv_err e = {0};
            tape.fail_after = n; // the n-th allocation and all later ones fail
            s = run(operations[k], &o, &e);
            tape.fail_after = 0;
            assert_true(s == RV_OK || (s == RV_ENOMEM && strstr(e.msg, "out of memory")));
            assert_int_equal(tape.bytes, before);
            assert_int_equal(o.a->buf->saved + o.b->buf->saved, 0);
            assert_true(tape.grad && n < 200);
        }
    }
    rv_tensor *mine[] = {o.a, o.b, o.i, o.m, o.bf};
    for (size_t k = 0; k < 5; k++) {
        rv_tensor_free(mine[k]);
    }
    assert_int_equal(tape.bytes, 0);
}

// ---- foreign nodes ----

typedef struct {
    int calls, frees;
    bool got[2];
    rv_status result;
} foreign;

static rv_status count_backward(void *ctx, rv_tensor *const *g, rv_tensor **in, rv_err *e) {
    foreign *f = ctx;
    (void)in;
    f->calls++;
    for (int i = 0; i < 2; i++) {
        f->got[i] = g[i] != NULL;
        assert_true(!g[i] || (g[i]->type == RV_F32 && rv_tensor_contiguous(g[i])));
    }
    return f->result == RV_OK ? RV_OK : RV_FAIL(e, f->result, "foreign failed");
}

static void count_free(void *ctx) { ((foreign *)ctx)->frees++; }

// Two outputs (4) and (2, 3); the loss uses the first, expanded so that its gradient has no layout.
static rv_tensor *foreign_loss(foreign *f) {
    rv_tensor *out[] = {floats(1, (int64_t[]){4}), floats(2, (int64_t[]){2, 3})}, *loss = NULL;
    assert_int_equal(rv_tape_custom(out, 2, NULL, 0, count_backward, f, count_free, NULL), RV_OK);
    assert_int_equal(rv_tensor_reduce(&loss, RV_REDUCE_SUM, out[0], RV_ALL_DIMS, false, 0, NULL),
                     RV_OK);
    rv_tensor_free(out[0]);
    rv_tensor_free(out[1]);
    return loss;
}

static void foreign_once(void **state) {
    (void)state;
    foreign f = {0};
    rv_tensor *loss = foreign_loss(&f);
    assert_int_equal(rv_tape_backward(loss, NULL, NULL), RV_OK);
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.frees, 1); // right after its backward pass, not with the last tensor
    assert_true(f.got[0] && !f.got[1]);
    rv_err e;
    assert_int_equal(rv_tape_backward(loss, NULL, &e), RV_EARG);
    rv_tensor_free(loss);
    assert_int_equal(f.frees, 1);
    assert_int_equal(tape.bytes, 0);
}

static void foreign_dropped(void **state) {
    (void)state;
    foreign f = {0};
    rv_tensor_free(foreign_loss(&f));
    assert_int_equal(f.calls, 0);
    assert_int_equal(f.frees, 1);
}

static void foreign_failing(void **state) {
    (void)state;
    foreign f = {.result = RV_ENUMERIC};
    rv_tensor *loss = foreign_loss(&f);
    rv_err e;
    assert_int_equal(rv_tape_backward(loss, NULL, &e), RV_ENUMERIC);
    assert_string_equal(e.msg, "foreign failed");
    assert_int_equal(f.frees, 1);
    assert_true(tape.grad && !tape.walking);
    rv_tensor_free(loss);
    assert_int_equal(tape.bytes, 0);
}

static void foreign_unrecorded(void **state) {
    (void)state;
    foreign f = {0};
    tape.grad = false;
    rv_tensor *out = floats(1, (int64_t[]){4});
    assert_int_equal(rv_tape_custom(&out, 1, NULL, 0, count_backward, &f, count_free, NULL), RV_OK);
    assert_int_equal(f.frees, 1);
    assert_null(out->node);
    rv_tensor_free(out);
}

// ---- memory pressure ----

static int pressed;
static void press(void *ctx) {
    (void)ctx;
    pressed++;
    tape.fail_after = 0;
}

static void pressure_retries(void **state) {
    (void)state;
    tape.pressure = press;
    tape.fail_after = 3; // after the tensor's and the buffer's records
    rv_tensor *t = NULL;
    assert_int_equal(rv_tensor_new(&t, &tape, RV_F32, 1, (int64_t[]){8}, NULL), RV_OK);
    assert_int_equal(pressed, 1);
    rv_tensor_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(survives_failures, setup),
        cmocka_unit_test_setup(foreign_once, setup),
        cmocka_unit_test_setup(foreign_dropped, setup),
        cmocka_unit_test_setup(foreign_failing, setup),
        cmocka_unit_test_setup(foreign_unrecorded, setup),
        cmocka_unit_test_setup(pressure_retries, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
