// host_strict.c - undeclared globals.
//
// Nobody knows whether a script is a recipe before it has returned. So while it loads, reads of
// undeclared globals and assignments to new ones are only recorded; when it returns a recipe they
// are one error that lists them all, and from then on each raises at once. A plain script never
// notices. Code in Lua's own library folders (/usr/share/lua/5.4, ...) may probe globals as it
// likes.
#include <string.h>

#include "host.h"

#define GUARD "rl4vlm.globals" // registry: the metatable that we put on _G

// The source line that touches the global, or "" for code that is not ours to judge.
static const char *push_place(lua_State *L) {
    lua_Debug ar;
    bool ours = lua_getstack(L, 1, &ar) && lua_getinfo(L, "Sl", &ar) && ar.currentline > 0 &&
                !strstr(ar.source, "/lua/5.4/");
    return ours ? lua_pushfstring(L, "%s:%d", ar.short_src, ar.currentline)
                : lua_pushliteral(L, "");
}

// Records or raises the use of global `name` (at stack index 2, any value). Upvalue 1: the list of
// records, or nil once globals are strict.
static void use(lua_State *L, const char *what) {
    const char *place = push_place(L);
    if (!*place) {
        return;
    }
    const char *name = luaL_tolstring(L, 2, NULL);
    const char *text = lua_pushfstring(L, "%s: undeclared global '%s' is %s", place, name, what);
    if (lua_isnil(L, lua_upvalueindex(1))) {
        lua_error(L);
    }
    lua_pushfstring(L, "%s %s", what, name);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) { // each name once
        return;
    }
    lua_pushfstring(L, "%s %s", what, name);
    lua_pushboolean(L, 1);
    lua_rawset(L, lua_upvalueindex(1));
    lua_pushstring(L, text);
    lua_rawseti(L, lua_upvalueindex(1), (lua_Integer)lua_rawlen(L, lua_upvalueindex(1)) + 1);
}

static int on_read(lua_State *L) {
    use(L, "read");
    return 0;
}

static int on_assign(lua_State *L) {
    use(L, "assigned");
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 0;
}

// Gives both metamethods the value on top of the stack as their upvalue, and pops it.
static void set_guards(lua_State *L, int mt) {
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, on_read, 1);
    lua_setfield(L, mt, "__index");
    lua_pushcclosure(L, on_assign, 1);
    lua_setfield(L, mt, "__newindex");
}

void rv_host_globals_watch(lua_State *L) {
    lua_pushglobaltable(L);
    if (lua_getmetatable(L, -1)) { // LUA_INIT or -e made its own rules
        lua_pop(L, 2);
        return;
    }
    lua_newtable(L);
    lua_newtable(L); // [globals, metatable, records]
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, GUARD ".records");
    set_guards(L, lua_absindex(L, -2));
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, GUARD);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

// Pushes our metatable when _G still has it.
static bool push_guard(lua_State *L) {
    lua_pushglobaltable(L);
    if (!lua_getmetatable(L, -1)) {
        lua_pop(L, 1);
        return false;
    }
    lua_remove(L, -2);
    lua_getfield(L, LUA_REGISTRYINDEX, GUARD);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, same ? 1 : 2);
    return same;
}

// Takes our metamethod away unless the script put its own in its place.
static void drop(lua_State *L, int mt, const char *event, lua_CFunction ours) {
    lua_getfield(L, mt, event);
    if (lua_tocfunction(L, -1) == ours) {
        lua_pushnil(L);
        lua_setfield(L, mt, event);
    }
    lua_pop(L, 1);
}

void rv_host_globals_free(lua_State *L) {
    if (!push_guard(L)) {
        return;
    }
    int mt = lua_gettop(L);
    drop(L, mt, "__index", on_read);
    drop(L, mt, "__newindex", on_assign);
    lua_pushnil(L);
    if (lua_next(L, mt)) { // the script keeps what it added
        lua_pop(L, 3);
        return;
    }
    lua_pop(L, 1);
    lua_pushglobaltable(L);
    lua_pushnil(L);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

bool rv_host_globals_strict(lua_State *L) {
    if (!push_guard(L)) {
        return true;
    }
    lua_pushnil(L);
    set_guards(L, lua_absindex(L, -2));
    lua_pop(L, 1);
    // the records as one message; table.concat would need the library that a script may have
    // changed
    lua_getfield(L, LUA_REGISTRYINDEX, GUARD ".records");
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
    lua_pushliteral(L, "");
    for (lua_Integer i = 1; i <= n; i++) { // [records, text]
        lua_pushstring(L, i > 1 ? "\n  " : "");
        lua_rawgeti(L, -3, i);
        lua_concat(L, 3);
    }
    lua_remove(L, -2);
    lua_pop(L, n == 0);
    return n == 0;
}
