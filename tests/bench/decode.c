// decode.c - how fast a decoder's weights stream from memory, beside what the machine reads at
// most.
//
// bench_decode [SECONDS_PER_FIGURE [THREADS]]: the linear layers of one step of SmolVLM's decoders,
// each weight its own memory, for some numbers of rows. Best of many steps. One thread is measured
// in processor seconds, which other programs disturb less.
#define _GNU_SOURCE // clock_gettime, madvise
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "backend.h"

static clockid_t clock_id = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- the machine: threads that add up their part of an array ----

typedef struct {
    const uint64_t *from;
    size_t words;
    uint64_t sum;
} reader;

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static void *
read_all(void *arg) {
    typedef uint64_t vec __attribute__((vector_size(32)));
    reader *r = arg;
    const vec *p = (const vec *)(const void *)r->from;
    vec s[8] = {{0}};
    for (size_t i = 0; i + 8 <= r->words / 4; i += 8) {
        __builtin_prefetch(p + i + 64);
        __builtin_prefetch(p + i + 66);
        __builtin_prefetch(p + i + 68);
        __builtin_prefetch(p + i + 70);
        for (int k = 0; k < 8; k++) {
            s[k] += p[i + (size_t)k];
        }
    }
    for (int k = 0; k < 8; k++) {
        r->sum += s[k][0] + s[k][1] + s[k][2] + s[k][3];
    }
    return NULL;
}

// Best bytes per second of reading 512 MiB.
static double read_rate(int threads, double seconds) {
    enum { MOST = 64 };
    const size_t bytes = (size_t)512 << 20, huge = (size_t)2 << 20;
    uint64_t *data = aligned_alloc(huge, bytes);
    double best = INFINITY, start = now();
    threads = threads < MOST ? threads : MOST;
    if (!data) {
        return 0;
    }
    madvise(data, bytes, MADV_HUGEPAGE);
    memset(data, 1, bytes);
    for (int round = 0; round < 3 || now() - start < seconds; round++) {
        pthread_t thread[MOST];
        reader part[MOST];
        double t = now();
        for (int i = 0; i < threads; i++) {
            size_t words = bytes / 8 / (size_t)threads;
            part[i] = (reader){data + words * (size_t)i, words, 0};
            if (i) {
                pthread_create(&thread[i], NULL, read_all, &part[i]);
            }
        }
        read_all(&part[0]);
        for (int i = 1; i < threads; i++) {
            pthread_join(thread[i], NULL);
        }
        t = now() - t;
        best = t < best && part[0].sum ? t : best;
    }
    free(data);
    return (double)bytes / best;
}

// ---- a decoder: its linear layers in the order of a step ----

typedef struct {
    const char *name;
    int64_t width, mlp, layers, kv, vocab;
} shape;

enum { PER_LAYER = 7, ROWS = 16 };

typedef struct {
    const rv_backend *be;
    rv_ctx *c;
    rv_weight *w;
    int64_t n, bytes;
    rv_dev weights, x, y; // weights: one block, as a model has it
} decoder;

static rv_dev device(const decoder *d, int64_t bytes) {
    rv_dev p;
    rv_err e;
    if (d->be->alloc(d->c, &p, (size_t)bytes, &e) != RV_OK) {
        fprintf(stderr, "bench_decode: %s\n", e.msg);
        exit(1);
    }
    return p;
}

static void add_weight(decoder *d, int64_t n, int64_t k, rv_dtype store, bool round_x) {
    rv_weight *w = &d->w[d->n++];
    *w = (rv_weight){.n = n, .k = k, .store = store, .round_x = round_x};
    d->be->weight_size(w);
    d->bytes += (int64_t)w->fwd_bytes;
}

static void fill_weights(decoder *d, const float *values) {
    d->weights = device(d, d->bytes);
    int64_t at = 0;
    for (int64_t i = 0; i < d->n; i++) {
        d->w[i].fwd = rv_dev_at(d->weights, at);
        at += (int64_t)d->w[i].fwd_bytes;
        d->be->weight_prepare(d->c, &d->w[i], values, RV_F32, NULL);
    }
}

static decoder decoder_new(const rv_backend *be, rv_ctx *c, const shape *s, rv_dtype store,
                           bool round_x) {
    decoder d = {.be = be, .c = c};
    const int64_t most = s->vocab * s->width, widest = s->vocab;
    const int64_t sizes[PER_LAYER][2] = {
        {s->width, s->width}, {s->kv, s->width},  {s->kv, s->width}, {s->width, s->width},
        {s->mlp, s->width},   {s->mlp, s->width}, {s->width, s->mlp}};
    float *values = malloc((size_t)most * sizeof *values);
    d.w = calloc((size_t)(s->layers * PER_LAYER + 1), sizeof *d.w);
    for (int64_t i = 0; i < most; i++) {
        values[i] = (float)(i * 2654435761u % 1024) * 0x1p-14f - 0x1p-5f;
    }
    for (int64_t i = 0; i < s->layers * PER_LAYER; i++) {
        add_weight(&d, sizes[i % PER_LAYER][0], sizes[i % PER_LAYER][1], store, round_x);
    }
    add_weight(&d, s->vocab, s->width, store, round_x);
    fill_weights(&d, values);
    d.x = device(&d, ROWS * widest * 4);
    d.y = device(&d, ROWS * widest * 4);
    be->upload(c, d.x, values, (size_t)(ROWS * s->mlp) * 4);
    free(values);
    return d;
}

static void decoder_free(decoder *d) {
    d->be->free(d->c, d->weights);
    d->be->free(d->c, d->x);
    d->be->free(d->c, d->y);
    free(d->w);
}

static double best_step(const decoder *d, int64_t rows, double seconds) {
    double best = INFINITY, start = now();
    for (int i = 0; i < 3 || now() - start < seconds; i++) {
        double t = now();
        for (int64_t k = 0; k < d->n; k++) {
            rv_linear l = {.w = &d->w[k]};
            d->be->linear(d->c, d->y, d->x, rows, &l);
        }
        t = now() - t;
        best = t < best ? t : best;
    }
    return best;
}

static void figures(const rv_backend *be, rv_ctx *c, const shape *s, rv_dtype store, bool round_x,
                    double peak, double seconds) {
    static const int64_t rows[] = {1, 2, 3, 4, 8, 16};
    decoder d = decoder_new(be, c, s, store, round_x);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double t = best_step(&d, rows[i], seconds), rate = (double)d.bytes / t;
        printf("%-12s %-9s %4lld  %8.2f  %7.1f  %7.1f  %5.1f %%  %7.1f\n", s->name,
               store == RV_F32 ? "fp32"
               : round_x       ? "bf16xbf16"
                               : "bf16xfp32",
               (long long)rows[i], t * 1e3, (double)rows[i] / t, rate * 1e-9, 100 * rate / peak,
               2.0 * (double)rows[i] * (double)d.bytes / (double)rv_dtype_size(store) / t * 1e-9);
        fflush(stdout);
    }
    decoder_free(&d);
}

int main(int argc, char **argv) {
    static const shape shapes[] = {{"SmolVLM-256M", 576, 1536, 30, 192, 49280},
                                   {"SmolVLM-500M", 960, 2560, 32, 320, 49280}};
    const double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    const rv_backend *be = rv_backend_cpu();
    rv_ctx *c;
    rv_err e;
    if (be->ctx_new(&c, 0, argc > 2 ? atoi(argv[2]) : 0, &e) != RV_OK) {
        fprintf(stderr, "bench_decode: %s\n", e.msg);
        return 1;
    }
    if (be->threads(c) == 1) {
        clock_id = CLOCK_THREAD_CPUTIME_ID;
    }
    const double peak = read_rate(be->threads(c), seconds);
    printf("%d thread(s) read %.1f GB/s\n", be->threads(c), peak * 1e-9);
    printf("decoder      weights   rows   ms/step  tokens/s    GB/s     read  GFLOP/s\n");
    for (size_t s = 0; s < (argc > 3 ? 1 : sizeof shapes / sizeof *shapes); s++) {
        figures(be, c, &shapes[s], RV_F32, false, peak, seconds);
        figures(be, c, &shapes[s], RV_BF16, false, peak, seconds);
        figures(be, c, &shapes[s], RV_BF16, true, peak, seconds);
    }
    be->ctx_free(c);
    return 0;
}
