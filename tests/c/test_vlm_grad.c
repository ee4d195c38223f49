// Gradients: against finite differences, and the same however the work is cut or what is trained.
#include "vlm_grad.h"

static void gradients_match_differences(void **state) {
    (void)state;
    const rv_arch archs[] = {tiny_arch(), tiny_other_arch()};
    for (int k = 0; k < 2; k++) {
        rv_vlm_options o = tiny_options();
        tiny_batch *b = tiny_batch_new(4, 17);
        model_matches_differences(&archs[k], &o, 1, NULL, &b->b);
        free(b);
    }
}

static void adapters_match_differences(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = frozen_options();
    tiny_batch *b = tiny_batch_new(4, 17);
    model_matches_differences(&a, &o, 1, add_adapters, &b->b);
    free(b);
}

// Biases behind B, of a second adapter beside a first.
static void add_two_adapters(rv_vlm *m) {
    rv_err e = {0};
    int64_t n = rv_vlm_param_count(m);
    for (int64_t i = 0, k = 0; i < n; i++) {
        if (rv_vlm_param(m, i)->linear && k++ % 3 == 0) {
            const rv_lora_spec first = {.r = 2, .scale = 0.4f, .bias = k % 2, .train = true};
            const rv_lora_spec second = {.r = 5, .scale = 0.7f, .bias = true, .train = true};
            must(rv_vlm_lora_add(m, 0, i, &first, &e), &e);
            must(rv_vlm_lora_add(m, 1, i, &second, &e), &e);
        }
    }
    rv_vlm_lora_use(m, 1);
}

static bool second_adapter(const char *role) { return strcmp(role + strlen(role) - 2, ".1") == 0; }

// Only the adapter in use gets gradients, biases included; the other one's do not change it.
static void the_adapter_in_use_learns(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = frozen_options();
    tiny t = tiny_new(&a, &o, 1, add_two_adapters);
    tiny_batch *b = tiny_batch_new(4, 17);
    tiny_scores *g = tiny_upstream(1);
    double worst = 0;
    backward(&t, &b->b, g, 1);
    float **grads = gradients(&t);
    double norm = rv_vlm_grad_norm(t.m);
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        const rv_param_info *p = rv_vlm_param(t.m, i);
        double own = grads[i] ? sqrt(dot(grads[i], grads[i], tiny_count(p))) : 0;
        if (p->part == RV_PART_VALUE || !grads[i]) {
            continue;
        }
        if (second_adapter(p->role)) {
            double error =
                difference(&t, &b->b, g, i, grads[i], own > 0.02 * norm ? own : 0.02 * norm);
            worst = error > worst ? error : worst;
            assert_true(own > 0 || strstr(p->role, ".k.weight.lora_bias"));
        } else {
            assert_true(own == 0);
        }
    }
    assert_true(worst < 1e-2);
    free_gradients(&t, grads);
    free(g);
    free(b);
    tiny_free(&t);
}

static void train_two_parameters(rv_vlm *m) {
    rv_err e = {0};
    must(rv_vlm_train(m, rv_vlm_param_find(m, "text.layers.1.up.weight"), &e), &e);
    must(rv_vlm_train(m, rv_vlm_param_find(m, "connector.1.bias"), &e), &e);
}

static void single_parameters_learn(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = frozen_options();
    rv_err e = {0};
    o.base = RV_NF4;
    tiny t = tiny_new(&a, &o, 1, NULL);
    assert_int_equal(rv_vlm_train(t.m, 0, &e), RV_EARG);
    assert_string_equal(e.msg, "vision.class: what learns is settled before parameters are set");
    tiny_free(&t);
    tiny_batch *b = tiny_batch_new(4, 17);
    model_matches_differences(&a, &o, 1, train_two_parameters, &b->b);
    free(b);
}

static const rv_dtype bases[] = {RV_I8, RV_NF4};

static void adapters_of_a_quantised_base_match_differences(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    for (int i = 0; i < 2; i++) {
        rv_vlm_options o = frozen_options();
        o.base = bases[i];
        tiny_batch *b = tiny_batch_new(4, 17);
        model_matches_differences(&a, &o, 1, add_adapters, &b->b);
        free(b);
    }
}

static void cut_recomputed_and_frozen_agree(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny_batch *b = tiny_batch_new(TINY_SEQS, 21);
    compare_with_full(&a, &b->b, o, 2, NULL, true);
    o.recompute = true;
    compare_with_full(&a, &b->b, o, 1, NULL, true);
    o.max_rows = 110;
    compare_with_full(&a, &b->b, o, 1, NULL, true);
    o.recompute = false;
    compare_with_full(&a, &b->b, o, 1, NULL, true);
    o.max_rows = 256;
    o.image_rows = 44; // the most of one sequence
    compare_with_full(&a, &b->b, o, 1, NULL, true);
    for (int part = 0; part < RV_NPARTS; part++) {
        o = frozen_options();
        o.train[part] = true;
        compare_with_full(&a, &b->b, o, 1, NULL, true);
        o.max_rows = 110;
        o.recompute = true;
        compare_with_full(&a, &b->b, o, 1, NULL, true);
    }
    compare_with_full(&a, &b->b, tiny_options(), 1, add_adapters, false);
    free(b);
}

// More rows than the MLP takes at a time: its slices and pieces of whole sequences give the same.
static void slices_and_pieces_agree(void **state) {
    (void)state;
    enum { SEQS = 5, LONG = 221, ASKED = 9 };
    static int32_t ids[SEQS * LONG], cu[SEQS + 1], rows[SEQS * ASKED], asked[SEQS * ASKED];
    rv_rng r = rv_rng_make(3, RV_STREAM_USER, 0, 0);
    for (int i = 0; i < SEQS * LONG; i++) {
        ids[i] = (int32_t)rv_rng_below(&r, TINY_IMAGE);
        cu[i / LONG + 1] = (i / LONG + 1) * LONG;
    }
    for (int i = 0; i < SEQS * ASKED; i++) {
        rows[i] = i / ASKED * LONG + 100 + i % ASKED * 13;
        asked[i] = ids[rows[i] + 1];
    }
    const rv_batch b = {.ids = ids,
                        .cu = cu,
                        .n = SEQS,
                        .ask_row = rows,
                        .ask_id = asked,
                        .n_ask = SEQS * ASKED,
                        .temperature = 1};
    rv_arch archs[] = {tiny_arch(), tiny_other_arch()};
    archs[1].text.tied = false; // its gradient would alternate between head and rows
    tiny_scores *g = tiny_upstream(2);
    for (int k = 0; k < 4; k++) {
        rv_vlm_options o = tiny_options();
        o.max_rows = SEQS * LONG;
        o.recompute = k & 2;
        tiny whole = tiny_new(&archs[k & 1], &o, 1, add_adapters);
        o.max_rows = LONG;
        tiny pieces = tiny_new(&archs[k & 1], &o, 2, add_adapters);
        backward(&whole, &b, g, 1);
        backward(&pieces, &b, g, 1);
        float **want = gradients(&whole), **got = gradients(&pieces);
        same_gradients(&whole, want, &pieces, got);
        free_gradients(&whole, want);
        free_gradients(&pieces, got);
        tiny_free(&whole);
        tiny_free(&pieces);
    }
    free(g);
}

static void a_second_backward_adds(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    tiny_batch *b = tiny_batch_new(4, 21);
    tiny_scores *g = tiny_upstream(2);
    backward(&t, &b->b, g, 1);
    float **once = gradients(&t);
    backward(&t, &b->b, g, 1);
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        float *twice = tiny_get(&t, i, RV_OF_GRAD);
        for (int64_t k = 0; k < tiny_count(rv_vlm_param(t.m, i)); k++) {
            assert_true(fabsf(twice[k] - 2 * once[i][k]) <= 1e-4f * (1 + fabsf(twice[k])));
        }
        free(twice);
    }
    rv_vlm_zero_grad(t.m);
    assert_true(rv_vlm_grad_norm(t.m) == 0);
    free_gradients(&t, once);
    free(g);
    free(b);
    tiny_free(&t);
}

// A quantised base is the fp32 model of its values, bit for bit.
static void quantised_base_is_the_model_of_its_values(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_err e = {0};
    for (int i = 0; i < 2; i++) {
        rv_vlm_options o = frozen_options();
        tiny full = tiny_new(&a, &o, 1, add_adapters);
        o.base = bases[i];
        tiny t = tiny_new(&a, &o, 2, add_adapters);
        for (int64_t k = 0; k < rv_vlm_param_count(t.m); k++) {
            float *x = tiny_get(&t, k, RV_OF_PARAM);
            must(rv_vlm_param_set(full.m, k, RV_OF_PARAM, x, RV_F32, &e), &e);
            free(x);
        }
        tiny_batch *b = tiny_batch_new(TINY_SEQS, 21);
        tiny_scores *g = tiny_upstream(2), *s = tiny_score(&t, &b->b, false);
        tiny_scores *want = tiny_score(&full, &b->b, false);
        same_bits("logp", s->logp, want->logp, b->b.n_ask);
        backward(&full, &b->b, g, 0.5f);
        backward(&t, &b->b, g, 0.5f);
        float **x = gradients(&full), **y = gradients(&t);
        same_gradients(&full, x, &t, y);
        free_gradients(&full, x);
        free_gradients(&t, y);
        free(s), free(want), free(g), free(b);
        tiny_free(&full);
        tiny_free(&t);
    }
}

static void a_quantised_base_does_not_learn(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    rv_vlm *m;
    rv_err e = {0};
    o.base = RV_NF4;
    assert_int_equal(rv_vlm_new(&m, rv_backend_cpu(), NULL, &a, &o, &e), RV_EARG);
    assert_string_equal(e.msg, "a base in nf4 is frozen: train an adapter beside it");
    o.base = RV_F16;
    assert_int_equal(rv_vlm_new(&m, rv_backend_cpu(), NULL, &a, &o, &e), RV_ETYPE);
    assert_string_equal(e.msg, "base is f16: wanted i8, nf4, or f32 for none");
    // what learns in full is left as it is
    o = frozen_options();
    o.base = RV_I8;
    o.train[RV_PART_VISION] = true;
    tiny t = tiny_new(&a, &o, 1, NULL);
    rv_plan plan, less;
    rv_vlm_memory(t.m, &plan);
    tiny_free(&t);
    o.train[RV_PART_VISION] = false;
    t = tiny_new(&a, &o, 1, NULL);
    rv_vlm_memory(t.m, &less);
    assert_true(less.weights < plan.weights);
    tiny_free(&t);
}

// A score without gradients, an extension and a switched adapter between score and backward.
static void what_stands_between_changes_nothing(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = frozen_options();
    tiny t = tiny_new(&a, &o, 1, add_adapters);
    tiny_batch *b = tiny_batch_new(TINY_SEQS, 21), *other = tiny_batch_new(5, 4);
    tiny_scores *g = tiny_upstream(2);
    backward(&t, &b->b, g, 1);
    float **want = gradients(&t);
    rv_vlm_zero_grad(t.m);
    rv_err e = {0};
    free(tiny_score(&t, &b->b, true));
    rv_vlm_lora_use(t.m, -1);
    free(tiny_score(&t, &other->b, false));
    must(rv_vlm_backward(t.m, &g->s, 1, &e), &e);
    rv_vlm_lora_use(t.m, 0);
    float **got = gradients(&t);
    same_gradients(&t, want, &t, got);
    free_gradients(&t, want);
    free_gradients(&t, got);
    free(g);
    free(b);
    free(other);
    tiny_free(&t);
}

static void one_score_at_a_time(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    tiny_batch *b = tiny_batch_new(2, 21);
    tiny_scores *g = tiny_upstream(2);
    rv_err e = {0};
    assert_int_equal(rv_vlm_backward(t.m, &g->s, 1, &e), RV_EARG);
    assert_string_equal(e.msg, "no differentiable score is live");
    free(tiny_score(&t, &b->b, true));
    assert_int_equal(rv_vlm_score(t.m, &b->b, true, &g->s, &e), RV_EARG);
    assert_string_equal(e.msg,
                        "a differentiable score is live: run its backward pass or forget it first");
    rv_vlm_forget(t.m);
    free(tiny_score(&t, &b->b, true));
    tiny_free(&t);
    o = frozen_options();
    t = tiny_new(&a, &o, 1, NULL);
    assert_int_equal(rv_vlm_score(t.m, &b->b, true, &g->s, &e), RV_EARG);
    assert_string_equal(e.msg, "a differentiable score of a model of which nothing is trained");
    free(g);
    free(b);
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(adapters_match_differences),
        cmocka_unit_test(the_adapter_in_use_learns),
        cmocka_unit_test(single_parameters_learn),
        cmocka_unit_test(adapters_of_a_quantised_base_match_differences),
        cmocka_unit_test(cut_recomputed_and_frozen_agree),
        cmocka_unit_test(slices_and_pieces_agree),
        cmocka_unit_test(a_second_backward_adds),
        cmocka_unit_test(quantised_base_is_the_model_of_its_values),
        cmocka_unit_test(a_quantised_base_does_not_learn),
        cmocka_unit_test(what_stands_between_changes_nothing),
        cmocka_unit_test(one_score_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
