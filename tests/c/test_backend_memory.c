// test_backend_memory.c - contexts, memory, conversions, rows and the optimiser.
#include "backend_case.h"

static void contexts_refuse_nonsense(void **state) {
    (void)state;
    const rv_backend *be = rv_backend_cpu();
    rv_ctx *c = (rv_ctx *)1;
    rv_err e;
    assert_int_equal(be->ctx_new(&c, 1, 1, &e), RV_EARG);
    assert_string_equal(e.msg, "cpu: there is only device 0, asked for 1");
    assert_null(c);
    assert_int_equal(be->ctx_new(&c, 0, -1, &e), RV_EARG);
    assert_string_equal(e.msg, "cpu: threads must be 0 (all) to 1024, got -1");
    be->ctx_free(NULL);
    assert_int_equal(be->ctx_new(&c, 0, 0, &e), RV_OK);
    assert_true(be->threads(c) >= 1);
    be->ctx_free(c);
}

static void backends_are_found_by_name(void **state) {
    (void)state;
    const rv_backend *be;
    rv_err e;
    assert_int_equal(rv_backend_get(&be, "cpu", &e), RV_OK);
    assert_ptr_equal(be, rv_backend_cpu());
    assert_int_equal(be->abi, RV_BACKEND_ABI);
    assert_string_equal(be->name, "cpu");
    assert_int_equal(rv_backend_get(&be, "abacus", &e), RV_EUNSUPPORTED);
    assert_null(be);
}

static void memory_is_counted_aligned_and_zeroed(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    size_t now, peak, start;
    d.be->usage(d.c, &start, &peak);
    rv_dev a = put(&d, NULL, 1000), b = put(&d, NULL, 0);
    assert_int_equal(a.addr % 64, 0);
    float *zero = get_f(&d, a, 250);
    for (int i = 0; i < 250; i++) {
        assert_true(zero[i] == 0);
    }
    free(zero);
    d.be->usage(d.c, &now, &peak);
    assert_int_equal(now, start + 1000);
    d.be->free(d.c, a);
    d.be->free(d.c, b);
    d.be->free(d.c, (rv_dev){0});
    d.be->usage(d.c, &now, &peak);
    assert_int_equal(now, start);
    assert_int_equal(peak, start + 1000);
    rv_err e;
    rv_dev big;
    assert_int_equal(d.be->alloc(d.c, &big, SIZE_MAX - 10, &e), RV_ENOMEM);
    assert_true(rv_dev_none(big));
    assert_int_equal(d.be->reserve(d.c, SIZE_MAX - 10, &e), RV_ENOMEM);
    assert_int_equal(d.be->reserve(d.c, 5000, &e), RV_OK);
    assert_int_equal(d.be->reserve(d.c, 100, &e), RV_OK);
    d.be->usage(d.c, &now, &peak);
    assert_int_equal(now, start + 5000);
    dev_close(&d);
}

static void copies_and_zeros(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float x[] = {1, 2, 3, 4}, want[] = {0, 2, 1, 2};
    rv_dev a = put_f(&d, x, 4);
    d.be->copy(d.c, rv_dev_at(a, 8), a, 8);
    d.be->zero(d.c, a, 4);
    d.be->copy(d.c, a, a, 0);
    d.be->upload(d.c, a, NULL, 0);
    d.be->download(d.c, NULL, a, 0);
    d.be->sync(d.c);
    float *y = take_f(&d, a, 4);
    assert_bits(y, want, 4, "copy, zero");
    free(y);
    dev_close(&d);
}

// Every 16-bit number there is, and the roundings between them.
static void conversions_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        float b = rv_bf16_to_f32((uint16_t)i), h = rv_f16_to_f32((uint16_t)i);
        if (b == b) {
            assert_int_equal(rv_f32_to_bf16(b), i);
        } else {
            assert_true(isnan(rv_bf16_to_f32(rv_f32_to_bf16(b))));
        }
        if (h == h) {
            assert_int_equal(rv_f32_to_f16(h), i);
        } else {
            assert_true(isnan(rv_f16_to_f32(rv_f32_to_f16(h))));
        }
        if (i % 0x8000 < 0x7bff) { // halfway to the next finite one, and a hair beside it
            float mid = (h + rv_f16_to_f32((uint16_t)(i + 1))) / 2;
            assert_int_equal(rv_f32_to_f16(mid), i + i % 2);
            assert_int_equal(rv_f32_to_f16(nextafterf(mid, h)), i);
            assert_int_equal(rv_f32_to_f16(nextafterf(mid, h < mid ? INFINITY : -INFINITY)), i + 1);
        }
    }
    assert_int_equal(rv_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(rv_f32_to_f16(65520), 0x7c00);
    assert_int_equal(rv_f32_to_f16(-1e9f), 0xfc00);
    assert_int_equal(rv_f32_to_bf16(3.4e38f), 0x7f80);
    assert_true(rv_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(rv_f16_to_f32(0x3555) == 0.333251953125f);
}

static void arrays_convert_between_types(void **state) {
    (void)state;
    float x[] = {1, -2.5f, 0.333f, 1e-7f}, y[4];
    double f64[4];
    uint16_t half[4];
    rv_convert(f64, RV_F64, x, RV_F32, 4);
    rv_convert(y, RV_F32, f64, RV_F64, 4);
    assert_bits(x, y, 4, "through f64");
    rv_convert(half, RV_BF16, f64, RV_F64, 4);
    assert_int_equal(half[1], 0xc020);
    rv_convert(half, RV_F16, x, RV_F32, 4);
    rv_convert(y, RV_F32, half, RV_F16, 4);
    assert_true(y[2] == 0.3330078125f);
    rv_convert(y, RV_F32, x, RV_F32, 4);
    assert_bits(x, y, 4, "same type");
    assert_int_equal(rv_dtype_size(RV_F64), 8);
    assert_string_equal(rv_dtype_name(RV_BF16), "bf16");
}

static void rows_move(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 2);
    float src[] = {1, 2, 10, 20, 100, 200};
    int32_t idx[] = {2, -1, 0, 2};
    rv_dev x = put_f(&d, src, 6), y = put_f(&d, NULL, 8);
    d.be->gather_rows(d.c, y, x, idx, 4, 2);
    float *g = get_f(&d, y, 8), want[] = {100, 200, 0, 0, 1, 2, 100, 200};
    assert_bits(g, want, 8, "gather");
    d.be->scatter_add_rows(d.c, x, y, idx, 4, 2);
    float *a = get_f(&d, x, 6), sum[] = {2, 4, 10, 20, 300, 600};
    assert_bits(a, sum, 6, "scatter add");
    int32_t back[] = {1, -1, 0, -1};
    d.be->scatter_rows(d.c, x, y, back, 4, 2);
    float *s = get_f(&d, x, 6), put_back[] = {1, 2, 100, 200, 300, 600};
    assert_bits(s, put_back, 6, "scatter");
    d.be->free(d.c, x), d.be->free(d.c, y);
    dev_close(&d);
    free(g), free(a), free(s);
}

static void embedding_rows(void **state) {
    (void)state;
    enum { WORDS = 40, WIDTH = 9 };
    dev d = dev_open(rv_backend_cpu(), 2);
    float *src = randoms(1, WORDS * WIDTH, 1), *dy = randoms(2, 4 * WIDTH, 1);
    float dw[WORDS * WIDTH], want[WORDS * WIDTH] = {0};
    int32_t ids[] = {39, 3, -1, 39};
    rv_weight w = weight_of(&d, src, WORDS, WIDTH, RV_F32, false);
    rv_dev y = put_f(&d, dy, 4 * WIDTH), g = put_f(&d, NULL, d.be->weight_elems(&w));
    d.be->embed_backward(d.c, g, &w, y, ids, 4);
    d.be->embed(d.c, y, &w, ids, 4);
    float *rows = take_f(&d, y, 4 * WIDTH);
    d.be->weight_unpack(d.c, &w, dw, g);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < WIDTH; j++) {
            assert_true(rows[i * WIDTH + j] == (ids[i] < 0 ? 0 : src[ids[i] * WIDTH + j]));
            if (ids[i] >= 0) {
                want[ids[i] * WIDTH + j] += dy[i * WIDTH + j];
            }
        }
    }
    assert_bits(dw, want, WORDS * WIDTH, "embedding's gradient");
    d.be->free(d.c, g);
    weight_drop(&d, &w);
    dev_close(&d);
    free(src), free(dy), free(rows);
}

static void squares_add_up(void **state) {
    (void)state;
    enum { COUNT = 1100000 }; // more than one round of partial sums
    dev d = dev_open(rv_backend_cpu(), 2);
    float *x = randoms(1, COUNT, 1);
    rv_dev a = put_f(&d, x, COUNT);
    double want = 1, got = 1;
    for (int i = 0; i < COUNT; i++) {
        want += (double)x[i] * (double)x[i];
    }
    d.be->sum_squares(d.c, &got, a, COUNT);
    assert_true(fabs(got - want) <= 1e-12 * want);
    d.be->sum_squares(d.c, &got, a, 0);
    d.be->free(d.c, a);
    dev_close(&d);
    free(x);
}

// torch.optim.AdamW in doubles, three steps.
static void adamw_follows_torch(void **state) {
    (void)state;
    enum { COUNT = 100 };
    dev d = dev_open(rv_backend_cpu(), 1);
    float *w = randoms(1, COUNT, 1), *g = randoms(2, COUNT, 3);
    g[7] = w[7] = 0; // padding stays zero
    double ref[COUNT], m[COUNT] = {0}, v[COUNT] = {0};
    rv_dev iw = put_f(&d, w, COUNT), ig = put_f(&d, g, COUNT);
    rv_dev im = put_f(&d, NULL, COUNT), iv = put_f(&d, NULL, COUNT);
    for (int i = 0; i < COUNT; i++) {
        ref[i] = (double)w[i];
    }
    for (int step = 1; step <= 3; step++) {
        rv_adamw how = {0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, step};
        d.be->adamw(d.c, iw, ig, im, iv, COUNT, &how);
        for (int i = 0; i < COUNT; i++) {
            double x = (double)g[i] * 0.5;
            ref[i] *= 1 - 0.01 * 0.1;
            m[i] += (x - m[i]) * (1 - 0.9);
            v[i] = v[i] * 0.999 + x * x * (1 - 0.999);
            double denominator = sqrt(v[i]) / sqrt(1 - pow(0.999, step)) + 1e-8;
            ref[i] -= 0.01 / (1 - pow(0.9, step)) * m[i] / denominator;
        }
    }
    float *hw = take_f(&d, iw, COUNT), *hm = take_f(&d, im, COUNT), *hv = take_f(&d, iv, COUNT);
    assert_near(hw, ref, COUNT, 1e-6, "adamw weights");
    assert_near(hm, m, COUNT, 1e-6, "adamw m");
    assert_near(hv, v, COUNT, 1e-4, "adamw v"); // 1 - 0.999f
    assert_true(hw[7] == 0);
    d.be->free(d.c, ig);
    dev_close(&d);
    free(w), free(g), free(hw), free(hm), free(hv);
}

static void nothing_to_do_is_done(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 2);
    float *src = randoms(1, 12, 1);
    rv_weight w = weight_of(&d, src, 3, 4, RV_BF16, true);
    rv_linear l = {.w = &w};
    rv_dev none = {0}, dw = put_f(&d, NULL, d.be->weight_elems(&w));
    rv_attn a = {1, 1, 4, 1, true, 0};
    const int32_t cu[] = {0};
    rv_err e;
    d.be->linear(d.c, none, none, 0, &l);
    d.be->linear_dx(d.c, none, none, 0, &l, none, false);
    d.be->linear_dw(d.c, dw, none, none, none, 0, &w);
    d.be->rmsnorm(d.c, none, none, none, 0, 4, 1e-5f);
    d.be->rmsnorm_backward(d.c, none, none, none, none, none, 0, 4, 1e-5f, false);
    d.be->act(d.c, none, none, 0, RV_ACT_SILU);
    d.be->gather_rows(d.c, none, none, NULL, 0, 4);
    d.be->embed(d.c, none, &w, NULL, 0);
    d.be->attention(d.c, none, none, none, none, none, 4, 4, cu, NULL, 0, &a);
    d.be->attention_cached(d.c, none, none, 4, none, NULL, 0, &a);
    d.be->kv_write(d.c, none, none, none, 4, NULL, 0, &a);
    d.be->logprob(d.c, none, none, none, none, NULL, 0, 4, 1);
    assert_int_equal(d.be->sample(d.c, NULL, none, 0, 4, NULL, NULL, 0, &e), RV_OK);
    d.be->free(d.c, dw);
    weight_drop(&d, &w);
    dev_close(&d);
    free(src);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_refuse_nonsense),
        cmocka_unit_test(backends_are_found_by_name),
        cmocka_unit_test(memory_is_counted_aligned_and_zeroed),
        cmocka_unit_test(copies_and_zeros),
        cmocka_unit_test(conversions_round_to_nearest_even),
        cmocka_unit_test(arrays_convert_between_types),
        cmocka_unit_test(rows_move),
        cmocka_unit_test(embedding_rows),
        cmocka_unit_test(squares_add_up),
        cmocka_unit_test(adamw_follows_torch),
        cmocka_unit_test(nothing_to_do_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
