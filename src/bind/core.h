// core.h - rl4vlm.core's model handle, for the bindings that use a model (scoring, generation).
#pragma once

#include "bind.h"
#include "vlm.h"

// A model and its context, shared by the Lua handle and by what still needs them (a node of the
// tape, a generator). Closing frees the model at once: `m` becomes NULL for all who share it.
typedef struct {
    rv_vlm *m;
    rv_ctx *ctx;
    const rv_backend *be;
    const void *live; // the differentiable score that stands on the tape, or NULL
    int refs;
} rv_core;

/// The model at `arg`; raises when it is no model or has been closed.
rv_vlm *rv_core_check(lua_State *L, int arg);
/// The shared record at `arg`, open; the caller may keep it with rv_core_ref.
rv_core *rv_core_shared(lua_State *L, int arg);
rv_core *rv_core_ref(rv_core *c);
void rv_core_unref(rv_core *c);

int rv_core_score(lua_State *L);  // core_score.c
int rv_core_logits(lua_State *L); // core_logits.c
