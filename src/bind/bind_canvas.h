// bind_canvas.h - how binding files make and take canvases and share the typefaces.
#pragma once

#include "bind.h"
#include "canvas.h"
#include "font.h"

#define RV_CANVAS_MT "rl4vlm.Canvas"

/// Pushes a new userdata that holds "no canvas"; the caller fills it with a function of canvas.h.
rv_canvas *rv_bind_canvas_new(lua_State *L);

/// The canvas at `arg`; raises when there is none.
rv_canvas *rv_bind_canvas_check(lua_State *L, int arg);

/// The state's typeface, made at the first call and kept until the state closes.
rv_font *rv_bind_font(lua_State *L, bool bold);
