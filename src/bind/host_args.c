// host_args.c - reads the program's own options. Those of the standalone lua mean what they mean
// there; -m, -h and long options are ours.
#include "host_args.h"

#include <string.h>

// Reads option number i. Returns how many arguments it takes, 0 for an unknown one.
static int read_option(rv_host_args *a, char *const *argv, int i) {
    const char *word = argv[i];
    char letter = word[1];
    bool bare = letter != 0 && word[2] == 0;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        a->help = true;
        return 1;
    }
    if (strcmp(word, "--version") == 0) {
        a->versions = true;
        return 1;
    }
    switch (letter) {
    case 'E':
        a->no_env = true;
        return bare;
    case 'W':
        return bare;
    case 'i':
        a->interactive = a->version = true;
        return bare;
    case 'v':
        a->version = true;
        return bare;
    case 'e':
        a->execute = true;
        break;
    case 'l':
    case 'm':
        break;
    default:
        return 0;
    }
    // -e, -l, -m: the value stands in the same word or in the next
    const char *next = argv[i + 1];
    if (bare && (!next || next[0] == '-')) {
        return 0;
    }
    if (letter == 'm') {
        a->module = bare ? next : word + 2;
    }
    return bare ? 2 : 1;
}

int rv_host_args_read(rv_host_args *a, int argc, char **argv) {
    *a = (rv_host_args){.script = argc, .options = argc};
    for (int i = 1; i < argc;) {
        const char *word = argv[i];
        if (word[0] != '-' || word[1] == 0) { // a script, or - for stdin
            a->script = a->options = i;
            return 0;
        }
        if (strcmp(word, "--") == 0) {
            a->options = i;
            a->script = i + 1;
            return 0;
        }
        int n = read_option(a, argv, i);
        if (n == 0) {
            return i;
        }
        i += n;
        if (a->module) {
            a->options = i;
            a->script = i - 1;
            return 0;
        }
    }
    return 0;
}
