// generate_step.c - one step of generation: what is shared and computed, the call, what came of it.
#include <string.h>

#include "generate_impl.h"
#include "intr.h"

static rv_slot *slot_at(const rv_generator *g, int64_t i) { return &g->slots[i]; }

// ---- planning a step: what is shared, what is computed ----

static bool runs(const rv_slot *s) { return s->busy && s->answer.finish == RV_RUNNING; }

static uint64_t last_serial(const rv_generator *g, const rv_slot *s) {
    return s->n_blocks ? g->prefix.blocks[s->table[s->n_blocks - 1]].serial : RV_PREFIX_ROOT;
}

static void add_block(rv_generator *g, rv_slot *s) {
    int32_t b = rv_prefix_take(&g->prefix, last_serial(g, s));
    RV_ASSERT(b >= 0); // every slot's worst case is planned
    s->table[s->n_blocks++] = b;
}

// Begins a partly equal block by copying `rows` of another; false when every other block is in use.
static bool copy_block(rv_generator *g, rv_slot *s, int32_t from, int64_t rows) {
    rv_prefix_hold(&g->prefix, from); // it must not be thrown out for the copy
    int32_t to = rv_prefix_take(&g->prefix, last_serial(g, s));
    rv_prefix_release(&g->prefix, from);
    if (to < 0) {
        return false;
    }
    rv_vlm_kv_copy(g->m, to, from);
    rv_prefix_block *b = &g->prefix.blocks[to];
    memcpy(b->keys, g->prefix.blocks[from].keys, (size_t)rows * sizeof *b->keys);
    b->filled = (int)rows;
    s->table[s->n_blocks++] = to;
    return true;
}

// Takes over what the cache has of the prompt; its last token is always computed.
static void attach(rv_generator *g, rv_slot *s) {
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
        s->done += equal > 0 && copy_block(g, s, b, equal) ? equal : 0;
        break;
    }
    s->answer.cached = s->done;
    g->stats.cached_rows += s->done;
}

static int64_t equal_rows(const rv_slot *a, const rv_slot *b) {
    int64_t n = a->n_prompt < b->n_prompt ? a->n_prompt : b->n_prompt, i = 0;
    while (i < n && a->keys[i].a == b->keys[i].a && a->keys[i].b == b->keys[i].b) {
        i++;
    }
    return i;
}

// True while an earlier request computes a beginning that this one can use.
static bool must_wait(const rv_generator *g, const rv_slot *s) {
    for (int i = 0; g->o.share && i < g->o.slots; i++) {
        const rv_slot *other = slot_at(g, i);
        if (runs(other) && other->order < s->order && other->done < other->n_prompt - 1 &&
            equal_rows(s, other) > other->done) {
            return true;
        }
    }
    return false;
}

// Images of this step that are to be encoded; their rows lie behind one another.
typedef struct {
    rv_view views[RV_N_ENCODE];
    rv_feature *at[RV_N_ENCODE];
    int64_t n;
} encode_list;

static rv_status encode(rv_generator *g, encode_list *l, rv_err *e) {
    if (l->n == 0) {
        return RV_OK;
    }
    int64_t row = g->width * (int64_t)sizeof(float);
    rv_status st =
        rv_vlm_encode(g->m, rv_dev_at(g->feature_rows, l->at[0]->row0 * row), l->views, l->n, e);
    for (int64_t i = 0; st != RV_OK && i < l->n; i++) {
        l->at[i]->used = 0;
    }
    g->stats.images += st == RV_OK ? l->n : 0;
    l->n = 0;
    return st;
}

static rv_status encode_later(rv_generator *g, encode_list *l, rv_feature *f, const rv_view *view,
                              rv_err *e) {
    const rv_feature *last = l->n ? l->at[l->n - 1] : NULL;
    if (l->n == RV_N_ENCODE || (last && last->row0 + last->rows != f->row0)) {
        rv_status st = encode(g, l, e);
        if (st != RV_OK) {
            f->used = 0;
            return st;
        }
    }
    l->views[l->n] = *view;
    l->at[l->n++] = f;
    return RV_OK;
}

// Makes sure of the features of the rows that `s` takes; takes fewer where there is no room.
static rv_status need_features(rv_generator *g, rv_slot *s, encode_list *l, rv_err *e) {
    int64_t last = -1;
    for (int64_t i = s->done; i < s->done + s->take && i < s->n_prompt; i++) {
        if (s->place[i] < 0 || s->place[i] / g->image_rows == last) {
            continue;
        }
        last = s->place[i] / g->image_rows;
        bool is_new;
        const rv_view *view = &s->images[last];
        rv_feature *f =
            rv_features_claim(&g->features, s->image_key[last], view->rows, g->step, &is_new);
        if (!f) {
            s->take = i - s->done;
            break;
        }
        if (is_new) {
            RV_TRY(encode_later(g, l, f, view, e));
        }
    }
    return RV_OK;
}

static bool decodes(const rv_slot *s) { return s->done >= s->n_prompt; }

// Sets what each slot computes in this step.
static rv_status plan(rv_generator *g, rv_err *e) {
    int64_t room = g->o.chunk;
    for (int i = 0; i < g->o.slots; i++) {
        rv_slot *s = slot_at(g, i);
        s->take = runs(s) && decodes(s) ? 1 : 0;
        room -= s->take;
    }
    encode_list l = {.n = 0};
    for (uint64_t before = 0;;) { // prompts, the earliest first
        rv_slot *s = NULL;
        for (int i = 0; i < g->o.slots; i++) {
            rv_slot *c = slot_at(g, i);
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
    rv_slot *s = slot_at(g, who);
    while (s->n_blocks * RV_KV_BLOCK < s->done + s->take) {
        add_block(g, s);
    }
    int64_t image = -1, row0 = 0;
    for (int64_t i = 0; i < s->take; i++) {
        int64_t place = s->done + i < s->n_prompt ? s->place[s->done + i] : -1;
        if (place >= 0 && place / g->image_rows != image) {
            image = place / g->image_rows;
            row0 = rv_features_find(&g->features, s->image_key[image])->row0;
        }
        feature_row[i] = place >= 0 ? (int32_t)(row0 + place % g->image_rows) : -1;
    }
    g->who[k] = who;
    g->seqs[k] = (rv_extend){.ids = s->ids + s->done,
                             .feature = image >= 0 ? feature_row : NULL,
                             .n = s->take,
                             .pos0 = s->done,
                             .table = s->table,
                             .places = s->at + s->done};
}

// Builds the call: first the sequences that draw a token, `*n_draw` of them.
static int64_t gather(rv_generator *g, int64_t *n_draw) {
    int64_t n = 0, rows = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < g->o.slots; i++) {
            const rv_slot *s = slot_at(g, i);
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
        rv_slot *s = slot_at(g, g->who[k]);
        rv_rng stream = s->stream;
        stream.pos = 2 * (uint64_t)s->answer.n; // a uniform number takes two words
        g->how[k] = s->how;
        g->how[k].u = rv_rng_uniform(&stream);
        first = first || s->answer.n == 0;
    }
    if (g->value_head && first) {
        RV_TRY(rv_vlm_value(g->m, g->values, g->hidden, n, e));
    }
    return g->be->sample(g->ctx, g->drawn, g->logits, n, g->vocab, g->how, g->o.banned,
                         g->o.n_banned, e);
}

static rv_finish finish_of(const rv_slot *s, int32_t id) {
    for (int64_t i = 0; i < s->n_ends; i++) {
        if (s->ends[i] == id) {
            return i < s->n_eos ? RV_FINISH_EOS : RV_FINISH_STOP;
        }
    }
    return s->answer.n == s->max_new ? RV_FINISH_LENGTH : RV_RUNNING;
}

// Notes what the step put into the cache.
static void commit_rows(rv_generator *g, rv_slot *s) {
    for (int64_t i = 0; i < s->take; i++, s->done++) {
        rv_prefix_block *b = &g->prefix.blocks[s->table[s->done / RV_KV_BLOCK]];
        b->keys[s->done % RV_KV_BLOCK] = s->keys[s->done];
        b->filled = (int)(s->done % RV_KV_BLOCK) + 1;
        g->stats.prompt_rows += s->done < s->n_prompt;
    }
    s->take = 0;
}

static void commit_token(rv_generator *g, rv_slot *s, int64_t k) {
    rv_answer *a = &s->answer;
    const rv_drawn *d = &g->drawn[k];
    if (a->n == 0 && g->value_head) {
        a->value = g->values[k];
    }
    s->logp[a->n] = d->logp;
    s->filtered[a->n] = d->filtered_logp;
    s->ids[s->n] = d->id;
    rv_slot_see(s, d->id);
    s->keys[s->n++] = (rv_row_key){(uint64_t)d->id, 0};
    a->n++;
    a->finish = finish_of(s, d->id);
    g->stats.answer_rows++;
    if (a->finish != RV_RUNNING) {
        rv_slot_release(g, s);
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
    rv_features_clear(&g->features);
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
