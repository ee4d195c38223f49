// test_backend_attention.c - attention against a double-precision reference, its gradient, and the
// bits of scoring and decoding.
#include "backend_case.h"

typedef struct {
    int h, g, d;
    bool causal;
    int64_t window;
    int n_seq;
    int32_t cu[8];
} attn_case;

static const attn_case cases[] = {
    {2, 2, 32, true, 0, 1, {0, 1}},         {4, 2, 32, true, 0, 3, {0, 70, 71, 200}},
    {3, 1, 20, true, 0, 2, {0, 64, 193}},   {2, 2, 16, false, 0, 3, {0, 50, 50, 115}},
    {4, 4, 40, true, 17, 2, {0, 150, 279}}, {2, 1, 64, false, 30, 1, {0, 130}},
    {14, 1, 20, true, 0, 1, {0, 67}},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static rv_attn attn_of(const attn_case *t) {
    return (rv_attn){t->h, t->g, t->d, 1 / sqrtf((float)t->d), t->causal, t->window};
}

typedef struct {
    float *q, *k, *v;
    int64_t rows, qn, kn;
} qkv;

static qkv inputs(const attn_case *t) {
    qkv x;
    x.rows = t->cu[t->n_seq];
    x.qn = x.rows * t->h * t->d;
    x.kn = x.rows * t->g * t->d;
    x.q = randoms(1, x.qn, 1.5);
    x.k = randoms(2, x.kn, 1.5);
    x.v = randoms(3, x.kn, 1);
    return x;
}

static void drop(qkv *x) {
    free(x->q);
    free(x->k);
    free(x->v);
}

static bool sees(const attn_case *t, int64_t i, int64_t j) {
    return (!t->causal || j <= i) && (t->window == 0 || j > i - t->window);
}

// sum g . o in double, and o, lse where wanted.
static double reference(const attn_case *t, const double *q, const double *k, const double *v,
                        const float *g, double *o, double *lse) {
    double total = 0, *p = malloc(sizeof *p * 1024);
    for (int s = 0; s < t->n_seq; s++) {
        int64_t r0 = t->cu[s], len = t->cu[s + 1] - r0;
        for (int64_t i = 0; i < len * t->h; i++) {
            int64_t row = r0 + i / t->h, h = i % t->h, kv = h / (t->h / t->g);
            const double *qi = q + (row * t->h + h) * t->d;
            double top = -1e300, sum = 0;
            for (int64_t j = 0; j < len; j++) {
                double x = 0;
                for (int e = 0; e < t->d; e++) {
                    x += qi[e] * k[((r0 + j) * t->g + kv) * t->d + e];
                }
                p[j] = sees(t, i / t->h, j) ? x * (double)(1 / sqrtf((float)t->d)) : -1e300;
                top = fmax(top, p[j]);
            }
            for (int64_t j = 0; j < len; j++) {
                p[j] = exp(p[j] - top);
                sum += p[j];
            }
            if (lse) {
                lse[row * t->h + h] = top + log(sum);
            }
            for (int e = 0; e < t->d; e++) {
                double x = 0;
                for (int64_t j = 0; j < len; j++) {
                    x += p[j] * v[((r0 + j) * t->g + kv) * t->d + e];
                }
                int64_t at = (row * t->h + h) * t->d + e;
                total += g ? (double)g[at] * x / sum : 0;
                if (o) {
                    o[at] = x / sum;
                }
            }
        }
    }
    free(p);
    return total;
}

static double *doubles(const float *x, int64_t n) {
    double *r = malloc((size_t)(n ? n : 1) * sizeof *r);
    for (int64_t i = 0; i < n; i++) {
        r[i] = (double)x[i];
    }
    return r;
}

static void reserve(dev *d, const rv_attn *a) {
    rv_err e;
    assert_int_equal(d->be->reserve(d->c, d->be->attention_scratch(d->c, a, 300), &e), RV_OK);
}

static float *run(const attn_case *t, const qkv *x, int threads, float **lse) {
    dev d = dev_open(rv_backend_cpu(), threads);
    rv_attn a = attn_of(t);
    reserve(&d, &a);
    rv_dev q = put_f(&d, x->q, x->qn), k = put_f(&d, x->k, x->kn), v = put_f(&d, x->v, x->kn);
    rv_dev o = put_f(&d, NULL, x->qn), l = put_f(&d, NULL, x->rows * t->h);
    d.be->attention(d.c, o, l, q, k, v, t->h * t->d, t->g * t->d, t->cu, NULL, t->n_seq, &a);
    float *r = take_f(&d, o, x->qn);
    *lse = take_f(&d, l, x->rows * t->h);
    d.be->free(d.c, q);
    d.be->free(d.c, k);
    d.be->free(d.c, v);
    dev_close(&d);
    return r;
}

static void forward_equals_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *t = cases + i;
        qkv x = inputs(t);
        double *q = doubles(x.q, x.qn), *k = doubles(x.k, x.kn), *v = doubles(x.v, x.kn);
        double *o = malloc(sizeof *o * (size_t)x.qn),
               *l = malloc(sizeof *l * (size_t)(x.rows * t->h));
        reference(t, q, k, v, NULL, o, l);
        float *lse1, *lse2, *o1 = run(t, &x, 1, &lse1), *o2 = run(t, &x, 2, &lse2);
        assert_near(o1, o, x.qn, 2e-6, "attention");
        assert_near(lse1, l, x.rows * t->h, 1e-6, "attention lse");
        assert_bits(o1, o2, x.qn, "1 and 2 threads");
        free(q), free(k), free(v), free(o), free(l), free(o1), free(o2), free(lse1), free(lse2);
        drop(&x);
    }
}

// The first sequence of a case through the cache, `step` tokens a call, in a batch of so many
// alike: how heads are shared out depends on their number.
static float *decode(const attn_case *t, const qkv *x, int64_t step, int64_t batch) {
    dev d = dev_open(rv_backend_cpu(), 1);
    rv_attn a = attn_of(t);
    int64_t len = t->cu[1], w = t->h * t->d, kw = t->g * t->d;
    int32_t table[8] = {6, 1, 4, 3, 2, 5, 0, 7};
    rv_dev pool = put(&d, NULL, 8 * d.be->kv_block_bytes(&a));
    float *o = malloc(sizeof *o * (size_t)(len * w));
    rv_dev q = put_f(&d, x->q, len * w), k = put_f(&d, x->k, len * kw),
           v = put_f(&d, x->v, len * kw);
    rv_dev out = put_f(&d, NULL, len * w);
    for (int64_t p = 0; p < len; p += step) {
        rv_attn_seq s[9];
        for (int64_t i = 0; i < batch; i++) {
            s[i] = (rv_attn_seq){p, len - p < step ? len - p : step, p, table};
        }
        d.be->kv_write(d.c, pool, k, v, kw, s, 1, &a);
        d.be->attention_cached(d.c, out, q, w, pool, s, batch, &a);
    }
    d.be->download(d.c, o, out, sizeof *o * (size_t)(len * w));
    d.be->free(d.c, pool), d.be->free(d.c, q), d.be->free(d.c, k), d.be->free(d.c, v);
    d.be->free(d.c, out);
    dev_close(&d);
    return o;
}

static void cached_has_the_same_bits(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *t = cases + i;
        if (!t->causal) {
            continue;
        }
        qkv x = inputs(t);
        float *lse, *whole = run(t, &x, 1, &lse);
        int64_t steps[] = {1, 2, 3, 7, 12, 63, 64, 65, 1000};
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            for (int64_t batch = 1; batch <= (steps[s] == 1 ? 9 : 1); batch += 4) {
                float *o = decode(t, &x, steps[s], batch);
                assert_bits(o, whole, t->cu[1] * t->h * t->d, "cached");
                free(o);
            }
        }
        free(lse), free(whole);
        drop(&x);
    }
}

static void gradient(const attn_case *t, const qkv *x, const float *g, int threads, float *out[3]) {
    dev d = dev_open(rv_backend_cpu(), threads);
    rv_attn a = attn_of(t);
    reserve(&d, &a);
    int64_t w = t->h * t->d, kw = t->g * t->d;
    rv_dev q = put_f(&d, x->q, x->qn), k = put_f(&d, x->k, x->kn), v = put_f(&d, x->v, x->kn);
    rv_dev o = put_f(&d, NULL, x->qn), l = put_f(&d, NULL, x->rows * t->h),
           go = put_f(&d, g, x->qn);
    rv_dev dq = put_f(&d, NULL, x->qn), dk = put_f(&d, NULL, x->kn), dv = put_f(&d, NULL, x->kn);
    d.be->attention(d.c, o, l, q, k, v, w, kw, t->cu, NULL, t->n_seq, &a);
    d.be->attention_backward(d.c, dq, dk, dv, go, q, k, v, o, l, w, kw, t->cu, NULL, t->n_seq, &a);
    out[0] = take_f(&d, dq, x->qn);
    out[1] = take_f(&d, dk, x->kn);
    out[2] = take_f(&d, dv, x->kn);
    d.be->free(d.c, q), d.be->free(d.c, k), d.be->free(d.c, v), d.be->free(d.c, o);
    d.be->free(d.c, l), d.be->free(d.c, go);
    dev_close(&d);
}

// Central differences at some elements of one of q, k, v.
static void check_differences(const attn_case *t, double *in[3], const float *g, int which,
                              int64_t n, const float *grad) {
    double top = 0;
    for (int64_t i = 0; i < n; i++) {
        top = fmax(top, fabs((double)grad[i]));
    }
    for (int64_t i = 0; i < n; i += n / 23 + 1) {
        double keep = in[which][i], h = 1e-5;
        in[which][i] = keep + h;
        double up = reference(t, in[0], in[1], in[2], g, NULL, NULL);
        in[which][i] = keep - h;
        double down = reference(t, in[0], in[1], in[2], g, NULL, NULL);
        in[which][i] = keep;
        double want = (up - down) / (2 * h), got = (double)grad[i];
        if (!(fabs(want - got) <= 1e-5 * top + 1e-6)) {
            fail_msg("case %d: gradient of %c at %lld: %.9g, wanted %.9g", (int)(t - cases),
                     "qkv"[which], (long long)i, got, want);
        }
    }
}

static void backward_equals_differences(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *t = cases + i;
        qkv x = inputs(t);
        double *in[3] = {doubles(x.q, x.qn), doubles(x.k, x.kn), doubles(x.v, x.kn)};
        float *g = randoms(4, x.qn, 1), *one[3], *two[3];
        gradient(t, &x, g, 1, one);
        gradient(t, &x, g, 2, two);
        for (int w = 0; w < 3; w++) {
            int64_t n = w ? x.kn : x.qn;
            check_differences(t, in, g, w, n, one[w]);
            assert_bits(one[w], two[w], n, "gradient, 1 and 2 threads");
            free(one[w]), free(two[w]);
        }
        free(in[0]), free(in[1]), free(in[2]), free(g);
        drop(&x);
    }
}

// Outputs and gradients of the last rows of each sequence alone: o, dq, dk, dv.
static void gradient_of_last(const attn_case *t, const qkv *x, const float *g, const int32_t *q_cu,
                             float *out[4]) {
    dev d = dev_open(rv_backend_cpu(), 2);
    rv_attn a = attn_of(t);
    reserve(&d, &a);
    const int64_t w = t->h * t->d, kw = t->g * t->d, n = q_cu[t->n_seq];
    float *q1 = malloc(sizeof *q1 * (size_t)(n * w)), *g1 = malloc(sizeof *g1 * (size_t)(n * w));
    for (int s = 0; s < t->n_seq; s++) {
        int64_t some = q_cu[s + 1] - q_cu[s], from = (t->cu[s + 1] - some) * w;
        memcpy(q1 + q_cu[s] * w, x->q + from, sizeof *q1 * (size_t)(some * w));
        memcpy(g1 + q_cu[s] * w, g + from, sizeof *g1 * (size_t)(some * w));
    }
    rv_dev q = put_f(&d, q1, n * w), k = put_f(&d, x->k, x->kn), v = put_f(&d, x->v, x->kn);
    rv_dev o = put_f(&d, NULL, n * w), l = put_f(&d, NULL, n * t->h), go = put_f(&d, g1, n * w);
    rv_dev dq = put_f(&d, NULL, n * w), dk = put_f(&d, NULL, x->kn), dv = put_f(&d, NULL, x->kn);
    d.be->attention(d.c, o, l, q, k, v, w, kw, t->cu, q_cu, t->n_seq, &a);
    d.be->attention_backward(d.c, dq, dk, dv, go, q, k, v, o, l, w, kw, t->cu, q_cu, t->n_seq, &a);
    out[0] = take_f(&d, o, n * w);
    out[1] = take_f(&d, dq, n * w);
    out[2] = take_f(&d, dk, x->kn);
    out[3] = take_f(&d, dv, x->kn);
    d.be->free(d.c, q), d.be->free(d.c, k), d.be->free(d.c, v);
    d.be->free(d.c, l), d.be->free(d.c, go);
    dev_close(&d);
    free(q1), free(g1);
}

static void last_queries_have_the_same_bits(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const attn_case *t = cases + i;
        const int64_t w = t->h * t->d;
        qkv x = inputs(t);
        float *g = randoms(4, x.qn, 1), *lse, *o = run(t, &x, 1, &lse), *all[3], *last[4];
        int32_t q_cu[8] = {0};
        for (int s = 0; s < t->n_seq; s++) { // a third of the first sequence, none of the second
            int32_t n = t->cu[s + 1] - t->cu[s], some = s == 1 ? 0 : (n + 2) / 3;
            q_cu[s + 1] = q_cu[s] + some;
            memset(g + t->cu[s] * w, 0, sizeof *g * (size_t)((n - some) * w));
        }
        gradient(t, &x, g, 1, all);
        gradient_of_last(t, &x, g, q_cu, last);
        for (int s = 0; s < t->n_seq; s++) {
            int64_t n = q_cu[s + 1] - q_cu[s], at = q_cu[s] * w, from = (t->cu[s + 1] - n) * w;
            assert_bits(last[0] + at, o + from, n * w, "outputs of the last rows");
            assert_bits(last[1] + at, all[0] + from, n * w, "dq of the last rows");
        }
        for (int64_t k = 0; k < x.kn; k++) { // zeros may differ in their sign
            assert_true(last[2][k] == all[1][k] && last[3][k] == all[2][k]);
        }
        free(all[0]), free(all[1]), free(all[2]), free(o), free(lse), free(g);
        free(last[0]), free(last[1]), free(last[2]), free(last[3]);
        drop(&x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_equals_reference),
        cmocka_unit_test(cached_has_the_same_bits),
        cmocka_unit_test(backward_equals_differences),
        cmocka_unit_test(last_queries_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
