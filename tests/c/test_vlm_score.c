// Scoring and cached generation: the same bits however the work is cut.
#include "vlm_tiny.h"

static tiny_scores *score_with(const rv_arch *a, const rv_vlm_options *o, int threads,
                               const rv_batch *b, bool keep) {
    tiny t = tiny_new(a, o, threads, NULL);
    tiny_scores *s = tiny_score(&t, b, keep);
    tiny_free(&t);
    return s;
}

static void cut_and_threads_change_nothing(void **state) {
    (void)state;
    const rv_arch archs[] = {tiny_arch(), tiny_other_arch()};
    for (int k = 0; k < 2; k++) {
        rv_vlm_options o = tiny_options();
        tiny_batch *b = tiny_batch_new(TINY_SEQS, 3);
        tiny_scores *whole = score_with(&archs[k], &o, 1, &b->b, false);
        for (int64_t rows = 100; rows <= 140; rows += 20) {
            o.max_rows = rows;
            tiny_scores *cut = score_with(&archs[k], &o, rows == 120 ? 2 : 1, &b->b, rows == 140);
            same_scores(whole, cut);
            free(cut);
        }
        o.recompute = true;
        tiny_scores *kept = score_with(&archs[k], &o, 2, &b->b, true);
        same_scores(whole, kept);
        free(kept);
        free(whole);
        free(b);
    }
}

// A sequence alone, with every row asked, gives the bits that it gives in the pack.
static void company_changes_nothing(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    tiny_batch *b = tiny_batch_new(TINY_SEQS, 3);
    tiny_scores *all = tiny_score(&t, &b->b, false);
    int64_t image = 0, ask = 0;
    for (int64_t s = 0; s < b->b.n; s++) {
        int32_t rows[TINY_ROWS], ids[TINY_ROWS], n = b->cu[s + 1] - b->cu[s];
        int32_t cu[2] = {0, n}, images = 0;
        for (int32_t i = 0; i < n; i++) {
            rows[i] = i;
            ids[i] = i + 1 < n ? b->ids[b->cu[s] + i + 1] : -1;
            images += b->ids[b->cu[s] + i] == TINY_IMAGE;
        }
        images /= TINY_TOKENS;
        rv_batch one = {.ids = b->ids + b->cu[s],
                        .cu = cu,
                        .n = 1,
                        .images = b->images + image,
                        .n_images = images,
                        .ask_row = rows,
                        .ask_id = ids,
                        .n_ask = n,
                        .temperature = b->b.temperature};
        tiny_scores *alone = tiny_score(&t, &one, false);
        for (; ask < b->b.n_ask && b->ask_row[ask] < b->cu[s + 1]; ask++) {
            int64_t r = b->ask_row[ask] - b->cu[s];
            same_bits("log-probability", &all->logp[ask], &alone->logp[r], 1);
            same_bits("logits", &all->logits[ask * TINY_VOCAB], &alone->logits[r * TINY_VOCAB],
                      TINY_VOCAB);
        }
        image += images;
        free(alone);
    }
    free(all);
    free(b);
    tiny_free(&t);
}

// Sequences on the cache: how far each has come, its blocks, its first feature row.
typedef struct {
    int64_t at[TINY_SEQS], first_feature[TINY_SEQS];
    int32_t table[TINY_SEQS][2];
    int32_t feature[TINY_ROWS];
} cached;

static void cached_begin(cached *c, const tiny_batch *b) {
    int32_t row = 0;
    memset(c, 0, sizeof *c);
    for (int64_t s = 0; s < b->b.n; s++) {
        c->table[s][0] = (int32_t)((s * 5 + 3) % 16); // any block for any sequence
        c->table[s][1] = s == 7 ? 4 : 0;              // two need a second one
        for (int32_t i = b->cu[s]; i < b->cu[s + 1]; i++) {
            c->feature[i] = b->ids[i] == TINY_IMAGE ? row++ : -1;
        }
    }
}

// Extends a random choice of sequences by random chunks until all are done, comparing the last
// row of every chunk with scoring where it was asked.
static void walk(tiny *t, const tiny_batch *b, const tiny_scores *want, uint64_t seed) {
    rv_rng r = rv_rng_make(seed, RV_STREAM_USER, 2, 0);
    rv_err e = {0};
    rv_dev features, logits, hidden;
    float row[TINY_VOCAB], value;
    cached c;
    cached_begin(&c, b);
    must(t->be->alloc(t->ctx, &features, (size_t)(b->b.n_images * TINY_TOKENS) * 16 * 4, &e), &e);
    must(t->be->alloc(t->ctx, &logits, TINY_SEQS * TINY_VOCAB * 4, &e), &e);
    must(t->be->alloc(t->ctx, &hidden, TINY_SEQS * 16 * 4, &e), &e);
    must(rv_vlm_encode(t->m, features, b->images, b->b.n_images, &e), &e);
    int64_t compared = 0;
    for (int64_t left = b->b.n; left > 0;) {
        rv_extend x[TINY_SEQS];
        int64_t which[TINY_SEQS], n = 0;
        for (int64_t s = 0; s < b->b.n; s++) {
            int64_t rest = b->cu[s + 1] - b->cu[s] - c.at[s];
            if (rest > 0 && rv_rng_below(&r, 3)) {
                int64_t k = rv_rng_below(&r, 2) ? 1 : 1 + (int64_t)rv_rng_below(&r, (uint64_t)rest);
                int64_t at = b->cu[s] + c.at[s];
                x[n] = (rv_extend){b->ids + at, c.feature + at, k, c.at[s], c.table[s], NULL};
                which[n++] = s;
                c.at[s] += k;
                left -= k == rest;
            }
        }
        must(rv_vlm_extend(t->m, logits, hidden, features, x, n, &e), &e);
        for (int64_t i = 0; i < n; i++) {
            int64_t s = which[i], last = b->cu[s] + c.at[s] - 1;
            for (int64_t k = 0; k < b->b.n_ask; k++) {
                if (b->ask_row[k] == last) {
                    t->be->download(t->ctx, row, rv_dev_at(logits, i * TINY_VOCAB * 4), sizeof row);
                    same_bits("logit", row, &want->logits[k * TINY_VOCAB], TINY_VOCAB);
                    compared++;
                }
            }
            if (b->value_row[s] == last) {
                must(rv_vlm_value(t->m, &value, rv_dev_at(hidden, i * 16 * 4), 1, &e), &e);
                same_bits("value", &value, &want->value[s], 1);
            }
        }
    }
    assert_true(compared > 10);
    t->be->free(t->ctx, features);
    t->be->free(t->ctx, logits);
    t->be->free(t->ctx, hidden);
}

static void cache_gives_the_bits_of_scoring(void **state) {
    (void)state;
    const rv_arch archs[] = {tiny_arch(), tiny_other_arch()};
    const int64_t max_rows[] = {256, 45};
    for (int k = 0; k < 4; k++) {
        rv_vlm_options o = tiny_options();
        tiny_batch *b = tiny_batch_new(TINY_SEQS, 11);
        tiny_scores *want = score_with(&archs[k % 2], &o, 1, &b->b, false);
        o.max_rows = max_rows[k / 2];
        tiny t = tiny_new(&archs[k % 2], &o, 1, NULL);
        for (uint64_t seed = 0; seed < 3; seed++) {
            walk(&t, b, want, seed);
        }
        free(want);
        free(b);
        tiny_free(&t);
    }
}

static void bf16_has_the_same_guarantees(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    o.store = RV_BF16;
    for (int round = 0; round < 2; round++) {
        o.round_x = round;
        o.max_rows = 256;
        tiny t = tiny_new(&a, &o, 1, NULL);
        tiny_batch *b = tiny_batch_new(TINY_SEQS, 5);
        tiny_scores *want = tiny_score(&t, &b->b, true);
        walk(&t, b, want, 9);
        o.max_rows = 120;
        tiny_scores *cut = score_with(&a, &o, 2, &b->b, true);
        same_scores(want, cut);
        free(cut);
        free(want);
        free(b);
        tiny_free(&t);
    }
}

static void copied_blocks_serve_as_well(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    tiny t = tiny_new(&a, &o, 1, NULL);
    rv_err e = {0};
    rv_dev logits;
    must(t.be->alloc(t.ctx, &logits, TINY_VOCAB * 4, &e), &e);
    const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6};
    const int32_t first[] = {2}, second[] = {7};
    float want[TINY_VOCAB], got[TINY_VOCAB];
    rv_extend head = {ids, NULL, 7, 0, first, NULL}, tail = {ids + 7, NULL, 1, 7, first, NULL};
    must(rv_vlm_extend(t.m, (rv_dev){0}, (rv_dev){0}, (rv_dev){0}, &head, 1, &e), &e);
    rv_vlm_kv_copy(t.m, 7, 2);
    must(rv_vlm_extend(t.m, logits, (rv_dev){0}, (rv_dev){0}, &tail, 1, &e), &e);
    t.be->download(t.ctx, want, logits, sizeof want);
    tail.table = second;
    must(rv_vlm_extend(t.m, logits, (rv_dev){0}, (rv_dev){0}, &tail, 1, &e), &e);
    t.be->download(t.ctx, got, logits, sizeof got);
    same_bits("logit", got, want, TINY_VOCAB);
    t.be->free(t.ctx, logits);
    tiny_free(&t);
}

static void refuse(tiny *t, const rv_batch *b, rv_status code, const char *message) {
    tiny_scores *out = tiny_scores_new();
    rv_err e = {0};
    assert_int_equal(rv_vlm_score(t->m, b, false, &out->s, &e), code);
    assert_string_equal(e.msg, message);
    free(out);
}

static void wrong_batches_are_refused(void **state) {
    (void)state;
    rv_arch a = tiny_arch();
    rv_vlm_options o = tiny_options();
    o.max_rows = 45;
    tiny t = tiny_new(&a, &o, 1, NULL);
    tiny_batch *b = tiny_batch_new(2, 3);
    int32_t id = b->ids[0];
    b->ids[0] = TINY_VOCAB;
    refuse(&t, &b->b, RV_EARG, "sequence 1, token 1: id 37 is outside 0 to 36");
    b->ids[0] = TINY_IMAGE;
    refuse(&t, &b->b, RV_ESHAPE,
           "sequence 1 has 5 image tokens, but its next 2 images have 8 rows");
    b->ids[0] = id;
    b->b.n_images = 1;
    refuse(&t, &b->b, RV_ESHAPE,
           "sequence 2 has 4 image tokens, but the remaining 0 images have 0 rows");
    b->b.n_images = 3;
    refuse(&t, &b->b, RV_ESHAPE, "3 images came, but the sequences have tokens for 2");
    b->b.n_images = 2;
    b->b.temperature = 0;
    refuse(&t, &b->b, RV_EARG, "temperature is 0: wanted a positive number");
    b->b.temperature = 1;
    int32_t row = b->ask_row[0];
    b->ask_row[0] = b->cu[2];
    char message[80];
    snprintf(message, sizeof message, "asked row 1 is row %d: the batch has %d rows", b->cu[2],
             b->cu[2]);
    refuse(&t, &b->b, RV_EARG, message);
    b->ask_row[0] = row;
    b->cu[1] = b->cu[2] = 60;
    b->b.n = 1;
    refuse(&t, &b->b, RV_EARG, "sequence 1 has 60 tokens: wanted 1 to 45 (max_rows)");
    free(b);
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_and_threads_change_nothing),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(cache_gives_the_bits_of_scoring),
        cmocka_unit_test(bf16_has_the_same_guarantees),
        cmocka_unit_test(copied_blocks_serve_as_well),
        cmocka_unit_test(wrong_batches_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
