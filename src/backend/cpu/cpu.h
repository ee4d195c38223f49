// cpu.h - what the CPU's files share: the context, threads, packed layouts, names per instruction
// set.
//
// cpu/*.c are compiled once. cpu/isa/*.c are compiled once per instruction set, RV_ISA naming it;
// their public symbols carry that name as a suffix and one table per set is made of them.
#pragma once

#include "backend.h"
#include "pool.h"

#define RV_PANEL        32        // outputs of one packed panel
#define RV_WORK_BYTES   (1 << 20) // fixed workspace of each thread
#define RV_MAX_HEAD_DIM 512
#define RV_MAX_THREADS  1024

struct rv_ctx {
    int threads;
    rv_pool *pool;
    char *work;    // threads * RV_WORK_BYTES
    char *scratch; // of rv_backend.reserve, shared out evenly
    size_t scratch_bytes;
    size_t now, peak;
};

static inline float *rv_f32(rv_dev d) { return (float *)d.addr; }

// ---- threads (ctx.c is the only file that knows how they are made) ----

/// Runs fn on ranges that together are [0, n): `cost` is the work of one item in multiply-adds of a
/// product (16 a cycle; a norm's number costs as much as 16 of them); small work stays on the
/// caller's thread. `unit`: ranges begin at multiples of it. `who` is the
/// thread that runs, below c->threads.
void rv_for(rv_ctx *c, int64_t n, int64_t cost, int64_t unit, rv_range_fn *fn, void *arg);
/// The same for items that cost much, differ, or need a place of their own: one by one.
void rv_for_each(rv_ctx *c, int64_t n, int64_t cost, rv_range_fn *fn, void *arg);
/// Threads that `total` multiply-adds are worth.
int rv_team(const rv_ctx *c, int64_t total);

/// Cuts (rows, cols) units of work into a grid of at most `parts` pieces whose largest is smallest.
void rv_grid(int parts, int64_t rows, int64_t cols, int *row_parts, int *col_parts);

static inline void *rv_work(const rv_ctx *c, int who) {
    return c->work + (size_t)who * RV_WORK_BYTES;
}

// ---- packed weights: panels of 32 outputs, [N/32][K][32]; pairs [N/32][ceil(K/2)][32][2] ----

static inline int64_t rv_panels(int64_t n) { return (n + RV_PANEL - 1) / RV_PANEL; }
/// True when w is kept as bf16 pairs for bf16 x bf16 products.
static inline bool rv_paired(const rv_weight *w) { return w->store == RV_BF16 && w->round_x; }

// ---- natural logarithm in fp64 by fixed operations: the same bits on every machine ----
double rv_log(double x);

// ---- entries that do not depend on the instruction set ----
rv_status rv_cpu_ctx_new(rv_ctx **out, int device, int threads, rv_err *e);
void rv_cpu_ctx_free(rv_ctx *c);
rv_status rv_cpu_reserve(rv_ctx *c, size_t bytes, rv_err *e);
int rv_cpu_threads(const rv_ctx *c);
rv_status rv_cpu_alloc(rv_ctx *c, rv_dev *out, size_t bytes, rv_err *e);
void rv_cpu_free(rv_ctx *c, rv_dev d);
void rv_cpu_upload(rv_ctx *c, rv_dev dst, const void *src, size_t bytes);
void rv_cpu_download(rv_ctx *c, void *dst, rv_dev src, size_t bytes);
void rv_cpu_copy(rv_ctx *c, rv_dev dst, rv_dev src, size_t bytes);
void rv_cpu_zero(rv_ctx *c, rv_dev dst, size_t bytes);
void rv_cpu_sync(rv_ctx *c);
void rv_cpu_usage(const rv_ctx *c, size_t *now, size_t *peak);

void rv_cpu_weight_size(rv_weight *w);
rv_status rv_cpu_weight_prepare(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t, rv_err *e);
int64_t rv_cpu_weight_elems(const rv_weight *w);
void rv_cpu_weight_pack(rv_ctx *c, const rv_weight *w, rv_dev master, const float *src);
void rv_cpu_weight_unpack(rv_ctx *c, const rv_weight *w, float *dst, rv_dev master);
void rv_cpu_weight_refresh(rv_ctx *c, rv_weight *w, rv_dev master);
void rv_cpu_weight_read(rv_ctx *c, const rv_weight *w, float *dst);

void rv_cpu_gather_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n);
void rv_cpu_scatter_add_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m,
                             int64_t n);
void rv_cpu_scatter_rows(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n);
void rv_cpu_embed(rv_ctx *c, rv_dev y, const rv_weight *w, const int32_t *ids, int64_t m);
void rv_cpu_embed_backward(rv_ctx *c, rv_dev dw, const rv_weight *w, rv_dev dy, const int32_t *ids,
                           int64_t m);

/// The table of one instruction set ("base", "avx2", "avx512", "avx512bf16"), or NULL where this
/// machine or build has none. For tests; rv_backend_cpu takes the best, or $RL4VLM_ISA.
const rv_backend *rv_cpu_isa(const char *name);
