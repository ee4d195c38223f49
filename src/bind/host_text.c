// host_text.c - what -h, --version and a wrong option print.
#include <stdio.h>
#include <string.h>

#include "host.h"

static const char help[] =
    "rl4vlm - trains vision-language models by reinforcement learning\n"
    "\n"
    "usage: rl4vlm [options] [script [args]]\n"
    "       rl4vlm [options] -m module [args]\n"
    "       rl4vlm                             interactive: every module is there by require\n"
    "\n"
    "A script is any Lua 5.4 program, and rl4vlm takes the options of the standalone lua:\n"
    "  -e stat        run the string stat\n"
    "  -i             go interactive after the script\n"
    "  -l mod         require mod into global mod\n"
    "  -l g=mod       require mod into global g\n"
    "  -v             print Lua's version\n"
    "  -E             ignore environment variables\n"
    "  -W             turn warnings on\n"
    "  --             end of options\n"
    "  -              run what stdin holds\n"
    "and its own:\n"
    "  -m module      run an installed Lua module as a program\n"
    "  -h, --help     print this text\n"
    "  --version      print the versions of the program, its backends and libraries\n";

void rv_host_print_help(void) { fputs(help, stdout); }

void rv_host_print_versions(lua_State *L) {
    (void)L;
    printf("rl4vlm %s\n%s\n", RV_VERSION, LUA_RELEASE);
}

void rv_host_print_usage(const char *bad) {
    static const char *const known[] = {"--help", "--version", NULL};
    bool value = bad[0] == '-' && bad[1] && strchr("elm", bad[1]);
    fprintf(stderr, value ? "rl4vlm: '%s' needs argument\n" : "rl4vlm: unrecognized option '%s'",
            bad);
    if (!value) {
        const char *nearest = NULL;
        for (const char *const *k = known; *k; k++) {
            nearest = rv_bind_distance(bad, *k) < rv_bind_far(bad) ? *k : nearest;
        }
        fprintf(stderr, nearest ? " (did you mean '%s'?)\n" : "\n", nearest);
    }
    fputs("usage: rl4vlm [-e stat] [-i] [-l mod] [-v] [-E] [-W] [--] [script [args]]\n"
          "       rl4vlm -m module [args]\n"
          "rl4vlm -h says more\n",
          stderr);
}
