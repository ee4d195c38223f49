// host.c - the program: options in, exit status out.
#define _XOPEN_SOURCE 700
#include "host.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host_args.h"
#include "intr.h"

enum { STOPPED = 130 }; // exit status of verbs and tools after Ctrl-C

typedef struct {
    int argc;
    char **argv;
    rv_host_args args;
    const char *script; // its path, NULL without one
    int status;         // the program's exit status
} host;

static void print_lua_version(void) {
    puts(LUA_COPYRIGHT);
    fflush(stdout);
}

// Makes the global `arg`: the script at 0, its arguments above, the program and its options below.
static void set_arg(lua_State *L, const host *h) {
    int script = h->args.script < h->argc ? h->args.script : 0;
    lua_createtable(L, h->argc - script, script + 1);
    for (int i = 0; i < h->argc; i++) {
        lua_pushstring(L, h->script && i == script ? h->script : h->argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int run_chunk(lua_State *L, int status) {
    return rv_host_report(L, status == LUA_OK ? rv_host_call(L, 0, 0) : status);
}

static int run_string(lua_State *L, const char *text, const char *name) {
    return run_chunk(L, luaL_loadbuffer(L, text, strlen(text), name));
}

// LUA_INIT_5_4, else LUA_INIT: code, or @file
static int run_init(lua_State *L) {
    const char *name = "=LUA_INIT" LUA_VERSUFFIX, *init = getenv(name + 1);
    if (!init) {
        name = "=LUA_INIT";
        init = getenv(name + 1);
    }
    if (!init) {
        return LUA_OK;
    }
    return init[0] == '@' ? run_chunk(L, luaL_loadfile(L, init + 1)) : run_string(L, init, name);
}

// -l mod, -l global=mod; mod-suffix is required whole and named without the suffix
static int run_library(lua_State *L, const char *text) {
    const char *equal = strchr(text, '='), *module = equal ? equal + 1 : text;
    size_t n = equal ? (size_t)(equal - text) : strcspn(text, "-");
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = rv_host_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_pushglobaltable(L);
        lua_pushlstring(L, text, n);
        lua_rotate(L, -3, -1); // [globals, name, module]
        lua_settable(L, -3);
        lua_pop(L, 1);
    }
    return rv_host_report(L, status);
}

// Runs -e, -l and -W in their order.
static bool run_options(lua_State *L, const host *h) {
    for (int i = 1; i < h->args.options; i++) {
        const char *word = h->argv[i];
        char letter = word[1];
        if (letter == 'W') {
            lua_warning(L, "@on", 0);
        } else if (strchr("elm", letter)) {
            const char *value = word[2] ? word + 2 : h->argv[++i];
            int status = letter == 'e'   ? run_string(L, value, "=(command line)")
                         : letter == 'l' ? run_library(L, value)
                                         : LUA_OK;
            if (status != LUA_OK) {
                return false;
            }
        }
    }
    return true;
}

// Pushes arg[1], arg[2], ... Returns their number. The script may find a changed `arg`.
static int push_script_args(lua_State *L) {
    if (lua_getglobal(L, "arg") != LUA_TTABLE) {
        luaL_error(L, "'arg' is not a table");
    }
    int n = (int)luaL_len(L, -1);
    luaL_checkstack(L, n + 3, "too many arguments to script");
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -i, i);
    }
    lua_remove(L, -(n + 1));
    return n;
}

// Calls require(module)[entry](the value at `index`, the script's arguments as a list); its result
// is the exit status.
static int run_entry(lua_State *L, const char *module, const char *entry, int index) {
    int top = lua_gettop(L);
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = rv_host_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_getfield(L, -1, entry);
        lua_pushvalue(L, index);
        lua_newtable(L);
        int list = lua_gettop(L);
        for (int i = push_script_args(L); i > 0; i--) {
            lua_rawseti(L, list, i);
        }
        status = rv_host_call(L, 2, 1);
    }
    int rc = EXIT_FAILURE;
    if (status == LUA_OK) {
        rc = lua_isnil(L, -1) ? EXIT_SUCCESS : (int)luaL_checkinteger(L, -1);
    } else if (rv_interrupted()) {
        fputs("rl4vlm: interrupted\n", stderr);
        rc = STOPPED;
    } else {
        rv_host_report(L, status);
    }
    lua_settop(L, top);
    return rc;
}

static bool is_recipe(lua_State *L, int index) {
    if (luaL_getmetafield(L, index, "__name") == LUA_TNIL) {
        return false;
    }
    bool yes = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "rl4vlm.recipe") == 0;
    lua_pop(L, 1);
    return yes;
}

// Runs the script; what it returns is left as one value.
static int run_script(lua_State *L, const host *h) {
    const char *path = h->script;
    if (strcmp(path, "-") == 0 && strcmp(h->argv[h->args.script - 1], "--") != 0) {
        path = NULL; // stdin
    }
    rv_host_add_script_folder(L, path ? path : ".");
    rv_host_globals_watch(L);
    int status = luaL_loadfile(L, path);
    if (status == LUA_OK) {
        status = rv_host_call(L, push_script_args(L), 1);
    }
    if (status == LUA_OK && is_recipe(L, -1) && !h->args.interactive) {
        status = rv_host_globals_strict(L) ? LUA_OK : LUA_ERRRUN;
    } else {
        rv_host_globals_free(L);
    }
    return rv_host_report(L, status);
}

static int run_module(lua_State *L, const char *name) {
    lua_pushstring(L, name);
    return run_entry(L, "rl4vlm.tool", "run", lua_gettop(L));
}

// Goes interactive with what the script returned, the value on top of the stack.
static int interactive(lua_State *L) { return run_entry(L, "rl4vlm.repl", "run", lua_gettop(L)); }

// Runs what the command line asks for. Returns the exit status.
static int run(lua_State *L, const host *h) {
    const rv_host_args *a = &h->args;
    bool script = a->script < h->argc;
    if (!a->no_env && run_init(L) != LUA_OK) {
        return EXIT_FAILURE;
    }
    if (!run_options(L, h)) {
        return EXIT_FAILURE;
    }
    if (a->module) {
        return run_module(L, a->module);
    }
    lua_pushnil(L);
    if (script && run_script(L, h) != LUA_OK) {
        return EXIT_FAILURE;
    }
    if (script && !a->interactive && is_recipe(L, -1)) {
        return run_entry(L, "rl4vlm.cli", "run", lua_gettop(L));
    }
    if (a->interactive) {
        return interactive(L);
    }
    if (!script && !a->execute && !a->version) {
        if (isatty(STDIN_FILENO)) {
            return interactive(L);
        }
        run_chunk(L, luaL_loadfile(L, NULL)); // lua ends with 0 whatever becomes of it; - does not
    }
    return EXIT_SUCCESS;
}

static int protected_main(lua_State *L) {
    host *h = lua_touserdata(L, 1);
    luaL_checkversion(L);
    if (h->args.no_env) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_openlibs(L);
    rv_host_find(L);
    rv_bind_preload(L);
    rv_host_set_path(L);
    if (h->args.script < h->argc && !h->args.module) {
        h->script = rv_host_script(L, h->argv[h->args.script]);
    }
    set_arg(L, h);
    lua_gc(L, LUA_GCGEN, 0, 0);
    if (h->args.help || h->args.versions) {
        lua_pushnil(L);
        h->status = run_entry(L, "rl4vlm.usage", h->args.help ? "help" : "versions", lua_gettop(L));
    } else {
        h->status = run(L, h);
    }
    return 0;
}

int rv_host_main(int argc, char **argv) {
    host h = {argc, argv, {0}, NULL, EXIT_FAILURE};
    int bad = rv_host_args_read(&h.args, argc, argv);
    if (bad) {
        rv_host_print_usage(argv[bad]);
        return EXIT_FAILURE;
    }
    if (h.args.version && !h.args.interactive) {
        print_lua_version();
    }
    signal(SIGXFSZ, SIG_IGN); // a file beyond the limit of its size is an error of the write
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("rl4vlm: cannot create state: not enough memory\n", stderr);
        return EXIT_FAILURE;
    }
    lua_pushcfunction(L, protected_main);
    lua_pushlightuserdata(L, &h);
    if (rv_host_report(L, lua_pcall(L, 1, 0, 0)) != LUA_OK) {
        h.status = EXIT_FAILURE;
    }
    lua_close(L);
    return h.status;
}
