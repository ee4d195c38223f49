#include "slice.h"

#include <string.h>

#include "mem.h"
#include "rng.h"
#include "safetensors.h"

#define SLICE_MT "rl4vlm.Slice"

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

rv_slice *rv_slice_push_raw(lua_State *L, rv_dtype type, int ndim, const int64_t *dim) {
    int64_t n = (int64_t)rv_dtype_size(type);
    for (int i = 0; i < ndim; i++) {
        if (!rv_mul_count(n, dim[i], &n)) {
            luaL_error(L, "the size of an array overflows");
        }
    }
    rv_slice *s = push(L, type, rv_safetensors_dtype_name(type), ndim, dim, (size_t)n, (size_t)n);
    s->data = rv_slice_bytes(s);
    return s;
}

rv_slice *rv_slice_push(lua_State *L, rv_dtype type, int ndim, const int64_t *dim) {
    rv_slice *s = rv_slice_push_raw(L, type, ndim, dim);
    memset(rv_slice_bytes(s), 0, s->bytes);
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

// Reads the list of sizes at `arg`.
static int read_shape(lua_State *L, int arg, int64_t *dim, int64_t *count) {
    arg = lua_absindex(L, arg);
    lua_Integer ndim = luaL_len(L, arg);
    if (ndim > RV_SLICE_MAXDIM) {
        luaL_error(L, "field 'shape': wanted at most %d sizes, came %I", RV_SLICE_MAXDIM, ndim);
    }
    *count = 1;
    for (int i = 0; i < (int)ndim; i++) {
        lua_geti(L, arg, i + 1);
        dim[i] = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : -1;
        if (!rv_mul_count(*count, dim[i], count)) {
            luaL_error(L, "field 'shape': wanted sizes, came %s", luaL_tolstring(L, -1, NULL));
        }
        lua_pop(L, 1);
    }
    return (int)ndim;
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
    if (lua_getfield(L, arg, "shape") != LUA_TTABLE) {
        luaL_error(L, "field 'shape': wanted a list of sizes");
    }
    int64_t count;
    int ndim = read_shape(L, -1, dim, &count);
    size_t n = 0;
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

// Fills `n` floats from a slice of a floating type; false for another type.
static bool to_floats(float *out, const rv_slice *s, int64_t n) {
    bool ok = s->type == RV_F32 || s->type == RV_BF16 || s->type == RV_F16 || s->type == RV_F64;
    if (ok) {
        rv_convert(out, RV_F32, s->data, s->type, n);
    }
    return ok;
}

static int64_t count_of(const rv_slice *s) {
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++) {
        n *= s->dim[i];
    }
    return n;
}

// s:convert(dtype) -> slice of another floating type
static int slice_convert(lua_State *L) {
    const rv_slice *s = check(L);
    rv_dtype to = rv_safetensors_dtype(luaL_checkstring(L, 2));
    bool from_ok =
        s->type == RV_F32 || s->type == RV_BF16 || s->type == RV_F16 || s->type == RV_F64;
    bool to_ok = to == RV_F32 || to == RV_BF16 || to == RV_F16 || to == RV_F64;
    if (!from_ok || !to_ok) {
        return luaL_error(L, "cannot convert %s to %s: wanted floating types", s->name,
                          lua_tostring(L, 2));
    }
    rv_slice *r = rv_slice_push(L, to, s->ndim, s->dim);
    rv_convert(rv_slice_bytes(r), to, s->data, s->type, count_of(s));
    return 1;
}

// s:list() -> its elements as a flat list of numbers
static int slice_list(lua_State *L) {
    const rv_slice *s = check(L);
    int64_t n = count_of(s);
    luaL_argcheck(L, n < INT32_MAX, 1, "too large for a list");
    float *x = lua_newuserdatauv(L, (size_t)n * sizeof *x + 1, 0);
    bool floats = to_floats(x, s, n);
    if (!floats && s->type != RV_I32 && s->type != RV_I64) {
        return luaL_error(L, "cannot list elements of type %s", s->name);
    }
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        if (floats) {
            lua_pushnumber(L, (lua_Number)x[i]);
        } else {
            lua_pushinteger(L, s->type == RV_I32 ? ((const int32_t *)s->data)[i]
                                                 : ((const int64_t *)s->data)[i]);
        }
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

// A stream's number from a name, the same in every program (FNV-1a, Fowler, Noll and Vo).
static uint64_t name_stream(const char *name, size_t n) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (uint8_t)name[i]) * 1099511628211u;
    }
    return h;
}

// slice.random(shape, "normal"|"uniform"|"constant", scale, seed, name) -> F32 slice. normal:
// standard deviation `scale`; uniform: in [-scale, scale); the stream hangs on seed and name alone.
static int slice_random(lua_State *L) {
    static const char *const kinds[] = {"normal", "uniform", "constant", NULL};
    int64_t dim[RV_SLICE_MAXDIM], count;
    luaL_checktype(L, 1, LUA_TTABLE);
    int ndim = read_shape(L, 1, dim, &count), kind = luaL_checkoption(L, 2, NULL, kinds);
    float scale = (float)luaL_checknumber(L, 3);
    size_t n;
    uint64_t seed = (uint64_t)luaL_checkinteger(L, 4);
    const char *name = luaL_checklstring(L, 5, &n);
    float *x = rv_slice_bytes(rv_slice_push(L, RV_F32, ndim, dim));
    rv_rng r = rv_rng_make(seed, RV_STREAM_INIT, name_stream(name, n), 0);
    for (int64_t i = 0; i < count; i++) {
        double u = kind == 0 ? rv_rng_normal(&r) : kind == 1 ? 2 * rv_rng_uniform(&r) - 1 : 1;
        x[i] = scale * (float)u;
    }
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
        {"dtype", slice_dtype},     {"shape", slice_shape}, {"data", slice_data},
        {"convert", slice_convert}, {"list", slice_list},   {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"new", slice_new}, {"random", slice_random}, {NULL, NULL}};
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
