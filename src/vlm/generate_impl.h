// generate_impl.h - what the generator's files share: slots and what a step works on.
#pragma once

#include "feature_pool.h"
#include "generate.h"
#include "prefix.h"
#include "rng.h"

typedef struct {
    bool busy, attached;
    uint64_t order;               // requests that came earlier go first
    int64_t n_prompt, n, max_new; // tokens so far: prompt and answer
    int64_t done;                 // of them in the cache
    int32_t *ids;                 // (n_prompt + max_new)
    rv_row_key *keys;             // (n_prompt + max_new)
    int32_t *place;               // (n_prompt) image x image_rows + its row, or -1
    rv_place *at;                 // (n_prompt + max_new) where tokens stand, drawn ones included
    int32_t *table;               // cache blocks
    int64_t n_blocks;
    rv_view *images;
    uint64_t (*image_key)[2];
    int32_t *ends; // eos ids, then stop ids
    int64_t n_eos, n_ends;
    rv_sample how;
    int32_t *seen; // (n_prompt + max_new) with a repetition penalty: distinct ids, ascending
    rv_rng stream;
    float *logp, *filtered; // (max_new)
    rv_answer answer;
    int64_t take; // rows of this step
} rv_slot;

struct rv_generator {
    rv_vlm *m;
    const rv_backend *be;
    rv_ctx *ctx;
    rv_generator_options o;
    rv_prefix prefix;
    uint64_t epoch, order, step;
    rv_slot *slots;
    bool value_head;
    int64_t vocab, width, image_rows; // image_rows: the most of one image

    rv_features features;
    rv_dev feature_rows; // (features.rows, C)

    rv_dev logits, hidden; // (slots, V), (slots, C)
    int32_t *feature_row;  // (chunk)
    rv_extend *seqs;       // (slots)
    int *who;              // (slots) slot of each sequence
    rv_sample *how;
    rv_drawn *drawn;
    float *values;
    rv_generator_stats stats;
};

enum { RV_N_ENCODE = 8 }; // images that are encoded in one call

/// Cache blocks that hold so many tokens.
static inline int64_t rv_blocks_for(int64_t tokens) {
    return (tokens + RV_KV_BLOCK - 1) / RV_KV_BLOCK;
}

/// Notes an id of the prompt or the answer for the repetition penalty.
void rv_slot_see(rv_slot *s, int32_t id);

/// Gives a slot's blocks back, the last ones first, so that beginnings outlive ends.
void rv_slot_release(rv_generator *g, rv_slot *s);
