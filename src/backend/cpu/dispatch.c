// dispatch.c - which instruction set this machine has.
#include <stdlib.h>
#include <string.h>
#ifdef RV_X86
#include <cpuid.h>
#endif

#include "cpu.h"

extern const rv_backend rv_cpu_table_base;
#ifdef RV_X86
extern const rv_backend rv_cpu_table_avx2, rv_cpu_table_avx512, rv_cpu_table_avx512bf16;

// clang 14 has no name for it in __builtin_cpu_supports.
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

static bool always(void) { return true; }

// Best first.
static const struct {
    const char *name;
    const rv_backend *table;
    bool (*supported)(void);
} sets[] = {
#ifdef RV_X86
    {"avx512bf16", &rv_cpu_table_avx512bf16, has_avx512bf16},
    {"avx512", &rv_cpu_table_avx512, has_avx512},
    {"avx2", &rv_cpu_table_avx2, has_avx2},
#endif
    {"base", &rv_cpu_table_base, always},
};
enum { N_SETS = sizeof sets / sizeof *sets };

const rv_backend *rv_cpu_isa(const char *name) {
    for (int i = 0; i < N_SETS; i++) {
        if (strcmp(name, sets[i].name) == 0) {
            return sets[i].supported() ? sets[i].table : NULL;
        }
    }
    return NULL;
}

const rv_backend *rv_backend_cpu(void) {
    const char *wish = getenv("RL4VLM_ISA");
    const rv_backend *table = wish ? rv_cpu_isa(wish) : NULL;
    for (int i = 0; !table; i++) {
        table = sets[i].supported() ? sets[i].table : NULL;
    }
    return table;
}

const char *rv_backend_cpu_isa(void) {
    int i = 0;
    while (sets[i].table != rv_backend_cpu()) {
        i++;
    }
    return sets[i].name;
}
