// bpe.h - byte-pair encoding of one piece of text, as Hugging Face's tokenizers do it.
//
// A piece becomes one symbol per character (byte-level: per byte); then, as long as an adjacent
// pair stands in the merge table, the pair of lowest rank merges, the leftmost first. Linked
// symbols and a heap keep that at O(n log n) for a piece of any length.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpe_seams.h"
#include "err.h"
#include "vocab.h"

// A growing list of token ids.
typedef struct {
    int32_t *p;
    int64_t n, cap;
    bool failed; // out of memory: takes nothing more
} rv_ids;
void rv_ids_add(rv_ids *ids, int32_t id);
void rv_ids_free(rv_ids *ids);

typedef struct {
    const rv_vocab *vocab;
    bool byte_level;          // symbols are bytes, written in the vocabulary by rv_byte_char
    bool byte_fallback;       // an unknown character becomes its bytes <0xXX>, where all exist
    bool fuse_unk;            // neighbouring unknown characters become one `unk`
    bool ignore_merges;       // a piece that is a token is that token
    int32_t unk;              // -1: unknown characters vanish
    int32_t byte_id[256];     // byte-level: id of each byte's character, or -1
    int32_t fallback_id[256]; // id of <0xXX>, or -1
    struct rv_merge *merge;   // open-addressed by pair
    int64_t n_merge_slots;
    bool cuts;                  // pieces are first cut where no merge can join
    rv_seams seams;             // where that is
    struct rv_bpe_cache *cache; // short pieces seen lately
    struct rv_symbol *symbol;   // scratch
    struct rv_heap_entry *heap;
    int64_t symbol_cap, heap_cap, heap_n;
    rv_bytes scratch;
} rv_bpe;

/// Reads the model object of a tokenizer.json, whose tokens are in `vocab` (borrowed).
/// Errors: RV_EFORMAT (a broken list of merges, naming the entry), RV_EUNSUPPORTED (a model or an
/// option that is not known), RV_ENOMEM.
rv_status rv_bpe_read(rv_bpe *b, const json_t *model, const rv_vocab *vocab, rv_err *e);

/// Finds out where pieces can be cut, once `byte_level` is set. Errors: RV_ENOMEM.
rv_status rv_bpe_cut_pieces(rv_bpe *b, rv_err *e);

/// Appends the ids of a piece (valid UTF-8). Errors: RV_ENOMEM, RV_EINTERRUPT.
rv_status rv_bpe_encode(rv_bpe *b, const char *piece, size_t n, rv_ids *out, rv_err *e);

void rv_bpe_free(rv_bpe *b);
