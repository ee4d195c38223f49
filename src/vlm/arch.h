// arch.h - the numbers and switches that make a vision-language model, filled from a descriptor in
// Lua.
//
// A descriptor (models/FAMILY.lua) reads config.json and gives these fields by name; C never asks
// for a family's name. A new family that needs a new block adds a switch here and a file beside it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "backend.h"

enum { RV_MAX_VISION_LAYERS = 64 }; // of a tower with windows: bits of `full`

typedef struct {
    int image_size;           // pixels of the only size that a tile may have; 0: any
    int patch, temporal;      // a patch is 3 x temporal x patch x patch numbers
    int merge;                // merge x merge patches give one feature row
    int width, layers, heads; // layers: those that are run (feature layer -2 leaves one out)
    int mlp;
    rv_act act;
    float eps;
    bool rms;         // RMSNorm instead of LayerNorm
    bool gated;       // down(act(gate) * up) instead of fc2(act(fc1)); act is silu
    bool fused_qkv;   // one linear layer (3 width, width)
    bool class_token; // a learned row in front (CLIP)
    bool patch_bias;
    bool pre_norm;    // a norm after the embedding (CLIP's pre_layrnorm)
    bool post_norm;   // a norm after the last layer (SigLIP)
    bool drop_class;  // strategy "default": the class row is left out of the features
    int positions;    // side of the square of learned positions, behind the class row's; 0: none
    float rope_theta; // rotary angles of a patch's row and column; 0: none
    int window;       // attention inside windows of so many merged units a side; 0: none
    uint64_t full;    // with windows, bit i: layer i sees its whole tile
} rv_arch_vision;

typedef enum { RV_NORM_NONE, RV_NORM_LAYER, RV_NORM_RMS } rv_norm_kind;

typedef struct {
    rv_norm_kind norm;   // of each of the tower's rows before they are merged
    float eps;           // of the norm
    int in, hidden, out; // linear_1 (hidden, in), act, linear_2 (out, hidden); hidden 0: one linear
    rv_act act;
    bool bias;
    bool newline; // a learned row (out) that order -1 puts among an image's rows
} rv_arch_connector;

typedef enum { RV_ROPE_PLAIN, RV_ROPE_LINEAR, RV_ROPE_LLAMA3, RV_ROPE_YARN } rv_rope_kind;

typedef struct {
    int vocab, width, layers, heads, kv_heads, head_dim, mlp;
    rv_act act; // of the gate: silu
    float eps;
    float rope_theta;
    rv_rope_kind rope;
    float rope_factor;                          // of all scalings
    float rope_low_freq, rope_high_freq;        // llama3
    float rope_fast, rope_slow, rope_attention; // yarn: beta_fast, beta_slow, attention_factor
    int rope_original_positions;                // llama3, yarn
    int mrope[3]; // frequencies that turn by time, row, column; all 0: by the token's index
    bool qkv_bias, o_bias, mlp_bias, head_bias;
    bool tied;  // the head is the embedding
    int window; // sliding window, 0: none
    int max_positions;
} rv_arch_text;

typedef struct {
    rv_arch_vision vision;
    rv_arch_connector connector;
    rv_arch_text text;
    int image_token; // id whose rows the features replace
    // the largest view to be expected, for the plan of the memory: larger ones are refused
    int max_view_patches; // of all its tiles
    int max_view_rows;    // image tokens
} rv_arch;
