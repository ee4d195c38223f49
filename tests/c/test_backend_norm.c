// test_backend_norm.c - norms, activations, SwiGLU and rotations: values against doubles, gradients
// against central differences.
#include "backend_case.h"

enum { M = 19, N = 37 };

// One function of an array x (n) and others held fixed, with upstream gradient g over its outputs:
// the tests differentiate sum g . f(x).
typedef double loss_fn(const double *x, const float *g, void *arg);

static void check_gradient(const float *x, int64_t n, const float *g, const float *grad,
                           loss_fn *loss, void *arg, const char *what) {
    double *p = malloc((size_t)n * sizeof *p), *want = malloc((size_t)n * sizeof *want);
    for (int64_t i = 0; i < n; i++) {
        p[i] = (double)x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        const double h = 1e-5, keep = p[i];
        p[i] = keep + h;
        double up = loss(p, g, arg);
        p[i] = keep - h;
        want[i] = (up - loss(p, g, arg)) / (2 * h);
        p[i] = keep;
    }
    assert_near(grad, want, n, 3e-6, what);
    free(p), free(want);
}

// ---- norms ----

typedef struct {
    bool centre;
    const float *x, *w, *b;
    int which; // what is varied: 0 x, 1 w, 2 b
} norm_case;

static double pick(const norm_case *t, int which, const float *x, const double *p, int64_t i) {
    return t->which == which ? p[i] : x ? (double)x[i] : 0;
}

static void norm_reference(double *y, const norm_case *t, const double *p) {
    for (int r = 0; r < M; r++) {
        double mean = 0, var = 0;
        for (int i = 0; i < N; i++) {
            mean += t->centre ? pick(t, 0, t->x, p, r * N + i) / N : 0;
        }
        for (int i = 0; i < N; i++) {
            double d = pick(t, 0, t->x, p, r * N + i) - mean;
            var += d * d / N;
        }
        for (int i = 0; i < N; i++) {
            double h = (pick(t, 0, t->x, p, r * N + i) - mean) / sqrt(var + 1e-5);
            y[r * N + i] = h * pick(t, 1, t->w, p, i) + (t->centre ? pick(t, 2, t->b, p, i) : 0);
        }
    }
}

static double norm_loss(const double *p, const float *g, void *arg) {
    double y[M * N], total = 0;
    norm_reference(y, arg, p);
    for (int i = 0; i < M * N; i++) {
        total += y[i] * (double)g[i];
    }
    return total;
}

static void check_norm(bool centre) {
    dev d = dev_open(rv_backend_cpu(), 2);
    float *x = randoms(1, M * N, 2), *w = randoms(2, N, 1), *b = randoms(3, N, 1);
    float *g = randoms(4, M * N, 1);
    for (int i = 0; i < M * N; i++) {
        x[i] += 3; // a mean far from zero
    }
    rv_dev dx = put_f(&d, x, M * N), dw = put_f(&d, w, N), db = put_f(&d, b, N);
    rv_dev y = put_f(&d, NULL, M * N), dy = put_f(&d, g, M * N), gx = put_f(&d, NULL, M * N);
    rv_dev gw = put_f(&d, NULL, N), gb = put_f(&d, NULL, N);
    if (centre) {
        d.be->layernorm(d.c, y, dx, dw, db, M, N, 1e-5f);
        d.be->layernorm_backward(d.c, gx, gw, gb, dy, dx, dw, M, N, 1e-5f, false);
    } else {
        d.be->rmsnorm(d.c, y, dx, dw, M, N, 1e-5f);
        d.be->rmsnorm_backward(d.c, gx, gw, dy, dx, dw, M, N, 1e-5f, false);
    }
    norm_case t = {centre, x, w, b, -1};
    double want[M * N];
    norm_reference(want, &t, NULL);
    float *hy = take_f(&d, y, M * N), *hx = get_f(&d, gx, M * N), *hw = take_f(&d, gw, N);
    float *hb = take_f(&d, gb, N);
    assert_near(hy, want, M * N, 1e-6, "norm");
    t.which = 0;
    check_gradient(x, M * N, g, hx, norm_loss, &t, "norm dx");
    t.which = 1;
    check_gradient(w, N, g, hw, norm_loss, &t, "norm dw");
    if (centre) {
        t.which = 2;
        check_gradient(b, N, g, hb, norm_loss, &t, "norm db");
        d.be->layernorm_backward(d.c, gx, (rv_dev){0}, (rv_dev){0}, dy, dx, dw, M, N, 1e-5f, true);
        d.be->layernorm_backward(d.c, dy, (rv_dev){0}, (rv_dev){0}, dy, dx, dw, M, N, 1e-5f, false);
    } else {
        d.be->rmsnorm_backward(d.c, gx, (rv_dev){0}, dy, dx, dw, M, N, 1e-5f, true);
        d.be->rmsnorm_backward(d.c, dy, (rv_dev){0}, dy, dx, dw, M, N, 1e-5f, false);
    }
    float *twice = take_f(&d, gx, M * N), *in_place = take_f(&d, dy, M * N);
    assert_bits(in_place, hx, M * N, "dx may be dy");
    for (int i = 0; i < M * N; i++) {
        assert_true(twice[i] == hx[i] + hx[i]);
    }
    d.be->free(d.c, dx), d.be->free(d.c, dw), d.be->free(d.c, db);
    dev_close(&d);
    free(x), free(w), free(b), free(g), free(hy), free(hx), free(hw), free(hb), free(twice);
    free(in_place);
}

static void rmsnorm(void **state) {
    (void)state;
    check_norm(false);
}

static void layernorm(void **state) {
    (void)state;
    check_norm(true);
}

// Sums over rows that continue: two calls give the bits of one.
static void weight_gradients_go_on(void **state) {
    (void)state;
    enum { ROWS = 50 };
    dev d = dev_open(rv_backend_cpu(), 1);
    float *x = randoms(1, ROWS * N, 1), *g = randoms(2, ROWS * N, 1), *w = randoms(3, N, 1);
    rv_dev dx = put_f(&d, x, ROWS * N), dy = put_f(&d, g, ROWS * N), dw = put_f(&d, w, N);
    rv_dev out = put_f(&d, NULL, ROWS * N), one = put_f(&d, NULL, N), two = put_f(&d, NULL, N);
    rv_dev b1 = put_f(&d, NULL, N), b2 = put_f(&d, NULL, N);
    int64_t at = 17 * N * 4;
    d.be->layernorm_backward(d.c, out, one, b1, dy, dx, dw, ROWS, N, 1e-5f, false);
    d.be->layernorm_backward(d.c, out, two, b2, dy, dx, dw, 17, N, 1e-5f, false);
    d.be->layernorm_backward(d.c, out, two, b2, rv_dev_at(dy, at), rv_dev_at(dx, at), dw, ROWS - 17,
                             N, 1e-5f, false);
    float *h1 = take_f(&d, one, N), *h2 = take_f(&d, two, N);
    float *c1 = take_f(&d, b1, N), *c2 = take_f(&d, b2, N);
    assert_bits(h1, h2, N, "dw in two calls");
    assert_bits(c1, c2, N, "db in two calls");
    d.be->free(d.c, dx), d.be->free(d.c, dy), d.be->free(d.c, dw), d.be->free(d.c, out);
    dev_close(&d);
    free(x), free(g), free(w), free(h1), free(h2), free(c1), free(c2);
}

// ---- activations ----

static double act_reference(rv_act a, double x) {
    switch (a) {
    case RV_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x * sqrt(0.5));
    case RV_ACT_GELU_TANH: // (1 + tanh u) / 2, without its cancellation
        return x / (1 + exp(-2 * sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case RV_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case RV_ACT_SILU:
        return x / (1 + exp(-x));
    case RV_ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x;
    }
}

static void activations(void **state) {
    (void)state;
    enum { COUNT = 4001 };
    dev d = dev_open(rv_backend_cpu(), 2);
    float *x = malloc(sizeof *x * COUNT), *g = randoms(1, COUNT, 1);
    double *y = malloc(sizeof *y * COUNT), *dx = malloc(sizeof *dx * COUNT);
    for (int i = 0; i < COUNT; i++) {
        x[i] = ((float)i - 2000.25f) * 0.006f; // -12 .. 12, never the kink at 0
    }
    for (int a = RV_ACT_NONE; a <= RV_ACT_RELU; a++) {
        for (int i = 0; i < COUNT; i++) {
            double h = 1e-4, v = (double)x[i];
            y[i] = act_reference((rv_act)a, v);
            dx[i] = (double)g[i] *
                    (act_reference((rv_act)a, v + h) - act_reference((rv_act)a, v - h)) / (2 * h);
        }
        rv_dev ix = put_f(&d, x, COUNT), iy = put_f(&d, NULL, COUNT), ig = put_f(&d, g, COUNT);
        d.be->act(d.c, iy, ix, COUNT, (rv_act)a);
        d.be->act_backward(d.c, ig, ig, ix, COUNT, (rv_act)a);
        float *hy = take_f(&d, iy, COUNT), *hx = take_f(&d, ig, COUNT);
        for (int i = 0; i < COUNT; i++) { // relative: the tails too
            double scale = fabs(y[i]) > 1e-20 ? fabs(y[i]) : 1e-20;
            assert_true(fabs((double)hy[i] - y[i]) <= 1e-5 * scale);
        }
        assert_near(hx, dx, COUNT, 1e-6, "activation's slope");
        // In place.
        d.be->act(d.c, ix, ix, COUNT, (rv_act)a);
        float *same = take_f(&d, ix, COUNT);
        assert_bits(same, hy, COUNT, "in place");
        free(hy), free(hx), free(same);
    }
    dev_close(&d);
    free(x), free(g), free(y), free(dx);
}

static void far_values_stay_finite(void **state) {
    (void)state;
    float x[] = {-1e30f, -500, -104, -88, -0.0f, 0, 88, 104, 500, 1e30f, INFINITY, NAN};
    enum { COUNT = sizeof x / sizeof *x };
    dev d = dev_open(rv_backend_cpu(), 1);
    for (int a = RV_ACT_NONE; a <= RV_ACT_RELU; a++) {
        rv_dev ix = put_f(&d, x, COUNT), iy = put_f(&d, NULL, COUNT);
        d.be->act(d.c, iy, ix, COUNT, (rv_act)a);
        float *y = take_f(&d, iy, COUNT);
        for (int i = 0; i < COUNT - 2; i++) {
            double want = act_reference((rv_act)a, (double)x[i]);
            assert_true(fabs((double)y[i] - want) <= 1e-6 * fabs(want) + 1e-30);
        }
        assert_true(isinf(y[COUNT - 2]) && isnan(y[COUNT - 1]));
        d.be->free(d.c, ix);
        free(y);
    }
    dev_close(&d);
}

typedef struct {
    const float *gate, *up;
    bool vary_up;
} swiglu_case;

static double swiglu_loss(const double *p, const float *g, void *arg) {
    const swiglu_case *t = arg;
    double total = 0;
    for (int i = 0; i < M * N; i++) {
        double a = t->vary_up ? (double)t->gate[i] : p[i], b = t->vary_up ? p[i] : (double)t->up[i];
        total += (double)g[i] * a / (1 + exp(-a)) * b;
    }
    return total;
}

static void swiglu(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float *a = randoms(1, M * N, 2), *b = randoms(2, M * N, 1), *g = randoms(3, M * N, 1);
    rv_dev ia = put_f(&d, a, M * N), ib = put_f(&d, b, M * N), ig = put_f(&d, g, M * N);
    rv_dev y = put_f(&d, NULL, M * N), da = put_f(&d, NULL, M * N), db = put_f(&d, NULL, M * N);
    d.be->swiglu(d.c, y, ia, ib, M * N);
    d.be->swiglu_backward(d.c, da, db, ig, ia, ib, M * N);
    float *hy = take_f(&d, y, M * N), *ha = take_f(&d, da, M * N), *hb = take_f(&d, db, M * N);
    double want[M * N];
    for (int i = 0; i < M * N; i++) {
        want[i] = act_reference(RV_ACT_SILU, (double)a[i]) * (double)b[i];
    }
    assert_near(hy, want, M * N, 1e-6, "swiglu");
    swiglu_case t = {a, b, false};
    check_gradient(a, M * N, g, ha, swiglu_loss, &t, "dgate");
    t.vary_up = true;
    check_gradient(b, M * N, g, hb, swiglu_loss, &t, "dup");
    d.be->free(d.c, ia), d.be->free(d.c, ib), d.be->free(d.c, ig);
    dev_close(&d);
    free(a), free(b), free(g), free(hy), free(ha), free(hb);
}

static void rope_turns_and_turns_back(void **state) {
    (void)state;
    enum { ROWS = 7, HEADS = 3, D = 20, STRIDE = HEADS * D }; // then half of each row
    dev d = dev_open(rv_backend_cpu(), 1);
    float *x = randoms(1, ROWS * HEADS * D, 1), cs[ROWS * D];
    double want[ROWS * HEADS * D], back[ROWS * HEADS * D];
    for (int i = 0; i < ROWS * D / 2; i++) {
        cs[2 * i] = (float)cos(0.37 * i);
        cs[2 * i + 1] = (float)sin(0.37 * i);
    }
    for (int i = 0; i < ROWS * HEADS * D; i++) {
        int row = i / (HEADS * D), j = i % D, half = j % (D / 2);
        double c = (double)cs[row * D + 2 * half], s = (double)cs[row * D + 2 * half + 1];
        want[i] = j < D / 2 ? (double)x[i] * c - (double)x[i + D / 2] * s
                            : (double)x[i] * c + (double)x[i - D / 2] * s;
        back[i] = (double)x[i];
    }
    rv_dev ix = put_f(&d, x, ROWS * HEADS * D), ics = put_f(&d, cs, ROWS * D);
    d.be->rope(d.c, ix, STRIDE, ics, ROWS, HEADS, D, 1);
    float *y = get_f(&d, ix, ROWS * HEADS * D);
    assert_near(y, want, ROWS * HEADS * D, 1e-6, "rope");
    d.be->rope(d.c, ix, STRIDE, ics, ROWS, HEADS, D, -1);
    float *z = take_f(&d, ix, ROWS * HEADS * D);
    assert_near(z, back, ROWS * HEADS * D, 1e-6, "rope back");
    d.be->free(d.c, ics);
    dev_close(&d);
    free(x), free(y), free(z);
}

static void axpy_and_scale(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float x[] = {1, 2, 3}, y[] = {10, 20, 30};
    rv_dev ix = put_f(&d, x, 3), iy = put_f(&d, y, 3);
    d.be->axpy(d.c, iy, ix, -2, 3);
    d.be->scale(d.c, iy, 0.5f, 3);
    float *r = take_f(&d, iy, 3), want[] = {4, 8, 12};
    assert_bits(r, want, 3, "axpy, scale");
    d.be->free(d.c, ix);
    dev_close(&d);
    free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(layernorm),
        cmocka_unit_test(weight_gradients_go_on),
        cmocka_unit_test(activations),
        cmocka_unit_test(far_values_stay_finite),
        cmocka_unit_test(swiglu),
        cmocka_unit_test(rope_turns_and_turns_back),
        cmocka_unit_test(axpy_and_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
