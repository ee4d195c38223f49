// positions.h - where a sequence's tokens stand, and the angles that turn queries and keys there.
//
// Most decoders count tokens. With M-RoPE (Wang et al. 2024, "Qwen2-VL", section 2.1) a token has
// three indices - time, row, column - and each rotary frequency turns by one of them: arch.mrope
// says how many by which. A text token's three are equal; the rows of an image share one beginning,
// and the text behind it goes on at the largest index + 1.
#pragma once

#include "vlm.h"

/// Fills the places of the `n` tokens of a sequence that begins at 0 and returns the index at which
/// the next token stands. Without M-RoPE every token stands at its index. With it, runs of
/// arch.image_token take the rows of `*views` in order (all of them are there, each view's in one
/// run), and `*views` moves past those used.
int32_t rv_places(rv_place *out, const rv_arch *a, const int32_t *ids, int64_t n,
                  const rv_view **views);

/// Refuses numbers that make no rotary embedding. Errors: RV_EARG.
rv_status rv_rotary_check(const rv_arch_text *t, rv_err *e);

/// Fills the table of angles: (positions, D/2, 2) cos and sin.
void rv_rotary_table(const rv_arch_text *t, float *out, int64_t positions);

/// A token's row of angles consists of so many equal pieces, each of one axis; 1 without M-RoPE.
int rv_rotary_pieces(const rv_arch_text *t);

/// Writes which pieces of the table, seen as rows of D / pieces numbers, make the angles of a
/// token: `pieces` indices.
void rv_rotary_rows(const rv_arch_text *t, int32_t *out, rv_place at);
