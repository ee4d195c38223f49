// test_backend_isa.c - every entry gives the same bits with every instruction set, vector width and
// number of threads, and never lets the host touch device memory.
//
// One long walk through the table writes down all results; the walks must be equal.
#include "backend_case.h"

#include <sys/wait.h>
#include <unistd.h>

#include "../../src/backend/cpu/cpu.h"
#include "guard_backend.h"

#ifdef RV_HAVE_WIDE
// Built for this test alone: 16 lanes on AVX2; bf16 activations as words, as AVX512_BF16 reads
// them.
extern const rv_backend rv_cpu_table_wide, rv_cpu_table_words;
#endif

typedef struct {
    float *x;
    int64_t n, room;
} record;

static void note(record *r, const float *x, int64_t n) {
    if (r->n + n > r->room) {
        r->room = (r->n + n) * 2;
        r->x = realloc(r->x, (size_t)r->room * sizeof *r->x);
    }
    memcpy(r->x + r->n, x, (size_t)n * sizeof *x);
    r->n += n;
}

// Notes the content of a device array.
static void note_dev(record *r, dev *d, rv_dev a, int64_t n) {
    float *x = get_f(d, a, n);
    note(r, x, n);
    free(x);
}

static rv_dev fresh(dev *d, uint64_t stream, int64_t n) {
    float *x = randoms(stream, n, 1);
    rv_dev r = put_f(d, x, n);
    free(x);
    return r;
}

static void walk_linear(dev *d, record *r, int64_t m, int64_t n, int64_t k, rv_dtype store,
                        bool round_x) {
    float *src = randoms(10, n * k, 0.2), *src_a = randoms(11, 5 * k, 0.2);
    float *src_b = randoms(12, n * 5, 0.2), *flat = malloc((size_t)(n * k) * sizeof *flat);
    rv_weight w = weight_of(d, src, n, k, store, round_x);
    rv_weight wa = weight_of(d, src_a, 5, k, RV_F32, false);
    rv_weight wb = weight_of(d, src_b, n, 5, RV_F32, false);
    rv_lora lora = {&wa, &wb, 0.5f};
    rv_dev x = fresh(d, 13, m * k), y = fresh(d, 14, m * n), h = fresh(d, 15, m * 5);
    rv_dev bias = fresh(d, 16, n), pre = fresh(d, 17, m * n), dx = fresh(d, 18, m * k);
    rv_dev dw = put_f(d, NULL, d->be->weight_elems(&w)), db = fresh(d, 19, n);
    rv_dev da = put_f(d, NULL, d->be->weight_elems(&wa));
    rv_dev dbb = put_f(d, NULL, d->be->weight_elems(&wb));
    for (int act = RV_ACT_NONE; act <= RV_ACT_RELU; act++) {
        rv_linear l = {.w = &w,
                       .bias = bias,
                       .act = (rv_act)act,
                       .pre = pre,
                       .residual = y,
                       .lora = &lora,
                       .lora_h = h};
        d->be->linear(d->c, y, x, m, &l);
        note_dev(r, d, y, m * n);
        note_dev(r, d, pre, m * n);
        d->be->linear_dx(d->c, dx, y, m, &l, h, act % 2 == 1);
        note_dev(r, d, dx, m * k);
        d->be->lora_dw(d->c, da, dbb, y, x, h, m, &l);
        d->be->linear_dw(d->c, dw, db, y, x, m, &w);
        d->be->weight_unpack(d->c, &w, flat, dw);
        note(r, flat, n * k);
        d->be->act_backward(d->c, y, y, pre, m * n, (rv_act)act);
        note_dev(r, d, y, m * n);
    }
    note_dev(r, d, db, n);
    d->be->weight_unpack(d->c, &wa, src_a, da);
    note(r, src_a, 5 * k);
    d->be->weight_unpack(d->c, &wb, src_b, dbb);
    note(r, src_b, n * 5);
    d->be->weight_read(d->c, &w, flat);
    note(r, flat, n * k);
    rv_dev all[] = {x, y, h, bias, pre, dx, dw, db, da, dbb};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d->be->free(d->c, all[i]);
    }
    weight_drop(d, &w), weight_drop(d, &wa), weight_drop(d, &wb);
    free(src), free(src_a), free(src_b), free(flat);
}

static void walk_rows(dev *d, record *r, int64_t m, int64_t n) {
    rv_dev x = fresh(d, 20, m * n), w = fresh(d, 21, n), b = fresh(d, 22, n),
           y = fresh(d, 23, m * n);
    rv_dev dw = fresh(d, 24, n), db = fresh(d, 25, n), dx = fresh(d, 26, m * n);
    rv_dev cs = fresh(d, 27, m * n);
    d->be->rmsnorm(d->c, y, x, w, m, n, 1e-5f);
    note_dev(r, d, y, m * n);
    d->be->rmsnorm_backward(d->c, dx, dw, y, x, w, m, n, 1e-5f, true);
    note_dev(r, d, dx, m * n);
    d->be->layernorm(d->c, y, x, w, b, m, n, 1e-5f);
    note_dev(r, d, y, m * n);
    d->be->layernorm_backward(d->c, dx, dw, db, y, x, w, m, n, 1e-5f, false);
    note_dev(r, d, dx, m * n);
    note_dev(r, d, dw, n);
    note_dev(r, d, db, n);
    d->be->swiglu(d->c, y, x, dx, m * n);
    note_dev(r, d, y, m * n);
    d->be->swiglu_backward(d->c, cs, dx, y, x, dx, m * n);
    note_dev(r, d, cs, m * n);
    d->be->axpy(d->c, y, dx, 0.3f, m * n);
    d->be->scale(d->c, y, 1.7f, m * n);
    if (n % 2 == 0) {
        d->be->rope(d->c, y, n, cs, m, 1, (int)n, -1);
    }
    note_dev(r, d, y, m * n);
    double squares = 0;
    d->be->sum_squares(d->c, &squares, y, m * n);
    note(r, (float *)&squares, 2);
    rv_adamw how = {1e-3f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.7f, 3};
    rv_dev zero = put_f(d, NULL, m * n), one = put_f(d, NULL, m * n);
    d->be->adamw(d->c, x, y, zero, one, m * n, &how);
    note_dev(r, d, x, m * n);
    rv_dev all[] = {x, w, b, y, dw, db, dx, cs, zero, one};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d->be->free(d->c, all[i]);
    }
}

static void walk_indices(dev *d, record *r) {
    enum { M = 40, N = 33, V = 50 };
    int32_t ids[M];
    for (int i = 0; i < M; i++) {
        ids[i] = i % 7 == 0 ? -1 : i * 13 % 20;
    }
    float *src = randoms(30, V * N, 1);
    rv_weight w = weight_of(d, src, V, N, RV_F32, false);
    rv_dev x = fresh(d, 31, V * N), y = fresh(d, 32, M * N);
    rv_dev dw = put_f(d, NULL, d->be->weight_elems(&w));
    d->be->gather_rows(d->c, y, x, ids, M, N);
    note_dev(r, d, y, M * N);
    d->be->scatter_add_rows(d->c, x, y, ids, M, N);
    note_dev(r, d, x, V * N);
    d->be->embed(d->c, y, &w, ids, M);
    note_dev(r, d, y, M * N);
    d->be->embed_backward(d->c, dw, &w, y, ids, M);
    d->be->weight_unpack(d->c, &w, src, dw);
    note(r, src, V * N);
    d->be->weight_refresh(d->c, &w, dw);
    d->be->weight_read(d->c, &w, src);
    note(r, src, V * N);
    rv_dev all[] = {x, y, dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d->be->free(d->c, all[i]);
    }
    weight_drop(d, &w);
    free(src);
}

static void walk_attention(dev *d, record *r) {
    enum { H = 4, G = 2, D = 24, ROWS = 150 };
    rv_attn a = {H, G, D, 0.3f, true, 0};
    const int32_t cu[] = {0, 5, 80, 150}, table[] = {2, 0, 1};
    rv_err e;
    assert_int_equal(d->be->reserve(d->c, d->be->attention_scratch(d->c, &a, 80), &e), RV_OK);
    rv_dev q = fresh(d, 40, ROWS * H * D), k = fresh(d, 41, ROWS * G * D);
    rv_dev v = fresh(d, 42, ROWS * G * D), o = fresh(d, 43, ROWS * H * D),
           lse = fresh(d, 44, ROWS * H);
    rv_dev dq = fresh(d, 45, ROWS * H * D), dk = fresh(d, 46, ROWS * G * D);
    rv_dev dv = fresh(d, 47, ROWS * G * D), pool = put(d, NULL, 3 * d->be->kv_block_bytes(&a));
    d->be->attention(d->c, o, lse, q, k, v, H * D, G * D, cu, NULL, 3, &a);
    note_dev(r, d, o, ROWS * H * D);
    note_dev(r, d, lse, ROWS * H);
    d->be->attention_backward(d->c, dq, dk, dv, o, q, k, v, o, lse, H * D, G * D, cu, NULL, 3, &a);
    note_dev(r, d, dq, ROWS * H * D);
    note_dev(r, d, dk, ROWS * G * D);
    note_dev(r, d, dv, ROWS * G * D);
    rv_attn_seq s = {5, 75, 0, table};
    d->be->kv_write(d->c, pool, k, v, G * D, &s, 1, &a);
    d->be->attention_cached(d->c, dq, q, H * D, pool, &s, 1, &a);
    note_dev(r, d, dq, ROWS * H * D);
    rv_dev all[] = {q, k, v, o, lse, dq, dk, dv, pool};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d->be->free(d->c, all[i]);
    }
}

static void walk_head(dev *d, record *r) {
    enum { M = 9, V = 1000 };
    float *src = randoms(50, M * V, 2);
    int32_t ids[M] = {3, -1, 999, 0, 15, 16, 17, 500, 700}, banned[] = {0, 3, 999};
    const int32_t seen[] = {3, 255, 256, 998};
    rv_dev l = put_f(d, src, M * V), logp = fresh(d, 51, M), ent = fresh(d, 52, M);
    rv_dev lse = fresh(d, 53, M), gl = fresh(d, 54, M), ge = fresh(d, 55, M);
    rv_sample how[M];
    rv_drawn out[M];
    rv_err e;
    for (int i = 0; i < M; i++) {
        how[i] = (rv_sample){.temperature = i == 8 ? 0 : 0.5f + 0.1f * (float)i,
                             .top_k = i % 3 == 1 ? 20 : 0,
                             .top_p = i % 3 == 2 ? 0.9f : 1,
                             .min_p = i % 2 ? 0.01f : 0,
                             .u = (double)i / M,
                             .penalty = i < 4 ? 1 : 1.5f,
                             .seen = seen,
                             .n_seen = 4};
    }
    assert_int_equal(d->be->sample(d->c, out, l, M, V, how, banned, 3, &e), RV_OK);
    for (int i = 0; i < M; i++) {
        float x[] = {(float)out[i].id, out[i].logp, out[i].filtered_logp};
        note(r, x, 3);
    }
    d->be->logprob(d->c, logp, ent, lse, l, ids, M, V, 0.7f);
    note_dev(r, d, logp, M);
    note_dev(r, d, ent, M);
    note_dev(r, d, lse, M);
    d->be->logprob_backward(d->c, l, gl, ge, lse, ent, ids, M, V, 0.7f);
    note_dev(r, d, l, M * V);
    rv_dev all[] = {l, logp, ent, lse, gl, ge};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d->be->free(d->c, all[i]);
    }
    free(src);
}

static record walk(const rv_backend *be, int threads) {
    record r = {0};
    dev d = dev_open(be, threads);
    walk_linear(&d, &r, 1, 1, 1, RV_F32, false);
    walk_linear(&d, &r, 7, 33, 31, RV_F32, false);
    walk_linear(&d, &r, 101, 130, 65, RV_F32, false);
    walk_linear(&d, &r, 16, 70, 129, RV_BF16, false);
    walk_linear(&d, &r, 16, 70, 129, RV_F16, false);
    walk_linear(&d, &r, 2, 70, 129, RV_I8, false);
    walk_linear(&d, &r, 16, 33, 64, RV_I8, false);
    walk_linear(&d, &r, 2, 70, 129, RV_NF4, false);
    walk_linear(&d, &r, 16, 33, 64, RV_NF4, false);
    walk_rows(&d, &r, 3, 1);
    walk_rows(&d, &r, 37, 100);
    walk_rows(&d, &r, 200, 96);
    walk_indices(&d, &r);
    walk_attention(&d, &r);
    walk_head(&d, &r);
    dev_close(&d);
    return r;
}

static void assert_walk(const record *want, const rv_backend *be, int threads, const char *what) {
    record r = walk(be, threads);
    assert_int_equal(r.n, want->n);
    assert_bits(r.x, want->x, r.n, what);
    free(r.x);
}

static void instruction_sets_agree(void **state) {
    (void)state;
    static const char *const names[] = {"base", "avx2", "avx512", "avx512bf16"};
    record want = walk(rv_backend_cpu(), 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const rv_backend *be = rv_cpu_isa(names[i]);
        if (be) {
            assert_walk(&want, be, 1, names[i]);
        } else {
            print_message("SKIP %s: not on this machine\n", names[i]);
        }
    }
#ifdef RV_HAVE_WIDE
    if (rv_cpu_isa("avx2")) {
        assert_walk(&want, &rv_cpu_table_wide, 1, "16 lanes on AVX2");
    }
#endif
    free(want.x);
}

// bf16 x bf16: the instruction for it flushes subnormals, so sets with it are left out.
static void pairs_agree(void **state) {
    (void)state;
    const rv_backend *all[] = {
        rv_cpu_isa("base"),
        rv_cpu_isa("avx2"),
        rv_cpu_isa("avx512"),
#ifdef RV_HAVE_WIDE
        rv_cpu_isa("avx2") ? &rv_cpu_table_wide : NULL,
        rv_cpu_isa("avx2") ? &rv_cpu_table_words : NULL,
#endif
    };
    record want = {0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        record r = {0};
        if (!all[i]) {
            continue;
        }
        dev d = dev_open(all[i], 1);
        walk_linear(&d, &r, 7, 33, 31, RV_BF16, true);
        walk_linear(&d, &r, 101, 130, 300, RV_BF16, true);
        dev_close(&d);
        if (i == 0) {
            want = r;
            continue;
        }
        assert_bits(r.x, want.x, want.n, "pairs");
        free(r.x);
    }
    free(want.x);
}

static void threads_agree(void **state) {
    (void)state;
    record want = walk(rv_backend_cpu(), 1);
    assert_walk(&want, rv_backend_cpu(), 2, "2 threads");
    assert_walk(&want, rv_backend_cpu(), 3, "3 threads");
    free(want.x);
}

static void entries_work_behind_the_guard(void **state) {
    (void)state;
    record want = walk(rv_backend_cpu(), 1);
    assert_walk(&want, guard_backend(), 2, "guarded");
    free(want.x);
}

// What a host must never do; runs in a fresh program, which it ends.
static int peek(void) {
    const rv_backend *be = guard_backend();
    rv_ctx *c;
    rv_dev a;
    float x = 1;
    if (be->ctx_new(&c, 0, 1, NULL) != RV_OK || be->alloc(c, &a, sizeof x, NULL) != RV_OK) {
        return 0;
    }
    be->upload(c, a, &x, sizeof x);
    return *(volatile float *)a.addr == 1 ? 0 : 0;
}

static void a_host_peek_crashes(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        fclose(stderr); // a sanitizer would report at length
        execl("/proc/self/exe", "test_backend_isa", "peek", (char *)NULL);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "peek") == 0) {
        return peek();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instruction_sets_agree), cmocka_unit_test(pairs_agree),
        cmocka_unit_test(threads_agree),          cmocka_unit_test(entries_work_behind_the_guard),
        cmocka_unit_test(a_host_peek_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
