// test_backend_linear.c - linear layers against a double-precision reference, and the bits that may
// not depend on how rows, threads and calls are cut.
#include "backend_case.h"

typedef struct {
    rv_dtype store;
    bool round_x;
    const char *name;
} kind;

static const kind kinds[] = {{RV_F32, false, "fp32"},
                             {RV_BF16, false, "bf16 weights"},
                             {RV_F16, false, "fp16 weights"},
                             {RV_BF16, true, "bf16"}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

// m, n, k: odd ones, tails of panels, tiles and chunks.
static const int64_t shapes[][3] = {{1, 1, 1},    {2, 33, 7},     {5, 31, 130},   {16, 96, 128},
                                    {97, 70, 65}, {130, 344, 96}, {259, 40, 300}, {100, 300, 270}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static float rounded(const kind *t, float x) {
    return t->round_x ? rv_bf16_to_f32(rv_f32_to_bf16(x)) : x;
}

static float stored(const kind *t, float x) {
    float y = x;
    uint16_t h;
    if (t->store != RV_F32) {
        rv_convert(&h, t->store, &x, RV_F32, 1);
        rv_convert(&y, RV_F32, &h, t->store, 1);
    }
    return y;
}

// out (rows, cols) += sum over t of a(i, t) b(t, j), by strides.
static void multiply(double *out, int64_t rows, int64_t cols, int64_t steps, const float *a,
                     int64_t ai, int64_t at, const float *b, int64_t bt, int64_t bj) {
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            for (int64_t t = 0; t < steps; t++) {
                out[i * cols + j] += (double)a[i * ai + t * at] * (double)b[t * bt + j * bj];
            }
        }
    }
}

typedef struct {
    int64_t m, n, k;
    float *x, *w, *dy;    // as given to the backend
    float *rx, *rw, *rdy; // as it computes with them
} layer;

static float *mapped(const kind *t, const float *x, int64_t n, float (*f)(const kind *, float)) {
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        y[i] = f(t, x[i]);
    }
    return y;
}

static layer layer_new(const kind *t, int64_t m, int64_t n, int64_t k) {
    layer l = {.m = m,
               .n = n,
               .k = k,
               .x = randoms(1, m * k, 1),
               .w = randoms(2, n * k, 1),
               .dy = randoms(3, m * n, 1)};
    l.rx = mapped(t, l.x, m * k, rounded);
    l.rw = mapped(t, l.w, n * k, stored);
    l.rdy = mapped(t, l.dy, m * n, rounded);
    return l;
}

static void layer_free(layer *l) {
    free(l->x), free(l->w), free(l->dy), free(l->rx), free(l->rw), free(l->rdy);
}

typedef struct {
    float *y, *dx, *dw, *db;
} products;

static products run(const kind *t, const layer *l, int threads) {
    dev d = dev_open(rv_backend_cpu(), threads);
    rv_weight w = weight_of(&d, l->w, l->n, l->k, t->store, t->round_x);
    rv_dev x = put_f(&d, l->x, l->m * l->k), dy = put_f(&d, l->dy, l->m * l->n);
    rv_dev y = put_f(&d, NULL, l->m * l->n), dx = put_f(&d, NULL, l->m * l->k);
    rv_dev dw = put_f(&d, NULL, d.be->weight_elems(&w)), db = put_f(&d, NULL, l->n);
    rv_linear lin = {.w = &w};
    d.be->linear(d.c, y, x, l->m, &lin);
    d.be->linear_dx(d.c, dx, dy, l->m, &lin, (rv_dev){0}, false);
    d.be->linear_dw(d.c, dw, db, dy, x, l->m, &w);
    products p = {.dw = malloc((size_t)(l->n * l->k) * sizeof(float))};
    d.be->weight_unpack(d.c, &w, p.dw, dw);
    p.y = take_f(&d, y, l->m * l->n);
    p.dx = take_f(&d, dx, l->m * l->k);
    p.db = take_f(&d, db, l->n);
    d.be->free(d.c, x), d.be->free(d.c, dy), d.be->free(d.c, dw);
    weight_drop(&d, &w);
    dev_close(&d);
    return p;
}

static void products_free(products *p) { free(p->y), free(p->dx), free(p->dw), free(p->db); }

static double *zeros(int64_t n) { return calloc((size_t)n, sizeof(double)); }

static void check_layer(const kind *t, int64_t m, int64_t n, int64_t k) {
    layer l = layer_new(t, m, n, k);
    products p = run(t, &l, 1);
    double *y = zeros(m * n), *dx = zeros(m * k), *dw = zeros(n * k), *db = zeros(n);
    multiply(y, m, n, k, l.rx, k, 1, l.rw, 1, k);
    multiply(dx, m, k, n, l.rdy, n, 1, l.rw, k, 1);
    multiply(dw, n, k, m, l.rdy, 1, n, l.rx, k, 1);
    for (int64_t i = 0; i < m * n; i++) {
        db[i % n] += (double)l.dy[i];
    }
    assert_near(p.y, y, m * n, 2e-6, t->name);
    assert_near(p.dx, dx, m * k, 2e-6, t->name);
    assert_near(p.dw, dw, n * k, 2e-6, t->name);
    assert_near(p.db, db, n, 2e-6, t->name);
    free(y), free(dx), free(dw), free(db);
    products_free(&p);
    layer_free(&l);
}

static void products_equal_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        for (int s = 0; s < N_SHAPES; s++) {
            check_layer(kinds + i, shapes[s][0], shapes[s][1], shapes[s][2]);
        }
    }
}

static void threads_give_the_same_bits(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        layer l = layer_new(kinds + i, 150, 200, 131);
        products one = run(kinds + i, &l, 1);
        for (int threads = 2; threads <= 5; threads++) {
            products p = run(kinds + i, &l, threads);
            assert_bits(p.y, one.y, l.m * l.n, "y");
            assert_bits(p.dx, one.dx, l.m * l.k, "dx");
            assert_bits(p.dw, one.dw, l.n * l.k, "dw");
            assert_bits(p.db, one.db, l.n, "db");
            products_free(&p);
        }
        products_free(&one);
        layer_free(&l);
    }
}

// Layers of one input in one call are the layers called one by one.
static void check_together(const kind *t, int64_t m, int threads) {
    enum { N = 3, K = 70, R = 5 };
    const int64_t width[N] = {33, 130, 64};
    dev d = dev_open(rv_backend_cpu(), threads);
    float *x = randoms(1, m * K, 1), *b = randoms(2, 130, 1), *w[N], *lw[2];
    rv_dev in = put_f(&d, x, m * K), bias = put_f(&d, b, 130), y[2][N], h[2];
    rv_weight weight[N], a, up;
    lw[0] = randoms(3, R * K, 1), lw[1] = randoms(4, 130 * R, 1);
    a = weight_of(&d, lw[0], R, K, t->store, t->round_x);
    up = weight_of(&d, lw[1], 130, R, t->store, t->round_x);
    rv_lora lora = {&a, &up, 0.5f};
    rv_linear l[N];
    for (int i = 0; i < N; i++) {
        w[i] = randoms(5 + (uint64_t)i, width[i] * K, 1);
        weight[i] = weight_of(&d, w[i], width[i], K, t->store, t->round_x);
        l[i] = (rv_linear){.w = &weight[i], .bias = i ? bias : (rv_dev){0}};
        y[0][i] = put_f(&d, NULL, m * width[i]), y[1][i] = put_f(&d, NULL, m * width[i]);
    }
    h[0] = put_f(&d, NULL, m * R), h[1] = put_f(&d, NULL, m * R);
    l[1].lora = &lora, l[1].act = RV_ACT_SILU;
    for (int i = 0; i < N; i++) {
        l[i].lora_h = h[0];
        d.be->linear(d.c, y[0][i], in, m, &l[i]);
        l[i].lora_h = h[1];
    }
    d.be->linears(d.c, y[1], in, m, l, N);
    for (int i = 0; i < N; i++) {
        float *one = take_f(&d, y[0][i], m * width[i]), *all = take_f(&d, y[1][i], m * width[i]);
        assert_bits(all, one, m * width[i], "together and one by one");
        free(one), free(all), free(w[i]);
        weight_drop(&d, &weight[i]);
    }
    float *one = take_f(&d, h[0], m * R), *all = take_f(&d, h[1], m * R);
    assert_bits(all, one, m * R, "adapters' inner rows");
    weight_drop(&d, &a), weight_drop(&d, &up);
    d.be->free(d.c, in), d.be->free(d.c, bias);
    free(one), free(all), free(x), free(b), free(lw[0]), free(lw[1]);
    dev_close(&d);
}

static void layers_of_one_input(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        for (int threads = 1; threads <= 3; threads++) {
            check_together(kinds + i, 1, threads);
            check_together(kinds + i, 16, threads);
            check_together(kinds + i, 250, threads);
        }
    }
}

// Rows r0..r0+n-1 of x alone must give what they give in the middle of the pack.
static void check_rows(dev *d, const rv_weight *w, const layer *l, const products *all, int64_t r0,
                       int64_t n) {
    rv_linear lin = {.w = w};
    rv_dev x = put_f(d, l->x + r0 * l->k, n * l->k), dy = put_f(d, l->dy + r0 * l->n, n * l->n);
    rv_dev y = put_f(d, NULL, n * l->n), dx = put_f(d, NULL, n * l->k);
    d->be->linear(d->c, y, x, n, &lin);
    d->be->linear_dx(d->c, dx, dy, n, &lin, (rv_dev){0}, false);
    float *hy = take_f(d, y, n * l->n), *hx = take_f(d, dx, n * l->k);
    assert_bits(hy, all->y + r0 * l->n, n * l->n, "rows alone and in a pack, forward");
    assert_bits(hx, all->dx + r0 * l->k, n * l->k, "rows alone and in a pack, dX");
    free(hy), free(hx);
    d->be->free(d->c, x), d->be->free(d->c, dy);
}

static void rows_do_not_see_the_pack(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        layer l = layer_new(kinds + i, 100, 270, 300);
        products all = run(kinds + i, &l, 1);
        dev d = dev_open(rv_backend_cpu(), 1);
        rv_weight w = weight_of(&d, l.w, l.n, l.k, kinds[i].store, kinds[i].round_x);
        for (int64_t n = 1; n <= 100; n++) {
            check_rows(&d, &w, &l, &all, 0, n);
            check_rows(&d, &w, &l, &all, 100 - n, n);
        }
        for (int64_t r0 = 0; r0 < 99; r0++) {
            check_rows(&d, &w, &l, &all, r0, 1);
            check_rows(&d, &w, &l, &all, r0, 2);
        }
        weight_drop(&d, &w);
        dev_close(&d);
        products_free(&all);
        layer_free(&l);
    }
}

// dW over two calls equals dW over one; for pairs of rows (bf16) at even cuts.
static void dw_may_be_cut_anywhere(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        const kind *t = kinds + i;
        layer l = layer_new(t, 70, 45, 50);
        products all = run(t, &l, 1);
        dev d = dev_open(rv_backend_cpu(), 1);
        rv_weight w = weight_of(&d, l.w, l.n, l.k, t->store, t->round_x);
        rv_dev x = put_f(&d, l.x, l.m * l.k), dy = put_f(&d, l.dy, l.m * l.n);
        float *dw = malloc((size_t)(l.n * l.k) * sizeof *dw);
        for (int64_t cut = 0; cut <= l.m; cut += t->round_x ? 2 : 1) {
            rv_dev g = put_f(&d, NULL, d.be->weight_elems(&w)), db = put_f(&d, NULL, l.n);
            d.be->linear_dw(d.c, g, db, dy, x, cut, &w);
            d.be->linear_dw(d.c, g, db, rv_dev_at(dy, cut * l.n * 4), rv_dev_at(x, cut * l.k * 4),
                            l.m - cut, &w);
            d.be->weight_unpack(d.c, &w, dw, g);
            float *hb = take_f(&d, db, l.n);
            assert_bits(dw, all.dw, l.n * l.k, "dw cut");
            assert_bits(hb, all.db, l.n, "db cut");
            free(hb);
            d.be->free(d.c, g);
        }
        d.be->free(d.c, x), d.be->free(d.c, dy);
        weight_drop(&d, &w);
        dev_close(&d);
        free(dw);
        products_free(&all);
        layer_free(&l);
    }
}

// y = gelu(x W^T + bias + s (x A^T) B^T) + y, and the gradients of LoRA, in doubles.
static void lora_bias_activation_and_residual(void **state) {
    (void)state;
    enum { M = 37, N = 70, K = 41, R = 5 };
    dev d = dev_open(rv_backend_cpu(), 2);
    float *x = randoms(1, M * K, 1), *w = randoms(2, N * K, 0.3), *a = randoms(3, R * K, 0.3);
    float *b = randoms(4, N * R, 0.3), *bias = randoms(5, N, 1), *res = randoms(6, M * N, 1);
    float *dy = randoms(7, M * N, 1);
    rv_weight ww = weight_of(&d, w, N, K, RV_F32, false),
              wa = weight_of(&d, a, R, K, RV_F32, false);
    rv_weight wb = weight_of(&d, b, N, R, RV_F32, false);
    rv_lora lora = {&wa, &wb, 0.25f};
    rv_dev dx_ = put_f(&d, x, M * K), dbias = put_f(&d, bias, N), dy_ = put_f(&d, res, M * N);
    rv_dev pre = put_f(&d, NULL, M * N), h = put_f(&d, NULL, M * R), g = put_f(&d, NULL, M * R);
    rv_linear l = {.w = &ww,
                   .bias = dbias,
                   .act = RV_ACT_GELU_ERF,
                   .pre = pre,
                   .residual = dy_,
                   .lora = &lora,
                   .lora_h = h};
    d.be->linear(d.c, dy_, dx_, M, &l);
    double *hh = zeros(M * R), *p = zeros(M * N), *y = zeros(M * N);
    multiply(hh, M, R, K, x, K, 1, a, 1, K);
    multiply(p, M, N, K, x, K, 1, w, 1, K);
    for (int i = 0; i < M * N; i++) {
        for (int r = 0; r < R; r++) {
            p[i] += 0.25 * hh[i / N * R + r] * (double)b[i % N * R + r];
        }
        p[i] += (double)bias[i % N];
        y[i] = p[i] * 0.5 * erfc(-p[i] * sqrt(0.5)) + (double)res[i];
    }
    float *hp = get_f(&d, pre, M * N), *hy = get_f(&d, dy_, M * N);
    assert_near(hp, p, M * N, 1e-6, "pre");
    assert_near(hy, y, M * N, 1e-6, "y");
    // Backward: dx = dy W + s (dy B) A, da = s (dy B)^T x, db = s dy^T h.
    rv_dev gy = put_f(&d, dy, M * N), gx = put_f(&d, x, M * K);
    rv_dev ga = put_f(&d, NULL, d.be->weight_elems(&wa)),
           gb = put_f(&d, NULL, d.be->weight_elems(&wb));
    d.be->linear_dx(d.c, gx, gy, M, &l, g, true);
    d.be->lora_dw(d.c, ga, gb, gy, dx_, g, M, &l);
    double *gg = zeros(M * R), *ex = zeros(M * K), *ea = zeros(R * K), *eb = zeros(N * R);
    multiply(gg, M, R, N, dy, N, 1, b, R, 1);
    multiply(ex, M, K, N, dy, N, 1, w, K, 1);
    for (int i = 0; i < M * K; i++) {
        ex[i] += (double)x[i];
        for (int r = 0; r < R; r++) {
            ex[i] += 0.25 * gg[i / K * R + r] * (double)a[r * K + i % K];
            ea[r * K + i % K] += 0.25 * gg[i / K * R + r] * (double)x[i];
        }
    }
    for (int i = 0; i < M * N; i++) {
        for (int r = 0; r < R; r++) {
            eb[i % N * R + r] += 0.25 * (double)dy[i] * hh[i / N * R + r];
        }
    }
    float *hx = get_f(&d, gx, M * K), *ha = malloc(sizeof(float) * R * K),
          *hb = malloc(sizeof(float) * N * R);
    d.be->weight_unpack(d.c, &wa, ha, ga);
    d.be->weight_unpack(d.c, &wb, hb, gb);
    assert_near(hx, ex, M * K, 2e-6, "dx");
    assert_near(ha, ea, R * K, 2e-6, "da");
    assert_near(hb, eb, N * R, 2e-6, "db");
    rv_dev all[] = {dx_, dbias, dy_, pre, h, g, gy, gx, ga, gb};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d.be->free(d.c, all[i]);
    }
    weight_drop(&d, &ww), weight_drop(&d, &wa), weight_drop(&d, &wb);
    dev_close(&d);
    free(x), free(w), free(a), free(b), free(bias), free(res), free(dy), free(hh), free(p), free(y);
    free(hp), free(hy), free(gg), free(ex), free(ea), free(eb), free(hx), free(ha), free(hb);
}

static void weights_go_in_and_out(void **state) {
    (void)state;
    enum { N = 45, K = 37 };
    for (int i = 0; i < N_KINDS; i++) {
        const kind *t = kinds + i;
        dev d = dev_open(rv_backend_cpu(), 1);
        float *src = randoms(1, N * K, 1), *next = randoms(2, N * K, 1), back[N * K];
        rv_weight w = weight_of(&d, src, N, K, t->store, t->round_x);
        d.be->weight_read(d.c, &w, back);
        for (int j = 0; j < N * K; j++) {
            assert_true(back[j] == stored(t, src[j]));
        }
        rv_dev master = put_f(&d, NULL, d.be->weight_elems(&w));
        d.be->weight_pack(d.c, &w, master, next);
        d.be->weight_unpack(d.c, &w, back, master);
        assert_bits(back, next, N * K, "pack, unpack");
        d.be->weight_refresh(d.c, &w, master);
        rv_weight fresh = weight_of(&d, next, N, K, t->store, t->round_x);
        assert_int_equal(memcmp((void *)w.fwd.addr, (void *)fresh.fwd.addr, w.fwd_bytes), 0);
        d.be->free(d.c, master);
        weight_drop(&d, &w), weight_drop(&d, &fresh);
        dev_close(&d);
        free(src), free(next);
    }
}

static void wrong_dtype_is_named(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    rv_weight w = {.n = 1, .k = 1, .store = RV_F32};
    rv_err e;
    assert_int_equal(d.be->weight_prepare(d.c, &w, NULL, RV_I64, &e), RV_ETYPE);
    assert_string_equal(e.msg, "a weight must be f32, bf16 or f16, got i64");
    dev_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_reference),
        cmocka_unit_test(threads_give_the_same_bits),
        cmocka_unit_test(layers_of_one_input),
        cmocka_unit_test(rows_do_not_see_the_pack),
        cmocka_unit_test(dw_may_be_cut_anywhere),
        cmocka_unit_test(lora_bias_activation_and_residual),
        cmocka_unit_test(weights_go_in_and_out),
        cmocka_unit_test(wrong_dtype_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
