// host_module.c - rl4vlm.host: the machine, the clock and Ctrl-C, for Lua. Stubs:
// lua/meta/host.lua.
#define _GNU_SOURCE // sched_getaffinity
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "bind.h"
#include "host.h"
#include "intr.h"

static int push_clock(lua_State *L, clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    lua_pushnumber(L, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
    return 1;
}

// host.clock() -> seconds of a clock that never jumps; host.time() -> seconds since 1970
static int host_clock(lua_State *L) { return push_clock(L, CLOCK_MONOTONIC); }
static int host_time(lua_State *L) { return push_clock(L, CLOCK_REALTIME); }

// host.sleep(seconds): ends early on Ctrl-C
static int host_sleep(lua_State *L) {
    double s = luaL_checknumber(L, 1);
    luaL_argcheck(L, s >= 0 && s < 1e9, 1, "wanted seconds between 0 and 1e9");
    struct timespec t = {(time_t)s, 0};
    t.tv_nsec = (long)((s - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
    return 0;
}

static int host_pid(lua_State *L) {
    lua_pushinteger(L, getpid());
    return 1;
}

static int host_hostname(lua_State *L) {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    lua_pushstring(L, name);
    return 1;
}

// The descriptor behind "stdin", "stdout" (default) or "stderr".
static int check_stream(lua_State *L, int arg) {
    static const char *const names[] = {"stdin", "stdout", "stderr", NULL};
    return luaL_checkoption(L, arg, "stdout", names);
}

// host.isatty(["stdin"|"stdout"|"stderr"]) -> boolean
static int host_isatty(lua_State *L) {
    lua_pushboolean(L, isatty(check_stream(L, 1)));
    return 1;
}

// host.term_size() -> columns, rows (80, 24 where no terminal answers)
static int host_term_size(lua_State *L) {
    struct winsize w = {0};
    for (int fd = STDERR_FILENO; fd >= STDIN_FILENO && w.ws_col == 0; fd--) {
        ioctl(fd, TIOCGWINSZ, &w);
    }
    lua_pushinteger(L, w.ws_col ? w.ws_col : 80);
    lua_pushinteger(L, w.ws_row ? w.ws_row : 24);
    return 2;
}

// host.cpus() -> CPUs that this process may run on
static int host_cpus(lua_State *L) {
    cpu_set_t set;
    CPU_ZERO(&set);
    lua_pushinteger(L, sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1);
    return 1;
}

// host.peak_rss() -> bytes of memory that this process held at the most
static int host_peak_rss(lua_State *L) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    lua_pushinteger(L, (lua_Integer)u.ru_maxrss * 1024);
    return 1;
}

// host.interrupted() -> true since Ctrl-C came
static int host_interrupted(lua_State *L) {
    lua_pushboolean(L, rv_interrupted());
    return 1;
}

// host.clear_interrupt(): whoever handled Ctrl-C goes on (saves, leaves); a second one kills
static int host_clear_interrupt(lua_State *L) {
    rv_host_clear_interrupt(L);
    return 0;
}

// host.defer_interrupt(on) -> what it was. While on, Ctrl-C raises nothing: long C calls return,
// and the loop asks host.interrupted() where it can stop and save. A second Ctrl-C kills either
// way.
static int host_defer_interrupt(lua_State *L) {
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    lua_pushboolean(L, rv_host_defer_interrupt(lua_toboolean(L, 1)));
    return 1;
}

// host.call(f, ...) -> true and f's results, or false and a message with a traceback. Ctrl-C ends
// it.
static int host_call(lua_State *L) {
    luaL_checkany(L, 1);
    bool ok = rv_host_call(L, lua_gettop(L) - 1, LUA_MULTRET) == LUA_OK;
    lua_pushboolean(L, ok);
    lua_insert(L, 1);
    return lua_gettop(L);
}

// host.nearest(word, list of words) -> the one most like it, or nil where none is
static int host_nearest(lua_State *L) {
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    int best = rv_bind_far(word);
    lua_pushnil(L); // [word, list, nearest]
    for (lua_Integer i = 1; lua_geti(L, 2, i) != LUA_TNIL; i++) {
        int d = rv_bind_distance(word, luaL_checkstring(L, -1));
        if (d < best) {
            best = d;
            lua_replace(L, 3);
        } else {
            lua_pop(L, 1);
        }
    }
    lua_settop(L, 3);
    return 1;
}

int luaopen_rv_host(lua_State *L);
int luaopen_rv_host(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"call", host_call},
        {"clear_interrupt", host_clear_interrupt},
        {"clock", host_clock},
        {"cpus", host_cpus},
        {"defer_interrupt", host_defer_interrupt},
        {"hostname", host_hostname},
        {"interrupted", host_interrupted},
        {"isatty", host_isatty},
        {"nearest", host_nearest},
        {"peak_rss", host_peak_rss},
        {"pid", host_pid},
        {"sleep", host_sleep},
        {"term_size", host_term_size},
        {"time", host_time},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    lua_pushstring(L, RV_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushliteral(L, RV_LIBRARIES);
    lua_setfield(L, -2, "libraries");
    lua_pushfstring(L, "cpu (%s)", rv_backend_cpu_isa());
    lua_setfield(L, -2, "backends");
    lua_pushstring(L, rv_host_exe(L));
    lua_setfield(L, -2, "exe");
    lua_pushstring(L, rv_host_root(L));
    lua_setfield(L, -2, "root");
    return 1;
}
