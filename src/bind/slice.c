#include "slice.h"

#include <string.h>

#include "mem.h"
#include "safetensors.h"

#define SLICE_MT "rv.slice"

// An owning slice keeps its bytes behind the record, in the same userdata.
static size_t header_bytes(void) { return (sizeof(rv_slice) + 15) & ~(size_t)15; }

void *rv_slice_bytes(rv_slice *s) { return (char *)s + header_bytes(); }

static rv_slice *push(lua_State *L, rv_dtype type, const char *name, int ndim, const int64_t *dim,
                      size_t bytes, size_t owned) {
    rv_slice *s = lua_newuserdatauv(L, header_bytes() + owned, 1);
    *s = (rv_slice){.type = type, .ndim = ndim, .bytes = bytes, .name = name};
    memcpy(s->dim, dim, (size_t)ndim * sizeof *dim);
    luaL_setmetatable(L, SLICE_MT);
    return s;
}

rv_slice *rv_slice_push(lua_State *L, rv_dtype type, int ndim, const int64_t *dim) {
    int64_t n = (int64_t)rv_dtype_size(type);
    for (int i = 0; i < ndim; i++) {
        if (!rv_mul_count(n, dim[i], &n)) {
            luaL_error(L, "the size of an array overflows");
        }
    }
    rv_slice *s = push(L, type, rv_safetensors_dtype_name(type), ndim, dim, (size_t)n, (size_t)n);
    s->data = memset(rv_slice_bytes(s), 0, (size_t)n);
    return s;
}

rv_slice *rv_slice_push_view(lua_State *L, rv_dtype type, const char *name, int ndim,
                             const int64_t *dim, const void *data, size_t bytes, int owner) {
    size_t element = type == RV_NTYPES ? 1 : rv_dtype_size(type);
    bool aligned = (uintptr_t)data % element == 0;
    owner = lua_absindex(L, owner);
    rv_slice *s = push(L, type, name, ndim, dim, bytes, aligned ? 0 : bytes);
    s->data = aligned ? data : memcpy(rv_slice_bytes(s), data, bytes);
    lua_pushvalue(L, owner);
    lua_setiuservalue(L, -2, 1);
    return s;
}

// Makes a slice of the table {dtype =, shape =, data =} at `arg`.
static rv_slice *from_table(lua_State *L, int arg) {
    int64_t dim[RV_SLICE_MAXDIM];
    lua_getfield(L, arg, "dtype"); // [dtype]
    const char *name = lua_tostring(L, -1);
    rv_dtype type = name ? rv_safetensors_dtype(name) : RV_NTYPES;
    if (type == RV_NTYPES) {
        luaL_error(L, "field 'dtype': wanted one of F32, BF16, F16, ..., came %s",
                   name ? name : "none");
    }
    if (lua_getfield(L, arg, "shape") != LUA_TTABLE || luaL_len(L, -1) > RV_SLICE_MAXDIM) {
        luaL_error(L, "field 'shape': wanted a list of at most %d sizes", RV_SLICE_MAXDIM);
    }
    int ndim = (int)luaL_len(L, -1);
    int64_t count = 1;
    for (int i = 0; i < ndim; i++) {
        lua_geti(L, -1, i + 1);
        dim[i] = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : -1;
        if (!rv_mul_count(count, dim[i], &count)) {
            luaL_error(L, "field 'shape': wanted sizes, came %s", luaL_tolstring(L, -1, NULL));
        }
        lua_pop(L, 1);
    }
    size_t n;
    lua_getfield(L, arg, "data"); // [dtype, shape, data]
    const char *data = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    size_t wanted = (size_t)count * rv_dtype_size(type);
    if (!data || n != wanted) {
        luaL_error(L, "field 'data': wanted a string of %I bytes, came %s", (lua_Integer)wanted,
                   data ? lua_pushfstring(L, "%I", (lua_Integer)n) : luaL_typename(L, -1));
    }
    rv_slice *s = rv_slice_push(L, type, ndim, dim);
    memcpy(rv_slice_bytes(s), data, n);
    lua_replace(L, arg);
    lua_pop(L, 3);
    return s;
}

rv_slice *rv_slice_check(lua_State *L, int arg) {
    arg = lua_absindex(L, arg);
    if (lua_type(L, arg) == LUA_TTABLE) {
        return from_table(L, arg);
    }
    if (luaL_getmetafield(L, arg, "__slice") != LUA_TNIL) {
        lua_pushvalue(L, arg);
        lua_call(L, 1, 1);
        lua_replace(L, arg);
    }
    return luaL_checkudata(L, arg, SLICE_MT);
}

static rv_slice *check(lua_State *L) { return luaL_checkudata(L, 1, SLICE_MT); }

static int slice_dtype(lua_State *L) {
    lua_pushstring(L, check(L)->name);
    return 1;
}

static int slice_shape(lua_State *L) {
    const rv_slice *s = check(L);
    lua_createtable(L, s->ndim, 0);
    for (int i = 0; i < s->ndim; i++) {
        lua_pushinteger(L, s->dim[i]);
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

// s:data() -> its bytes as a string
static int slice_data(lua_State *L) {
    const rv_slice *s = check(L);
    lua_pushlstring(L, s->data ? s->data : "", s->bytes);
    return 1;
}

static int slice_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)check(L)->bytes);
    return 1;
}

// slice.new{dtype =, shape =, data =} -> slice
static int slice_new(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    from_table(L, 1);
    return 1;
}

int luaopen_rv_slice(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"dtype", slice_dtype},
        {"shape", slice_shape},
        {"data", slice_data},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {{"new", slice_new}, {NULL, NULL}};
    if (luaL_newmetatable(L, SLICE_MT)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, slice_len);
        lua_setfield(L, -2, "__len");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
