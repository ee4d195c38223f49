// feature_pool.h - which rows of the feature pool hold which image.
//
// The pool is a ring: an image takes the rows behind the one before, and the oldest images go when
// their rows are needed. An image of the running step stays.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "err.h"

typedef struct {
    uint64_t key[2];
    uint64_t used; // the last step that needed it; 0: the rows hold nothing
    int64_t row0, rows;
} rv_feature;

typedef struct {
    rv_feature *list; // a ring of `cap` places, the oldest image first
    int64_t cap, first, n;
    int64_t rows, head; // of the pool; where the next image begins
} rv_features;

rv_status rv_features_new(rv_features *f, int64_t rows, rv_err *e);
void rv_features_free(rv_features *f);
/// Forgets every image: the weights have changed.
void rv_features_clear(rv_features *f);

/// Finds an image; NULL: not there.
rv_feature *rv_features_find(rv_features *f, const uint64_t key[2]);

/// Keeps an image's rows for `step`, new ones (then *is_new) where it is not there. NULL when rows
/// of this step's images are in the way.
rv_feature *rv_features_claim(rv_features *f, const uint64_t key[2], int64_t rows, uint64_t step,
                              bool *is_new);
