// quant.c - speed of linear layers whose weights come from memory, by how they are kept.
//
// bench_quant [ROUNDS [THREADS]]: stacks of (width, width) layers of some 128 MiB in bf16, each
// walked by 1, 4, 16 and 256 rows; the kinds take turns within a round, best of all rounds. A
// figure is billions of weights a second; behind it its ratio to bf16. One thread is measured in
// its own time, so that what else runs counts less.
#define _GNU_SOURCE // clock_gettime
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backend.h"

static const struct {
    rv_dtype store;
    bool round_x;
    const char *name;
} kinds[] = {{RV_BF16, true, "bf16"},
             {RV_F32, false, "fp32"},
             {RV_I8, false, "int8"},
             {RV_NF4, false, "nf4"}};
enum { KINDS = sizeof kinds / sizeof *kinds, STACK = 128 << 20, MOST_ROWS = 256 };

static const int64_t rows[] = {1, 4, 16, 256};
enum { ROWS = sizeof rows / sizeof *rows };

static clockid_t watch = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    rv_weight *w;
    int64_t n, width;
    rv_dev x, y;
} stack;

static void must(rv_status s, const rv_err *e) {
    if (s != RV_OK) {
        fprintf(stderr, "bench_quant: %s\n", e->msg);
        exit(1);
    }
}

static stack stack_new(const rv_backend *be, rv_ctx *c, int kind, int64_t width) {
    stack s = {.n = STACK / (width * width * 2), .width = width};
    rv_err e;
    float *src = malloc((size_t)(width * width) * sizeof *src);
    for (int64_t i = 0; i < width * width; i++) {
        src[i] = (float)(i * 7919 % 1009) / 1009 - 0.5f;
    }
    s.w = calloc((size_t)s.n, sizeof *s.w);
    for (int64_t i = 0; i < s.n; i++) {
        s.w[i] = (rv_weight){
            .n = width, .k = width, .store = kinds[kind].store, .round_x = kinds[kind].round_x};
        be->weight_size(&s.w[i]);
        must(be->alloc(c, &s.w[i].fwd, s.w[i].fwd_bytes, &e), &e);
        must(be->weight_prepare(c, &s.w[i], src, RV_F32, &e), &e);
    }
    must(be->alloc(c, &s.x, (size_t)(MOST_ROWS * width) * 4, &e), &e);
    must(be->alloc(c, &s.y, (size_t)(MOST_ROWS * width) * 4, &e), &e);
    free(src);
    return s;
}

static void stack_free(const rv_backend *be, rv_ctx *c, stack *s) {
    for (int64_t i = 0; i < s->n; i++) {
        be->free(c, s->w[i].fwd);
    }
    be->free(c, s->x), be->free(c, s->y);
    free(s->w);
}

// Billions of weights a second; many rows walk a part of the stack.
static double walk(const rv_backend *be, rv_ctx *c, const stack *s, int64_t m) {
    int64_t n = m > 16 ? (s->n + 7) / 8 : s->n;
    double start = now();
    for (int64_t i = 0; i < n; i++) {
        be->linear(c, s->y, s->x, m, &(rv_linear){.w = &s->w[i]});
    }
    return (double)(n * s->width * s->width) / (now() - start) * 1e-9;
}

static void bench_width(const rv_backend *be, rv_ctx *c, int64_t width, int rounds) {
    stack s[KINDS];
    double best[ROWS][KINDS] = {{0}};
    for (int k = 0; k < KINDS; k++) {
        s[k] = stack_new(be, c, k, width);
    }
    for (int r = 0; r < rounds * ROWS; r++) {
        for (int k = 0; k < KINDS; k++) {
            double rate = walk(be, c, &s[k], rows[r % ROWS]), *b = &best[r % ROWS][k];
            *b = rate > *b ? rate : *b;
        }
    }
    for (int i = 0; i < ROWS; i++) {
        printf("%5lld %4lld", (long long)width, (long long)rows[i]);
        for (int k = 0; k < KINDS; k++) {
            printf("  %6.2f (%4.2f)", best[i][k], best[i][k] / best[i][0]);
        }
        printf("\n");
    }
    for (int k = 0; k < KINDS; k++) {
        stack_free(be, c, &s[k]);
    }
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 5, threads = argc > 2 ? atoi(argv[2]) : 0;
    const rv_backend *be = rv_backend_cpu();
    rv_ctx *c;
    rv_err e;
    must(be->ctx_new(&c, 0, threads, &e), &e);
    watch = be->threads(c) == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    printf("%s, %d threads; 10^9 weights a second (times bf16)\nwidth rows", rv_backend_cpu_isa(),
           be->threads(c));
    for (int k = 0; k < KINDS; k++) {
        printf("  %13s", kinds[k].name);
    }
    printf("\n");
    static const int64_t widths[] = {576, 960, 1536, 2048};
    for (int i = 0; i < 4; i++) {
        bench_width(be, c, widths[i], rounds);
    }
    be->ctx_free(c);
    return 0;
}
