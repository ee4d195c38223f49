// bind_tensor.h - tensors for the binding files: handles, arguments, the tape of a Lua state.
//
// A handle is a full userdata that holds one reference, or NULL once closed. It is pushed first and
// then filled by a core function, so an error in between leaks nothing:
//
//     rv_tensor **y = rv_bind_tensor_push(L);
//     rv_err e;
//     if (rv_tensor_clone(y, x, &e) != RV_OK) { return rv_bind_raise(L, &e); }
#pragma once

#include "bind.h"
#include "tape.h"

#define RV_TENSOR_MT "rl4vlm.Tensor"

/// The tape that all tensors of this Lua state share (made on first use).
rv_tape *rv_bind_tape(lua_State *L);

/// Pushes an empty handle. Also lets the collector keep step with the memory that tensors take.
rv_tensor **rv_bind_tensor_push(lua_State *L);

/// The tensor at `arg`, borrowed. Raises for anything else and for a closed tensor.
rv_tensor *rv_bind_tensor_check(lua_State *L, int arg);
/// The same or NULL, without raising.
rv_tensor *rv_bind_tensor_test(lua_State *L, int arg);

/// The dtype named at `arg` ("f32", "bf16", "i32", "i64", "u8", "bool").
rv_dtype rv_bind_check_dtype(lua_State *L, int arg, rv_dtype otherwise);
/// The dim at `arg` (1-based, negative from the end) of a tensor with `ndim` dims, from 0.
int rv_bind_check_dim(lua_State *L, int arg, int ndim);
/// Integers at `arg` and after it, or a list of them at `arg`; returns how many.
int rv_bind_check_sizes(lua_State *L, int arg, int64_t out[RV_MAXDIM]);

/// Adds functions of one file to the module and to the methods: [module, methods] on the stack.
void rv_bind_tensor_add(lua_State *L, const luaL_Reg *both);

// An operand that may be a plain number: `own` is what has to be freed after use.
typedef struct {
    rv_tensor *t, *own;
} rv_operand_arg;
/// Fills `o` from a tensor or number at `arg` (checked by rv_bind_check_operand before).
rv_status rv_bind_operand(lua_State *L, int arg, rv_operand_arg *o, rv_err *e);
void rv_bind_check_operand(lua_State *L, int arg);

// What each file adds: [module, methods, metatable] on the stack.
void rv_bind_tensor_new(lua_State *L);
void rv_bind_tensor_math(lua_State *L);
void rv_bind_tensor_reduce(lua_State *L);
void rv_bind_tensor_view(lua_State *L);
void rv_bind_tensor_tape(lua_State *L);
void rv_bind_tensor_print(lua_State *L);
void rv_bind_tensor_io(lua_State *L);
