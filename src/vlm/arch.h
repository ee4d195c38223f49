// arch.h - the numbers and switches that make a vision-language model, filled from a descriptor in
// Lua.
//
// A descriptor (models/FAMILY.lua) reads config.json and gives these fields by name; C never asks
// for a family's name. A new family that needs a new block adds a switch here and a file beside it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "backend.h"

typedef struct {
    int image_size, patch; // pixels; (image_size / patch)^2 patches
    int merge;             // merge x merge patches become one row of features; 0 is 1
    int width, layers, heads,
        mlp; // layers: the ones that are run (feature layer -2 leaves the last out)
    rv_act act;
    float eps;
    bool class_token; // a learned row in front (CLIP)
    bool patch_bias;
    bool pre_norm;   // LayerNorm after the embedding (CLIP's pre_layrnorm)
    bool post_norm;  // LayerNorm after the last layer (SigLIP)
    bool drop_class; // strategy "default": the class row is left out of the features
} rv_arch_vision;

typedef struct {
    int in, hidden, out; // linear_1 (hidden, in), act, linear_2 (out, hidden)
    rv_act act;
    bool bias;
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
    int image_token;  // id whose rows the features replace
    int image_tokens; // rows per image
} rv_arch;
