// slice.h - rl4vlm.Slice: host memory with a type and a shape, how modules pass arrays to each
// other.
//
// A slice either owns its bytes or looks into memory (a mapped file) that its user value keeps
// alive. A module that has arrays of its own gives its metatable a field `__slice`, a function that
// returns one as a slice; then it is taken wherever a slice is.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "bind.h"

enum { RV_SLICE_MAXDIM = 8 };

typedef struct {
    const void *data; // row-major; aligned to the element's size; NULL once closed
    rv_dtype type;
    int ndim;
    int64_t dim[RV_SLICE_MAXDIM];
    size_t bytes;
    const char *name; // of the type, as safetensors spell it
} rv_slice;

/// Pushes a slice that owns `bytes` fresh bytes (zero) and returns it; they are written through
/// rv_slice_bytes before Lua sees it.
rv_slice *rv_slice_push(lua_State *L, rv_dtype type, int ndim, const int64_t *dim);

/// The same with whatever the memory held, for those who write all of it.
rv_slice *rv_slice_push_raw(lua_State *L, rv_dtype type, int ndim, const int64_t *dim);
void *rv_slice_bytes(rv_slice *s);

/// Pushes a slice of `data`, kept alive by the value at `owner`; data that is not aligned is
/// copied.
rv_slice *rv_slice_push_view(lua_State *L, rv_dtype type, const char *name, int ndim,
                             const int64_t *dim, const void *data, size_t bytes, int owner);

/// The slice at `arg`: a slice, a value with `__slice`, or a table {dtype =, shape =, data =
/// bytes}. The last two are replaced on the stack by their slice. Raises on anything else.
rv_slice *rv_slice_check(lua_State *L, int arg);

int luaopen_rv_slice(lua_State *L);
