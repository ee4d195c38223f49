// bind.h - what the binding files share: the list of modules and how errors reach Lua.
//
// Only src/bind and main.c include lua.h. Each binding file opens one module `rl4vlm.NAME`.
#pragma once

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "err.h"

// The end of every error message that Ctrl-C causes, in Lua code and in long C calls alike.
#define RV_INTERRUPTED "interrupted!"

/// Raises `e` as a Lua error: its message (with the position of the Lua caller in front).
/// RV_EINTERRUPT becomes RV_INTERRUPTED.
int rv_bind_raise(lua_State *L, const rv_err *e);

/// Raises when the options table at `arg` holds a key that is not in the NULL-ended list `known`,
/// naming the nearest known key. A missing table (none or nil) is fine.
void rv_bind_check_keys(lua_State *L, int arg, const char *const *known);

/// Edit distance of two words (48 when one is longer than that); the distance from which a word is
/// no longer taken for a misspelling of `word`.
int rv_bind_distance(const char *a, const char *b);
int rv_bind_far(const char *word);

/// Puts every built-in module into package.preload.
void rv_bind_preload(lua_State *L);
