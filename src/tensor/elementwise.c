#include "elementwise.h"

#include <string.h>

#include "loop.h"

enum { DOMAIN_N, DOMAIN_F, DOMAIN_I, RESULT_S, RESULT_B };

static const struct {
    const char *name;
    int inputs, domain, result;
} traits[RV_NMAPS] = {
#define TRAIT(id, name, n, domain, result)                                                         \
    [RV_MAP_##id] = {#name, n, DOMAIN_##domain, RESULT_##result},
    RV_MAP_OPS(TRAIT)
#undef TRAIT
};

const char *rv_map_name(rv_map_op op) { return traits[op].name; }

static rv_dtype domain_of(rv_dtype t) { return rv_dtype_is_float(t) ? RV_F32 : RV_I64; }

static bool is_arithmetic(rv_map_op op) {
    return traits[op].result == RESULT_S && op != RV_MAP_COPY && op != RV_MAP_WHERE &&
           op != RV_MAP_MAXIMUM && op != RV_MAP_MINIMUM && op != RV_MAP_CLAMP;
}

// The dtype that the inputs of `op` meet in.
static rv_dtype meeting_type(rv_map_op op, const rv_tensor *const *in, int n) {
    rv_dtype t = rv_loop_common_type(in, n);
    if (traits[op].domain == DOMAIN_F && !rv_dtype_is_float(t)) {
        return RV_F32;
    }
    return t == RV_BOOL && is_arithmetic(op) ? RV_I64 : t;
}

// Computes op(in) into a fresh tensor; `typed` are the inputs that decide the dtype.
static rv_status compute(rv_tensor **out, rv_map_op op, const rv_tensor *const *in, int n,
                         const rv_tensor *const *typed, int n_typed, const double *param,
                         rv_err *e) {
    *out = NULL;
    rv_shape shape;
    RV_TRY(rv_loop_broadcast(&shape, traits[op].name, in, n, e));
    rv_dtype meet = meeting_type(op, typed, n_typed);
    rv_dtype type = traits[op].result == RESULT_B ? RV_BOOL : meet;
    rv_tape *tape = in[0]->buf->tape;
    RV_TRY(rv_tensor_new(out, tape, type, shape.ndim, shape.dim, e));
    rv_loop l;
    rv_loop_make(&l, domain_of(meet), *out, in, n);
    if (param) {
        memcpy(l.param, param, sizeof l.param);
    }
    rv_status s = tape->ops->map(op, &l, e);
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

// Puts a computed result on the tape, or frees it.
static rv_status record(rv_tensor **out, rv_tensor *const *in, int n, const rv_record *r,
                        rv_err *e) {
    rv_status s = rv_tape_record(*out, in, n, r, e);
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
    }
    return s;
}

// ---- one input ----

static rv_status pass_grad(rv_grad *g, rv_err *e) {
    (void)e;
    g->out[0] = rv_tensor_ref(g->g);
    return RV_OK;
}

static rv_status neg_grad(rv_grad *g, rv_err *e) {
    return rv_tensor_unary(&g->out[0], RV_MAP_NEG, g->g, e);
}

static rv_status zero_grad(rv_grad *g, rv_err *e) {
    (void)g;
    (void)e;
    return RV_OK;
}

// arg[0] names the operation on (g, saved value) that is the gradient.
static rv_status saved_grad(rv_grad *g, rv_err *e) {
    return rv_tensor_binary(&g->out[0], (rv_map_op)g->arg[0], g->g, g->saved[0], e);
}

// How each operation is differentiated: op(g, x) or op(g, y).
typedef struct {
    rv_grad_fn fn;
    rv_map_op grad;
    bool keeps_result;
} unary_rule;

static unary_rule rule_of(rv_map_op op) {
    switch (op) {
    case RV_MAP_COPY:
        return (unary_rule){pass_grad, RV_MAP_COPY, false};
    case RV_MAP_NEG:
        return (unary_rule){neg_grad, RV_MAP_COPY, false};
    case RV_MAP_ABS:
        return (unary_rule){saved_grad, RV_MAP_ABS_GRAD, false};
    case RV_MAP_RELU:
        return (unary_rule){saved_grad, RV_MAP_RELU_GRAD, false};
    case RV_MAP_SQUARE:
        return (unary_rule){saved_grad, RV_MAP_SQUARE_GRAD, false};
    case RV_MAP_EXP:
        return (unary_rule){saved_grad, RV_MAP_MUL, true};
    case RV_MAP_LOG:
        return (unary_rule){saved_grad, RV_MAP_DIV, false};
    case RV_MAP_SQRT:
        return (unary_rule){saved_grad, RV_MAP_SQRT_GRAD, true};
    case RV_MAP_TANH:
        return (unary_rule){saved_grad, RV_MAP_TANH_GRAD, true};
    case RV_MAP_SIGMOID:
        return (unary_rule){saved_grad, RV_MAP_SIGMOID_GRAD, true};
    case RV_MAP_SIN:
        return (unary_rule){saved_grad, RV_MAP_SIN_GRAD, false};
    case RV_MAP_COS:
        return (unary_rule){saved_grad, RV_MAP_COS_GRAD, false};
    default: // sign, floor, ceil, round: flat
        return (unary_rule){zero_grad, RV_MAP_COPY, false};
    }
}

rv_status rv_tensor_unary(rv_tensor **out, rv_map_op op, rv_tensor *x, rv_err *e) {
    const rv_tensor *in[] = {x};
    RV_TRY(compute(out, op, in, 1, in, 1, NULL, e));
    if (!rv_tape_wants(x) || traits[op].result == RESULT_B) {
        return RV_OK;
    }
    unary_rule rule = rule_of(op);
    rv_record r = {traits[op].name, rule.fn, {NULL}, {rule.grad}, {0}};
    if (rule.fn == saved_grad) {
        r.saved[0] = rule.keeps_result ? *out : x;
    }
    return record(out, &x, 1, &r, e);
}

static rv_status clamp_grad(rv_grad *g, rv_err *e) {
    const rv_tensor *in[] = {g->g, g->saved[0]};
    return compute(&g->out[0], RV_MAP_CLAMP_GRAD, in, 2, in, 2, g->param, e);
}

rv_status rv_tensor_clamp(rv_tensor **out, rv_tensor *x, double lo, double hi, rv_err *e) {
    double param[2] = {lo, hi};
    const rv_tensor *in[] = {x};
    RV_TRY(compute(out, RV_MAP_CLAMP, in, 1, in, 1, param, e));
    rv_record r = {"clamp", clamp_grad, {x}, {0}, {lo, hi}};
    return record(out, &x, 1, &r, e);
}

static rv_status convert(rv_tensor **out, rv_tensor *x, rv_dtype type, rv_err *e) {
    RV_TRY(rv_tensor_new(out, x->buf->tape, type, x->ndim, x->dim, e));
    rv_status s = rv_copy_into(*out, x, "to", e);
    if (s != RV_OK) {
        rv_tensor_free(*out);
        *out = NULL;
        return s;
    }
    if (!rv_tape_wants(x) || !rv_dtype_is_float(type)) {
        return RV_OK;
    }
    rv_record r = {"to", pass_grad, {NULL}, {0}, {0}};
    return record(out, &x, 1, &r, e);
}

rv_status rv_tensor_to(rv_tensor **out, rv_tensor *x, rv_dtype type, rv_err *e) {
    if (x->type == type && !x->number) {
        *out = rv_tensor_ref(x);
        return RV_OK;
    }
    return convert(out, x, type, e);
}

rv_status rv_tensor_clone(rv_tensor **out, rv_tensor *x, rv_err *e) {
    return convert(out, x, x->type, e);
}

rv_status rv_tensor_compact(rv_tensor **out, rv_tensor *x, rv_err *e) {
    if (rv_tensor_contiguous(x)) {
        *out = rv_tensor_ref(x);
        return RV_OK;
    }
    return rv_tensor_clone(out, x, e);
}

// ---- two inputs ----

static rv_status mul_grad(rv_grad *g, rv_err *e) {
    for (int i = 0; i < 2; i++) {
        if (g->want[i]) {
            RV_TRY(rv_tensor_binary(&g->out[i], RV_MAP_MUL, g->g, g->saved[1 - i], e));
        }
    }
    return RV_OK;
}

static rv_status add_grad(rv_grad *g, rv_err *e) {
    if (g->want[0]) {
        g->out[0] = rv_tensor_ref(g->g);
    }
    if (!g->want[1]) {
        return RV_OK;
    }
    if (g->arg[0] == RV_MAP_SUB) {
        return rv_tensor_unary(&g->out[1], RV_MAP_NEG, g->g, e);
    }
    g->out[1] = rv_tensor_ref(g->g);
    return RV_OK;
}

// y = a / b: da = g / b, db = -g y / b. saved: b, y.
static rv_status div_grad(rv_grad *g, rv_err *e) {
    rv_tensor *da = NULL, *day = NULL;
    RV_TRY(rv_tensor_binary(&da, RV_MAP_DIV, g->g, g->saved[0], e));
    rv_status s = RV_OK;
    if (g->want[1]) {
        s = rv_tensor_binary(&day, RV_MAP_MUL, da, g->saved[1], e);
        s = s == RV_OK ? rv_tensor_unary(&g->out[1], RV_MAP_NEG, day, e) : s;
        rv_tensor_free(day);
    }
    if (g->want[0] && s == RV_OK) {
        g->out[0] = da;
    } else {
        rv_tensor_free(da);
    }
    return s;
}

static rv_status ternary(rv_tensor **out, rv_map_op op, rv_tensor *a, rv_tensor *b, rv_tensor *c,
                         rv_err *e) {
    const rv_tensor *in[] = {a, b, c};
    return compute(out, op, in, 3, in, 3, NULL, e);
}

// saved: a, b.
static rv_status pow_grad(rv_grad *g, rv_err *e) {
    if (g->want[0]) {
        RV_TRY(ternary(&g->out[0], RV_MAP_POW_GRAD_BASE, g->g, g->saved[0], g->saved[1], e));
    }
    if (g->want[1]) {
        RV_TRY(ternary(&g->out[1], RV_MAP_POW_GRAD_EXP, g->g, g->saved[0], g->saved[1], e));
    }
    return RV_OK;
}

// The larger (smaller) input takes the gradient; equal ones share it. saved: a, b.
static rv_status extremum_grad(rv_grad *g, rv_err *e) {
    int flip = g->arg[0] == RV_MAP_MINIMUM;
    for (int i = 0; i < 2; i++) {
        if (g->want[i]) {
            RV_TRY(ternary(&g->out[i], RV_MAP_GREATER_GRAD, g->g, g->saved[i ^ flip],
                           g->saved[1 - (i ^ flip)], e));
        }
    }
    return RV_OK;
}

// y = a - floor(a / b) b. saved: a, b.
static rv_status mod_grad(rv_grad *g, rv_err *e) {
    if (g->want[0]) {
        g->out[0] = rv_tensor_ref(g->g);
    }
    if (!g->want[1]) {
        return RV_OK;
    }
    rv_tensor *q = NULL, *gq = NULL;
    RV_TRY(rv_tensor_binary(&q, RV_MAP_FLOORDIV, g->saved[0], g->saved[1], e));
    rv_status s = rv_tensor_binary(&gq, RV_MAP_MUL, g->g, q, e);
    s = s == RV_OK ? rv_tensor_unary(&g->out[1], RV_MAP_NEG, gq, e) : s;
    rv_tensor_free(q);
    rv_tensor_free(gq);
    return s;
}

rv_status rv_tensor_binary(rv_tensor **out, rv_map_op op, rv_tensor *a, rv_tensor *b, rv_err *e) {
    const rv_tensor *in[] = {a, b};
    RV_TRY(compute(out, op, in, 2, in, 2, NULL, e));
    if ((!a->node && !b->node) || traits[op].result == RESULT_B) {
        return RV_OK;
    }
    rv_record r = {traits[op].name, zero_grad, {a, b}, {op}, {0}};
    switch (op) {
    case RV_MAP_ADD:
    case RV_MAP_SUB:
        r.backward = add_grad;
        r.saved[0] = r.saved[1] = NULL;
        break;
    case RV_MAP_MUL:
        r.backward = mul_grad;
        break;
    case RV_MAP_DIV:
        r.backward = div_grad;
        r.saved[0] = b;
        r.saved[1] = *out;
        break;
    case RV_MAP_POW:
        r.backward = pow_grad;
        break;
    case RV_MAP_MAXIMUM:
    case RV_MAP_MINIMUM:
        r.backward = extremum_grad;
        break;
    case RV_MAP_MOD:
        r.backward = mod_grad;
        break;
    default: // floor_divide: flat
        r.saved[0] = r.saved[1] = NULL;
    }
    return record(out, (rv_tensor *[]){a, b}, 2, &r, e);
}

// ---- where ----

// saved: cond.
static rv_status where_grad(rv_grad *g, rv_err *e) {
    rv_tensor *zero = NULL;
    RV_TRY(rv_tensor_number(&zero, g->tape, false, 0, 0, e));
    rv_status s = RV_OK;
    if (g->want[1]) {
        s = rv_tensor_where(&g->out[1], g->saved[0], g->g, zero, e);
    }
    if (g->want[2] && s == RV_OK) {
        s = rv_tensor_where(&g->out[2], g->saved[0], zero, g->g, e);
    }
    rv_tensor_free(zero);
    return s;
}

rv_status rv_tensor_where(rv_tensor **out, rv_tensor *cond, rv_tensor *a, rv_tensor *b, rv_err *e) {
    *out = NULL;
    if (cond->type != RV_BOOL) {
        return RV_FAIL(e, RV_ETYPE, "where: wanted a bool condition, got %s of shape %s",
                       rv_dtype_name(cond->type), rv_tensor_shape_str(cond).s);
    }
    const rv_tensor *in[] = {cond, a, b};
    RV_TRY(compute(out, RV_MAP_WHERE, in, 3, in + 1, 2, NULL, e));
    if (!rv_dtype_is_float((*out)->type)) {
        return RV_OK;
    }
    rv_record r = {"where", where_grad, {cond}, {0}, {0}};
    return record(out, (rv_tensor *[]){cond, a, b}, 3, &r, e);
}

// ---- writing into views ----

static rv_status check_target(const rv_tensor *dst, const char *name, const rv_tensor *const *in,
                              int n_in, rv_err *e) {
    const rv_tensor *all[RV_OPERANDS] = {dst};
    memcpy(all + 1, in, (size_t)n_in * sizeof *in);
    for (int i = 0; i < n_in; i++) {
        rv_shape shape;
        const rv_tensor *pair[] = {dst, in[i]};
        RV_TRY(rv_loop_broadcast(&shape, name, pair, 2, e));
        if (shape.ndim != dst->ndim ||
            memcmp(shape.dim, dst->dim, (size_t)shape.ndim * sizeof shape.dim[0]) != 0) {
            return RV_FAIL(e, RV_ESHAPE, "%s: shape %s does not broadcast into %s", name,
                           rv_tensor_shape_str(in[i]).s, rv_tensor_shape_str(dst).s);
        }
    }
    for (int d = 0; d < dst->ndim; d++) {
        if (dst->stride[d] == 0 && dst->dim[d] > 1) {
            return RV_FAIL(e, RV_EARG,
                           "%s: cannot write into an expanded view of shape %s: several elements "
                           "share one place (clone it first)",
                           name, rv_tensor_shape_str(dst).s);
        }
    }
    return RV_OK;
}

rv_status rv_map_into(rv_tensor *dst, rv_map_op op, const rv_tensor *const *in, int n_in,
                      const char *name, rv_err *e) {
    RV_TRY(check_target(dst, name, in, n_in, e));
    if (op != RV_MAP_COPY && rv_dtype_is_float(meeting_type(op, in, n_in)) &&
        !rv_dtype_is_float(dst->type)) {
        return RV_FAIL(e, RV_ETYPE, "%s: a floating result does not go into %s (shape %s)", name,
                       rv_dtype_name(dst->type), rv_tensor_shape_str(dst).s);
    }
    const rv_tensor *use[RV_OPERANDS];
    rv_tensor *copies[RV_OPERANDS] = {NULL};
    rv_status s = RV_OK;
    for (int i = 0; i < n_in && s == RV_OK; i++) {
        use[i] = in[i];
        if (rv_loop_overlaps(dst, in[i])) { // read before it is overwritten
            s = rv_tensor_new(&copies[i], dst->buf->tape, in[i]->type, in[i]->ndim, in[i]->dim, e);
            s = s == RV_OK ? rv_copy_into(copies[i], in[i], name, e) : s;
            use[i] = copies[i];
        }
    }
    if (s == RV_OK) {
        rv_loop l;
        rv_dtype meet = op == RV_MAP_COPY ? dst->type : meeting_type(op, use, n_in);
        if (op == RV_MAP_COPY && rv_dtype_is_float(in[0]->type)) {
            meet = RV_F32; // floating to integer or bool: the store truncates
        }
        rv_loop_make(&l, domain_of(meet), dst, use, n_in);
        s = dst->buf->tape->ops->map(op, &l, e);
    }
    for (int i = 0; i < n_in; i++) {
        rv_tensor_free(copies[i]);
    }
    return s;
}

rv_status rv_copy_into(rv_tensor *dst, const rv_tensor *src, const char *name, rv_err *e) {
    return rv_map_into(dst, RV_MAP_COPY, &src, 1, name, e);
}
