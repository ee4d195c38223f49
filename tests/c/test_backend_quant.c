// test_backend_quant.c - quantised weights: the values are bitsandbytes', the products those of an
// fp32 layer with these values, bit for bit, for every number of rows and threads.
#include "backend_case.h"

#include "../../src/backend/cpu/cpu.h"
#include "safetensors.h"

static const rv_dtype stores[] = {RV_I8, RV_NF4};

// n, k: whole panels and blocks, odd ones, less than one.
static const int64_t shapes[][2] = {{96, 128}, {33, 100}, {1, 1}, {70, 65}, {31, 7}, {130, 321}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const rv_safetensor *tensor_of(const rv_safetensors *s, const char *name, const char *part) {
    char full[32];
    snprintf(full, sizeof full, "%s%s", name, part);
    const rv_safetensor *t = rv_safetensors_find(s, full);
    assert_non_null(t);
    return t;
}

static float *floats_of(const rv_safetensors *s, const char *name, const char *part) {
    const rv_safetensor *t = tensor_of(s, name, part);
    int64_t n = (int64_t)(t->bytes / rv_dtype_size(t->type));
    float *x = malloc((size_t)n * sizeof *x);
    rv_convert(x, RV_F32, t->data, t->type, n);
    return x;
}

static void check_golden(const rv_safetensors *s, const char *name) {
    const rv_safetensor *t = tensor_of(s, name, "");
    const int64_t n = t->dim[0], k = t->dim[1];
    float *int8 = floats_of(s, name, ".int8"), *absmax = floats_of(s, name, ".absmax");
    float *nf4 = floats_of(s, name, ".nf4"), *back = malloc((size_t)(n * k) * sizeof *back);
    dev d = dev_open(rv_backend_cpu(), 2);
    for (int i = 0; i < 2; i++) {
        rv_weight w = {.n = n, .k = k, .store = stores[i]};
        rv_err e;
        d.be->weight_size(&w);
        w.fwd = put(&d, NULL, w.fwd_bytes);
        assert_int_equal(d.be->weight_prepare(d.c, &w, t->data, t->type, &e), RV_OK);
        d.be->weight_read(d.c, &w, back);
        for (int64_t j = 0; j < n * k; j++) {
            float want = i ? nf4[j] : int8[j] * (absmax[j / k] * (1 / 127.0f));
            if (back[j] != want) {
                fail_msg("%s %s: element %lld is %.9g, wanted %.9g", name, i ? "nf4" : "int8",
                         (long long)j, (double)back[j], (double)want);
            }
        }
        d.be->free(d.c, w.fwd);
    }
    dev_close(&d);
    free(int8), free(absmax), free(nf4), free(back);
}

static void values_are_those_of_bitsandbytes(void **state) {
    (void)state;
    rv_safetensors *s;
    rv_err e;
    assert_int_equal(rv_safetensors_open(&s, "tests/golden/quant.safetensors", &e), RV_OK);
    check_golden(s, "w0");
    check_golden(s, "w1");
    rv_safetensors_close(s);
}

static void memory_is_what_the_formats_say(void **state) {
    (void)state;
    rv_weight w = {.n = 2048, .k = 1024, .store = RV_I8};
    rv_backend_cpu()->weight_size(&w);
    assert_int_equal(w.fwd_bytes, 2048 * 1024 + 2048 * 4);
    w.store = RV_NF4;
    rv_backend_cpu()->weight_size(&w);
    assert_int_equal(w.fwd_bytes, 2048 * 1024 / 2 + 2048 * 1024 / 64 * 4);
}

// A quantised layer and the fp32 layer of the same values, with adapters, bias and residual.
typedef struct {
    dev *d;
    rv_weight w, a, b;
    int64_t n, k;
} layer;

static layer layer_new(dev *d, rv_dtype store, const float *src, int64_t n, int64_t k) {
    float *a = randoms(5, 3 * k, 0.2), *b = randoms(6, n * 3, 0.2);
    layer l = {.d = d, .n = n, .k = k, .w = weight_of(d, src, n, k, store, false)};
    l.a = weight_of(d, a, 3, k, RV_F32, false);
    l.b = weight_of(d, b, n, 3, RV_F32, false);
    free(a), free(b);
    return l;
}

static void layer_drop(layer *l) {
    weight_drop(l->d, &l->w), weight_drop(l->d, &l->a), weight_drop(l->d, &l->b);
}

// y and dx of m rows; with adapters when `lora`.
static float *forward(layer *l, const float *x, int64_t m, bool lora) {
    dev *d = l->d;
    rv_lora two = {&l->a, &l->b, 0.5f};
    rv_dev in = put_f(d, x, m * l->k), y = put_f(d, NULL, m * l->n), h = put_f(d, NULL, m * 3);
    rv_linear lin = {.w = &l->w, .lora = lora ? &two : NULL, .lora_h = h};
    d->be->linear(d->c, y, in, m, &lin);
    d->be->free(d->c, in), d->be->free(d->c, h);
    return take_f(d, y, m * l->n);
}

static float *backward(layer *l, const float *dy, int64_t m, bool lora) {
    dev *d = l->d;
    rv_lora two = {&l->a, &l->b, 0.5f};
    rv_dev g = put_f(d, dy, m * l->n), dx = put_f(d, NULL, m * l->k), h = put_f(d, NULL, m * 3);
    rv_linear lin = {.w = &l->w, .lora = lora ? &two : NULL, .lora_h = h};
    d->be->linear_dx(d->c, dx, g, m, &lin, h, false);
    d->be->free(d->c, g), d->be->free(d->c, h);
    return take_f(d, dx, m * l->k);
}

static void assert_same_products(layer *q, layer *f, const float *x, const float *dy, int64_t m,
                                 bool lora) {
    float *y = forward(q, x, m, lora), *want = forward(f, x, m, lora);
    assert_bits(y, want, m * q->n, "y");
    free(y), free(want);
    y = backward(q, dy, m, lora), want = backward(f, dy, m, lora);
    assert_bits(y, want, m * q->k, "dx");
    free(y), free(want);
}

static void check_shape(const rv_backend *be, rv_dtype store, int64_t n, int64_t k, int threads) {
    enum { MOST = 200 };
    static const int64_t rows[] = {1, 2, 3, 4, 5, 7, 8, 12, 96, 97, MOST};
    dev d = dev_open(be, threads);
    float *src = randoms(1, n * k, 0.3), *x = randoms(2, MOST * k, 1),
          *dy = randoms(3, MOST * n, 1);
    layer q = layer_new(&d, store, src, n, k);
    d.be->weight_read(d.c, &q.w, src);
    layer f = layer_new(&d, RV_F32, src, n, k);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_same_products(&q, &f, x, dy, rows[i], i % 2);
    }
    layer_drop(&q), layer_drop(&f);
    dev_close(&d);
    free(src), free(x), free(dy);
}

static void products_are_those_of_the_widened_layer(void **state) {
    (void)state;
    static const char *const sets[] = {"base", "avx2", "avx512", "avx512bf16"};
    for (size_t b = 0; b < sizeof sets / sizeof *sets; b++) {
        const rv_backend *be = rv_cpu_isa(sets[b]);
        for (int i = 0; be && i < 2; i++) {
            for (int s = 0; s < N_SHAPES; s++) {
                check_shape(be, stores[i], shapes[s][0], shapes[s][1], 1);
                check_shape(be, stores[i], shapes[s][0], shapes[s][1], 3);
            }
        }
    }
}

static void every_number_of_rows_gives_the_same_bits(void **state) {
    (void)state;
    enum { M = 96, N = 50, K = 150 };
    float *src = randoms(1, N * K, 1), *x = randoms(2, M * K, 1), *dy = randoms(3, M * N, 1);
    for (int i = 0; i < 2; i++) {
        dev d = dev_open(rv_backend_cpu(), 2);
        layer l = layer_new(&d, stores[i], src, N, K);
        float *y = forward(&l, x, M, true), *dx = backward(&l, dy, M, true);
        for (int64_t m = 1; m <= M; m++) {
            float *part = forward(&l, x + (M - m) * K, m, true);
            assert_bits(part, y + (M - m) * N, m * N, "y of fewer rows");
            free(part);
            part = backward(&l, dy + (M - m) * N, m, true);
            assert_bits(part, dx + (M - m) * K, m * K, "dx of fewer rows");
            free(part);
        }
        free(y), free(dx);
        layer_drop(&l);
        dev_close(&d);
    }
    free(src), free(x), free(dy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_bitsandbytes),
        cmocka_unit_test(memory_is_what_the_formats_say),
        cmocka_unit_test(products_are_those_of_the_widened_layer),
        cmocka_unit_test(every_number_of_rows_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
