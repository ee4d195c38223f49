// prefix.h - which cache blocks hold what: the pool of 64-token blocks and the prefixes they share.
//
// A block's identity is the chain of blocks before it and the exact keys of its rows, so a block
// can be used by every sequence that begins alike. Full blocks are shared by reference, the rows of
// a partly equal block are copied. Blocks that nobody uses stay until their place is needed, the
// one that was used longest ago first.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "backend.h"
#include "err.h"

// What stands in one row: a token's id {id, 0}, or row r of an image {hash + r, hash} (never 0).
typedef struct {
    uint64_t a, b;
} rv_row_key;

typedef struct {
    uint64_t serial, parent; // 0: the block is empty; the serial of the block before, 1 for none
    uint64_t used;           // when it was given back
    int refs, filled;
    int32_t next; // the next block with this parent's hash; -1: none
    rv_row_key keys[RV_KV_BLOCK];
} rv_prefix_block;

typedef struct {
    rv_prefix_block *blocks;
    int32_t *heads; // by hash of the parent
    int64_t n, n_heads;
    uint64_t serial, clock;
} rv_prefix;

enum { RV_PREFIX_ROOT = 1 };

rv_status rv_prefix_new(rv_prefix *p, int64_t blocks, rv_err *e);
void rv_prefix_free(rv_prefix *p);

/// Forgets every block: the weights have changed. No block may be in use.
void rv_prefix_clear(rv_prefix *p);

/// Finds the block behind `parent` that begins with most of the `n` rows wanted. Returns the number
/// of equal rows (0: none) and the block.
int64_t rv_prefix_find(const rv_prefix *p, uint64_t parent, const rv_row_key *keys, int64_t n,
                       int32_t *block);

/// Takes a block for rows behind `parent`, throwing out the one that was used longest ago; -1 when
/// all are in use.
int32_t rv_prefix_take(rv_prefix *p, uint64_t parent);

/// Uses a block once more; gives one use back.
void rv_prefix_hold(rv_prefix *p, int32_t block);
void rv_prefix_release(rv_prefix *p, int32_t block);
