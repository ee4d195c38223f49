// tensor.c - rl4vlm.tensor: handles, memory and arguments; the other tensor_*.c add functions.
#include <string.h>

#include "bind_tensor.h"

static const char tape_key; // its address names the tape in the registry

// Memory ran out: what the collector can free may be enough.
static void collect(void *L) { lua_gc(L, LUA_GCCOLLECT); }

rv_tape *rv_bind_tape(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &tape_key);
    rv_tape *tape = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (tape) {
        return tape;
    }
    tape = lua_newuserdatauv(L, sizeof *tape, 0);
    *tape = rv_tape_make(rv_tensor_ops_cpu());
    lua_rawsetp(L, LUA_REGISTRYINDEX, &tape_key);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    tape->pressure_ctx = lua_tothread(L, -1);
    tape->pressure = collect;
    lua_pop(L, 1);
    return tape;
}

// Lua counts a handle as a few bytes; a step as large as the memory behind them makes up for it.
enum { STEP_BYTES = 1 << 20 };

rv_tensor **rv_bind_tensor_push(lua_State *L) {
    rv_tape *tape = rv_bind_tape(L);
    if (tape->fresh >= STEP_BYTES) {
        size_t kib = tape->fresh >> 10;
        tape->fresh = 0;
        lua_gc(L, LUA_GCSTEP, kib > (1u << 20) ? 1 << 20 : (int)kib);
    }
    rv_tensor **h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = NULL;
    luaL_setmetatable(L, RV_TENSOR_MT);
    return h;
}

rv_tensor *rv_bind_tensor_test(lua_State *L, int arg) {
    rv_tensor **h = luaL_testudata(L, arg, RV_TENSOR_MT);
    return h ? *h : NULL;
}

rv_tensor *rv_bind_tensor_check(lua_State *L, int arg) {
    rv_tensor **h = luaL_checkudata(L, arg, RV_TENSOR_MT);
    if (!*h) {
        luaL_argerror(L, arg, "the tensor is closed");
    }
    return *h;
}

// ---- arguments ----

rv_dtype rv_bind_check_dtype(lua_State *L, int arg, rv_dtype otherwise) {
    static const rv_dtype types[] = {RV_F32, RV_BF16, RV_I32, RV_I64, RV_U8, RV_BOOL};
    if (lua_isnoneornil(L, arg)) {
        return otherwise;
    }
    const char *name = luaL_checkstring(L, arg);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, rv_dtype_name(types[i])) == 0) {
            return types[i];
        }
    }
    luaL_argerror(L, arg,
                  lua_pushfstring(L, "unknown dtype '%s' (f32, bf16, i32, i64, u8, bool)", name));
    return otherwise;
}

int rv_bind_check_dim(lua_State *L, int arg, int ndim) {
    lua_Integer d = luaL_checkinteger(L, arg);
    lua_Integer at = d < 0 ? d + ndim : d - 1;
    if (d == 0 || at < 0 || at >= ndim) {
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "dim %I of a tensor with %d dims", (LUAI_UACINT)d, ndim));
    }
    return (int)at;
}

int rv_bind_check_sizes(lua_State *L, int arg, int64_t out[RV_MAXDIM]) {
    bool list = lua_istable(L, arg);
    lua_Integer n = list ? luaL_len(L, arg) : lua_gettop(L) - arg + 1;
    if (n > RV_MAXDIM) {
        luaL_argerror(
            L, arg,
            lua_pushfstring(L, "wanted at most %d dims, got %I", RV_MAXDIM, (LUAI_UACINT)n));
    }
    for (int i = 0; i < n; i++) {
        if (list) {
            int is_int;
            lua_geti(L, arg, i + 1);
            out[i] = lua_tointegerx(L, -1, &is_int);
            lua_pop(L, 1);
            luaL_argcheck(L, is_int, arg, "wanted a list of integers");
        } else {
            out[i] = luaL_checkinteger(L, arg + i);
        }
    }
    return n < 0 ? 0 : (int)n;
}

void rv_bind_check_operand(lua_State *L, int arg) {
    int t = lua_type(L, arg);
    if (t != LUA_TNUMBER && t != LUA_TBOOLEAN) {
        rv_bind_tensor_check(L, arg);
    }
}

rv_status rv_bind_operand(lua_State *L, int arg, rv_operand_arg *o, rv_err *e) {
    *o = (rv_operand_arg){NULL, NULL};
    rv_tensor **h = lua_touserdata(L, arg);
    if (h) {
        o->t = *h;
        return RV_OK;
    }
    bool whole = lua_isboolean(L, arg) || lua_isinteger(L, arg);
    int64_t i = lua_isboolean(L, arg) ? lua_toboolean(L, arg) : lua_tointeger(L, arg);
    RV_TRY(rv_tensor_number(&o->own, rv_bind_tape(L), whole, i, lua_tonumber(L, arg), e));
    o->t = o->own;
    return RV_OK;
}

// ---- life ----

// close(), __gc and __close
static int tensor_close(lua_State *L) {
    rv_tensor **h = luaL_checkudata(L, 1, RV_TENSOR_MT);
    rv_tensor *t = *h;
    *h = NULL;
    rv_tensor_free(t);
    return 0;
}

static int tensor_is(lua_State *L) {
    lua_pushboolean(L, luaL_testudata(L, 1, RV_TENSOR_MT) != NULL);
    return 1;
}

// tensor.memory() -> bytes now, peak bytes
static int tensor_memory(lua_State *L) {
    rv_tape *tape = rv_bind_tape(L);
    lua_pushinteger(L, (lua_Integer)tape->bytes);
    lua_pushinteger(L, (lua_Integer)tape->peak);
    return 2;
}

// x[i], x.grad, x.method
static int tensor_index(lua_State *L) {
    if (lua_isinteger(L, 2)) {
        rv_tensor *x = rv_bind_tensor_check(L, 1);
        luaL_argcheck(L, x->ndim > 0, 1, "a tensor without dims has no rows");
        lua_Integer i = lua_tointeger(L, 2);
        if (i > x->dim[0] || i < -x->dim[0] || i == 0) {
            return luaL_error(L, "index %I is outside 1..%I (shape %s)", (LUAI_UACINT)i,
                              (LUAI_UACINT)x->dim[0], rv_tensor_shape_str(x).s);
        }
        lua_getfield(L, lua_upvalueindex(1), "select");
        lua_pushvalue(L, 1);
        lua_pushinteger(L, 1);
        lua_pushvalue(L, 2);
        lua_call(L, 3, 1);
        return 1;
    }
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(key, "grad") == 0) {
        rv_tensor *g = rv_tape_leaf_grad(rv_bind_tensor_check(L, 1));
        if (!g) {
            return 0;
        }
        rv_tensor **h = rv_bind_tensor_push(L);
        *h = rv_tensor_ref(g);
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

// x[i] = number or tensor: writes the row in place
// x, i, v: copies v to position i.
static int write_at(lua_State *L) {
    lua_getfield(L, lua_upvalueindex(1), "copy_"); // [x, i, v, copy_]
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_gettable(L, -2); // [x, i, v, copy_, x, x[i]]
    lua_remove(L, -2);
    lua_pushvalue(L, 3);
    lua_call(L, 2, 0);
    return 0;
}

static int tensor_newindex(lua_State *L) {
    rv_bind_tensor_check(L, 1);
    if (!lua_isinteger(L, 2)) {
        return luaL_error(L, "a tensor has no field '%s' to set", luaL_tolstring(L, 2, NULL));
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, write_at, 1);
    lua_insert(L, 1);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) { // raised from here, it names the line of the script
        return luaL_error(L, "%s", lua_tostring(L, -1));
    }
    return 0;
}

static int tensor_len(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    lua_pushinteger(L, x->ndim ? x->dim[0] : 1);
    return 1;
}

void rv_bind_tensor_add(lua_State *L, const luaL_Reg *both) {
    for (; both->name; both++) {
        lua_pushcfunction(L, both->func);
        lua_pushvalue(L, -1);
        lua_setfield(L, 1, both->name);
        lua_setfield(L, 2, both->name);
    }
}

int luaopen_rv_tensor(lua_State *L);
int luaopen_rv_tensor(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"is_tensor", tensor_is}, {"memory", tensor_memory}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", tensor_close}, {"__close", tensor_close}, {"__len", tensor_len}, {NULL, NULL}};
    lua_settop(L, 0);
    rv_bind_tape(L);
    luaL_newlib(L, functions);
    lua_newtable(L);
    luaL_newmetatable(L, RV_TENSOR_MT); // [module, methods, metatable]
    luaL_setfuncs(L, meta, 0);
    lua_pushcfunction(L, tensor_close);
    lua_setfield(L, 2, "close");
    rv_bind_tensor_new(L);
    rv_bind_tensor_math(L);
    rv_bind_tensor_reduce(L);
    rv_bind_tensor_view(L);
    rv_bind_tensor_tape(L);
    rv_bind_tensor_print(L);
    rv_bind_tensor_io(L);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, tensor_index, 1);
    lua_setfield(L, 3, "__index");
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, tensor_newindex, 1);
    lua_setfield(L, 3, "__newindex");
    lua_pushvalue(L, 2);
    lua_setfield(L, 3, "__methods"); // for completion and tests
    lua_settop(L, 1);
    return 1;
}
