// test_backend_head.c - log-probabilities, their gradients, and how tokens are drawn.
#include "backend_case.h"

#include "rng.h"

enum { V = 300, ROWS = 6 };

static const int32_t ids[ROWS] = {0, 299, -1, 17, 150, 64};

typedef struct {
    const float *g_logp, *g_entropy;
    double temp;
} score_case;

// Fills logp, entropy (ROWS) in doubles.
static void score_reference(const double *l, double temp, double *logp, double *entropy) {
    for (int r = 0; r < ROWS; r++) {
        double top = -INFINITY, sum = 0, mean = 0;
        for (int i = 0; i < V; i++) {
            top = fmax(top, l[r * V + i] / temp);
        }
        for (int i = 0; i < V; i++) {
            double e = exp(l[r * V + i] / temp - top);
            sum += e;
            mean += e > 0 ? e * (l[r * V + i] / temp - top) : 0;
        }
        logp[r] = ids[r] < 0 ? 0 : l[r * V + ids[r]] / temp - top - log(sum);
        entropy[r] = log(sum) - mean / sum;
    }
}

static double score_loss(const double *l, const score_case *t) {
    double logp[ROWS], entropy[ROWS], total = 0;
    score_reference(l, t->temp, logp, entropy);
    for (int r = 0; r < ROWS; r++) {
        total += (double)t->g_logp[r] * logp[r] + (double)t->g_entropy[r] * entropy[r];
    }
    return total;
}

static void scores_and_gradients(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 2);
    float *src = randoms(1, ROWS * V, 3), *gl = randoms(2, ROWS, 1), *ge = randoms(3, ROWS, 1);
    src[5] = -INFINITY; // a token that can't be
    double *l = malloc(sizeof *l * ROWS * V), *want = malloc(sizeof *want * ROWS * V);
    double logp[ROWS], entropy[ROWS];
    for (int i = 0; i < ROWS * V; i++) {
        l[i] = (double)src[i];
    }
    score_case t = {gl, ge, 0.5};
    score_reference(l, t.temp, logp, entropy);
    for (int i = 0; i < ROWS * V; i++) {
        double keep = l[i], h = 1e-5;
        l[i] = keep + h;
        double up = score_loss(l, &t);
        l[i] = keep - h;
        want[i] = i == 5 ? 0 : (up - score_loss(l, &t)) / (2 * h);
        l[i] = keep;
    }
    rv_dev il = put_f(&d, src, ROWS * V), ip = put_f(&d, NULL, ROWS), ie = put_f(&d, NULL, ROWS);
    rv_dev is = put_f(&d, NULL, ROWS), igl = put_f(&d, gl, ROWS), ige = put_f(&d, ge, ROWS);
    d.be->logprob(d.c, ip, ie, is, il, ids, ROWS, V, 0.5f);
    d.be->logprob_backward(d.c, il, igl, ige, is, ie, ids, ROWS, V, 0.5f);
    float *hp = take_f(&d, ip, ROWS), *he = take_f(&d, ie, ROWS), *hg = take_f(&d, il, ROWS * V);
    assert_near(hp, logp, ROWS, 1e-6, "logp");
    assert_near(he, entropy, ROWS, 1e-6, "entropy");
    assert_near(hg, want, ROWS * V, 3e-6, "logits' gradient");
    d.be->free(d.c, is), d.be->free(d.c, igl), d.be->free(d.c, ige);
    dev_close(&d);
    free(src), free(gl), free(ge), free(l), free(want), free(hp), free(he), free(hg);
}

// ---- sampling ----

static rv_sample sampling(float temperature, int top_k, float top_p, float min_p, double u) {
    return (rv_sample){
        .temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .u = u};
}

static rv_drawn draw(dev *d, rv_dev l, int64_t v, rv_sample how, const int32_t *banned, int64_t n) {
    rv_drawn r;
    rv_err e;
    assert_int_equal(d->be->sample(d->c, &r, l, 1, v, &how, banned, n, &e), RV_OK);
    return r;
}

static void recorded_equals_scored(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float *src = randoms(4, 50 * V, 2);
    rv_dev l = put_f(&d, src, 50 * V), lp = put_f(&d, NULL, 50);
    rv_sample how[50];
    rv_drawn out[50];
    int32_t drawn[50], banned[] = {3, 4};
    rv_err e;
    for (int i = 0; i < 50; i++) {
        how[i] = sampling(0.8f, i % 2 ? 10 : 0, i % 3 ? 0.9f : 1, i % 5 ? 0 : 0.05f, i / 50.0);
    }
    assert_int_equal(d.be->sample(d.c, out, l, 50, V, how, banned, 2, &e), RV_OK);
    for (int i = 0; i < 50; i++) {
        drawn[i] = out[i].id;
        assert_true(out[i].filtered_logp >= out[i].logp);
        assert_true(out[i].id != 3 && out[i].id != 4);
    }
    d.be->logprob(d.c, lp, (rv_dev){0}, (rv_dev){0}, l, drawn, 50, V, 0.8f);
    float *scored = take_f(&d, lp, 50);
    for (int i = 0; i < 50; i++) {
        assert_bits(scored + i, &out[i].logp, 1, "recorded and scored");
    }
    d.be->free(d.c, l);
    dev_close(&d);
    free(src), free(scored);
}

static void greedy_takes_the_first_largest(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float src[] = {1, 5, 2, 5, -INFINITY};
    rv_dev l = put_f(&d, src, 5);
    int32_t one[] = {1}, both[] = {1, 3};
    rv_drawn r = draw(&d, l, 5, sampling(0, 0, 1, 0, 0.9), NULL, 0);
    assert_int_equal(r.id, 1);
    assert_true(r.filtered_logp == 0);
    double whole = exp(1) + 2 * exp(5) + exp(2);
    assert_true(fabs((double)r.logp - (5 - log(whole))) < 1e-6);
    assert_int_equal(draw(&d, l, 5, sampling(0, 0, 1, 0, 0), one, 1).id, 3);
    assert_int_equal(draw(&d, l, 5, sampling(0, 0, 1, 0, 0), both, 2).id, 2);
    d.be->free(d.c, l);
    dev_close(&d);
}

// The set of ids that a filter leaves, and the probability of each, by drawing at many u.
static void assert_kept(const float *logits, int v, rv_sample how, const int32_t *banned, int n,
                        const char *kept) {
    dev d = dev_open(rv_backend_cpu(), 1);
    rv_dev l = put_f(&d, logits, v);
    bool seen[16] = {false};
    double whole = 0;
    for (int i = 0; i < v; i++) {
        whole += kept[i] == '1' ? exp((double)(logits[i] / how.temperature)) : 0;
    }
    for (int i = 0; i < 4000; i++) {
        how.u = i / 4000.0;
        rv_drawn r = draw(&d, l, v, how, banned, n);
        seen[r.id] = true;
        double p = exp((double)(logits[r.id] / how.temperature)) / whole;
        assert_true(fabs(exp((double)r.filtered_logp) - p) < 1e-6);
    }
    for (int i = 0; i < v; i++) {
        if (seen[i] != (kept[i] == '1')) {
            fail_msg("id %d: %s, filter should leave %s", i, seen[i] ? "drawn" : "not drawn", kept);
        }
    }
    d.be->free(d.c, l);
    dev_close(&d);
}

static void filters_keep_what_they_should(void **state) {
    (void)state;
    // Probabilities .05 .1 .4 .1 .3 .05
    float l[6], p[] = {0.05f, 0.1f, 0.4f, 0.1f, 0.3f, 0.05f};
    for (int i = 0; i < 6; i++) {
        l[i] = logf(p[i]) + 1;
    }
    int32_t top[] = {2};
    assert_kept(l, 6, sampling(1, 0, 1, 0, 0), NULL, 0, "111111");
    assert_kept(l, 6, sampling(1, 1, 1, 0, 0), NULL, 0, "001000");
    assert_kept(l, 6, sampling(1, 2, 1, 0, 0), NULL, 0, "001010");
    assert_kept(l, 6, sampling(1, 3, 1, 0, 0), NULL, 0, "011110"); // ties with the third stay
    assert_kept(l, 6, sampling(1, 100, 1, 0, 0), NULL, 0, "111111");
    assert_kept(l, 6, sampling(1, 2, 1, 0, 0), top, 1, "010110"); // a banned id is not counted
    assert_kept(l, 6, sampling(1, 0, 0.65f, 0, 0), NULL, 0, "001010");
    assert_kept(l, 6, sampling(1, 0, 0.75f, 0, 0), NULL, 0,
                "001110"); // of equals the later stay
    assert_kept(l, 6, sampling(1, 0, 0.85f, 0, 0), NULL, 0, "011110");
    assert_kept(l, 6, sampling(1, 0, 0.01f, 0, 0), NULL, 0, "001000"); // one always stays
    assert_kept(l, 6, sampling(1, 0, 0, 0, 0), NULL, 0, "001000");
    assert_kept(l, 6, sampling(1, 0, 1, 0.2f, 0), NULL, 0, "011110");
    assert_kept(l, 6, sampling(1, 0, 1, 0.5f, 0), NULL, 0, "001010");
    assert_kept(l, 6, sampling(1, 4, 0.9f, 0.3f, 0), NULL, 0, "001010");
    assert_kept(l, 6, sampling(0.5f, 0, 1, 0.5f, 0), NULL, 0, "001010");
    float flat[] = {2, 2, 2, 2};
    assert_kept(flat, 4, sampling(1, 2, 1, 0, 0), NULL, 0, "1111");
    assert_kept(flat, 4, sampling(1, 0, 0.4f, 0, 0), NULL, 0, "0011");
}

typedef struct {
    float logit;
    int id;
} ranked;

static int ascending(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit > y->logit) - (x->logit < y->logit) : x->id - y->id;
}

// Marks what top_k and then top_p leave, by sorting; returns the sum of its weights.
static double sorted_kept(bool *kept, const float *l, int v, rv_sample how) {
    ranked *r = malloc((size_t)v * sizeof *r);
    for (int i = 0; i < v; i++) {
        r[i] = (ranked){l[i], i};
    }
    qsort(r, (size_t)v, sizeof *r, ascending);
    double whole = 0, run = 0, sum = 0;
    bool cutting = true;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < v; i++) {
            double w = exp((double)(r[i].logit / how.temperature));
            bool in = !how.top_k || r[i].logit >= r[v - how.top_k].logit;
            whole += pass == 0 && in ? w : 0;
            run += pass == 1 && in ? w : 0;
            cutting = cutting && (pass == 0 || i + 1 < v) && run <= (1 - (double)how.top_p) * whole;
            kept[r[i].id] = in && !cutting;
            sum += pass == 1 && kept[r[i].id] ? w : 0;
        }
    }
    free(r);
    return sum;
}

static void thresholds_are_those_of_sorting(void **state) {
    (void)state;
    enum { IDS = 700 };
    float *l = randoms(11, IDS, 2.0);
    bool kept[IDS];
    dev d = dev_open(rv_backend_cpu(), 1);
    for (int i = 0; i < 400; i++) {
        for (int j = 0; i == 200 && j < IDS; j++) {
            l[j] = (float)((int)(l[j] * 2) / 2.0); // many are equal
        }
        rv_dev x = put_f(&d, l, IDS);
        rv_sample how = sampling(0.7f, i % 3 ? i * 37 % IDS + 1 : 0,
                                 i % 4 ? (float)(i * 61 % 997) / 1000 : 1, 0, i / 400.0);
        double sum = sorted_kept(kept, l, IDS, how);
        rv_drawn r = draw(&d, x, IDS, how, NULL, 0);
        assert_true(kept[r.id]);
        assert_true(fabs((double)(l[r.id] / 0.7f) - log(sum) - (double)r.filtered_logp) < 1e-5);
        d.be->free(d.c, x);
    }
    dev_close(&d);
    free(l);
}

// Two tokens and a ban of a far larger third: the weights of what is left underflow.
static void banned_giants_leave_the_rest(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float src[] = {500, 1, 2};
    int32_t banned[] = {0};
    rv_dev l = put_f(&d, src, 3);
    rv_drawn r = draw(&d, l, 3, sampling(1, 0, 1, 0, 0.5), banned, 1);
    assert_int_equal(r.id, 2);
    assert_true(r.logp == -498);
    d.be->free(d.c, l);
    dev_close(&d);
}

// A penalty weakens seen ids before temperature and filters; the log-probability stays that of the
// logits as they came.
static void seen_ids_are_penalised(void **state) {
    (void)state;
    enum { IDS = 600 };
    float src[IDS], changed[IDS];
    const int32_t seen[] = {1, 255, 256, 599};
    for (int i = 0; i < IDS; i++) {
        src[i] = (float)(i % 7) - 3;
    }
    src[255] = src[2] = 5;
    src[256] = -1;
    src[599] = 4.5f;
    memcpy(changed, src, sizeof src);
    for (int i = 0; i < 4; i++) {
        float x = src[seen[i]];
        changed[seen[i]] = x < 0 ? x * 1.25f : x / 1.25f;
    }
    dev d = dev_open(rv_backend_cpu(), 1);
    rv_dev l = put_f(&d, src, IDS), p = put_f(&d, changed, IDS);
    for (int i = 0; i < 200; i++) {
        rv_sample how = sampling(i % 20 ? 0.9f : 0, i % 3 == 1 ? 40 : 0, i % 4 == 1 ? 0.8f : 1,
                                 i % 5 == 1 ? 0.1f : 0, i / 200.0);
        rv_drawn want = draw(&d, p, IDS, how, NULL, 0);
        how.penalty = 1.25f;
        how.seen = seen;
        how.n_seen = 4;
        rv_drawn got = draw(&d, l, IDS, how, NULL, 0);
        assert_int_equal(got.id, want.id);
        assert_true(fabsf(got.filtered_logp - want.filtered_logp) < 1e-6f);
        rv_drawn as_it_came = {.id = got.id};
        rv_dev lp = put_f(&d, &as_it_came.logp, 1);
        d.be->logprob(d.c, lp, (rv_dev){0}, (rv_dev){0}, l, &got.id, 1, IDS,
                      how.temperature > 0 ? how.temperature : 1);
        d.be->download(d.c, &as_it_came.logp, lp, sizeof(float));
        assert_bits(&got.logp, &as_it_came.logp, 1, "penalised and scored");
        d.be->free(d.c, lp);
        how.penalty = 1;
        assert_int_equal(draw(&d, l, IDS, how, NULL, 0).id,
                         draw(&d, l, IDS,
                              sampling(how.temperature, how.top_k, how.top_p, how.min_p, how.u),
                              NULL, 0)
                             .id);
    }
    d.be->free(d.c, l);
    d.be->free(d.c, p);
    dev_close(&d);
}

static void frequencies_are_probabilities(void **state) {
    (void)state;
    enum { DRAWS = 20000, WORDS = 40 };
    dev d = dev_open(rv_backend_cpu(), 1);
    float *src = randoms(9, WORDS, 1.5);
    rv_dev l = put_f(&d, src, WORDS);
    rv_rng rng = rv_rng_make(SEED, RV_STREAM_SAMPLE, 1, 1);
    int count[WORDS] = {0};
    double whole = 0, chi = 0;
    for (int i = 0; i < DRAWS; i++) {
        count[draw(&d, l, WORDS, sampling(0.7f, 0, 1, 0, rv_rng_uniform(&rng)), NULL, 0).id]++;
    }
    for (int i = 0; i < WORDS; i++) {
        whole += exp((double)(src[i] / 0.7f));
    }
    for (int i = 0; i < WORDS; i++) {
        double want = DRAWS * exp((double)(src[i] / 0.7f)) / whole;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    assert_true(chi < 39 + 5 * sqrt(2 * 39.0));
    d.be->free(d.c, l);
    dev_close(&d);
    free(src);
}

static void bad_rows_are_named(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -NAN};
    for (int i = 0; i < 3; i++) {
        for (int at = 0; at < 20; at += 19) {
            dev d = dev_open(rv_backend_cpu(), 1);
            float *src = randoms(9, 3 * 20, 1);
            src[20 + at] = bad[i];
            rv_dev l = put_f(&d, src, 60);
            rv_sample how[3] = {sampling(1, 0, 1, 0, 0.1), sampling(1, 0, 1, 0, 0.1),
                                sampling(0, 0, 1, 0, 0.1)};
            rv_drawn out[3];
            rv_err e;
            assert_int_equal(d.be->sample(d.c, out, l, 3, 20, how, NULL, 0, &e), RV_ENUMERIC);
            assert_string_equal(e.msg, "sample: row 1 of the logits holds NaN or infinity");
            d.be->free(d.c, l);
            dev_close(&d);
            free(src);
        }
    }
}

static void everything_banned_is_an_error(void **state) {
    (void)state;
    dev d = dev_open(rv_backend_cpu(), 1);
    float src[] = {1, 2};
    int32_t banned[] = {0, 1};
    rv_dev l = put_f(&d, src, 2);
    rv_sample how = sampling(1, 0, 1, 0, 0.5);
    rv_drawn out;
    rv_err e;
    assert_int_equal(d.be->sample(d.c, &out, l, 1, 2, &how, banned, 2, &e), RV_EARG);
    assert_string_equal(e.msg, "sample: row 0: no id may be drawn (all 2 are banned)");
    d.be->free(d.c, l);
    dev_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_and_gradients),
        cmocka_unit_test(recorded_equals_scored),
        cmocka_unit_test(greedy_takes_the_first_largest),
        cmocka_unit_test(filters_keep_what_they_should),
        cmocka_unit_test(thresholds_are_those_of_sorting),
        cmocka_unit_test(banned_giants_leave_the_rest),
        cmocka_unit_test(seen_ids_are_penalised),
        cmocka_unit_test(frequencies_are_probabilities),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(everything_banned_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
