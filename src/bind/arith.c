// arith.c - rl4vlm.arith: the bounded evaluator and the formula search for Lua.
#include <math.h>
#include <string.h>

#include "arith.h"
#include "bind.h"
#include "points.h"

static const char *const rule_names[] = {"exact", "python", NULL};

// Pushes nil, message, kind for a failure.
static int failure(lua_State *L, rv_arith_status s, size_t at) {
    static const char *const kinds[] = {"ok", "syntax", "zero", "overflow", "type", "too long"};
    lua_pushnil(L);
    lua_pushfstring(L, "%s (at character %d)", rv_arith_message(s), (int)at + 1);
    lua_pushstring(L, kinds[s]);
    return 3;
}

// arith.eval(text [, "exact"|"python"]) -> numerator, denominator | number; or nil, message, kind
static int arith_eval(lua_State *L) {
    size_t n, at;
    const char *text = luaL_checklstring(L, 1, &n);
    if (luaL_checkoption(L, 2, "exact", rule_names) == 0) {
        rv_fraction v;
        rv_arith_status s = rv_arith_exact(text, n, &v, &at);
        if (s != RV_ARITH_OK) {
            return failure(L, s, at);
        }
        lua_pushinteger(L, v.num);
        lua_pushinteger(L, v.den);
        return 2;
    }
    rv_pyvalue v;
    rv_arith_status s = rv_arith_python(text, n, &v, &at);
    if (s != RV_ARITH_OK) {
        return failure(L, s, at);
    }
    if (v.kind == RV_PY_INT && v.i >= INT64_MIN && v.i <= INT64_MAX) {
        lua_pushinteger(L, (lua_Integer)v.i);
    } else {
        lua_pushnumber(L, v.kind == RV_PY_INT ? (double)v.i : v.f);
    }
    return 1;
}

// arith.equals(text, target [, rules]) -> true or false: whether the text evaluates to the integer
static int arith_equals(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    lua_Integer target = luaL_checkinteger(L, 2);
    bool equal;
    if (luaL_checkoption(L, 3, "exact", rule_names) == 0) {
        rv_fraction v;
        equal = rv_arith_exact(text, n, &v, NULL) == RV_ARITH_OK && v.den == 1 && v.num == target;
    } else {
        rv_pyvalue v;
        equal = rv_arith_python(text, n, &v, NULL) == RV_ARITH_OK &&
                (v.kind == RV_PY_INT ? v.i == target : v.f == (double)target);
    }
    lua_pushboolean(L, equal);
    return 1;
}

// Reads the list in field `name` of the table at 1: numbers as they are, operators as minus codes.
static int read_tokens(lua_State *L, const char *name, int *out, int max, bool operators) {
    if (lua_getfield(L, 1, name) == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    luaL_argcheck(L, lua_istable(L, -1), 1, "numbers and prefix must be lists");
    lua_Integer n = luaL_len(L, -1);
    luaL_argcheck(L, n <= max, 1, "too many numbers or tokens");
    for (int i = 0; i < (int)n; i++) {
        lua_geti(L, -1, i + 1);
        int ok;
        lua_Integer v = lua_tointegerx(L, -1, &ok); // "10" counts as a number too
        const char *s = operators && !ok ? lua_tostring(L, -1) : NULL;
        luaL_argcheck(L, ok ? v >= 1 && v <= RV_POINTS_MAX_NUMBER : s && strlen(s) == 1, 1,
                      "wanted numbers from 1 to 100 and tokens of one character");
        out[i] = ok ? (int)v : -(int)s[0];
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return (int)n;
}

// arith.solve{numbers =, target =, prefix = {}, operators = "+-*/(", max_tokens = 20,
//             rules = "exact"} -> list of tokens, or nil
static int arith_solve(lua_State *L) {
    static const char *const known[] = {"numbers",    "target", "prefix", "operators",
                                        "max_tokens", "rules",  NULL};
    int numbers[RV_POINTS_MAX_NUMBERS], prefix[RV_POINTS_MAX_TOKENS], out[RV_POINTS_MAX_TOKENS];
    luaL_checktype(L, 1, LUA_TTABLE);
    rv_bind_check_keys(L, 1, known);
    int count = read_tokens(L, "numbers", numbers, RV_POINTS_MAX_NUMBERS, false);
    int prefix_len = read_tokens(L, "prefix", prefix, RV_POINTS_MAX_TOKENS, true);
    lua_settop(L, 1);
    lua_getfield(L, 1, "target");
    lua_getfield(L, 1, "operators");
    lua_getfield(L, 1, "max_tokens");
    lua_getfield(L, 1, "rules");
    lua_Integer max = luaL_optinteger(L, 4, 20);
    rv_points_rules rules = {
        .target = luaL_checkinteger(L, 2),
        .operators = luaL_optstring(L, 3, "+-*/("),
        .max_tokens = max > RV_POINTS_MAX_TOKENS ? RV_POINTS_MAX_TOKENS
                      : max < 0                  ? 0
                                                 : (int)max,
        .floats = luaL_checkoption(L, 5, "exact", rule_names) == 1,
    };
    luaL_argcheck(L, rules.target >= -1000000 && rules.target <= 1000000, 1,
                  "wanted a target of at most a million");
    int n = rv_points_solve(&rules, prefix, prefix_len, numbers, count, out);
    if (n < 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        if (out[i] > 0) {
            lua_pushfstring(L, "%d", out[i]);
        } else {
            lua_pushfstring(L, "%c", -out[i]);
        }
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

int luaopen_rv_arith(lua_State *L);
int luaopen_rv_arith(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"eval", arith_eval}, {"equals", arith_equals}, {"solve", arith_solve}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
