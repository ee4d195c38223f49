// host_text.c - what a wrong option prints. (-h and --version: lua/rl4vlm/usage.lua)
#include <stdio.h>
#include <string.h>

#include "host.h"

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
