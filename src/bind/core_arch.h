// core_arch.h - reads the Lua tables that describe a model.
#pragma once

#include "bind.h"
#include "vlm.h"

typedef struct {
    const char *device;
    int device_index, threads; // threads 0: all CPUs
    rv_vlm_options vlm;
} rv_core_options;

/// The names of rv_part, NULL-ended.
extern const char *const rv_core_parts[];

/// Reads an architecture at stack position `arg`; raises on unknown fields and wrong types.
void rv_core_read_arch(lua_State *L, int arg, rv_arch *a);
/// Reads options at `arg` (none or nil: all defaults).
void rv_core_read_options(lua_State *L, int arg, rv_core_options *o);
