// model.h - what the files of the model share: parameters, towers of blocks, memory, one pass.
//
// A tower is a stack of transformer blocks; the vision tower and the decoder are both towers and
// run the same block code (block.c). A "piece" is a micro-batch: whole sequences of at most
// max_rows rows.
#pragma once

#include "feature_pool.h"
#include "vlm.h"

// Device memory handed out in order. Laid out twice by the same code: once from 0 to count, once
// from the memory that was then taken.
typedef struct {
    uintptr_t base;
    size_t used, most;
} rv_arena;

typedef struct rv_layer rv_layer;

// An adapter beside a weight, by parameter numbers; a 0: none.
typedef struct {
    int64_t a, b, bias; // bias 0: none
    float scale;
} rv_adapter;

typedef struct {
    rv_param_info info;
    int stage;       // its place on the way from the pixels to the outputs
    rv_layer *layer; // the linear layer whose weight it is, or NULL
    rv_weight w;     // matrices
    rv_dev value;    // vectors: the values; trained matrices: the fp32 master (w.fwd when F32)
    rv_dev grad, m, v;
    int64_t elems; // of value, grad, m, v
    rv_adapter lora[RV_ADAPTERS];
} rv_param;

// A linear layer, by parameter numbers; -1: none.
struct rv_layer {
    int64_t weight, bias;
};

// A norm: LayerNorm with a bias, RMSNorm without.
typedef struct {
    int64_t weight, bias;
} rv_norm;

enum { RV_Q, RV_K, RV_V, RV_O, RV_GATE, RV_UP, RV_DOWN, RV_NLINEAR };

// Rows of an MLP at a time; even, as dW of bf16 takes rows two by two.
enum { RV_MLP_ROWS = 512 };

typedef struct {
    int stage;
    rv_norm norm1, norm2;
    rv_layer linear[RV_NLINEAR]; // plain MLPs have no gate: down(act(up(x)))
} rv_block;

// What a block's backward pass reads. Rows R (after the attention: the picked ones).
typedef struct {
    rv_dev q, k, v, o, lse;    // (R, H D), (R, G D) twice, (R, H D), (R, H); fused: strided
    rv_dev mid;                // (R, C) after the attention's residual
    rv_dev gate, up;           // (R, F); plain: up is the value before the activation
    rv_dev lora_h[RV_NLINEAR]; // (R, r)
} rv_saved;

typedef struct {
    int64_t width, mlp, rows; // rows: the most that one pass has
    rv_attn attn;
    int64_t q_stride, kv_stride; // of q, k, v and their gradients, in elements
    float eps;
    rv_act act;
    bool gated, rms, fused; // fused: q, k, v are one linear layer, RV_Q, and lie in one row
    bool windows;           // blocks attend in windows but for those of `full`, bit by bit
    uint64_t full;
    int n_blocks, n_x, n_saved;
    int64_t rank[RV_NLINEAR]; // the largest of the adapters beside a layer
    rv_block *blocks;
    rv_dev *x; // n_x inputs of blocks (rows, C): all blocks' where they are kept, else two
    rv_saved *saved;
    // shared by all blocks
    rv_dev norm, inner;           // (R, C), (slice, F)
    rv_dev pick, angle;           // picked rows: (R, max(C, H D)), (R, D)
    rv_dev out;                   // (R, C): the last block's output
    rv_dev dx, dx2, dn;           // (R, C)
    rv_dev dq, dk, dv, d_o;       // (R, H D), (R, G D) twice, (R, H D)
    rv_dev dinner, dgate, lora_g; // (slice, F) twice, (R, r)
} rv_tower;

// One run of a tower over packed rows.
typedef struct {
    int64_t rows;
    const int32_t *cu; // (n_seq + 1)
    int64_t n_seq;
    const int32_t *window_cu; // (n_windows + 1) where the tower attends in windows
    int64_t n_windows;
    rv_dev angle;        // (rows, D/2, 2) cos and sin; none: no rotary embedding
    const int32_t *pick; // rows whose output is wanted of the last block; NULL: all
    int64_t n_pick;
    // The rows that ask in the last block: of each sequence those from its first picked one on.
    const int32_t *ask, *ask_cu; // (n_ask); (n_seq + 1) where a sequence's begin among them
    const int32_t *ask_pick;     // (n_pick) where the picked ones stand among them
    int64_t n_ask;
    bool keep;
    // on the cache, instead of cu: where new rows go, and who asks (rows as picked)
    const rv_attn_seq *write, *read;
    int64_t n_read;
    rv_dev pool; // of block 0
    size_t pool_bytes;
} rv_pass;

// A grid of patches that the vision tower looks at.
typedef struct {
    const float *patches;
    int32_t together; // tiles of its view, on the first of them; else 0
    int32_t h, w;
    int64_t feature0; // its first feature row, counted over the list of tiles
} rv_tile;

// A micro-batch of a batch.
typedef struct {
    int64_t seq0, n_seq, row0, rows, image0, n_images, image_rows, ask0, n_ask;
} rv_piece;

enum { RV_HEAD_ROWS = 256 }; // the most rows of logits at a time

struct rv_vlm {
    const rv_backend *be;
    rv_ctx *ctx;
    rv_arch arch;
    rv_vlm_options o;
    bool ready;
    int lora;           // the adapter in use; -1: none
    bool adapted_below; // some adapter stands below the decoder
    uint64_t epoch;

    rv_param *params;
    int64_t n_params, cap_params;
    int floor; // the lowest stage with a trained parameter of the backbone; INT_MAX: none
    rv_tower vision, text;
    // parameter numbers of what stands outside the towers; -1: none
    int64_t class_row, position, newline, embed;
    rv_layer patch, connector[2], head, value[3];
    rv_norm pre_norm, post_norm, merge_norm, last_norm;
    int stage_connector, stage_embed, stage_head;

    rv_plan plan;
    rv_dev memory[5];  // weights, gradients, optimiser, activations, cache and what is kept
    size_t kept_bytes; // for the backward pass, in the cache's memory
    bool kv_used;      // that memory holds the cache
    size_t grad_bytes;
    int64_t positions;  // that have angles
    int64_t image_rows; // the most image rows of a piece
    int64_t head_rows;  // rows of logits at a time
    rv_dev angles;      // (positions, D/2, 2)
    int angle_pieces;   // of a row of angles, each of one axis
    rv_dev angle;       // (max_rows, D/2, 2)
    rv_dev kv;          // blocks of decoder layer 0, then of layer 1, ...
    size_t kv_layer_bytes;

    // activations outside the towers
    rv_dev embedded;                    // (vision rows, W) before the pre-norm
    rv_dev patches, patch_out;          // (vision rows, K), (vision rows, W): in vision.inner
    rv_dev vision_angles, vision_angle; // (sides, D/4, 2), (vision rows, D/2, 2)
    rv_dev seen, merged;                // (image rows, in) as the tower gives them, normalised
    rv_dev connector_pre, connector_h;  // (image rows, hidden)
    rv_dev features;                    // (image rows, C)
    rv_dev known_rows;                  // (known.rows, C): features of views seen before
    rv_dev dfeatures, dconnector, dseen, dmerged, connector_lora_h[2], connector_lora_g[2];
    rv_dev hidden;                   // (max_rows, C): the picked rows after the last norm
    rv_dev rows_h, drows_h;          // (head_rows, C)
    rv_dev logits;                   // (head_rows, V)
    rv_dev head_lora_h, head_lora_g; // (head_rows, r)
    rv_dev lora_bias;                // (outputs): of a layer whose adapter has one
    rv_dev logp, entropy, lse, g_logp, g_entropy; // (head_rows)
    rv_dev value_h[2], value_out, dvalue_h[2];    // (head_rows, h/4), (.., h/8), (head_rows)

    // host arrays of max_rows (+ 1) numbers
    int32_t *cu, *ids, *image_row, *pick, *rank, *ask, *ask_cu, *ask_pick;
    int32_t *angle_row;    // (max_rows, pieces): which rows of the table of angles; see positions.h
    rv_place *places;      // (max_rows)
    int32_t *vision_index; // of the vision tower's rows, two each
    int32_t *place;        // (vision rows) tower row of each patch of a run
    int32_t *vision_cu, *window_cu; // (vision rows + 1) where tiles and windows begin
    int32_t *source;                // (image rows) feature row of each image row; -1: the newline
    int32_t *take, *shown;          // image rows
    rv_view *fresh;                 // views whose features are not known
    rv_features known;              // which rows of known_rows hold which view
    uint64_t known_step;
    rv_tile *tiles; // what is looked at for them
    int64_t n_tiles, cap_tiles, n_source;
    int64_t n_pick, n_ask, n_image_rows;
    float *host; // (n_host), at least a row of logits and head_rows rows of hidden states
    int64_t n_host;
    rv_attn_seq *write, *read;
    int64_t n_write;

    rv_piece *pieces;
    int64_t n_pieces, cap_pieces;
    rv_batch kept; // while a kept score is live; its arrays are the caller's
    bool live;
    int kept_lora;
    int64_t resident; // the piece whose activations are there; -1: none
};

// ---- model.c ----
/// Adds a parameter; returns its number.
int64_t rv_param_add(rv_vlm *m, rv_part part, int stage, const char *role, int n,
                     const int64_t *dim);
/// Adds a prepared (n, k) weight; `small`: kept in fp32 unless all arithmetic is bf16.
int64_t rv_param_add_matrix(rv_vlm *m, rv_part part, int stage, const char *role, int64_t n,
                            int64_t k, bool small);

// ---- memory.c ----
/// Takes `n` fp32 elements; whole cache lines.
rv_dev rv_arena_take(rv_arena *a, int64_t n);
rv_dev rv_arena_bytes(rv_arena *a, size_t bytes);
static inline size_t rv_arena_mark(const rv_arena *a) { return a->used; }
static inline void rv_arena_release(rv_arena *a, size_t mark) { a->used = mark; }
/// Gives the cache's memory to what is kept for the backward pass (a new epoch: it is lost), and
/// back.
void rv_vlm_kv_take(rv_vlm *m);
void rv_vlm_kv_give(rv_vlm *m);
/// Takes all memory at the first use, when all adapters are known.
rv_status rv_vlm_ready(rv_vlm *m, rv_err *e);
/// True when the gradient of the input of `stage` is needed.
static inline bool rv_vlm_flows(const rv_vlm *m, int stage) { return m->floor < stage; }

// ---- arch.c ----
/// Refuses numbers that make no model, naming the field. Errors: RV_EARG, RV_EUNSUPPORTED.
rv_status rv_arch_check(const rv_arch *a, rv_err *e);

// ---- positions.c ----
/// Puts the angles of m->places into m->angle.
void rv_gather_angles(rv_vlm *m, int64_t rows);

// ---- view.c ----
/// Rows of the tower, and feature rows, that a tile of h x w patches gives.
int64_t rv_tile_rows(const rv_arch_vision *v, int64_t h, int64_t w);
int64_t rv_tile_features(const rv_arch_vision *v, int64_t h, int64_t w);
/// Row and column of the tile's patch `i`.
void rv_tile_place(const rv_arch_vision *v, int64_t w, int64_t i, int64_t *row, int64_t *col);
/// The learned position of a patch.
int64_t rv_tile_position(const rv_arch_vision *v, int64_t h, int64_t w, int64_t row, int64_t col);
/// Fills (sides, D/4, 2) cos and sin of the rotary angles of a row or a column.
void rv_tile_angles(const rv_arch_vision *v, float *out, int64_t sides);
/// Fills the tower row of each patch when rows lie window by window from `row0` on, and the rows
/// where windows end in cu[1..]. Returns how many windows there are.
int64_t rv_tile_windows(const rv_arch_vision *v, int64_t h, int64_t w, int32_t *place, int32_t *cu,
                        int32_t row0);

// ---- lora.c ----
/// The highest rank and the most outputs with a bias among the adapters beside a weight.
int64_t rv_lora_rank(const rv_vlm *m, const rv_param *w);
int64_t rv_lora_bias(const rv_param *w);

// ---- layer.c ----
void rv_layer_forward(rv_vlm *m, const rv_layer *l, rv_dev y, rv_dev x, int64_t rows, rv_act act,
                      rv_dev pre, rv_dev residual, rv_dev lora_h);
/// Layers l[0..n-1] of the same rows: what rv_layer_forward gives, in one call of the backend.
void rv_layers_forward(rv_vlm *m, const rv_layer *l, int n, const rv_dev *y, rv_dev x, int64_t rows,
                       const rv_dev *lora_h);
/// Fills lora_h alone, as the forward pass does.
void rv_layer_remember(rv_vlm *m, const rv_layer *l, rv_dev x, int64_t rows, rv_dev lora_h);
/// Adds to the trained parameters' gradients and writes (or adds to) dx unless it is none.
void rv_layer_backward(rv_vlm *m, const rv_layer *l, rv_dev dx, bool add, rv_dev dy, rv_dev x,
                       int64_t rows, rv_dev lora_h, rv_dev lora_g);
void rv_norm_forward(rv_vlm *m, const rv_norm *n, rv_dev y, rv_dev x, int64_t rows, int64_t width,
                     float eps);
void rv_norm_backward(rv_vlm *m, const rv_norm *n, rv_dev dx, rv_dev dy, rv_dev x, int64_t rows,
                      int64_t width, float eps, bool add);

// ---- block.c ----
/// Runs all blocks from t->x[0] to t->out; on the cache with nothing picked, the last block only
/// fills the cache. Errors: RV_EINTERRUPT.
rv_status rv_tower_forward(rv_vlm *m, rv_tower *t, const rv_pass *p, rv_err *e);
/// Turns t->dx, the gradient of t->out, into that of the first block's input; stops above the
/// lowest trained stage. Errors: RV_EINTERRUPT.
rv_status rv_tower_backward(rv_vlm *m, rv_tower *t, const rv_pass *p, rv_err *e);

// ---- features.c, connector.c, vision.c ----
/// Puts the features of views, known or computed, to the rows m->image_row of the decoder's input.
/// Errors: RV_EINTERRUPT, RV_ENOMEM.
rv_status rv_features_show(rv_vlm *m, const rv_view *views, int64_t n, bool keep, rv_err *e);
/// Forgets what is known of views: a weight below the decoder has changed.
void rv_features_forget(rv_vlm *m);
/// Computes the features of views, image row by image row, to m->features. Errors: RV_EINTERRUPT,
/// RV_ENOMEM.
rv_status rv_features_forward(rv_vlm *m, const rv_view *views, int64_t n, bool keep, rv_err *e);
/// From m->dfeatures down to the lowest trained stage.
rv_status rv_features_backward(rv_vlm *m, const rv_view *views, int64_t n, rv_err *e);
/// Lists the tiles to look at and the feature row that each image row takes of them.
rv_status rv_vision_plan(rv_vlm *m, const rv_view *views, int64_t n, rv_err *e);
/// Writes the tower's rows of the planned tiles to the image rows (n_source, in) that take them.
rv_status rv_vision_forward(rv_vlm *m, rv_dev out, bool keep, rv_err *e);
rv_status rv_vision_backward(rv_vlm *m, rv_dev dout, rv_err *e);

// ---- head.c ----
/// Outputs of the asked rows of a piece from m->hidden.
void rv_head_forward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *out);
/// Writes the gradient of m->hidden to dh and adds to the heads' gradients.
void rv_head_backward(rv_vlm *m, const rv_batch *b, const rv_piece *p, const rv_scores *g,
                      float value_grad, rv_dev dh);
/// Logits (n, V) of rows of hidden states.
void rv_head_logits(rv_vlm *m, rv_dev logits, rv_dev hidden, int64_t n);
/// Values (host) of rows of hidden states.
void rv_head_values(rv_vlm *m, float *out, rv_dev hidden, int64_t n);
