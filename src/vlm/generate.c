#include "generate.h"

#include <stdlib.h>
#include <string.h>

#include "generate_impl.h"
#include "mem.h"
#include "positions.h"

// ---- making ----

static rv_status check_options(const rv_generator_options *o, rv_err *e) {
    if (o->slots < 1 || o->max_tokens < 2 || o->chunk < o->slots) {
        return RV_FAIL(
            e, RV_EARG,
            "generator: wanted slots >= 1, max_tokens >= 2, chunk >= slots, came %d, %lld, %lld",
            o->slots, (long long)o->max_tokens, (long long)o->chunk);
    }
    int64_t need = o->slots * rv_blocks_for(o->max_tokens);
    if (o->blocks < need) {
        return RV_FAIL(e, RV_EARG,
                       "generator: %d slots of %lld tokens need %lld cache blocks, there are %lld",
                       o->slots, (long long)o->max_tokens, (long long)need, (long long)o->blocks);
    }
    return RV_OK;
}

static bool has_value_head(const rv_vlm *m) { return rv_vlm_param_find(m, "value.0.weight") >= 0; }

// The most rows of one image, and of all images that are kept: a step's, those that its first and
// last rows cut included.
static int64_t image_rows(const rv_arch *a) { return a->vision.width ? a->max_view_rows : 1; }
static int64_t feature_rows(const rv_arch *a, const rv_generator_options *o) {
    return a->vision.width ? o->chunk + 2 * image_rows(a) : 1;
}

size_t rv_generator_bytes(const rv_arch *a, const rv_generator_options *o) {
    int64_t floats =
        (feature_rows(a, o) + o->slots) * a->text.width + o->slots * (int64_t)a->text.vocab;
    size_t token = 2 * sizeof(int32_t) + sizeof(rv_row_key) + sizeof(rv_place) + 2 * sizeof(float);
    return (size_t)floats * sizeof(float) + (size_t)o->blocks * sizeof(rv_prefix_block) +
           (size_t)(o->slots * o->max_tokens) * token;
}

static rv_status make(rv_generator *g, rv_err *e) {
    const rv_arch *a = rv_vlm_arch(g->m);
    const size_t real = sizeof(float);
    int64_t slots = g->o.slots;
    g->vocab = a->text.vocab;
    g->width = a->text.width;
    g->image_rows = image_rows(a);
    g->value_head = has_value_head(g->m);
    g->slots = rv_calloc(slots, sizeof *g->slots);
    g->feature_row = rv_calloc(g->o.chunk, sizeof *g->feature_row);
    g->seqs = rv_calloc(slots, sizeof *g->seqs);
    g->who = rv_calloc(slots, sizeof *g->who);
    g->how = rv_calloc(slots, sizeof *g->how);
    g->drawn = rv_calloc(slots, sizeof *g->drawn);
    g->values = rv_calloc(slots, sizeof *g->values);
    if (!g->slots || !g->feature_row || !g->seqs || !g->who || !g->how || !g->drawn || !g->values) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for %lld slots", (long long)slots);
    }
    RV_TRY(rv_prefix_new(&g->prefix, g->o.blocks, e));
    int64_t rows = feature_rows(a, &g->o);
    RV_TRY(rv_features_new(&g->features, rows, e));
    RV_TRY(g->be->alloc(g->ctx, &g->feature_rows, (size_t)(rows * g->width) * real, e));
    RV_TRY(g->be->alloc(g->ctx, &g->logits, (size_t)(slots * g->vocab) * real, e));
    return g->be->alloc(g->ctx, &g->hidden, (size_t)(slots * g->width) * real, e);
}

rv_status rv_generator_new(rv_generator **out, rv_vlm *m, const rv_generator_options *o,
                           rv_err *e) {
    *out = NULL;
    RV_TRY(check_options(o, e));
    rv_generator *g = rv_calloc(1, sizeof *g);
    if (!g) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a generator");
    }
    g->m = m;
    g->be = rv_vlm_backend(m);
    g->ctx = rv_vlm_ctx(m);
    g->o = *o;
    g->epoch = rv_vlm_epoch(m);
    rv_status st = make(g, e);
    if (st != RV_OK) {
        rv_generator_free(g, true);
        return st;
    }
    *out = g;
    return RV_OK;
}

static void clear_slot(rv_slot *s) {
    free(s->ids);
    free(s->keys);
    free(s->place);
    free(s->at);
    free(s->table);
    free(s->images);
    free(s->image_key);
    free(s->ends);
    free(s->seen);
    free(s->logp);
    free(s->filtered);
    *s = (rv_slot){0};
}

void rv_generator_free(rv_generator *g, bool model) {
    if (!g) {
        return;
    }
    const rv_dev all[] = {g->feature_rows, g->logits, g->hidden};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (model && !rv_dev_none(all[i])) {
            g->be->free(g->ctx, all[i]);
        }
    }
    for (int i = 0; g->slots && i < g->o.slots; i++) {
        clear_slot(&g->slots[i]);
    }
    rv_prefix_free(&g->prefix);
    free(g->slots);
    rv_features_free(&g->features);
    free(g->feature_row);
    free(g->seqs);
    free(g->who);
    free(g->how);
    free(g->drawn);
    free(g->values);
    free(g);
}

// ---- requests ----

int rv_generator_vacant(const rv_generator *g) {
    int n = 0;
    for (int i = 0; i < g->o.slots; i++) {
        n += !g->slots[i].busy;
    }
    return n;
}

static rv_status check_request(const rv_generator *g, const rv_request *r, rv_err *e) {
    if (r->n < 1 || r->max_new < 1) {
        return RV_FAIL(
            e, RV_EARG,
            "request: wanted a prompt and max_new_tokens >= 1, came %lld and %lld tokens",
            (long long)r->n, (long long)r->max_new);
    }
    if (r->n + r->max_new > g->o.max_tokens) {
        return RV_FAIL(e, RV_EARG,
                       "request: a prompt of %lld tokens and an answer of up to %lld are more than "
                       "max_tokens %lld",
                       (long long)r->n, (long long)r->max_new, (long long)g->o.max_tokens);
    }
    const int32_t placeholder = rv_vlm_arch(g->m)->image_token;
    int64_t rows = 0, wanted = 0;
    for (int64_t i = 0; i < r->n_images; i++) {
        rv_status st = rv_view_check(rv_vlm_arch(g->m), &r->images[i], e);
        if (st != RV_OK) {
            rv_err_context(e, "request: image %lld", (long long)i + 1);
            return st;
        }
        wanted += r->images[i].rows;
    }
    for (int64_t i = 0; i < r->n; i++) {
        rows += r->ids[i] == placeholder;
        if (r->ids[i] != placeholder && (r->ids[i] < 0 || r->ids[i] >= g->vocab)) {
            return RV_FAIL(e, RV_EARG, "request: token %lld: id %d is outside 0 to %lld",
                           (long long)i + 1, r->ids[i], (long long)g->vocab - 1);
        }
    }
    if (rows != wanted) {
        return RV_FAIL(
            e, RV_ESHAPE,
            "request: %lld image placeholders in the prompt, but %lld rows of %lld images",
            (long long)rows, (long long)wanted, (long long)r->n_images);
    }
    return RV_OK;
}

static void *copy_of(const void *from, int64_t n, size_t size) {
    void *to = rv_calloc(n ? n : 1, size);
    if (to && n) {
        memcpy(to, from, (size_t)n * size);
    }
    return to;
}

// A row's key: what it holds, exactly.
static void fill_keys(const rv_generator *g, rv_slot *s) {
    const int32_t placeholder = rv_vlm_arch(g->m)->image_token;
    int64_t image = 0, row = 0;
    for (int64_t i = 0; i < s->n_prompt; i++) {
        s->place[i] = -1;
        s->keys[i] = (rv_row_key){(uint64_t)s->ids[i], 0};
        if (s->ids[i] == placeholder) {
            const uint64_t *key = s->image_key[image];
            s->keys[i] = (rv_row_key){key[0] + (uint64_t)row, key[1] | 1};
            s->place[i] = (int32_t)(image * g->image_rows + row);
            bool last = ++row == s->images[image].rows;
            image += last;
            row = last ? 0 : row;
        }
    }
}

// Where the prompt's tokens stand, and those that will be drawn.
static void fill_places(const rv_generator *g, rv_slot *s, int64_t room) {
    const rv_view *views = s->images;
    int32_t next = rv_places(s->at, rv_vlm_arch(g->m), s->ids, s->n_prompt, &views);
    for (int64_t i = s->n_prompt; i < room; i++, next++) {
        s->at[i] = (rv_place){{next, next, next}};
    }
}

static bool penalised(const rv_sample *how) { return how->penalty > 0 && how->penalty != 1; }

void rv_slot_see(rv_slot *s, int32_t id) {
    int64_t at = s->how.n_seen;
    if (!penalised(&s->how)) {
        return;
    }
    while (at > 0 && s->seen[at - 1] > id) {
        at--;
    }
    if (at > 0 && s->seen[at - 1] == id) {
        return;
    }
    memmove(s->seen + at + 1, s->seen + at, (size_t)(s->how.n_seen++ - at) * sizeof *s->seen);
    s->seen[at] = id;
}

static rv_status fill_slot(const rv_generator *g, rv_slot *s, const rv_request *r, rv_err *e) {
    int64_t room = r->n + r->max_new;
    s->n = s->n_prompt = r->n;
    s->max_new = r->max_new;
    s->how = r->how;
    s->stream = rv_rng_make(r->seed, RV_STREAM_SAMPLE, r->episode, r->step);
    s->n_eos = r->n_eos;
    s->n_ends = r->n_eos + r->n_stop;
    s->ids = rv_calloc(room, sizeof *s->ids);
    s->keys = rv_calloc(room, sizeof *s->keys);
    s->place = rv_calloc(r->n, sizeof *s->place);
    s->at = rv_calloc(room, sizeof *s->at);
    s->table = rv_calloc(rv_blocks_for(room), sizeof *s->table);
    s->images = copy_of(r->images, r->n_images, sizeof *s->images);
    s->image_key = copy_of(r->image_key, r->n_images, sizeof *s->image_key);
    s->ends = rv_calloc(s->n_ends + 1, sizeof *s->ends);
    s->seen = rv_calloc(penalised(&r->how) ? room : 1, sizeof *s->seen);
    s->logp = rv_calloc(r->max_new, sizeof *s->logp);
    s->filtered = rv_calloc(r->max_new, sizeof *s->filtered);
    if (!s->ids || !s->keys || !s->place || !s->at || !s->table || !s->images || !s->image_key ||
        !s->ends || !s->seen || !s->logp || !s->filtered) {
        clear_slot(s);
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a request of %lld tokens", (long long)room);
    }
    memcpy(s->ids, r->ids, (size_t)r->n * sizeof *s->ids);
    for (int64_t i = 0; i < s->n_ends; i++) {
        s->ends[i] = i < r->n_eos ? r->eos[i] : r->stop[i - r->n_eos];
    }
    s->answer = (rv_answer){.ids = s->ids + s->n_prompt, .logp = s->logp, .filtered = s->filtered};
    fill_keys(g, s);
    fill_places(g, s, room);
    s->how.seen = s->seen;
    s->how.n_seen = 0;
    for (int64_t i = 0; i < r->n; i++) {
        rv_slot_see(s, r->ids[i]);
    }
    return RV_OK;
}

rv_status rv_generator_submit(rv_generator *g, const rv_request *r, int *out, rv_err *e) {
    RV_TRY(check_request(g, r, e));
    int i = 0;
    while (i < g->o.slots && g->slots[i].busy) {
        i++;
    }
    if (i == g->o.slots) {
        return RV_FAIL(e, RV_EARG, "request: all %d slots are busy", g->o.slots);
    }
    rv_slot *s = &g->slots[i];
    RV_TRY(fill_slot(g, s, r, e));
    s->busy = true;
    s->order = ++g->order;
    *out = i;
    return RV_OK;
}

const rv_answer *rv_generator_answer(const rv_generator *g, int i) {
    return i >= 0 && i < g->o.slots && g->slots[i].busy ? &g->slots[i].answer : NULL;
}

void rv_slot_release(rv_generator *g, rv_slot *s) {
    while (s->n_blocks > 0) {
        rv_prefix_release(&g->prefix, s->table[--s->n_blocks]);
    }
}

void rv_generator_vacate(rv_generator *g, int i) {
    if (rv_generator_answer(g, i)) {
        rv_slot_release(g, &g->slots[i]);
        clear_slot(&g->slots[i]);
    }
}

rv_generator_stats rv_generator_count(const rv_generator *g) { return g->stats; }
