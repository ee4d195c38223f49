// rng.c - rl4vlm.rng: counter-based random streams for Lua.
#include "rng.h"

#include "bind.h"

#define RNG_MT "rl4vlm.Rng"

static rv_rng *check(lua_State *L) { return luaL_checkudata(L, 1, RNG_MT); }

// rng.new(seed [, purpose [, a [, b]]]) -> stream
static int rng_new(lua_State *L) {
    uint64_t seed = (uint64_t)luaL_checkinteger(L, 1);
    static const char *const names[] = {"user", "env",     "sample", "fallback",
                                        "init", "shuffle", "data",   NULL};
    int purpose = luaL_checkoption(L, 2, "user", names);
    uint64_t a = (uint64_t)luaL_optinteger(L, 3, 0), b = (uint64_t)luaL_optinteger(L, 4, 0);
    rv_rng *r = lua_newuserdatauv(L, sizeof *r, 0);
    *r = rv_rng_make(seed, (uint32_t)purpose, a, b);
    luaL_setmetatable(L, RNG_MT);
    return 1;
}

// r:below(n) -> integer in [0, n)
static int rng_below(lua_State *L) {
    rv_rng *r = check(L);
    lua_Integer n = luaL_checkinteger(L, 2);
    luaL_argcheck(L, n > 0, 2, "wanted a positive number");
    lua_pushinteger(L, (lua_Integer)rv_rng_below(r, (uint64_t)n));
    return 1;
}

// r:int(lo, hi) -> integer in [lo, hi]
static int rng_int(lua_State *L) {
    rv_rng *r = check(L);
    lua_Integer lo = luaL_checkinteger(L, 2), hi = luaL_checkinteger(L, 3);
    luaL_argcheck(L, lo <= hi, 3, "wanted lo <= hi");
    uint64_t span = (uint64_t)hi - (uint64_t)lo + 1;
    uint64_t x = span ? rv_rng_below(r, span) : rv_rng_u64(r);
    lua_pushinteger(L, (lua_Integer)((uint64_t)lo + x));
    return 1;
}

static int rng_uniform(lua_State *L) {
    lua_pushnumber(L, rv_rng_uniform(check(L)));
    return 1;
}

static int rng_normal(lua_State *L) {
    lua_pushnumber(L, rv_rng_normal(check(L)));
    return 1;
}

// r:choice(list) -> one element
static int rng_choice(lua_State *L) {
    rv_rng *r = check(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 2);
    luaL_argcheck(L, n > 0, 2, "wanted a list that is not empty");
    lua_geti(L, 2, (lua_Integer)rv_rng_below(r, (uint64_t)n) + 1);
    return 1;
}

// r:shuffle(list) -> the same list, shuffled in place
static int rng_shuffle(lua_State *L) {
    rv_rng *r = check(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_Integer i = luaL_len(L, 2); i > 1; i--) {
        lua_Integer j = (lua_Integer)rv_rng_below(r, (uint64_t)i) + 1;
        lua_geti(L, 2, i);
        lua_geti(L, 2, j); // [.., x_i, x_j]
        lua_seti(L, 2, i);
        lua_seti(L, 2, j);
    }
    lua_settop(L, 2);
    return 1;
}

// r:position([words]) -> words drawn so far; with an argument, goes there
static int rng_position(lua_State *L) {
    rv_rng *r = check(L);
    if (!lua_isnoneornil(L, 2)) {
        r->pos = (uint64_t)luaL_checkinteger(L, 2);
    }
    lua_pushinteger(L, (lua_Integer)r->pos);
    return 1;
}

int luaopen_rv_rng(lua_State *L);
int luaopen_rv_rng(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"below", rng_below},       {"int", rng_int},       {"uniform", rng_uniform},
        {"normal", rng_normal},     {"choice", rng_choice}, {"shuffle", rng_shuffle},
        {"position", rng_position}, {NULL, NULL},
    };
    static const luaL_Reg functions[] = {{"new", rng_new}, {NULL, NULL}};
    if (luaL_newmetatable(L, RNG_MT)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
