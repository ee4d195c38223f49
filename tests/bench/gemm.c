// gemm.c - speed of the backend's matrix products beside the machine's multiply-add peak and
// OpenBLAS.
//
// bench_gemm [SECONDS_PER_FIGURE [THREADS [M N K]]]: one table (or one shape); weights and
// activations warm in cache. What is compared runs in turns, a fraction of a millisecond each, and
// the best of many turns counts: another job on the machine, or a change of its clock, meets all of
// them alike. OpenBLAS is loaded at run time and left out with a notice where it is not installed.
#define _GNU_SOURCE // clock_gettime
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"

typedef struct {
    const rv_backend *be;
    rv_ctx *c;
    double seconds; // per figure
} bench;

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// One thread is timed by its processor seconds, several by the wall.
static double now(const bench *b) {
    return seconds_of(b->be->threads(b->c) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC);
}

// Something that runs in turns with others.
typedef struct {
    void (*fn)(void *);
    void *arg;
    double flops;  // of one call
    double best;   // seconds of one call
    int64_t calls; // in a turn
} racer;

enum { MAX_RACERS = 3 };
static const double TURN = 2e-4; // seconds, at least

static void take_turn(const bench *b, racer *r) {
    double t = now(b);
    for (int64_t i = 0; i < r->calls; i++) {
        r->fn(r->arg);
    }
    t = now(b) - t;
    r->best = t / (double)r->calls < r->best ? t / (double)r->calls : r->best;
    if (t < TURN / 2) {
        r->calls *= 2;
    }
}

// Runs all in turns; leaves the best time of each.
static void race(const bench *b, racer *r, int n) {
    double start = seconds_of(CLOCK_MONOTONIC);
    for (int i = 0; i < n; i++) {
        r[i].best = INFINITY;
        r[i].calls = 1;
    }
    for (int turn = 0; turn < 5 || seconds_of(CLOCK_MONOTONIC) - start < b->seconds; turn++) {
        for (int i = 0; i < n; i++) {
            take_turn(b, &r[i]);
        }
    }
}

static double rate(const racer *r) { return r->flops / r->best * 1e-9; }

// ---- the peak: independent chains of fused multiply-adds in registers ----

#define PEAK(name, isa, lanes, body)                                                               \
    __attribute__((target(isa))) static void name(void *arg) {                                     \
        typedef float vec __attribute__((vector_size(4 * (lanes))));                               \
        vec x[12], a = {0}, m = {0};                                                               \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) { x[i] = a + (float)i; }             \
        m += 0.999f;                                                                               \
        for (int r = 0; r < PEAK_STEPS; r++) {                                                     \
            _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) { body; }                        \
        }                                                                                          \
        _Pragma("GCC unroll 12") for (int i = 1; i < 12; i++) { x[0] += x[i]; }                    \
        *(float *)arg = x[0][0];                                                                   \
    }
enum { PEAK_STEPS = 4000, PEAK_CHAINS = 12 };

#if defined(__x86_64__)
PEAK(peak_avx2, "avx2,fma", 8, __asm__("vfmadd213ps %1, %1, %0" : "+x"(x[i]) : "x"(m)))
PEAK(peak_avx512, "avx512f", 16, __asm__("vfmadd213ps %1, %1, %0" : "+v"(x[i]) : "v"(m)))
PEAK(peak_bf16, "avx512f,avx512bf16", 16, __asm__("vdpbf16ps %1, %1, %0" : "+v"(x[i]) : "v"(m)))
#endif

// The chain that this machine runs fastest: of fp32 multiply-adds, or of bf16 products where it has
// them. `work`: a call's operations on one thread.
static void peak_none(void *arg) { (void)arg; }

static racer peak_of(bool bf16) {
    static float sink;
    racer r = {.fn = peak_none, .arg = &sink};
    const double per_lane = 2.0 * PEAK_STEPS * PEAK_CHAINS;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma")) {
        r.fn = peak_avx2;
        r.flops = per_lane * 8;
    }
    if (__builtin_cpu_supports("avx512f")) {
        r.fn = peak_avx512;
        r.flops = per_lane * 16;
    }
    if (bf16 && __builtin_cpu_supports("avx512bf16")) {
        r.fn = peak_bf16;
        r.flops = per_lane * 32;
    }
#else
    (void)bf16, (void)per_lane;
#endif
    return r;
}

// ---- ours ----

typedef struct {
    const bench *b;
    int64_t m, n, k;
    rv_weight w;
    rv_dev x, y, dx, dw;
    float *hx, *hw, *hy; // host copies for OpenBLAS
} problem;

static float *noise(int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    uint32_t s = 1;
    for (int64_t i = 0; x && i < n; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (float)(s >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static rv_dev device(const bench *b, const float *src, size_t bytes) {
    rv_dev d;
    rv_err e;
    if (b->be->alloc(b->c, &d, bytes, &e) != RV_OK) {
        fprintf(stderr, "bench_gemm: %s\n", e.msg);
        exit(1);
    }
    if (src) {
        b->be->upload(b->c, d, src, bytes);
    }
    return d;
}

static problem problem_new(const bench *b, int64_t m, int64_t n, int64_t k, rv_dtype store,
                           bool round_x) {
    problem p = {
        .b = b, .m = m, .n = n, .k = k, .hx = noise(m * k), .hw = noise(n * k), .hy = noise(m * n)};
    p.w = (rv_weight){.n = n, .k = k, .store = store, .round_x = round_x};
    b->be->weight_size(&p.w);
    p.w.fwd = device(b, NULL, p.w.fwd_bytes);
    b->be->weight_prepare(b->c, &p.w, p.hw, RV_F32, NULL);
    p.x = device(b, p.hx, (size_t)(m * k) * 4);
    p.y = device(b, p.hy, (size_t)(m * n) * 4);
    p.dx = device(b, NULL, (size_t)(m * k) * 4);
    p.dw = device(b, NULL, (size_t)b->be->weight_elems(&p.w) * 4);
    return p;
}

static void problem_free(problem *p) {
    rv_dev all[] = {p->w.fwd, p->x, p->y, p->dx, p->dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        p->b->be->free(p->b->c, all[i]);
    }
    free(p->hx);
    free(p->hw);
    free(p->hy);
}

static void run_forward(void *arg) {
    problem *p = arg;
    rv_linear l = {.w = &p->w};
    p->b->be->linear(p->b->c, p->y, p->x, p->m, &l);
}

static void run_dx(void *arg) {
    problem *p = arg;
    rv_linear l = {.w = &p->w};
    p->b->be->linear_dx(p->b->c, p->dx, p->y, p->m, &l, (rv_dev){0}, false);
}

static void run_dw(void *arg) {
    problem *p = arg;
    p->b->be->linear_dw(p->b->c, p->dw, (rv_dev){0}, p->y, p->x, p->m, &p->w);
}

// ---- OpenBLAS ----

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);
static sgemm_fn *sgemm;
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

static void load_blas(int threads) {
    static const char *const names[] = {
        "/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0", "libopenblas.so.0"};
    char count[16];
    snprintf(count, sizeof count, "%d", threads);
    setenv("OMP_NUM_THREADS", count, 1); // the only knob that every build of it follows
    setenv("OPENBLAS_NUM_THREADS", count, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names && !sgemm; i++) {
        void *lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (lib) {
            void *symbol = dlsym(lib, "cblas_sgemm");
            memcpy(&sgemm, &symbol, sizeof sgemm);
        }
    }
    if (!sgemm) {
        fprintf(stderr, "bench_gemm: OpenBLAS is not installed, its column is left out\n");
    }
}

static void blas_forward(void *arg) {
    problem *p = arg;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, m, n, k, 1, p->hx, k, p->hw, k, 0, p->hy, n);
}

static void blas_dx(void *arg) {
    problem *p = arg;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    sgemm(ROW_MAJOR, PLAIN, PLAIN, m, k, n, 1, p->hy, n, p->hw, k, 0, p->hx, k);
}

static void blas_dw(void *arg) {
    problem *p = arg;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, n, k, m, 1, p->hy, n, p->hx, k, 0, p->hw, k);
}

// ---- the table ----

static void figure(problem *p, const char *what, void (*ours)(void *), void (*blas)(void *)) {
    const double flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    racer r[MAX_RACERS] = {peak_of(p->w.store == RV_BF16 && p->w.round_x),
                           {.fn = ours, .arg = p, .flops = flops},
                           {.fn = blas, .arg = p, .flops = flops}};
    race(p->b, r, sgemm ? 3 : 2);
    const char *type = p->w.store == RV_F32 ? "fp32" : p->w.round_x ? "bf16xbf16" : "bf16xfp32";
    double peak = rate(&r[0]) * p->b->be->threads(p->b->c);
    printf("%-9s %-3s %5lld %5lld %5lld  %8.1f  %5.1f %%", type, what, (long long)p->m,
           (long long)p->n, (long long)p->k, rate(&r[1]), peak > 0 ? 100 * rate(&r[1]) / peak : 0);
    if (sgemm) {
        printf("  %8.1f  %5.2f", rate(&r[2]), rate(&r[1]) / rate(&r[2]));
    }
    printf("\n");
    fflush(stdout);
}

static void shape(const bench *b, int64_t m, int64_t n, int64_t k, rv_dtype store, bool round_x) {
    problem p = problem_new(b, m, n, k, store, round_x);
    figure(&p, "fwd", run_forward, blas_forward);
    figure(&p, "dX", run_dx, blas_dx);
    if (m >= 128) {
        figure(&p, "dW", run_dw, blas_dw);
    }
    problem_free(&p);
}

int main(int argc, char **argv) {
    static const int64_t rows[] = {1, 4, 16, 64, 256, 1024};
    static const int64_t sizes[][2] = {{96, 96},   {128, 128},  {344, 128},  {128, 384},
                                       {256, 256}, {1024, 256}, {256, 1024}, {2560, 2560}};
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    load_blas(threads);
    bench b = {.be = rv_backend_cpu(), .seconds = argc > 1 ? atof(argv[1]) : 0.05};
    rv_err e;
    if (b.be->ctx_new(&b.c, 0, threads, &e) != RV_OK) {
        fprintf(stderr, "bench_gemm: %s\n", e.msg);
        return 1;
    }
    racer peak[] = {peak_of(false), peak_of(true)};
    race(&b, peak, 2);
    printf("%d thread(s); peak of one: fp32 %.1f, bf16 %.1f GFLOP/s; y (M, N) = x (M, K) W^T\n",
           threads, rate(&peak[0]), rate(&peak[1]));
    printf("type      op      M     N     K   GFLOP/s    peak  OpenBLAS  ratio\n");
    for (int type = 0; type < 3; type++) {
        rv_dtype store = type ? RV_BF16 : RV_F32;
        if (argc == 6) {
            shape(&b, atoll(argv[3]), atoll(argv[4]), atoll(argv[5]), store, type == 2);
        }
        for (size_t s = 0; argc < 6 && s < sizeof sizes / sizeof *sizes; s++) {
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                shape(&b, rows[r], sizes[s][0], sizes[s][1], store, type == 2);
            }
        }
    }
    b.be->ctx_free(b.c);
    return 0;
}
