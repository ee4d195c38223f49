// host_root.c - where the program and its Lua files lie.
#define _XOPEN_SOURCE 700
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#define EXE  "rl4vlm.exe"
#define ROOT "rl4vlm.root"
#define OURS "rl4vlm.script"

static void set_registry(lua_State *L, const char *key, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, LUA_REGISTRYINDEX, key);
}

// The registry keeps the string alive for as long as the state lives.
static const char *get_registry(lua_State *L, const char *key) {
    lua_getfield(L, LUA_REGISTRYINDEX, key);
    const char *s = lua_tostring(L, -1);
    lua_pop(L, 1);
    return s;
}

const char *rv_host_exe(lua_State *L) { return get_registry(L, EXE); }
const char *rv_host_root(lua_State *L) { return get_registry(L, ROOT); }

// Resolves folder/tail into `root` when our Lua files are in it.
static bool try_root(char root[PATH_MAX], const char *folder, const char *tail) {
    char path[PATH_MAX], probe[PATH_MAX + 16];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", folder, tail);
    if (n < 0 || (size_t)n >= sizeof path || !realpath(path, root)) {
        return false;
    }
    snprintf(probe, sizeof probe, "%s/lua/rl4vlm", root);
    return stat(probe, &st) == 0 && S_ISDIR(st.st_mode);
}

void rv_host_find(lua_State *L) {
    char exe[PATH_MAX] = "", folder[PATH_MAX], root[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    set_registry(L, EXE, exe);
    memcpy(folder, exe, sizeof folder);
    char *slash = strrchr(folder, '/');
    if (slash) {
        *slash = 0;
    }
    lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV"); // -E
    const char *env = lua_toboolean(L, -1) ? NULL : getenv("RL4VLM_ROOT");
    lua_pop(L, 1);
    bool found = (env && try_root(root, env, ".")) || try_root(root, folder, "../share/rl4vlm") ||
                 try_root(root, folder, "..");
    set_registry(L, ROOT, found ? root : "");
}

const char *rv_host_script(lua_State *L, const char *path) {
    const char *root = rv_host_root(L);
    struct stat st;
    if (path[0] == '/' || path[0] == '.' || !*root || stat(path, &st) == 0) {
        return path;
    }
    const char *ours = lua_pushfstring(L, "%s/%s", root, path);
    lua_setfield(L, LUA_REGISTRYINDEX, OURS); // keeps the string alive
    return stat(ours, &st) == 0 && S_ISREG(st.st_mode) ? ours : path;
}

static void set_path(lua_State *L, const char *path) {
    lua_getglobal(L, "package");
    lua_pushstring(L, path);
    lua_setfield(L, -2, "path");
    lua_pop(L, 1);
}

static const char *push_path(lua_State *L) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_remove(L, -2);
    return luaL_optstring(L, -1, "");
}

void rv_host_set_path(lua_State *L) {
    const char *root = rv_host_root(L), *path = push_path(L);
    bool cwd = strncmp(path, "./?.lua", 7) == 0 || strstr(path, ";./?.lua");
    const char *here = cwd ? "" : ";./?.lua;./?/init.lua";
    if (*root) {
        path = lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;%s%s;%s/?.lua", root, root, path,
                               here, root);
        set_path(L, path);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

void rv_host_add_script_folder(lua_State *L, const char *path) {
    const char *slash = strrchr(path, '/');
    lua_pushlstring(L, slash ? path : ".", slash ? (size_t)(slash - path) : 1);
    const char *folder = lua_tostring(L, -1), *old = push_path(L);
    set_path(L, lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", folder, folder, old));
    lua_pop(L, 3);
}
