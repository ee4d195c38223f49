// generate.h - continuous batching: requests that start, finish and join at any token.
//
// A generator owns `slots` places. Each step runs one token of every request that decodes and a
// piece of the prompts of those that have just come, all in one packed call. Prompts that begin
// alike share their part of the cache (prefix.h). A token is drawn with the number that stream
// (seed, sample, episode, step) holds at its index, so answers do not depend on what else runs.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vlm.h"

typedef struct rv_generator rv_generator;

enum { RV_MAX_BANNED = 4 };

typedef struct {
    int slots;
    int64_t max_tokens;            // prompt and answer of one request
    int64_t chunk;                 // new rows of one step, at the least `slots`
    int64_t blocks;                // cache blocks of the model (rv_vlm_options.kv_blocks)
    bool share;                    // prompts share cached prefixes
    int32_t banned[RV_MAX_BANNED]; // ids that can't be drawn: those that features replace
    int64_t n_banned;
} rv_generator_options;

typedef struct {
    const int32_t *ids; // (n) the prompt, placeholders expanded
    int64_t n;
    const rv_view *images;          // (n_images); their arrays live until the request is freed
    const uint64_t (*image_key)[2]; // (n_images) hash of each image and of how it was made a view
    int64_t n_images;
    int64_t max_new;
    rv_sample how; // u and seen are not used: a penalty sees the prompt and the answer so far
    const int32_t *eos, *stop;
    int64_t n_eos, n_stop;
    uint64_t seed, episode, step;
} rv_request;

typedef enum { RV_RUNNING, RV_FINISH_EOS, RV_FINISH_STOP, RV_FINISH_LENGTH } rv_finish;

// A request's answer so far.
typedef struct {
    const int32_t *ids;
    const float *logp, *filtered; // one per id
    int64_t n;
    float value; // at the last prompt token, where the model has a value head
    rv_finish finish;
    int64_t cached; // prompt tokens that were not computed again
} rv_answer;

// What generation did since it was made.
typedef struct {
    int64_t prompt_rows, cached_rows, answer_rows, images, steps;
} rv_generator_stats;

/// Bytes that a generator takes beside its model's cache.
size_t rv_generator_bytes(const rv_arch *a, const rv_generator_options *o);

/// Makes a generator on a model, which must outlive it. Errors: RV_EARG (too few blocks),
/// RV_ENOMEM.
rv_status rv_generator_new(rv_generator **out, rv_vlm *m, const rv_generator_options *o, rv_err *e);
/// Frees it; without `model`, the model is gone and its device's memory with it.
void rv_generator_free(rv_generator *g, bool model);

/// Slots without a request.
int rv_generator_vacant(const rv_generator *g);
/// Starts a request in a vacant slot; `*slot` names it. Everything but the arrays of images is
/// copied. Errors: RV_EARG (no vacant slot; longer than max_tokens; an id outside the vocabulary),
/// RV_ESHAPE (image placeholders and images do not match).
rv_status rv_generator_submit(rv_generator *g, const rv_request *r, int *slot, rv_err *e);
/// Runs one step. Errors: RV_EARG when the weights changed under running requests, RV_EINTERRUPT
/// (nothing is lost: step again), RV_ENUMERIC (NaN in the logits).
rv_status rv_generator_step(rv_generator *g, rv_err *e);
/// The answer of a slot's request; NULL for a vacant slot. Valid until the next step or free.
const rv_answer *rv_generator_answer(const rv_generator *g, int slot);
/// Ends a request, finished or not, and makes its slot vacant. Its cache blocks stay for others.
void rv_generator_vacate(rv_generator *g, int slot);
rv_generator_stats rv_generator_count(const rv_generator *g);
