// main.c - the host program (the full command line is being built; this runs scripts and -e).
#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bind.h"

int main(int argc, char **argv) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    rv_bind_preload(L);
    luaL_dostring(L, "local e = io.popen('readlink -f /proc/'..'self/exe') e:close() "
                     "local r = (os.getenv('RL4VLM_ROOT') or '.') package.path = "
                     "r..'/lua/?.lua;'..r..'/lua/?/init.lua;'..r..'/?.lua;'..package.path");
    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_seti(L, -2, i - 1);
    }
    lua_setglobal(L, "arg");
    int rc = argc > 2 && strcmp(argv[1], "-e") == 0 ? luaL_dostring(L, argv[2])
             : argc > 1                             ? luaL_dofile(L, argv[1])
                                                    : 0;
    if (rc) {
        fprintf(stderr, "rl4vlm: %s\n", lua_tostring(L, -1));
    }
    lua_close(L);
    return rc != 0;
}
