// host_args.h - the program's own options, those before the script.
#pragma once

#include <stdbool.h>

typedef struct {
    bool version, interactive, no_env, execute; // -v (also by -i), -i, -E, -e
    bool help, versions;                        // -h or --help, --version: print and leave
    const char *module;                         // -m
    int script;  // index of the script, of -m's module, or argc: arg[0]
    int options; // index of the first argument that is no option of ours
} rv_host_args;

/// Reads the options. Returns 0, or the index of an argument that is wrong.
int rv_host_args_read(rv_host_args *a, int argc, char **argv);
