#include "generate.h"

#include <stdlib.h>
#include <string.h>

#include "intr.h"
#include "mem.h"
#include "prefix.h"
#include "rng.h"

typedef struct {
    bool busy, attached;
    uint64_t order;               // requests that came earlier go first
    int64_t n_prompt, n, max_new; // tokens so far: prompt and answer
    int64_t done;                 // of them in the cache
    int32_t *ids;                 // (n_prompt + max_new)
    rv_row_key *keys;             // (n_prompt + max_new)
    int32_t *place;               // (n_prompt) row among all image rows of the prompt, or -1
    int32_t *table;               // cache blocks
    int64_t n_blocks;
    const float **pixels;
    uint64_t (*image_key)[2];
    int32_t *ends; // eos ids, then stop ids
    int64_t n_eos, n_ends;
    rv_sample how;
    rv_rng stream;
    float *logp, *filtered; // (max_new)
    rv_answer answer;
    int64_t take; // rows of this step
} slot;

// Features of images, kept while there is room.
typedef struct {
    uint64_t key[2];
    uint64_t used; // step; 0: empty
} feature;

struct rv_generator {
    rv_vlm *m;
    const rv_backend *be;
    rv_ctx *ctx;
    rv_generator_options o;
    rv_prefix prefix;
    uint64_t epoch, order, step;
    slot *slots;
    bool value_head;
    int64_t vocab, width, image_rows, pixel_count;

    feature *features;
    int64_t n_features;
    rv_dev feature_rows, encoded; // (n_features, image_rows, C), (n_encode, image_rows, C)
    float *staging;               // (n_encode, 3, S, S)

    rv_dev logits, hidden; // (slots, V), (slots, C)
    int32_t *feature_row;  // (chunk)
    rv_extend *seqs;       // (slots)
    int *who;              // (slots) slot of each sequence
    rv_sample *how;
    rv_drawn *drawn;
    float *values;
    rv_generator_stats stats;
};

enum { N_ENCODE = 8 }; // images that are encoded in one call

static slot *slot_at(const rv_generator *g, int64_t i) { return &g->slots[i]; }

// ---- making ----

static int64_t blocks_for(int64_t tokens) { return (tokens + RV_KV_BLOCK - 1) / RV_KV_BLOCK; }

static rv_status check_options(const rv_generator_options *o, rv_err *e) {
    if (o->slots < 1 || o->max_tokens < 2 || o->chunk < o->slots) {
        return RV_FAIL(
            e, RV_EARG,
            "generator: wanted slots >= 1, max_tokens >= 2, chunk >= slots, came %d, %lld, %lld",
            o->slots, (long long)o->max_tokens, (long long)o->chunk);
    }
    int64_t need = o->slots * blocks_for(o->max_tokens);
    if (o->blocks < need) {
        return RV_FAIL(e, RV_EARG,
                       "generator: %d slots of %lld tokens need %lld cache blocks, there are %lld",
                       o->slots, (long long)o->max_tokens, (long long)need, (long long)o->blocks);
    }
    return RV_OK;
}

static bool has_value_head(const rv_vlm *m) { return rv_vlm_param_find(m, "value.0.weight") >= 0; }

static rv_status make(rv_generator *g, rv_err *e) {
    const rv_arch *a = rv_vlm_arch(g->m);
    const size_t real = sizeof(float);
    int64_t slots = g->o.slots;
    g->vocab = a->text.vocab;
    g->width = a->text.width;
    g->image_rows = a->image_tokens;
    g->pixel_count = 3 * (int64_t)a->vision.image_size * a->vision.image_size;
    g->value_head = has_value_head(g->m);
    g->n_features = slots > N_ENCODE ? slots : N_ENCODE;
    g->slots = rv_calloc(slots, sizeof *g->slots);
    g->features = rv_calloc(g->n_features, sizeof *g->features);
    g->staging = rv_calloc(N_ENCODE * g->pixel_count, real);
    g->feature_row = rv_calloc(g->o.chunk, sizeof *g->feature_row);
    g->seqs = rv_calloc(slots, sizeof *g->seqs);
    g->who = rv_calloc(slots, sizeof *g->who);
    g->how = rv_calloc(slots, sizeof *g->how);
    g->drawn = rv_calloc(slots, sizeof *g->drawn);
    g->values = rv_calloc(slots, sizeof *g->values);
    if (!g->slots || !g->features || !g->staging || !g->feature_row || !g->seqs || !g->who ||
        !g->how || !g->drawn || !g->values) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for %lld slots", (long long)slots);
    }
    RV_TRY(rv_prefix_new(&g->prefix, g->o.blocks, e));
    size_t image = (size_t)(g->image_rows * g->width) * real;
    RV_TRY(g->be->alloc(g->ctx, &g->feature_rows, image * (size_t)g->n_features + 1, e));
    RV_TRY(g->be->alloc(g->ctx, &g->encoded, image * N_ENCODE + 1, e));
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

static void clear_slot(slot *s) {
    free(s->ids);
    free(s->keys);
    free(s->place);
    free(s->table);
    free(s->pixels);
    free(s->image_key);
    free(s->ends);
    free(s->logp);
    free(s->filtered);
    *s = (slot){0};
}

void rv_generator_free(rv_generator *g, bool model) {
    if (!g) {
        return;
    }
    const rv_dev all[] = {g->feature_rows, g->encoded, g->logits, g->hidden};
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
    free(g->features);
    free(g->staging);
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
    int64_t rows = 0;
    for (int64_t i = 0; i < r->n; i++) {
        rows += r->ids[i] == placeholder;
        if (r->ids[i] != placeholder && (r->ids[i] < 0 || r->ids[i] >= g->vocab)) {
            return RV_FAIL(e, RV_EARG, "request: token %lld: id %d is outside 0 to %lld",
                           (long long)i + 1, r->ids[i], (long long)g->vocab - 1);
        }
    }
    if (rows != r->n_images * g->image_rows) {
        return RV_FAIL(
            e, RV_ESHAPE,
            "request: %lld image placeholders in the prompt, but %lld images of %lld rows",
            (long long)rows, (long long)r->n_images, (long long)g->image_rows);
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
static void fill_keys(const rv_generator *g, slot *s) {
    const int32_t placeholder = rv_vlm_arch(g->m)->image_token;
    int64_t rows = 0;
    for (int64_t i = 0; i < s->n_prompt; i++) {
        s->place[i] = -1;
        s->keys[i] = (rv_row_key){(uint64_t)s->ids[i], 0};
        if (s->ids[i] == placeholder) {
            int64_t image = rows / g->image_rows, row = rows % g->image_rows;
            const uint64_t *key = s->image_key[image];
            s->keys[i] = (rv_row_key){key[0] + (uint64_t)row, key[1] | 1};
            s->place[i] = (int32_t)rows++;
        }
    }
}

static rv_status fill_slot(const rv_generator *g, slot *s, const rv_request *r, rv_err *e) {
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
    s->table = rv_calloc(blocks_for(room), sizeof *s->table);
    s->pixels = copy_of(r->pixels, r->n_images, sizeof *s->pixels);
    s->image_key = copy_of(r->image_key, r->n_images, sizeof *s->image_key);
    s->ends = rv_calloc(s->n_ends + 1, sizeof *s->ends);
    s->logp = rv_calloc(r->max_new, sizeof *s->logp);
    s->filtered = rv_calloc(r->max_new, sizeof *s->filtered);
    if (!s->ids || !s->keys || !s->place || !s->table || !s->pixels || !s->image_key || !s->ends ||
        !s->logp || !s->filtered) {
        clear_slot(s);
        return RV_FAIL(e, RV_ENOMEM, "out of memory for a request of %lld tokens", (long long)room);
    }
    memcpy(s->ids, r->ids, (size_t)r->n * sizeof *s->ids);
    for (int64_t i = 0; i < s->n_ends; i++) {
        s->ends[i] = i < r->n_eos ? r->eos[i] : r->stop[i - r->n_eos];
    }
    s->answer = (rv_answer){.ids = s->ids + s->n_prompt, .logp = s->logp, .filtered = s->filtered};
    fill_keys(g, s);
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
    slot *s = &g->slots[i];
    RV_TRY(fill_slot(g, s, r, e));
    s->busy = true;
    s->order = ++g->order;
    *out = i;
    return RV_OK;
}

const rv_answer *rv_generator_answer(const rv_generator *g, int i) {
    return i >= 0 && i < g->o.slots && g->slots[i].busy ? &g->slots[i].answer : NULL;
}

// The last blocks are given back first, so that beginnings outlive ends.
static void release_blocks(rv_generator *g, slot *s) {
    while (s->n_blocks > 0) {
        rv_prefix_release(&g->prefix, s->table[--s->n_blocks]);
    }
}

void rv_generator_vacate(rv_generator *g, int i) {
    if (rv_generator_answer(g, i)) {
        release_blocks(g, &g->slots[i]);
        clear_slot(&g->slots[i]);
    }
}

rv_generator_stats rv_generator_count(const rv_generator *g) { return g->stats; }

// ---- planning a step: what is shared, what is computed ----

static bool runs(const slot *s) { return s->busy && s->answer.finish == RV_RUNNING; }

static uint64_t last_serial(const rv_generator *g, const slot *s) {
    return s->n_blocks ? g->prefix.blocks[s->table[s->n_blocks - 1]].serial : RV_PREFIX_ROOT;
}

static int32_t add_block(rv_generator *g, slot *s) {
    int32_t b = rv_prefix_take(&g->prefix, last_serial(g, s));
    RV_ASSERT(b >= 0); // every slot's worst case is planned
    s->table[s->n_blocks++] = b;
    return b;
}

// Begins a partly equal block by copying `rows` of another.
static void copy_block(rv_generator *g, slot *s, int32_t from, int64_t rows) {
    rv_prefix_hold(&g->prefix, from); // it must not be thrown out for the copy
    int32_t to = add_block(g, s);
    rv_vlm_kv_copy(g->m, to, from);
    rv_prefix_block *b = &g->prefix.blocks[to];
    memcpy(b->keys, g->prefix.blocks[from].keys, (size_t)rows * sizeof *b->keys);
    b->filled = (int)rows;
    rv_prefix_release(&g->prefix, from);
}

// Takes over what the cache has of the prompt; its last token is always computed.
static void attach(rv_generator *g, slot *s) {
    s->attached = true;
    while (g->o.share) {
        int32_t b = -1;
        int64_t left = s->n_prompt - 1 - s->done, want = left < RV_KV_BLOCK ? left : RV_KV_BLOCK;
        int64_t equal = rv_prefix_find(&g->prefix, last_serial(g, s), s->keys + s->done, want, &b);
        if (equal == RV_KV_BLOCK) {
            rv_prefix_hold(&g->prefix, b);
            s->table[s->n_blocks++] = b;
            s->done += equal;
            continue;
        }
        if (equal > 0) {
            copy_block(g, s, b, equal);
            s->done += equal;
        }
        break;
    }
    s->answer.cached = s->done;
    g->stats.cached_rows += s->done;
}

static int64_t equal_rows(const slot *a, const slot *b) {
    int64_t n = a->n_prompt < b->n_prompt ? a->n_prompt : b->n_prompt, i = 0;
    while (i < n && a->keys[i].a == b->keys[i].a && a->keys[i].b == b->keys[i].b) {
        i++;
    }
    return i;
}

// True while an earlier request computes a beginning that this one can use.
static bool must_wait(const rv_generator *g, const slot *s) {
    for (int i = 0; g->o.share && i < g->o.slots; i++) {
        const slot *other = slot_at(g, i);
        if (runs(other) && other->order < s->order && other->done < other->n_prompt - 1 &&
            equal_rows(s, other) > other->done) {
            return true;
        }
    }
    return false;
}

static feature *find_feature(const rv_generator *g, const uint64_t key[2]) {
    for (int64_t i = 0; i < g->n_features; i++) {
        feature *f = &g->features[i];
        if (f->used && f->key[0] == key[0] && f->key[1] == key[1]) {
            return f;
        }
    }
    return NULL;
}

// Keeps a place for an image's features in this step; NULL when all are needed by others.
static feature *claim_feature(rv_generator *g, const uint64_t key[2], bool *is_new) {
    feature *f = find_feature(g, key);
    *is_new = !f;
    if (!f) {
        f = g->features;
        for (int64_t i = 1; i < g->n_features; i++) {
            f = g->features[i].used < f->used ? &g->features[i] : f;
        }
        if (f->used == g->step) {
            return NULL;
        }
        memcpy(f->key, key, sizeof f->key);
    }
    f->used = g->step;
    return f;
}

// Images of this step that are to be encoded.
typedef struct {
    const float *pixels[N_ENCODE];
    feature *at[N_ENCODE];
    int64_t n;
} encode_list;

static rv_status encode(rv_generator *g, encode_list *l, rv_err *e) {
    size_t image = (size_t)g->pixel_count * sizeof(float);
    size_t rows = (size_t)(g->image_rows * g->width) * sizeof(float);
    for (int64_t i = 0; i < l->n; i++) {
        memcpy(g->staging + i * g->pixel_count, l->pixels[i], image);
    }
    rv_status st = l->n ? rv_vlm_encode(g->m, g->encoded, g->staging, l->n, e) : RV_OK;
    for (int64_t i = 0; i < l->n; i++) {
        if (st != RV_OK) {
            l->at[i]->used = 0;
            continue;
        }
        g->be->copy(g->ctx, rv_dev_at(g->feature_rows, (l->at[i] - g->features) * (int64_t)rows),
                    rv_dev_at(g->encoded, i * (int64_t)rows), rows);
    }
    g->stats.images += st == RV_OK ? l->n : 0;
    l->n = 0;
    return st;
}

// Makes sure of the features of the rows that `s` takes; takes fewer where there is no room.
static rv_status need_features(rv_generator *g, slot *s, encode_list *l, rv_err *e) {
    int64_t last = -1;
    for (int64_t i = s->done; i < s->done + s->take && i < s->n_prompt; i++) {
        if (s->place[i] < 0 || s->place[i] / g->image_rows == last) {
            continue;
        }
        last = s->place[i] / g->image_rows;
        bool is_new;
        feature *f = claim_feature(g, s->image_key[last], &is_new);
        if (!f) {
            s->take = i - s->done;
            break;
        }
        if (is_new) {
            l->pixels[l->n] = s->pixels[last];
            l->at[l->n++] = f;
            if (l->n == N_ENCODE) {
                RV_TRY(encode(g, l, e));
            }
        }
    }
    return RV_OK;
}

static bool decodes(const slot *s) { return s->done >= s->n_prompt; }

// Sets what each slot computes in this step.
static rv_status plan(rv_generator *g, rv_err *e) {
    int64_t room = g->o.chunk;
    for (int i = 0; i < g->o.slots; i++) {
        slot *s = slot_at(g, i);
        s->take = runs(s) && decodes(s) ? 1 : 0;
        room -= s->take;
    }
    encode_list l = {.n = 0};
    for (uint64_t before = 0;;) { // prompts, the earliest first
        slot *s = NULL;
        for (int i = 0; i < g->o.slots; i++) {
            slot *c = slot_at(g, i);
            s = runs(c) && !decodes(c) && c->order > before && (!s || c->order < s->order) ? c : s;
        }
        if (!s || room == 0) {
            break;
        }
        before = s->order;
        if (!s->attached) {
            if (must_wait(g, s)) {
                continue;
            }
            attach(g, s);
        }
        s->take = s->n - s->done < room ? s->n - s->done : room;
        RV_TRY(need_features(g, s, &l, e));
        room -= s->take;
    }
    return encode(g, &l, e);
}

// ---- running a step ----

// Adds a slot's rows to the call; feature rows go behind `at`.
static void add_sequence(rv_generator *g, int64_t k, int who, int32_t *feature_row) {
    slot *s = slot_at(g, who);
    while (s->n_blocks * RV_KV_BLOCK < s->done + s->take) {
        add_block(g, s);
    }
    bool images = false;
    for (int64_t i = 0; i < s->take; i++) {
        int64_t at = s->done + i;
        feature_row[i] = -1;
        if (at < s->n_prompt && s->place[at] >= 0) {
            int64_t image = s->place[at] / g->image_rows, row = s->place[at] % g->image_rows;
            int64_t f = find_feature(g, s->image_key[image]) - g->features;
            feature_row[i] = (int32_t)(f * g->image_rows + row);
            images = true;
        }
    }
    g->who[k] = who;
    g->seqs[k] = (rv_extend){.ids = s->ids + s->done,
                             .feature = images ? feature_row : NULL,
                             .n = s->take,
                             .pos0 = s->done,
                             .table = s->table};
}

// Builds the call: first the sequences that draw a token, `*n_draw` of them.
static int64_t gather(rv_generator *g, int64_t *n_draw) {
    int64_t n = 0, rows = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < g->o.slots; i++) {
            const slot *s = slot_at(g, i);
            bool draws = s->done + s->take == s->n;
            if (s->take && draws == (pass == 0)) {
                add_sequence(g, n++, i, g->feature_row + rows);
                rows += s->take;
            }
        }
        *n_draw = pass == 0 ? n : *n_draw;
    }
    return n;
}

static rv_status draw(rv_generator *g, int64_t n, rv_err *e) {
    bool first = false;
    for (int64_t k = 0; k < n; k++) {
        slot *s = slot_at(g, g->who[k]);
        rv_rng stream = s->stream;
        stream.pos = 2 * (uint64_t)s->answer.n; // a uniform number takes two words
        g->how[k] = s->how;
        g->how[k].u = rv_rng_uniform(&stream);
        first = first || s->answer.n == 0;
    }
    if (g->value_head && first) {
        RV_TRY(rv_vlm_value(g->m, g->values, g->hidden, n, e));
    }
    return g->be->sample(g->ctx, g->drawn, g->logits, n, g->vocab, g->how, &g->o.banned,
                         g->o.banned >= 0 ? 1 : 0, e);
}

static rv_finish finish_of(const slot *s, int32_t id) {
    for (int64_t i = 0; i < s->n_ends; i++) {
        if (s->ends[i] == id) {
            return i < s->n_eos ? RV_FINISH_EOS : RV_FINISH_STOP;
        }
    }
    return s->answer.n == s->max_new ? RV_FINISH_LENGTH : RV_RUNNING;
}

// Notes what the step put into the cache.
static void commit_rows(rv_generator *g, slot *s) {
    for (int64_t i = 0; i < s->take; i++, s->done++) {
        rv_prefix_block *b = &g->prefix.blocks[s->table[s->done / RV_KV_BLOCK]];
        b->keys[s->done % RV_KV_BLOCK] = s->keys[s->done];
        b->filled = (int)(s->done % RV_KV_BLOCK) + 1;
        g->stats.prompt_rows += s->done < s->n_prompt;
    }
    s->take = 0;
}

static void commit_token(rv_generator *g, slot *s, int64_t k) {
    rv_answer *a = &s->answer;
    const rv_drawn *d = &g->drawn[k];
    if (a->n == 0 && g->value_head) {
        a->value = g->values[k];
    }
    s->logp[a->n] = d->logp;
    s->filtered[a->n] = d->filtered_logp;
    s->ids[s->n] = d->id;
    s->keys[s->n++] = (rv_row_key){(uint64_t)d->id, 0};
    a->n++;
    a->finish = finish_of(s, d->id);
    g->stats.answer_rows++;
    if (a->finish != RV_RUNNING) {
        release_blocks(g, s);
    }
}

// Drops what was computed with other weights.
static rv_status check_epoch(rv_generator *g, rv_err *e) {
    uint64_t now = rv_vlm_epoch(g->m);
    if (now == g->epoch) {
        return RV_OK;
    }
    for (int i = 0; i < g->o.slots; i++) {
        if (runs(slot_at(g, i)) && g->slots[i].attached) {
            return RV_FAIL(e, RV_EARG, "the weights changed while a request was running");
        }
    }
    rv_prefix_clear(&g->prefix);
    for (int64_t i = 0; i < g->n_features; i++) {
        g->features[i].used = 0;
    }
    g->epoch = now;
    return RV_OK;
}

rv_status rv_generator_step(rv_generator *g, rv_err *e) {
    RV_TRY(check_epoch(g, e));
    if (rv_interrupted()) {
        return RV_FAIL(e, RV_EINTERRUPT, "interrupted");
    }
    g->step++;
    RV_TRY(plan(g, e));
    int64_t n_draw, n = gather(g, &n_draw);
    if (n == 0) {
        return RV_OK;
    }
    RV_TRY(rv_vlm_extend(g->m, g->logits, g->hidden, g->feature_rows, g->seqs, n, e));
    if (n_draw) {
        RV_TRY(draw(g, n_draw, e));
    }
    for (int64_t k = 0; k < n; k++) {
        commit_rows(g, slot_at(g, g->who[k]));
        if (k < n_draw) {
            commit_token(g, slot_at(g, g->who[k]), k);
        }
    }
    g->stats.steps++;
    return RV_OK;
}
