#include "feature_pool.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

enum { MOST = 4096 }; // images at a time

rv_status rv_features_new(rv_features *f, int64_t rows, rv_err *e) {
    *f = (rv_features){.cap = MOST, .rows = rows};
    f->list = rv_calloc(f->cap, sizeof *f->list);
    return f->list ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory for the list of images");
}

void rv_features_free(rv_features *f) {
    free(f->list);
    *f = (rv_features){0};
}

void rv_features_clear(rv_features *f) { f->first = f->n = f->head = 0; }

static rv_feature *at(rv_features *f, int64_t i) { return &f->list[(f->first + i) % f->cap]; }

rv_feature *rv_features_find(rv_features *f, const uint64_t key[2]) {
    for (int64_t i = 0; i < f->n; i++) {
        rv_feature *x = at(f, i);
        if (x->used && x->key[0] == key[0] && x->key[1] == key[1]) {
            return x;
        }
    }
    return NULL;
}

// True when the oldest image is in the way of `rows` rows from `head` on; after a turn of the ring
// so are those that stand behind the last one.
static bool in_the_way(const rv_features *f, int64_t gone, int64_t head, int64_t rows) {
    const rv_feature *x = &f->list[(f->first + gone) % f->cap];
    bool turned = head < f->head;
    return (turned && x->row0 >= f->head) || (x->row0 < head + rows && x->row0 + x->rows > head) ||
           f->n - gone == f->cap;
}

rv_feature *rv_features_claim(rv_features *f, const uint64_t key[2], int64_t rows, uint64_t step,
                              bool *is_new) {
    rv_feature *x = rv_features_find(f, key);
    *is_new = !x;
    if (x) {
        x->used = step;
        return x;
    }
    int64_t head = f->head + rows <= f->rows ? f->head : 0, gone = 0;
    RV_ASSERT(rows <= f->rows);
    while (gone < f->n && in_the_way(f, gone, head, rows)) {
        if (at(f, gone)->used == step) {
            return NULL;
        }
        gone++;
    }
    f->first = (f->first + gone) % f->cap;
    f->n -= gone;
    f->head = head + rows;
    x = at(f, f->n++);
    *x = (rv_feature){{key[0], key[1]}, step, head, rows};
    return x;
}
