// bind.h - what the binding files share: the list of modules and how errors reach Lua.
//
// Only src/bind and main.c include lua.h. Each binding file opens one module `rl4vlm.NAME`.
#pragma once

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "err.h"

/// Raises `e` as a Lua error: its message (with the position of the Lua caller in front).
int rv_bind_raise(lua_State *L, const rv_err *e);

/// Raises when the options table at `arg` holds a key that is not in the NULL-ended list `known`,
/// naming the nearest known key. A missing table (none or nil) is fine.
void rv_bind_check_keys(lua_State *L, int arg, const char *const *known);

/// Puts every built-in module into package.preload.
void rv_bind_preload(lua_State *L);
