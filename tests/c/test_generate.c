// Continuous batching: answers, log-probabilities and values hang on the request alone, and have
// the bits that scoring gives.
#include "generate.h"
#include "vlm_tiny.h"

enum { N_REQUESTS = 11, MAX_TOKENS = 160, MAX_NEW = 24 };

typedef struct {
    int32_t ids[MAX_TOKENS];
    int64_t n, n_images, max_new;
    rv_view views[2];
    uint64_t key[2][2];
    rv_sample how;
} case_request;

typedef struct {
    int32_t ids[MAX_NEW];
    float logp[MAX_NEW], filtered[MAX_NEW], value;
    int64_t n, cached;
    rv_finish finish;
} case_answer;

static float patches[4][TINY_TOKENS * 3 * 4 * 4];

// Prompts of all lengths; groups of three begin alike, some with the same image, some are equal.
static void make_requests(case_request *r) {
    rv_rng rng = rv_rng_make(5, RV_STREAM_USER, 0, 0);
    for (int i = 0; i < 4 * 192; i++) {
        ((float *)patches)[i] = (float)rv_rng_normal(&rng);
    }
    for (int i = 0; i < N_REQUESTS; i++) {
        rv_rng group = rv_rng_make(6, RV_STREAM_USER, (uint64_t)i / 3, 0);
        case_request *q = &r[i];
        int image = i / 3;
        q->n_images = i % 5 == 4 ? 0 : 1;
        q->views[0] = (rv_view){patches[image], 1, 2, 2, NULL, TINY_TOKENS, {0}};
        q->key[0][0] = 1000 + (uint64_t)image;
        q->key[0][1] = 77;
        for (int k = 0; k < 3; k++) {
            q->ids[q->n++] = (int32_t)rv_rng_below(&group, TINY_IMAGE);
        }
        for (int k = 0; k < TINY_TOKENS * q->n_images; k++) {
            q->ids[q->n++] = TINY_IMAGE;
        }
        int common = i < 3 ? 70 : i < 6 ? 64 - (int)q->n : 20, own = i == 1 || i == 2 ? 0 : i % 4;
        for (int k = 0; k < common; k++) {
            q->ids[q->n++] = (int32_t)rv_rng_below(&group, TINY_IMAGE);
        }
        for (int k = 0; k < own; k++) {
            q->ids[q->n++] = (int32_t)rv_rng_below(&rng, TINY_IMAGE);
        }
        q->max_new = 1 + (i * 7) % MAX_NEW;
        q->how = (rv_sample){.temperature = i % 4 == 3 ? 0 : 0.8f,
                             .top_k = i % 3 == 1 ? 9 : 0,
                             .top_p = i % 3 == 2 ? 0.9f : 1,
                             .penalty = i % 5 == 3 ? 1.3f : 0};
    }
}

static rv_request request_of(const case_request *q, int i, const int32_t *eos) {
    return (rv_request){.ids = q->ids,
                        .n = q->n,
                        .images = q->views,
                        .image_key = q->key,
                        .n_images = q->n_images,
                        .max_new = q->max_new,
                        .how = q->how,
                        .eos = eos,
                        .n_eos = eos ? 2 : 0,
                        .seed = 9,
                        .episode = (uint64_t)i,
                        .step = 3};
}

static void take_finished(rv_generator *g, int slots, int *who, case_answer *out) {
    for (int s = 0; s < slots; s++) {
        const rv_answer *a = rv_generator_answer(g, s);
        if (!a || a->finish == RV_RUNNING) {
            continue;
        }
        case_answer *o = &out[who[s]];
        *o = (case_answer){.n = a->n, .value = a->value, .cached = a->cached, .finish = a->finish};
        memcpy(o->ids, a->ids, (size_t)a->n * sizeof *a->ids);
        memcpy(o->logp, a->logp, (size_t)a->n * sizeof *a->logp);
        memcpy(o->filtered, a->filtered, (size_t)a->n * sizeof *a->filtered);
        rv_generator_vacate(g, s);
    }
}

// Runs all requests through `slots` slots.
static void run_all(rv_generator *g, int slots, const case_request *r, const int32_t *eos,
                    case_answer *out) {
    int who[16], next = 0;
    rv_err e = {0};
    for (int steps = 0; next < N_REQUESTS || rv_generator_vacant(g) < slots; steps++) {
        while (next < N_REQUESTS && rv_generator_vacant(g) > 0) {
            rv_request q = request_of(&r[next], next, eos);
            int s;
            must(rv_generator_submit(g, &q, &s, &e), &e);
            who[s] = next++;
        }
        must(rv_generator_step(g, &e), &e);
        take_finished(g, slots, who, out);
        assert_true(steps < 10000);
    }
}

static void same_answers(const case_answer *a, const case_answer *b) {
    for (int i = 0; i < N_REQUESTS; i++) {
        assert_int_equal(a[i].n, b[i].n);
        assert_int_equal(a[i].finish, b[i].finish);
        assert_memory_equal(a[i].ids, b[i].ids, (size_t)a[i].n * sizeof *a[i].ids);
        same_bits("log-probability", a[i].logp, b[i].logp, a[i].n);
        same_bits("filtered log-probability", a[i].filtered, b[i].filtered, a[i].n);
        same_bits("value", &a[i].value, &b[i].value, 1);
    }
}

// A greedy answer took the largest logit at each token, weakened where prompt or answer had the id.
static void check_greedy(const case_request *q, const case_answer *a, const int32_t *ids,
                         const float *logits) {
    for (int64_t k = 0; q->how.temperature == 0 && k < a->n; k++) {
        float x[TINY_VOCAB];
        bool seen[TINY_VOCAB] = {false};
        for (int64_t i = 0; q->how.penalty > 0 && i < q->n + k; i++) {
            seen[ids[i]] = true;
        }
        for (int i = 0; i < TINY_VOCAB; i++) {
            x[i] = logits[k * TINY_VOCAB + i];
            x[i] = !seen[i] ? x[i] : x[i] < 0 ? x[i] * q->how.penalty : x[i] / q->how.penalty;
        }
        for (int i = 0; i < TINY_VOCAB; i++) {
            assert_true(i == TINY_IMAGE || x[i] <= x[a->ids[k]]);
        }
    }
}

// What scoring says of the answers, bit for bit.
static void check_scores(tiny *t, const case_request *r, const case_answer *a) {
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t ids[MAX_TOKENS], rows[MAX_NEW], cu[2] = {0, 0};
        memcpy(ids, r[i].ids, (size_t)r[i].n * sizeof *ids);
        memcpy(ids + r[i].n, a[i].ids, (size_t)a[i].n * sizeof *ids);
        cu[1] = (int32_t)(r[i].n + a[i].n);
        for (int64_t k = 0; k < a[i].n; k++) {
            rows[k] = (int32_t)(r[i].n + k - 1);
        }
        float logp[MAX_NEW], value, logits[MAX_NEW * TINY_VOCAB];
        rv_batch b = {.ids = ids,
                      .cu = cu,
                      .n = 1,
                      .images = r[i].views,
                      .n_images = r[i].n_images,
                      .ask_row = rows,
                      .ask_id = a[i].ids,
                      .n_ask = a[i].n,
                      .value_row = rows,
                      .n_value = 1,
                      .temperature = r[i].how.temperature > 0 ? r[i].how.temperature : 1};
        rv_scores s = {.logp = logp, .value = &value, .logits = logits};
        rv_err e = {0};
        must(rv_vlm_score(t->m, &b, false, &s, &e), &e);
        same_bits("scored log-probability", a[i].logp, logp, a[i].n);
        same_bits("scored value", &a[i].value, &value, 1);
        check_greedy(&r[i], &a[i], ids, logits);
    }
}

static rv_generator *new_generator(tiny *t, int slots, int64_t chunk, bool share) {
    rv_generator_options o = {.slots = slots,
                              .max_tokens = MAX_TOKENS,
                              .chunk = chunk,
                              .blocks = 40,
                              .share = share,
                              .banned = {TINY_IMAGE},
                              .n_banned = 1};
    rv_generator *g;
    rv_err e = {0};
    must(rv_generator_new(&g, t->m, &o, &e), &e);
    return g;
}

static tiny new_model(const rv_arch *a) {
    rv_vlm_options o = tiny_options();
    o.kv_blocks = 40;
    return tiny_new(a, &o, 1, NULL);
}

static void answers_hang_on_the_request_alone(void **state) {
    (void)state;
    const rv_arch archs[] = {tiny_arch(), tiny_other_arch()};
    static case_request r[N_REQUESTS];
    make_requests(r);
    for (int k = 0; k < 2; k++) {
        tiny t = new_model(&archs[k]);
        case_answer alone[N_REQUESTS], other[N_REQUESTS];
        rv_generator *g = new_generator(&t, 1, 200, false);
        run_all(g, 1, r, NULL, alone);
        rv_generator_free(g, true);
        check_scores(&t, r, alone);
        const struct {
            int slots;
            int64_t chunk;
            bool share;
        } ways[] = {{1, 7, true}, {3, 3, false}, {4, 33, true}, {11, 64, true}, {11, 900, false}};
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            g = new_generator(&t, ways[w].slots, ways[w].chunk, ways[w].share);
            run_all(g, ways[w].slots, r, NULL, other);
            same_answers(alone, other);
            run_all(g, ways[w].slots, r, NULL, other); // again, from the cache
            same_answers(alone, other);
            rv_generator_free(g, true);
        }
        tiny_free(&t);
    }
}

static void prefixes_are_computed_once(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    case_answer first[N_REQUESTS], again[N_REQUESTS];
    rv_generator *g = new_generator(&t, 11, 64, true);
    run_all(g, 11, r, NULL, first);
    rv_generator_stats s = rv_generator_count(g);
    assert_int_equal(first[1].cached, r[1].n - 1); // the same prompt as the one before
    assert_int_equal(first[2].cached, r[2].n - 1);
    assert_int_equal(s.images, 4); // four pictures in nine requests
    run_all(g, 11, r, NULL, again);
    rv_generator_stats after = rv_generator_count(g);
    for (int i = 0; i < N_REQUESTS; i++) {
        assert_int_equal(again[i].cached, r[i].n - 1);
    }
    assert_int_equal(after.images, s.images);
    assert_int_equal(after.prompt_rows - s.prompt_rows, N_REQUESTS);
    rv_generator_free(g, true);
    tiny_free(&t);
}

// A pool without a block to spare: the same prompt again finds its last block held by itself.
static void a_full_pool_is_enough(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    rv_generator_options o = {.slots = 1,
                              .max_tokens = r[1].n + r[1].max_new,
                              .chunk = 64,
                              .share = true,
                              .banned = {TINY_IMAGE},
                              .n_banned = 1};
    o.blocks = (o.max_tokens + 63) / 64;
    rv_generator *g;
    rv_err e = {0};
    must(rv_generator_new(&g, t.m, &o, &e), &e);
    int32_t first[MAX_NEW];
    for (int round = 0; round < 3; round++) {
        rv_request q = request_of(&r[1], 1, NULL);
        int slot;
        must(rv_generator_submit(g, &q, &slot, &e), &e);
        while (rv_generator_answer(g, slot)->finish == RV_RUNNING) {
            must(rv_generator_step(g, &e), &e);
        }
        const rv_answer *answer = rv_generator_answer(g, slot);
        if (round == 0) {
            memcpy(first, answer->ids, (size_t)answer->n * sizeof *first);
        }
        assert_memory_equal(first, answer->ids, (size_t)answer->n * sizeof *first);
        rv_generator_vacate(g, slot);
    }
    rv_generator_free(g, true);
    tiny_free(&t);
}

static void changed_weights_empty_the_cache(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    case_answer answers[N_REQUESTS];
    rv_generator *g = new_generator(&t, 4, 64, true);
    run_all(g, 4, r, NULL, answers);
    int64_t i = rv_vlm_param_find(t.m, "text.layers.0.q.weight");
    float *x = tiny_get(&t, i, RV_OF_PARAM);
    x[0] += 0.5f;
    rv_err e = {0};
    must(rv_vlm_param_set(t.m, i, RV_OF_PARAM, x, RV_F32, &e), &e);
    free(x);
    run_all(g, 4, r, NULL, answers);
    check_scores(&t, r, answers);
    rv_request q = request_of(&r[1], 1, NULL);
    int slot;
    must(rv_generator_submit(g, &q, &slot, &e), &e);
    must(rv_generator_step(g, &e), &e);
    x = tiny_get(&t, i, RV_OF_PARAM);
    must(rv_vlm_param_set(t.m, i, RV_OF_PARAM, x, RV_F32, &e), &e);
    free(x);
    assert_int_equal(rv_generator_step(g, &e), RV_EARG);
    assert_string_equal(e.msg, "the weights changed while a request was running");
    rv_generator_free(g, true);
    tiny_free(&t);
}

// What is kept for a backward pass lies in the cache's memory: neither shows in the other's bits.
static void learning_and_drawing_take_turns(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    case_answer first[N_REQUESTS], again[N_REQUESTS];
    rv_generator *g = new_generator(&t, 4, 64, true);
    tiny_batch *b = tiny_batch_new(TINY_SEQS, 21);
    tiny_scores *up = tiny_upstream(2);
    rv_err e = {0};
    const int64_t some = rv_vlm_param_find(t.m, "text.layers.0.q.weight");
    run_all(g, 4, r, NULL, first);
    free(tiny_score(&t, &b->b, true));
    must(rv_vlm_backward(t.m, &up->s, 1, &e), &e);
    float *want = tiny_get(&t, some, RV_OF_GRAD);
    rv_vlm_zero_grad(t.m);
    run_all(g, 4, r, NULL, again);
    same_answers(first, again);
    free(tiny_score(&t, &b->b, true));
    run_all(g, 4, r, NULL, again); // between a score and its backward pass
    same_answers(first, again);
    must(rv_vlm_backward(t.m, &up->s, 1, &e), &e);
    float *got = tiny_get(&t, some, RV_OF_GRAD);
    same_bits("gradient", want, got, tiny_count(rv_vlm_param(t.m, some)));
    check_scores(&t, r, again);
    run_all(g, 4, r, NULL, again); // scores without gradients leave the cache alone
    same_answers(first, again);
    free(want);
    free(got);
    free(up);
    free(b);
    rv_generator_free(g, true);
    tiny_free(&t);
}

static void ends_where_it_should(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    case_answer free_run[N_REQUESTS], ended[N_REQUESTS];
    rv_generator *g = new_generator(&t, 5, 64, true);
    run_all(g, 5, r, NULL, free_run);
    const int32_t eos[2] = {free_run[2].ids[3], 1 << 20};
    run_all(g, 5, r, eos, ended);
    for (int i = 0; i < N_REQUESTS; i++) {
        int64_t n = 0;
        while (n < free_run[i].n && free_run[i].ids[n] != eos[0]) {
            n++;
        }
        bool found = n < free_run[i].n;
        assert_int_equal(ended[i].n, found ? n + 1 : free_run[i].n);
        assert_int_equal(ended[i].finish, found ? RV_FINISH_EOS : RV_FINISH_LENGTH);
        for (int64_t k = 0; k < ended[i].n; k++) {
            assert_int_not_equal(ended[i].ids[k], TINY_IMAGE);
        }
    }
    rv_generator_free(g, true);
    tiny_free(&t);
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    static case_request r[N_REQUESTS];
    memset(r, 0, sizeof r);
    make_requests(r);
    rv_arch a = tiny_arch();
    tiny t = new_model(&a);
    rv_generator *g = new_generator(&t, 1, 64, true);
    int slot;
    rv_err e = {0};
    rv_request q = request_of(&r[0], 0, NULL);
    q.max_new = 1000;
    assert_int_equal(rv_generator_submit(g, &q, &slot, &e), RV_EARG);
    assert_string_equal(e.msg,
                        "request: a prompt of 77 tokens and an answer of up to 1000 are more "
                        "than max_tokens 160");
    q = request_of(&r[0], 0, NULL);
    q.n_images = 0;
    assert_int_equal(rv_generator_submit(g, &q, &slot, &e), RV_ESHAPE);
    assert_string_equal(e.msg,
                        "request: 4 image placeholders in the prompt, but 0 rows of 0 images");
    const int32_t wrong[] = {3, TINY_VOCAB};
    q = (rv_request){.ids = wrong, .n = 2, .max_new = 1};
    assert_int_equal(rv_generator_submit(g, &q, &slot, &e), RV_EARG);
    assert_string_equal(e.msg, "request: token 2: id 37 is outside 0 to 36");
    q = request_of(&r[0], 0, NULL);
    must(rv_generator_submit(g, &q, &slot, &e), &e);
    assert_int_equal(rv_generator_submit(g, &q, &slot, &e), RV_EARG);
    assert_string_equal(e.msg, "request: all 1 slots are busy");
    rv_generator_vacate(g, slot);
    assert_null(rv_generator_answer(g, slot));
    assert_int_equal(rv_generator_vacant(g), 1);
    rv_generator_free(g, true);
    rv_generator_options o = {.slots = 14, .max_tokens = 160, .chunk = 64, .blocks = 40};
    assert_int_equal(rv_generator_new(&g, t.m, &o, &e), RV_EARG);
    assert_string_equal(e.msg,
                        "generator: 14 slots of 160 tokens need 42 cache blocks, there are 40");
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_hang_on_the_request_alone),
        cmocka_unit_test(prefixes_are_computed_once),
        cmocka_unit_test(a_full_pool_is_enough),
        cmocka_unit_test(changed_weights_empty_the_cache),
        cmocka_unit_test(learning_and_drawing_take_turns),
        cmocka_unit_test(ends_where_it_should),
        cmocka_unit_test(bad_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
