// ctx.c - the CPU's contexts: memory, scratch, and work shared out to threads.
#define _GNU_SOURCE
#include "cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mem.h"

// Multiply-adds: below THREAD_WORK a second thread costs more than it brings; a range has at least
// LEAST_WORK, that claims cost little, and at most MOST_WORK, that no thread waits long for
// another.
enum { THREAD_WORK = 150000, LEAST_WORK = 75000, MOST_WORK = 16000000 };

// What stands in front of every block: its size, so that `usage` can count it back, and the memory
// to free. Blocks begin at multiples of its room.
enum { HEADER = 64 };
// Blocks of this many bytes and more may have huge pages; smaller ones take just what they touch.
enum { HUGE_FROM = 32 << 20 };
typedef struct {
    size_t bytes;
    void *block;
} header;

// $OMP_NUM_THREADS, which people set and schedulers read, else the CPUs that the process may use.
static int default_threads(void) {
    const char *asked = getenv("OMP_NUM_THREADS");
    long n = asked ? strtol(asked, NULL, 10) : 0;
    cpu_set_t set;
    if (n < 1 && sched_getaffinity(0, sizeof set, &set) == 0) {
        n = CPU_COUNT(&set);
    }
    return n < 1 ? 1 : n < RV_MAX_THREADS ? (int)n : RV_MAX_THREADS;
}

rv_status rv_cpu_ctx_new(rv_ctx **out, int device, int threads, rv_err *e) {
    *out = NULL;
    if (device != 0) {
        return RV_FAIL(e, RV_EARG, "cpu: there is only device 0, asked for %d", device);
    }
    if (threads < 0 || threads > RV_MAX_THREADS) {
        return RV_FAIL(e, RV_EARG, "cpu: threads must be 0 (all) to %d, got %d", RV_MAX_THREADS,
                       threads);
    }
    rv_ctx *c = calloc(1, sizeof *c);
    if (c) {
        c->threads = threads ? threads : default_threads();
        c->work = rv_aligned_alloc((size_t)c->threads * RV_WORK_BYTES);
        c->pool = rv_pool_new(c->threads);
    }
    if (!c || !c->work || !c->pool) {
        rv_cpu_ctx_free(c);
        return RV_FAIL(e, RV_ENOMEM, "cpu: no memory for a context");
    }
    *out = c;
    return RV_OK;
}

void rv_cpu_ctx_free(rv_ctx *c) {
    if (c) {
        rv_pool_free(c->pool);
        rv_aligned_free(c->work);
        rv_aligned_free(c->scratch);
        free(c);
    }
}

rv_status rv_cpu_reserve(rv_ctx *c, size_t bytes, rv_err *e) {
    if (bytes <= c->scratch_bytes) {
        return RV_OK;
    }
    char *p = rv_aligned_alloc(bytes);
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "cpu: no memory for %zu bytes of scratch", bytes);
    }
    rv_aligned_free(c->scratch);
    c->scratch = p;
    c->now += bytes - c->scratch_bytes;
    c->scratch_bytes = bytes;
    c->peak = c->now > c->peak ? c->now : c->peak;
    return RV_OK;
}

int rv_cpu_threads(const rv_ctx *c) { return c->threads; }

// Large blocks ask for huge pages: weights that stream from memory arrive a third faster. The
// system need not follow.
static void ask_huge_pages(char *block, size_t bytes) {
    const uintptr_t page = (uintptr_t)2 << 20, from = (uintptr_t)block;
    const uintptr_t begin = (from + page - 1) / page * page, end = (from + bytes) / page * page;
    if (bytes >= HUGE_FROM) {
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
    }
}

// calloc, since the system's fresh pages are zero already: what is planned but never used costs no
// time and no memory.
rv_status rv_cpu_alloc(rv_ctx *c, rv_dev *out, size_t bytes, rv_err *e) {
    out->addr = 0;
    char *block = bytes <= SIZE_MAX - 2 * HEADER ? calloc(1, bytes + 2 * HEADER) : NULL;
    if (!block) {
        return RV_FAIL(e, RV_ENOMEM, "cpu: no memory for %zu bytes (%zu in use)", bytes, c->now);
    }
    ask_huge_pages(block, bytes);
    uintptr_t at = ((uintptr_t)block + 2 * HEADER - 1) / HEADER * HEADER;
    *(header *)(at - HEADER) = (header){bytes, block};
    c->now += bytes;
    c->peak = c->now > c->peak ? c->now : c->peak;
    out->addr = at;
    return RV_OK;
}

void rv_cpu_free(rv_ctx *c, rv_dev d) {
    if (!rv_dev_none(d)) {
        header h = *(const header *)(d.addr - HEADER);
        c->now -= h.bytes;
        free(h.block);
    }
}

void rv_cpu_upload(rv_ctx *c, rv_dev dst, const void *src, size_t bytes) {
    (void)c;
    if (bytes) {
        memcpy((void *)dst.addr, src, bytes);
    }
}

void rv_cpu_download(rv_ctx *c, void *dst, rv_dev src, size_t bytes) {
    (void)c;
    if (bytes) {
        memcpy(dst, (const void *)src.addr, bytes);
    }
}

void rv_cpu_copy(rv_ctx *c, rv_dev dst, rv_dev src, size_t bytes) {
    (void)c;
    if (bytes) {
        memmove((void *)dst.addr, (const void *)src.addr, bytes);
    }
}

void rv_cpu_zero(rv_ctx *c, rv_dev dst, size_t bytes) {
    (void)c;
    if (bytes) {
        memset((void *)dst.addr, 0, bytes);
    }
}

void rv_cpu_sync(rv_ctx *c) { (void)c; }

void rv_cpu_usage(const rv_ctx *c, size_t *now, size_t *peak) {
    *now = c->now;
    *peak = c->peak;
}

int rv_team(const rv_ctx *c, int64_t total) {
    int64_t most = total / THREAD_WORK + 1;
    return most < c->threads ? (int)most : c->threads;
}

void rv_grid(int parts, int64_t rows, int64_t cols, int *row_parts, int *col_parts) {
    int64_t best = INT64_MAX;
    for (int r = 1; r <= parts; r++) {
        int c = parts / r;
        int64_t most = ((rows + r - 1) / r) * ((cols + c - 1) / c);
        if (most < best) {
            best = most;
            *row_parts = r;
            *col_parts = c;
        }
    }
}

typedef struct {
    rv_range_fn *fn;
    void *arg;
    int64_t n, unit;
} ranges;

static void run_range(void *arg, int64_t lo, int64_t hi, int who) {
    const ranges *r = arg;
    r->fn(r->arg, lo * r->unit, hi * r->unit < r->n ? hi * r->unit : r->n, who);
}

void rv_for(rv_ctx *c, int64_t n, int64_t cost, int64_t unit, rv_range_fn *fn, void *arg) {
    if (rv_team(c, n * cost) < 2) {
        if (n > 0) {
            fn(arg, 0, n, 0);
        }
        return;
    }
    const int64_t units = (n + unit - 1) / unit, whole = units / RV_POOL_UNITS + 1;
    ranges r = {fn, arg, n, unit * whole};
    const int64_t least = LEAST_WORK / (cost * r.unit) + 1, most = MOST_WORK / (cost * r.unit) + 1;
    rv_pool_run(c->pool, (int)((units + whole - 1) / whole), (int)least, (int)most, run_range, &r);
}

static void run_items(void *arg, int64_t lo, int64_t hi, int who) {
    const ranges *r = arg;
    for (int64_t i = lo; i < hi; i++) {
        r->fn(r->arg, i, i + 1, who);
    }
}

void rv_for_each(rv_ctx *c, int64_t n, int64_t cost, rv_range_fn *fn, void *arg) {
    ranges r = {fn, arg, n, 1};
    rv_for(c, n, cost, 1, run_items, &r);
}

double rv_log(double x) {
    static const double ln2 = 0.69314718055994530942;
    if (!(x > 0) || x > 1.7e308) {
        return x == 0 ? -__builtin_inf() : x > 0 ? x : __builtin_nan("");
    }
    int64_t bits, e;
    x *= 18014398509481984.0; // 2^54: subnormals become normal
    memcpy(&bits, &x, sizeof bits);
    e = (bits >> 52) - 1023 - 54;
    bits = (bits & 0xfffffffffffffLL) | 0x3ff0000000000000LL;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        e++;
    }
    // ln m = 2 atanh(s), |s| < 0.172.
    double s = (m - 1) / (m + 1), q = s * s, p = 0;
    for (int k = 21; k >= 1; k -= 2) {
        p = p * q + 2.0 / k;
    }
    return (double)e * ln2 + s * p;
}
