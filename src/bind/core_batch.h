// core_batch.h - samples in Lua as a packed batch.
#pragma once

#include "bind.h"
#include "vlm.h"

// What is asked of every sample.
typedef struct {
    bool values, every_value, hidden;
    float temperature;
} rv_core_ask;

/// Reads the view {patches =, tiles =, h =, w =, order =, rows =, key =} at `arg`; its arrays are
/// kept alive by the list at `anchors`. Raises on anything else, as "WHEREimages[I]: ...".
void rv_core_view(lua_State *L, int arg, int anchors, const rv_arch *a, rv_view *v,
                  const char *where, int64_t i);

/// Packs the list of samples at `arg`; pushes a userdata that owns the arrays and a list of the
/// n + 1 offsets of each sample's asked rows. Raises on samples that make no sense, naming them.
rv_batch *rv_core_batch(lua_State *L, int arg, const rv_vlm *m, const rv_core_ask *ask);
