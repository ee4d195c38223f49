// The model as a whole: memory as planned, parameters, the optimiser, refusals, no peeking.
#include <limits.h>

#include "intr.h"
#include "vlm_tiny.h"

static void backward(tiny *t, const tiny_batch *b) {
    rv_err e = {0};
    tiny_scores *g = tiny_upstream(1);
    free(tiny_score(t, &b->b, true));
    must(rv_vlm_backward(t->m, &g->s, 1, &e), &e);
    free(g);
}

// A step of everything behind mprotect: score, backward, AdamW, encode, extend, value.
static void the_host_never_peeks(void **state) {
    (void)state;
    tiny_guarded = true;
    for (int k = 0; k < 2; k++) {
        rv_arch a = k ? tiny_other_arch() : tiny_arch();
        rv_vlm_options o = tiny_options();
        o.max_rows = 64;
        o.kv_blocks = 2;
        o.recompute = k;
        tiny t = tiny_new(&a, &o, 1, NULL);
        tiny_batch *b = tiny_batch_new(3, 5);
        backward(&t, b);
        rv_err e = {0};
        rv_adamw how = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1};
        must(rv_vlm_adamw(t.m, &how, 1e-3f, &e), &e);
        rv_dev features, logits, hidden;
        must(t.be->alloc(t.ctx, &features, TINY_TOKENS * 16 * 4, &e), &e);
        must(t.be->alloc(t.ctx, &logits, TINY_VOCAB * 4, &e), &e);
        must(t.be->alloc(t.ctx, &hidden, 16 * 4, &e), &e);
        must(rv_vlm_encode(t.m, features, b->images, 1, &e), &e);
        int32_t feature[] = {-1, 0, 1, 2, 3, -1}, table[] = {1};
        rv_extend x = {(const int32_t[]){1, 30, 30, 30, 30, 2}, feature, 6, 0, table, NULL};
        must(rv_vlm_extend(t.m, logits, hidden, features, &x, 1, &e), &e);
        rv_vlm_kv_copy(t.m, 0, 1);
        float value;
        must(rv_vlm_value(t.m, &value, hidden, 1, &e), &e);
        assert_true(isfinite(value));
        t.be->free(t.ctx, features);
        t.be->free(t.ctx, logits);
        t.be->free(t.ctx, hidden);
        free(b);
        tiny_free(&t);
    }
    tiny_guarded = false;
}

static void add_one_adapter(rv_vlm *m) {
    rv_err e = {0};
    must(rv_vlm_lora_add(m, 0, rv_vlm_param_find(m, "text.layers.1.up.weight"),
                         &(rv_lora_spec){.r = 3, .scale = 2, .train = true}, &e),
         &e);
}

// What is taken is what was planned, to the byte but for the context's own.
static void memory_is_as_planned(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    for (int k = 0; k < 16; k++) {
        rv_vlm_options o = tiny_options();
        rv_err e = {0};
        o.store = k & 1 ? RV_BF16 : RV_F32;
        o.round_x = k & 1;
        o.recompute = k & 2;
        if (k & 4) {
            memset(o.train, 0, sizeof o.train);
        }
        tiny t = {.be = rv_backend_cpu()};
        must(t.be->ctx_new(&t.ctx, 0, 1, &e), &e);
        must(rv_vlm_new(&t.m, t.be, t.ctx, &a, &o, &e), &e);
        if (k & 8) {
            add_one_adapter(t.m);
        }
        rv_plan plan;
        rv_vlm_memory(t.m, &plan);
        size_t now, peak;
        t.be->usage(t.ctx, &now, &peak);
        assert_true(peak * 20 <= plan.total); // nothing is taken yet
        tiny_fill(t.m);
        tiny_batch *b = tiny_batch_new(TINY_SEQS, 5);
        if (!(k & 4)) {
            backward(&t, b);
        } else {
            free(tiny_score(&t, &b->b, false));
        }
        t.be->usage(t.ctx, &now, &peak);
        double device = (double)(plan.total - plan.host);
        assert_true(fabs((double)peak - device) <= 0.05 * device);
        assert_true((plan.adapters > 0) == ((k & 8) != 0));
        free(b);
        tiny_free(&t);
    }
}

static void a_plan_takes_nothing(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    a.text.width = a.connector.out = 4096; // would be gigabytes
    a.text.mlp = 11008;
    a.text.vocab = 32064;
    a.text.layers = 32;
    rv_vlm_options o = tiny_options();
    rv_plan plan, frozen;
    rv_err e = {0};
    must(rv_vlm_plan(&plan, rv_backend_cpu(), &a, &o, &e), &e);
    memset(o.train, 0, sizeof o.train);
    must(rv_vlm_plan(&frozen, rv_backend_cpu(), &a, &o, &e), &e);
    assert_true(plan.total == plan.weights + plan.adapters + plan.gradients + plan.optimizer +
                                  plan.activations + plan.kv_cache + plan.scratch + plan.host);
    assert_true(plan.optimizer >= 2 * plan.gradients && plan.gradients > (size_t)16 << 30);
    assert_true(frozen.gradients == 0 && frozen.optimizer == 0);
    assert_true(frozen.weights == plan.weights && frozen.activations < plan.activations);
}

static void parameters_come_back(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    for (int k = 0; k < 4; k++) {
        rv_vlm_options o = tiny_options();
        o.store = k & 1 ? RV_BF16 : RV_F32;
        memset(o.train, k & 2 ? 1 : 0, sizeof o.train);
        tiny t = tiny_new(&a, &o, 1, NULL);
        rv_err e = {0};
        for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
            const rv_param_info *p = rv_vlm_param(t.m, i);
            int64_t n = tiny_count(p);
            float *x = calloc((size_t)n, sizeof *x), *y;
            bool master = o.store == RV_F32 || p->trained || !p->matrix || p->part == RV_PART_VALUE;
            for (int64_t j = 0; j < n; j++) {
                x[j] = (float)j / 7 - 3;
                x[j] = master ? x[j] : rv_bf16_to_f32(rv_f32_to_bf16(x[j]));
            }
            must(rv_vlm_param_set(t.m, i, RV_OF_PARAM, x, RV_F32, &e), &e);
            y = tiny_get(&t, i, RV_OF_PARAM);
            same_bits(p->role, x, y, n);
            free(y);
            if (p->trained) {
                must(rv_vlm_param_set(t.m, i, RV_OF_ADAM_V, x, RV_F32, &e), &e);
                y = tiny_get(&t, i, RV_OF_ADAM_V);
                same_bits(p->role, x, y, n);
                free(y);
            } else {
                assert_int_equal(rv_vlm_param_get(t.m, i, RV_OF_GRAD, x, &e), RV_EARG);
            }
            free(x);
        }
        tiny_free(&t);
    }
}

static void gradients_that_are_not_finite_change_nothing(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    rv_err e = {0};
    int64_t bad = rv_vlm_param_find(t.m, "connector.1.weight");
    float *g = calloc((size_t)tiny_count(rv_vlm_param(t.m, bad)), sizeof *g);
    g[3] = NAN;
    must(rv_vlm_param_set(t.m, bad, RV_OF_GRAD, g, RV_F32, &e), &e);
    free(g);
    int64_t other = rv_vlm_param_find(t.m, "text.embed.weight");
    float *before = tiny_get(&t, other, RV_OF_PARAM);
    uint64_t epoch = rv_vlm_epoch(t.m);
    rv_adamw how = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1};
    assert_int_equal(rv_vlm_adamw(t.m, &how, 0, &e), RV_ENUMERIC);
    assert_string_equal(e.msg, "the gradient of connector.1.weight is not finite");
    float *after = tiny_get(&t, other, RV_OF_PARAM);
    same_bits("embedding", before, after, tiny_count(rv_vlm_param(t.m, other)));
    assert_true(epoch == rv_vlm_epoch(t.m));
    free(before);
    free(after);
    tiny_free(&t);
}

// The gradient in bf16 is near that of fp32.
static void bf16_gradients_point_the_same_way(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options(), half = tiny_options();
    half.store = RV_BF16;
    half.round_x = true;
    tiny t = tiny_new(&a, &o, 1, NULL), u = tiny_new(&a, &half, 1, NULL);
    tiny_batch *b = tiny_batch_new(TINY_SEQS, 5);
    backward(&t, b);
    backward(&u, b);
    double xy = 0, xx = 0, yy = 0;
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        float *x = tiny_get(&t, i, RV_OF_GRAD), *y = tiny_get(&u, i, RV_OF_GRAD);
        for (int64_t j = 0; j < tiny_count(rv_vlm_param(t.m, i)); j++) {
            xy += (double)x[j] * (double)y[j];
            xx += (double)x[j] * (double)x[j];
            yy += (double)y[j] * (double)y[j];
        }
        free(x);
        free(y);
    }
    print_message("bf16: cosine %.5f, norm ratio %.4f\n", xy / sqrt(xx * yy), sqrt(yy / xx));
    assert_true(xy / sqrt(xx * yy) > 0.995);
    free(b);
    tiny_free(&t);
    tiny_free(&u);
}

static double total_logp(tiny *t, const tiny_batch *b) {
    tiny_scores *s = tiny_score(t, &b->b, false);
    double sum = 0;
    for (int64_t i = 0; i < b->b.n_ask; i++) {
        sum += (double)s->logp[i];
    }
    free(s);
    return sum;
}

static void learn(tiny *t, const tiny_batch *b, int steps) {
    rv_err e = {0};
    float g[TINY_ROWS];
    for (int i = 0; i < TINY_ROWS; i++) {
        g[i] = -1;
    }
    for (int k = 1; k <= steps; k++) {
        rv_adamw how = {1e-2f, 0.9f, 0.999f, 1e-8f, 0, 1, k};
        rv_vlm_zero_grad(t->m);
        free(tiny_score(t, &b->b, true));
        must(rv_vlm_backward(t->m, &(rv_scores){.logp = g}, 1, &e), &e);
        must(rv_vlm_adamw(t->m, &how, 0, &e), &e);
    }
}

static void add_adapters(rv_vlm *m) {
    rv_err e = {0};
    for (int64_t i = 0, n = rv_vlm_param_count(m); i < n; i++) {
        const rv_param_info *p = rv_vlm_param(m, i);
        if (p->linear && p->part == RV_PART_LANGUAGE) {
            must(rv_vlm_lora_add(m, 0, i, &(rv_lora_spec){.r = 4, .scale = 1, .train = true}, &e),
                 &e);
        }
    }
}

static void every_way_of_training_learns(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    const rv_dtype stores[] = {RV_F32, RV_BF16, RV_BF16, RV_F16};
    for (int k = 0; k < 8; k++) {
        rv_vlm_options o = tiny_options();
        o.store = stores[k % 4];
        o.round_x = k % 4 == 1;
        if (k >= 4) {
            memset(o.train, 0, sizeof o.train);
        }
        tiny t = tiny_new(&a, &o, 1, k >= 4 ? add_adapters : NULL);
        tiny_batch *b = tiny_batch_new(4, 5);
        double before = total_logp(&t, b);
        learn(&t, b, 15);
        double after = total_logp(&t, b);
        print_message("%s%s: %.1f to %.1f\n", rv_dtype_name(o.store), k >= 4 ? ", adapters" : "",
                      before, after);
        assert_true(after > 0.5 * before);
        rv_vlm_lora_use(t.m, -1);
        assert_true((total_logp(&t, b) == after) == (k < 4));
        free(b);
        tiny_free(&t);
    }
}

static void a_model_without_eyes_works(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    memset(&a.vision, 0, sizeof a.vision);
    memset(&a.connector, 0, sizeof a.connector);
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    assert_int_equal(rv_vlm_param_find(t.m, "vision.class"), -1);
    int32_t ids[] = {1, TINY_IMAGE, 3, 4}, cu[] = {0, 4}, row[] = {1, 2};
    rv_batch b = {
        .ids = ids, .cu = cu, .n = 1, .ask_row = row, .ask_id = ids, .n_ask = 2, .temperature = 1};
    rv_err e = {0};
    float logp[2], g[2] = {1, 1};
    must(rv_vlm_score(t.m, &b, true, &(rv_scores){.logp = logp}, &e), &e);
    must(rv_vlm_backward(t.m, &(rv_scores){.logp = g}, 1, &e), &e);
    assert_true(rv_vlm_grad_norm(t.m) > 0);
    assert_int_equal(rv_vlm_encode(t.m, (rv_dev){0}, &(rv_view){0}, 1, &e), RV_EARG);
    assert_string_equal(e.msg, "images came, but the model has no vision tower");
    tiny_free(&t);
}

static void ctrl_c_leaves_a_model_that_works(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    tiny_batch *b = tiny_batch_new(2, 5);
    tiny_scores *want = tiny_score(&t, &b->b, false), *g = tiny_upstream(3);
    rv_err e = {0};
    free(tiny_score(&t, &b->b, true));
    rv_intr_flag = 1;
    assert_int_equal(rv_vlm_backward(t.m, &g->s, 1, &e), RV_EINTERRUPT);
    assert_int_equal(rv_vlm_score(t.m, &b->b, true, &g->s, &e), RV_EINTERRUPT);
    rv_intr_flag = 0;
    tiny_scores *got = tiny_score(&t, &b->b, true);
    same_scores(want, got);
    free(want);
    free(got);
    free(g);
    free(b);
    tiny_free(&t);
}

static void refuse(rv_arch a, rv_vlm_options o, const char *message) {
    rv_err e = {0};
    rv_vlm *m;
    rv_ctx *ctx;
    const rv_backend *be = rv_backend_cpu();
    must(be->ctx_new(&ctx, 0, 1, &e), &e);
    assert_true(rv_vlm_new(&m, be, ctx, &a, &o, &e) != RV_OK);
    assert_null(m);
    assert_string_equal(e.msg, message);
    be->ctx_free(ctx);
}

static void nonsense_is_refused_by_name(void **state) {
    (void)state;
    rv_vlm_options o = tiny_options();
#define REFUSE(change, message)                                                                    \
    do {                                                                                           \
        rv_arch a = tiny_arch();                                                                   \
        a.change;                                                                                  \
        refuse(a, o, message);                                                                     \
    } while (0)
    REFUSE(text.vocab = 0, "text.vocab is 0: wanted a number from 1 to 16777216");
    REFUSE(text.layers = -1, "text.layers is -1: wanted a number from 1 to 16777216");
    REFUSE(text.kv_heads = 3, "text.kv_heads (3) does not divide text.heads (4)");
    REFUSE(text.head_dim = 7, "text.head_dim is 7: wanted an even number");
    REFUSE(text.rope_theta = 0, "text.rope_theta is 0: wanted a positive number");
    REFUSE(text.rope = RV_ROPE_LINEAR, "text.rope_factor is 0: wanted a positive number");
    REFUSE(text.act = RV_ACT_RELU, "text.act: only silu is built in for the gated MLP");
    REFUSE(text.eps = 0, "text.eps is 0: wanted a positive number");
    REFUSE(text.window = -1, "text.window is -1: wanted 0 (none) or more");
    REFUSE(vision.heads = 5, "vision.heads (5) does not divide vision.width (12)");
    REFUSE(vision.class_token = false, "vision.drop_class is set, but vision.class_token is not");
    REFUSE(vision.patch = 9, "vision.image_size is 8: wanted 9 (vision.patch) to 16384");
    REFUSE(connector.in = 13, "connector.in is 13, but vision.width times merge squared is 12");
    REFUSE(connector.out = 13, "connector.out is 13, but text.width is 16");
    REFUSE(max_view_rows = 0, "max_view_rows is 0: wanted a number from 1 to 16777216");
    REFUSE(vision.merge = 3, "vision.merge (3) does not divide the patches of a side (2)");
    o.max_rows = 0;
    REFUSE(image_token = 1, "max_rows is 0: wanted a number from 1 to 16777216");
    o = tiny_options();
    o.round_x = true;
    REFUSE(image_token = 1, "round_x goes with store bf16, not f32");
    o.round_x = false;
    o.store = RV_I32;
    REFUSE(image_token = 1, "store is i32: wanted f32, bf16 or f16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_host_never_peeks),
        cmocka_unit_test(memory_is_as_planned),
        cmocka_unit_test(a_plan_takes_nothing),
        cmocka_unit_test(parameters_come_back),
        cmocka_unit_test(gradients_that_are_not_finite_change_nothing),
        cmocka_unit_test(bf16_gradients_point_the_same_way),
        cmocka_unit_test(every_way_of_training_learns),
        cmocka_unit_test(a_model_without_eyes_works),
        cmocka_unit_test(ctrl_c_leaves_a_model_that_works),
        cmocka_unit_test(nonsense_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
