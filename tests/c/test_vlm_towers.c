// The towers of all families: gradients, and the same bits however views are packed and cut.
#include "model.h"
#include "positions.h"
#include "vlm_grad.h"
#include "vlm_views.h"

static void gradients_match_differences(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        rv_vlm_options o = tiny_options();
        views_batch *b = views_batch_new(&a, kind, 18);
        model_matches_differences(&a, &o, 2, NULL, &b->b);
        free(b);
    }
}

static void adapters_match_differences(void **state) {
    (void)state;
    for (int kind = WINDOWED; kind <= SHUFFLED; kind++) {
        rv_arch a = views_arch(kind);
        rv_vlm_options o = frozen_options();
        views_batch *b = views_batch_new(&a, kind, 18);
        model_matches_differences(&a, &o, 2, add_adapters, &b->b);
        free(b);
    }
}

// Runs of the tower, recomputation, what is trained: none of it changes a bit of a gradient.
static void cut_recomputed_and_frozen_agree(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        views_batch *b = views_batch_new(&a, kind, 21);
        rv_vlm_options o = tiny_options();
        o.max_rows = 64;
        compare_with_full(&a, &b->b, o, 2, NULL, true);
        o.recompute = true;
        compare_with_full(&a, &b->b, o, 1, NULL, true);
        for (int part = 0; part < RV_PART_HEAD; part++) {
            o = frozen_options();
            o.train[part] = true;
            compare_with_full(&a, &b->b, o, 1, NULL, true);
            o.max_rows = 64;
            compare_with_full(&a, &b->b, o, 1, NULL, true);
        }
        compare_with_full(&a, &b->b, tiny_options(), 1, add_adapters, false);
        free(b);
    }
}

static void cut_changes_no_score(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        views_batch *b = views_batch_new(&a, kind, 3);
        rv_vlm_options o = tiny_options();
        tiny t = tiny_new(&a, &o, 1, NULL);
        tiny_scores *whole = tiny_score(&t, &b->b, false);
        tiny_free(&t);
        memset(o.train, 0, sizeof o.train);
        for (o.max_rows = 64; o.max_rows <= 256; o.max_rows *= 2) {
            t = tiny_new(&a, &o, 2, NULL);
            tiny_scores *cut = tiny_score(&t, &b->b, false);
            same_scores(whole, cut);
            free(cut);
            tiny_free(&t);
        }
        free(whole);
        free(b);
    }
}

// Sequence `s` of a batch whose first view is `image`, on the cache: the last row's logits.
static void extend_alone(tiny *t, const rv_arch *a, const rv_batch *b, int64_t s, int64_t image,
                         float *logits) {
    int64_t n = b->cu[s + 1] - b->cu[s], rows = 0, row = 0;
    int32_t feature[TINY_ROWS], table[] = {3, 7, 1, 9};
    rv_place places[TINY_ROWS];
    const rv_view *views = b->images + image;
    rv_places(places, a, b->ids + b->cu[s], n, &views);
    for (int64_t i = 0; i < n; i++) {
        feature[i] = b->ids[b->cu[s] + i] == TINY_IMAGE ? (int32_t)row++ : -1;
    }
    int64_t count = 0;
    while (rows < row) {
        rows += b->images[image + count++].rows;
    }
    rv_err e = {0};
    rv_dev features, out;
    must(t->be->alloc(t->ctx, &features, (size_t)(rows + 1) * 16 * 4, &e), &e);
    must(t->be->alloc(t->ctx, &out, TINY_VOCAB * 4, &e), &e);
    must(rv_vlm_encode(t->m, features, b->images + image, count, &e), &e);
    rv_extend x = {b->ids + b->cu[s], feature, n, 0, table, places};
    must(rv_vlm_extend(t->m, out, (rv_dev){0}, features, &x, 1, &e), &e);
    t->be->download(t->ctx, logits, out, TINY_VOCAB * 4);
    t->be->free(t->ctx, features);
    t->be->free(t->ctx, out);
}

static void compare_company(const rv_arch *a, int kind, const rv_vlm_options *o) {
    tiny t = tiny_new(a, o, 1, NULL);
    views_batch *b = views_batch_new(a, kind, 3);
    tiny_scores *all = tiny_score(&t, &b->b, false);
    int64_t image = 0;
    for (int64_t s = 0; s < b->b.n; s++) {
        float logits[TINY_VOCAB];
        extend_alone(&t, a, &b->b, s, image, logits);
        same_bits("logit", logits, &all->logits[(4 * s + 3) * TINY_VOCAB], TINY_VOCAB);
        image += s == 1 ? 0 : 1;
    }
    free(all);
    free(b);
    tiny_free(&t);
}

// What a sequence's views give alone, on the cache, has the bits of the packed score.
static void company_changes_nothing(void **state) {
    (void)state;
    const rv_dtype stores[] = {RV_F32, RV_BF16, RV_BF16, RV_F16};
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        for (int k = 0; k < 4; k++) {
            rv_vlm_options o = tiny_options();
            o.store = stores[k];
            o.round_x = k == 1;
            compare_company(&a, kind, &o);
        }
    }
}

static int64_t tiles_of(const rv_batch *b) {
    int64_t n = 0;
    for (int64_t i = 0; i < b->n_images; i++) {
        n += b->images[i].tiles;
    }
    return n;
}

// Views with the same patches are looked at once; with or without, gradients and scores are those
// of copies.
static void equal_views_are_equal(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        views_batch *b = views_batch_new(&a, kind, 8);
        memcpy(b->patches[VIEWS - 1], b->patches[0], sizeof b->patches[0]);
        for (int learns = 0; learns < 2; learns++) {
            rv_vlm_options o = tiny_options();
            o.train[RV_PART_VISION] = learns;
            tiny t = tiny_new(&a, &o, 1, NULL);
            tiny_scores *g = tiny_upstream(2), *s[2];
            float **grads[2];
            for (int shared = 0; shared < 2; shared++) {
                b->images[VIEWS - 1].patches = b->patches[shared ? 0 : VIEWS - 1];
                s[shared] = tiny_score(&t, &b->b, false);
                int32_t saved = shared && !learns ? b->images[0].tiles : 0;
                assert_int_equal(t.m->n_tiles, tiles_of(&b->b) - saved);
                rv_vlm_zero_grad(t.m);
                backward(&t, &b->b, g, 1);
                grads[shared] = gradients(&t);
            }
            same_scores(s[0], s[1]);
            same_gradients(&t, grads[0], &t, grads[1]);
            for (int k = 0; k < 2; k++) {
                free_gradients(&t, grads[k]);
                free(s[k]);
            }
            free(g);
            tiny_free(&t);
        }
        free(b);
    }
}

static void name_views(views_batch *b) {
    for (int i = 0; i < VIEWS; i++) {
        b->images[i].key[0] = 1000 + (uint64_t)i;
    }
}

static void add_connector_adapter(rv_vlm *m) {
    rv_err e = {0};
    rv_lora_spec spec = {.r = 2, .scale = 1};
    int64_t i = rv_vlm_param_find(m, "connector.0.weight");
    must(rv_vlm_lora_add(m, 0, i, &spec, &e), &e);
}

// The decoder alone learns: what a key names is not looked at again, until something below changes.
static void known_views_are_remembered(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        rv_vlm_options o = frozen_options();
        o.train[RV_PART_LANGUAGE] = true;
        tiny t = tiny_new(&a, &o, 1, add_connector_adapter);
        views_batch *b = views_batch_new(&a, kind, 6), *named = views_batch_new(&a, kind, 6);
        name_views(named);
        tiny_scores *want = tiny_score(&t, &b->b, false), *got = tiny_score(&t, &named->b, false);
        same_scores(want, got);
        free(got);
        // what is remembered does not hang on the patches any more
        memset(named->patches[VIEWS - 1], 0, sizeof named->patches[0]);
        got = tiny_score(&t, &named->b, true);
        same_scores(want, got);
        rv_vlm_forget(t.m);
        free(got);
        float logits[TINY_VOCAB];
        extend_alone(&t, &a, &named->b, VIEWS - 1, VIEWS - 2, logits);
        same_bits("logit", logits, &want->logits[(4 * VIEWS - 1) * TINY_VOCAB], TINY_VOCAB);
        rv_vlm_lora_use(t.m, -1);
        rv_vlm_lora_use(t.m, 0);
        got = tiny_score(&t, &named->b, false);
        assert_memory_not_equal(got->logits, want->logits, sizeof want->logits);
        free(got);
        free(want);
        free(b);
        free(named);
        tiny_free(&t);
    }
}

// Memory as planned, and no host peek into device memory.
static void memory_is_as_planned(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        rv_vlm_options o = tiny_options();
        o.recompute = kind % 2;
        o.max_rows = 64;
        tiny_guarded = kind == WINDOWED || kind == TILED;
        tiny t = tiny_new(&a, &o, 1, NULL);
        views_batch *b = views_batch_new(&a, kind, 5);
        tiny_scores *g = tiny_upstream(1);
        backward(&t, &b->b, g, 1);
        rv_plan plan;
        size_t now, peak;
        rv_vlm_memory(t.m, &plan);
        t.be->usage(t.ctx, &now, &peak);
        assert_true(now == plan.total - plan.host);
        free(g);
        free(b);
        tiny_free(&t);
        tiny_guarded = false;
    }
}

static void refuse(const rv_arch *a, rv_view v, const char *message) {
    rv_err e = {0};
    assert_int_equal(rv_view_check(a, &v, &e), RV_ESHAPE);
    assert_string_equal(e.msg, message);
}

static void wrong_views_are_refused(void **state) {
    (void)state;
    rv_arch a = views_arch(FUSED), tiled = views_arch(TILED);
    const float x[1] = {0};
    const int32_t order[] = {0, -2, 4}, newline[] = {0, -1};
    refuse(&a, (rv_view){x, 1, 4, 3, NULL, 3, {0}},
           "a grid of 4 x 3 patches: wanted multiples of 2");
    refuse(&a, (rv_view){x, 1, 0, 4, NULL, 3, {0}},
           "1 tiles of 0 x 4 patches for 3 tokens: wanted 1 or more of each");
    refuse(&a, (rv_view){x, 1, 4, 4, NULL, 3, {0}},
           "3 tokens without an order, but 4 feature rows");
    refuse(&a, (rv_view){x, 2, 10, 10, NULL, 50, {0}},
           "2 x 10 x 10 patches: the model is made for at most 100 in an image");
    refuse(&a, (rv_view){x, 1, 10, 10, NULL, 65, {0}},
           "65 tokens: the model is made for at most 64 for an image");
    refuse(&a, (rv_view){x, 1, 4, 4, newline, 2, {0}}, "order[2] is -1: wanted 0 to 3");
    refuse(&tiled, (rv_view){x, 1, 2, 2, order, 2, {0}}, "order[2] is -2: wanted -1 to 3");
    refuse(&tiled, (rv_view){x, 1, 2, 2, order + 2, 1, {0}}, "order[1] is 4: wanted -1 to 3");
    refuse(&tiled, (rv_view){x, 1, 2, 4, NULL, 8, {0}},
           "a grid of 2 x 4 patches: the tower takes 2 x 2 only");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(adapters_match_differences),
        cmocka_unit_test(cut_recomputed_and_frozen_agree),
        cmocka_unit_test(cut_changes_no_score),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(equal_views_are_equal),
        cmocka_unit_test(known_views_are_remembered),
        cmocka_unit_test(memory_is_as_planned),
        cmocka_unit_test(wrong_views_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
