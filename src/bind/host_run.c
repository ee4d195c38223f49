// host_run.c - runs chunks as the standalone lua does: tracebacks, messages, Ctrl-C.
#define _XOPEN_SOURCE 700
#include <signal.h>
#include <stdio.h>

#include "host.h"
#include "intr.h"

// What the signal handler needs: there is one SIGINT and one main state in a process.
static lua_State *volatile running;
static volatile sig_atomic_t deferred;

static void stop(lua_State *L, lua_Debug *ar) {
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, RV_INTERRUPTED);
}

// Setting a hook is the one Lua call that is safe in a signal handler.
static void on_interrupt(int signal) {
    (void)signal;
    rv_intr_flag = 1;
    if (running && !deferred) {
        lua_sethook(running, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
    }
}

bool rv_host_defer_interrupt(bool on) {
    bool before = deferred;
    deferred = on;
    return before;
}

void rv_host_clear_interrupt(lua_State *L) {
    rv_intr_flag = 0;
    if (lua_gethook(L) == stop) {
        lua_sethook(L, NULL, 0, 0);
    }
}

// Makes the message of an uncaught error: text gets a traceback, an object speaks for itself.
static int message(lua_State *L) {
    const char *text = lua_tostring(L, 1);
    if (!text) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) {
            return 1;
        }
        text = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, text, 1);
    return 1;
}

int rv_host_call(lua_State *L, int narg, int nres) {
    int base = lua_gettop(L) - narg;
    lua_pushcfunction(L, message);
    lua_insert(L, base);
    // the handler serves once: a second Ctrl-C kills
    struct sigaction ours = {.sa_handler = on_interrupt,
                             .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    struct sigaction before;
    lua_State *outer = running;
    running = L;
    sigaction(SIGINT, &ours, &before);
    int status = lua_pcall(L, narg, nres, base);
    sigaction(SIGINT, &before, NULL);
    running = outer;
    lua_remove(L, base);
    return status;
}

int rv_host_report(lua_State *L, int status) {
    if (status != LUA_OK) {
        const char *text = lua_tostring(L, -1);
        fprintf(stderr, "rl4vlm: %s\n", text ? text : "(error message not a string)");
        fflush(stderr);
        lua_pop(L, 1);
    }
    return status;
}
