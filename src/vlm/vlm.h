// vlm.h - the model: parameters, scoring with gradients, cached generation steps, the optimiser
// step.
//
// One rv_vlm is one model on one backend. Scoring a packed batch and extending cached sequences run
// the same kernels in the same order, so their numbers have the same bits on the CPU.
//
// A sequence is its ids; an id equal to arch.image_token stands for one row of image features, in
// order. Letters: N sequences, R packed rows, A asked (position, id) pairs, C width of the decoder,
// K numbers of a patch.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "arch.h"
#include "backend.h"
#include "err.h"

typedef struct rv_vlm rv_vlm;

typedef enum {
    RV_PART_VISION,
    RV_PART_CONNECTOR,
    RV_PART_LANGUAGE,
    RV_PART_HEAD,
    RV_PART_VALUE,
    RV_NPARTS
} rv_part;

// One parameter tensor by role. Roles: "vision.class", "vision.patch.weight", "vision.position",
// "vision.patch.bias", "vision.pre_norm.{weight,bias}",
// "vision.layers.{i}.{norm1,norm2}.{weight,bias}",
// "vision.layers.{i}.{q,k,v,qkv,o,fc1,fc2,gate,up,down}.{weight,bias}", "vision.post_norm.*",
// "connector.norm.{weight,bias}", "connector.{0,1}.{weight,bias}", "connector.newline",
// "text.embed.weight", "text.layers.{i}.{norm1,norm2}.weight",
// "text.layers.{i}.{q,k,v,o,gate,up,down}.{weight,bias}", "text.norm.weight", "text.head.weight",
// "value.{0,2,4}.{weight,bias}". (Lua's descriptor maps roles to the names in the checkpoint's
// files; layers count from 0. The patch embedding is a matrix (W, K), whatever rank it has there.)
typedef struct {
    char role[64];
    rv_part part;
    int ndim;
    int64_t dim[4];
    bool matrix; // a prepared weight (N, K); the others are fp32 vectors
    bool linear; // a linear layer's weight: LoRA may stand beside it
    bool trained;
} rv_param_info;

typedef struct {
    rv_dtype store; // of matrices: RV_F32, RV_BF16, RV_F16
    bool round_x;   // --dtype bf16
    rv_dtype base;  // of the frozen towers' linear layers: RV_I8, RV_NF4, or RV_F32: as store
    bool train[RV_NPARTS]; // what learns (all weights of the part)
    bool value_head;       // make the value head
    bool recompute;        // keep only each layer's input for the backward pass
    int64_t max_rows;      // rows of one micro-batch; longer batches are walked in pieces
    int64_t image_rows;    // image tokens of one micro-batch; 0: as many as rows
    int64_t max_tokens;    // the longest cached sequence; 0: all that the cache can hold
    int64_t kv_blocks;     // cache blocks (64 tokens each) for generation; 0: none
} rv_vlm_options;

// Bytes by what they are for; activations are those that have no place in the cache's memory, which
// they share. `host` is what stays with the CPU where the device has memory of its
// own: numbers of rows, logits on their way out.
typedef struct {
    size_t weights, adapters, gradients, optimizer, activations, kv_cache, scratch, host, total;
} rv_plan;

/// Counts the bytes that a model needs, without taking any.
rv_status rv_vlm_plan(rv_plan *out, const rv_backend *be, const rv_arch *arch,
                      const rv_vlm_options *o, rv_err *e);

/// Makes a model: its list of parameters. The memory, all of it, is taken by the first call that
/// needs it, when all adapters are known; parameters are zero until set.
/// Errors: RV_EARG (an arch that makes no sense, naming the field), RV_ENOMEM.
rv_status rv_vlm_new(rv_vlm **out, const rv_backend *be, rv_ctx *ctx, const rv_arch *arch,
                     const rv_vlm_options *o, rv_err *e);
void rv_vlm_free(rv_vlm *m);
/// Counts the bytes that this model takes or will take, adapters included.
void rv_vlm_memory(rv_vlm *m, rv_plan *out);
const rv_arch *rv_vlm_arch(const rv_vlm *m);

int64_t rv_vlm_param_count(const rv_vlm *m);
const rv_param_info *rv_vlm_param(const rv_vlm *m, int64_t i);
int64_t rv_vlm_param_find(const rv_vlm *m, const char *role); // -1: none

typedef enum { RV_OF_PARAM, RV_OF_GRAD, RV_OF_ADAM_M, RV_OF_ADAM_V } rv_of;
/// Sets (reads) a parameter, its gradient or its optimiser state from (to) row-major host memory.
rv_status rv_vlm_param_set(rv_vlm *m, int64_t i, rv_of what, const void *data, rv_dtype t,
                           rv_err *e);
rv_status rv_vlm_param_get(const rv_vlm *m, int64_t i, rv_of what, float *data, rv_err *e);

// ---- LoRA: pairs A (r, in), B (out, r) beside linear weights ----
enum { RV_ADAPTERS = 4 }; // that may stand side by side

typedef struct {
    int r;
    float scale;
    bool bias; // B has a bias (out), scaled with it
    bool train;
} rv_lora_spec;

/// Adds one layer of adapter number `adapter` (from 0) beside linear parameter `i`: A, B and B's
/// bias become parameters "ROLE.lora_a", "ROLE.lora_b", "ROLE.lora_bias" (of adapter 1 on with
/// ".1" behind), part of the weight's part. All are added before the first parameter is set.
rv_status rv_vlm_lora_add(rv_vlm *m, int adapter, int64_t i, const rv_lora_spec *o, rv_err *e);
/// Puts one adapter to use, or none (-1: the base model). A new model uses adapter 0.
void rv_vlm_lora_use(rv_vlm *m, int adapter);
int rv_vlm_lora_used(const rv_vlm *m);
/// Lets a single parameter learn, of a part that does not; before the first parameter is set.
rv_status rv_vlm_train(rv_vlm *m, int64_t i, rv_err *e);

// ---- images ----
// What the processor makes of one image of a prompt: `tiles` grids of h x w patches. Patches come
// tile by tile; inside a tile merge blocks in raster order, inside a block row by row; inside a
// patch (channel, time, row, column). A tile gives (h / merge) (w / merge) feature rows, blocks in
// raster order, behind its class row where that is kept.
typedef struct {
    const float *patches; // (tiles h w, K) normalised
    int32_t tiles, h, w;
    const int32_t *order; // (rows) feature row of this view that each image token takes, -1: the
                          // newline row; NULL: 0, 1, 2, ...
    int64_t rows;         // image tokens of this view in the sequence
    uint64_t key[2];      // names the patches and the order, in all calls; zeros: nothing does
} rv_view;

/// Numbers of one patch: K.
int64_t rv_patch_numbers(const rv_arch *a);
/// Feature rows that a view gives before `order` picks from them.
int64_t rv_view_features(const rv_arch *a, const rv_view *v);
/// Refuses a view that the model can't see. Errors: RV_ESHAPE, without a name of the view in front.
rv_status rv_view_check(const rv_arch *a, const rv_view *v, rv_err *e);

// ---- scoring ----
// Where a token stands for the rotary embedding: time, row, column; equal for text.
typedef struct {
    int32_t axis[3];
} rv_place;

typedef struct {
    const int32_t *ids; // (R) all sequences behind one another (prompt and answer)
    const int32_t *cu;  // (N + 1) first row of each sequence
    int64_t n;
    const rv_view *images; // (n_images) in the order of their tokens; a view's may stand apart
    int64_t n_images;
    const int32_t *ask_row; // (A) row whose next-token distribution is asked, ascending
    const int32_t *ask_id;  // (A) the id whose log-probability is wanted
    int64_t n_ask;
    const int32_t *value_row; // (n_value) rows whose value is asked
    int64_t n_value;
    const int32_t *hidden_row; // (n_hidden) rows whose hidden state (after the last norm) is asked
    int64_t n_hidden;
    float temperature; // log-probabilities of softmax(logits / temperature)
} rv_batch;

typedef struct {    // host memory of the caller; any may be NULL
    float *logp;    // (A)
    float *entropy; // (A)
    float *value;   // (n_value)
    float *hidden;  // (n_hidden, C)
    float *logits;  // (A, V), untempered: for tools
} rv_scores;

/// Scores a batch. With `keep`, keeps what rv_vlm_backward needs: the batch's arrays must live
/// until then, or until it is forgotten; one kept score may be live at a time. Views with the same
/// patches are looked at once where the tower learns nothing, views with the same key once in many
/// calls where nothing below the decoder does. Errors: RV_EARG, RV_ESHAPE (image rows and tokens
/// that do not match, naming the sequence), RV_EINTERRUPT.
rv_status rv_vlm_score(rv_vlm *m, const rv_batch *b, bool keep, const rv_scores *out, rv_err *e);

/// Adds to every trained parameter's gradient that of sum g.x over the outputs of the kept score,
/// which ends with it (also when it fails: then gradients are partly added). `g` holds upstream
/// gradients (NULL: zero; logits unused). `value_grad` scales the value's gradient where it enters
/// the backbone (the value head itself learns in full).
rv_status rv_vlm_backward(rv_vlm *m, const rv_scores *g, float value_grad, rv_err *e);
/// Drops a kept score.
void rv_vlm_forget(rv_vlm *m);

void rv_vlm_zero_grad(rv_vlm *m);
/// Global 2-norm of all trained gradients (fp64 sums).
double rv_vlm_grad_norm(rv_vlm *m);
/// One AdamW step on all trained parameters, weights refreshed. The value head may have its own
/// rate. Weight decay acts on every trained parameter, as in torch. Errors: RV_ENUMERIC when a
/// gradient is not finite (nothing changes).
rv_status rv_vlm_adamw(rv_vlm *m, const rv_adamw *how, float value_lr, rv_err *e);
/// A number that changes whenever weights change, and with the adapter in use: cached keys of
/// another epoch are stale. A kept score uses the cache's memory: that is a new epoch too.
uint64_t rv_vlm_epoch(const rv_vlm *m);

// ---- cached sequences ----
/// Features of views, in the order of their tokens: (rows, C) each, one behind the other, written
/// to `out` (device). Errors: RV_EARG, RV_ESHAPE (a view that the model can't see), RV_EINTERRUPT.
rv_status rv_vlm_encode(rv_vlm *m, rv_dev out, const rv_view *views, int64_t n, rv_err *e);

typedef struct {
    const int32_t *ids;     // (n) new tokens
    const int32_t *feature; // (n) row of `features` that replaces the token, or -1; NULL: all text
    int64_t n, pos0;        // the first new token's position = tokens cached before
    const int32_t *table;   // cache blocks of the sequence, enough for pos0 + n tokens
    const rv_place *places; // (n) with M-RoPE; NULL: pos0, pos0 + 1, ...
} rv_extend;

/// Runs new tokens of several sequences through the decoder and the cache. `features` (device)
/// holds image rows. logits (n_seq, V) and hidden (n_seq, C), device, receive each sequence's last
/// row; either may be none.
rv_status rv_vlm_extend(rv_vlm *m, rv_dev logits, rv_dev hidden, rv_dev features,
                        const rv_extend *seqs, int64_t n_seq, rv_err *e);
/// Values (host) of rows of hidden states: the same bits as scoring gives.
rv_status rv_vlm_value(rv_vlm *m, float *out, rv_dev hidden, int64_t n, rv_err *e);
/// Copies cache block `from` to block `to` in all layers (copy on write of shared prefixes).
void rv_vlm_kv_copy(rv_vlm *m, int32_t to, int32_t from);

const rv_backend *rv_vlm_backend(const rv_vlm *m);
rv_ctx *rv_vlm_ctx(const rv_vlm *m);
