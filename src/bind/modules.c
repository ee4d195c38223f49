// modules.c - the list of built-in modules.
#include "bind.h"

// module name, open function
#define RV_MODULES(X)                                                                              \
    X("rl4vlm.image", luaopen_rv_image)                                                            \
    X("rl4vlm.rng", luaopen_rv_rng)                                                                \
    X("rl4vlm.safetensors", luaopen_rv_safetensors)                                                \
    X("rl4vlm.slice", luaopen_rv_slice)

#define DECLARE(name, open) int open(lua_State *L);
RV_MODULES(DECLARE)

int luaopen_cjson(lua_State *L);
int luaopen_cjson_safe(lua_State *L);

void rv_bind_preload(lua_State *L) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE); // [preload]
#define PRELOAD(name, open)                                                                        \
    lua_pushcfunction(L, open);                                                                    \
    lua_setfield(L, -2, name);
    RV_MODULES(PRELOAD)
    PRELOAD("cjson", luaopen_cjson)
    PRELOAD("cjson.safe", luaopen_cjson_safe)
    lua_pop(L, 1);
}
