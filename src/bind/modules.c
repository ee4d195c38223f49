// modules.c - opens the built-in modules that modules.def lists.
#include "bind.h"

#define X(name, open) int open(lua_State *L);
#include "modules.def"
#undef X

int luaopen_cjson(lua_State *L);
int luaopen_cjson_safe(lua_State *L);

void rv_bind_preload(lua_State *L) {
    static const luaL_Reg modules[] = {
#define X(name, open) {name, open},
#include "modules.def"
#undef X
        {"cjson", luaopen_cjson},
        {"cjson.safe", luaopen_cjson_safe},
        {NULL, NULL},
    };
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE); // [preload]
    luaL_setfuncs(L, modules, 0);
    lua_pop(L, 1);
}
