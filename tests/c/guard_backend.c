// guard_backend.c - device memory is one region, opened on the way into an entry and shut on the
// way out.
#define _GNU_SOURCE // MAP_ANONYMOUS
#include "guard_backend.h"

#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, BLOCKS = 1 << 16 };
static const size_t REGION = (size_t)8 << 30; // of addresses; memory is taken as it is touched

static struct {
    char *base;
    size_t used; // bytes from base handed out so far
    size_t now, peak;
    int64_t n;
    struct {
        size_t at, bytes, room;
        bool live;
    } block[BLOCKS];
} mem;

static const rv_backend *cpu(void) { return rv_backend_cpu(); }

static void protect(int how) {
    if (mem.used) {
        RV_ASSERT(mprotect(mem.base, mem.used, how) == 0);
    }
}

static void open_memory(void) { protect(PROT_READ | PROT_WRITE); }
static void shut_memory(void) { protect(PROT_NONE); }

// Index of a free block with just this room, or a new one at the end; -1 when full.
static int64_t find_block(size_t room) {
    for (int64_t i = 0; i < mem.n; i++) {
        if (!mem.block[i].live && mem.block[i].room == room) {
            return i;
        }
    }
    if (mem.n == BLOCKS || room > REGION - mem.used) {
        return -1;
    }
    mem.block[mem.n].at = mem.used;
    mem.block[mem.n].room = room;
    mem.used += room;
    return mem.n++;
}

static rv_status guard_alloc(rv_ctx *c, rv_dev *out, size_t bytes, rv_err *e) {
    (void)c;
    out->addr = 0;
    if (!mem.base) {
        void *p = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        RV_ASSERT(p != MAP_FAILED);
        mem.base = p;
    }
    // A page of nothing behind each block keeps overruns from reaching the next one unseen.
    size_t room = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    int64_t i = bytes < REGION ? find_block(room) : -1;
    if (i < 0) {
        return RV_FAIL(e, RV_ENOMEM, "guard: no memory for %zu bytes", bytes);
    }
    mem.block[i].live = true;
    mem.block[i].bytes = bytes;
    mem.now += bytes;
    mem.peak = mem.now > mem.peak ? mem.now : mem.peak;
    open_memory();
    memset(mem.base + mem.block[i].at, 0, room);
    shut_memory();
    out->addr = (uintptr_t)(mem.base + mem.block[i].at);
    return RV_OK;
}

// Frees, and checks that nothing was written behind the block.
static void guard_free(rv_ctx *c, rv_dev d) {
    (void)c;
    for (int64_t i = 0; i < mem.n && !rv_dev_none(d); i++) {
        if (mem.block[i].live && (uintptr_t)(mem.base + mem.block[i].at) == d.addr) {
            open_memory();
            for (size_t b = mem.block[i].bytes; b < mem.block[i].room; b++) {
                RV_ASSERT(mem.base[mem.block[i].at + b] == 0);
            }
            shut_memory();
            mem.block[i].live = false;
            mem.now -= mem.block[i].bytes;
            return;
        }
    }
    RV_ASSERT(rv_dev_none(d));
}

static void guard_usage(const rv_ctx *c, size_t *now, size_t *peak) {
    cpu()->usage(c, now, peak);
    *now += mem.now;
    *peak += mem.peak;
}

// Entries that return nothing.
#define PASS(name, params, args)                                                                   \
    static void guard_##name params {                                                              \
        open_memory();                                                                             \
        cpu()->name args;                                                                          \
        shut_memory();                                                                             \
    }
#define PASS_STATUS(name, params, args)                                                            \
    static rv_status guard_##name params {                                                         \
        open_memory();                                                                             \
        rv_status status = cpu()->name args;                                                       \
        shut_memory();                                                                             \
        return status;                                                                             \
    }

PASS(upload, (rv_ctx * c, rv_dev d, const void *s, size_t n), (c, d, s, n))
PASS(download, (rv_ctx * c, void *d, rv_dev s, size_t n), (c, d, s, n))
PASS(copy, (rv_ctx * c, rv_dev d, rv_dev s, size_t n), (c, d, s, n))
PASS(zero, (rv_ctx * c, rv_dev d, size_t n), (c, d, n))
PASS_STATUS(weight_prepare, (rv_ctx * c, rv_weight *w, const void *s, rv_dtype t, rv_err *e),
            (c, w, s, t, e))
PASS(weight_pack, (rv_ctx * c, const rv_weight *w, rv_dev m, const float *s), (c, w, m, s))
PASS(weight_unpack, (rv_ctx * c, const rv_weight *w, float *d, rv_dev m), (c, w, d, m))
PASS(weight_refresh, (rv_ctx * c, rv_weight *w, rv_dev m), (c, w, m))
PASS(weight_read, (rv_ctx * c, const rv_weight *w, float *d), (c, w, d))
PASS(linear, (rv_ctx * c, rv_dev y, rv_dev x, int64_t m, const rv_linear *l), (c, y, x, m, l))
PASS(linears, (rv_ctx * c, const rv_dev *y, rv_dev x, int64_t m, const rv_linear *l, int n),
     (c, y, x, m, l, n))
PASS(linear_dx,
     (rv_ctx * c, rv_dev dx, rv_dev dy, int64_t m, const rv_linear *l, rv_dev g, bool add),
     (c, dx, dy, m, l, g, add))
PASS(linear_dw,
     (rv_ctx * c, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, int64_t m, const rv_weight *w),
     (c, dw, db, dy, x, m, w))
PASS(lora_dw,
     (rv_ctx * c, rv_dev da, rv_dev db, rv_dev dy, rv_dev x, rv_dev g, int64_t m,
      const rv_linear *l),
     (c, da, db, dy, x, g, m, l))
PASS(rmsnorm, (rv_ctx * c, rv_dev y, rv_dev x, rv_dev w, int64_t m, int64_t n, float eps),
     (c, y, x, w, m, n, eps))
PASS(rmsnorm_backward,
     (rv_ctx * c, rv_dev dx, rv_dev dw, rv_dev dy, rv_dev x, rv_dev w, int64_t m, int64_t n,
      float eps, bool add),
     (c, dx, dw, dy, x, w, m, n, eps, add))
PASS(layernorm,
     (rv_ctx * c, rv_dev y, rv_dev x, rv_dev w, rv_dev b, int64_t m, int64_t n, float eps),
     (c, y, x, w, b, m, n, eps))
PASS(layernorm_backward,
     (rv_ctx * c, rv_dev dx, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, rv_dev w, int64_t m,
      int64_t n, float eps, bool add),
     (c, dx, dw, db, dy, x, w, m, n, eps, add))
PASS(act, (rv_ctx * c, rv_dev y, rv_dev x, int64_t n, rv_act a), (c, y, x, n, a))
PASS(act_backward, (rv_ctx * c, rv_dev dx, rv_dev dy, rv_dev x, int64_t n, rv_act a),
     (c, dx, dy, x, n, a))
PASS(swiglu, (rv_ctx * c, rv_dev y, rv_dev g, rv_dev u, int64_t n), (c, y, g, u, n))
PASS(swiglu_backward, (rv_ctx * c, rv_dev dg, rv_dev du, rv_dev dy, rv_dev g, rv_dev u, int64_t n),
     (c, dg, du, dy, g, u, n))
PASS(axpy, (rv_ctx * c, rv_dev y, rv_dev x, float a, int64_t n), (c, y, x, a, n))
PASS(scale, (rv_ctx * c, rv_dev x, float a, int64_t n), (c, x, a, n))
PASS(rope, (rv_ctx * c, rv_dev x, int64_t w, rv_dev cs, int64_t m, int h, int d, float s),
     (c, x, w, cs, m, h, d, s))
PASS(gather_rows, (rv_ctx * c, rv_dev y, rv_dev x, const int32_t *i, int64_t m, int64_t n),
     (c, y, x, i, m, n))
PASS(scatter_add_rows, (rv_ctx * c, rv_dev y, rv_dev x, const int32_t *i, int64_t m, int64_t n),
     (c, y, x, i, m, n))
PASS(scatter_rows, (rv_ctx * c, rv_dev y, rv_dev x, const int32_t *i, int64_t m, int64_t n),
     (c, y, x, i, m, n))
PASS(embed, (rv_ctx * c, rv_dev y, const rv_weight *w, const int32_t *ids, int64_t m),
     (c, y, w, ids, m))
PASS(embed_backward,
     (rv_ctx * c, rv_dev dw, const rv_weight *w, rv_dev dy, const int32_t *ids, int64_t m),
     (c, dw, w, dy, ids, m))
PASS(attention,
     (rv_ctx * c, rv_dev o, rv_dev lse, rv_dev q, rv_dev k, rv_dev v, int64_t qs, int64_t ks,
      const int32_t *cu, const int32_t *q_cu, int64_t n, const rv_attn *a),
     (c, o, lse, q, k, v, qs, ks, cu, q_cu, n, a))
PASS(attention_backward,
     (rv_ctx * c, rv_dev dq, rv_dev dk, rv_dev dv, rv_dev d_o, rv_dev q, rv_dev k, rv_dev v,
      rv_dev o, rv_dev lse, int64_t qs, int64_t ks, const int32_t *cu, const int32_t *q_cu,
      int64_t n, const rv_attn *a),
     (c, dq, dk, dv, d_o, q, k, v, o, lse, qs, ks, cu, q_cu, n, a))
PASS(kv_write,
     (rv_ctx * c, rv_dev pool, rv_dev k, rv_dev v, int64_t ks, const rv_attn_seq *s, int64_t n,
      const rv_attn *a),
     (c, pool, k, v, ks, s, n, a))
PASS(attention_cached,
     (rv_ctx * c, rv_dev o, rv_dev q, int64_t qs, rv_dev pool, const rv_attn_seq *s, int64_t n,
      const rv_attn *a),
     (c, o, q, qs, pool, s, n, a))
PASS(logprob,
     (rv_ctx * c, rv_dev lp, rv_dev en, rv_dev lse, rv_dev l, const int32_t *ids, int64_t m,
      int64_t v, float t),
     (c, lp, en, lse, l, ids, m, v, t))
PASS(logprob_backward,
     (rv_ctx * c, rv_dev l, rv_dev gl, rv_dev ge, rv_dev lse, rv_dev en, const int32_t *ids,
      int64_t m, int64_t v, float t),
     (c, l, gl, ge, lse, en, ids, m, v, t))
PASS_STATUS(sample,
            (rv_ctx * c, rv_drawn *out, rv_dev l, int64_t m, int64_t v, const rv_sample *h,
             const int32_t *b, int64_t nb, rv_err *e),
            (c, out, l, m, v, h, b, nb, e))
PASS(sum_squares, (rv_ctx * c, double *out, rv_dev x, int64_t n), (c, out, x, n))
PASS(adamw, (rv_ctx * c, rv_dev w, rv_dev g, rv_dev m, rv_dev v, int64_t n, const rv_adamw *h),
     (c, w, g, m, v, n, h))

const rv_backend *guard_backend(void) {
    static rv_backend table;
    table = *cpu(); // what touches no device memory stays the CPU's own
    table.alloc = guard_alloc;
    table.free = guard_free;
    table.usage = guard_usage;
#define TAKE(name) table.name = guard_##name;
    TAKE(upload)
    TAKE(download)
    TAKE(copy)
    TAKE(zero)
    TAKE(weight_prepare)
    TAKE(weight_pack)
    TAKE(weight_unpack)
    TAKE(weight_refresh)
    TAKE(weight_read)
    TAKE(linear)
    TAKE(linears)
    TAKE(linear_dx)
    TAKE(linear_dw)
    TAKE(lora_dw)
    TAKE(rmsnorm)
    TAKE(rmsnorm_backward)
    TAKE(layernorm)
    TAKE(layernorm_backward)
    TAKE(act)
    TAKE(act_backward)
    TAKE(swiglu)
    TAKE(swiglu_backward)
    TAKE(axpy)
    TAKE(scale)
    TAKE(rope)
    TAKE(gather_rows)
    TAKE(scatter_add_rows)
    TAKE(scatter_rows)
    TAKE(embed)
    TAKE(embed_backward)
    TAKE(attention)
    TAKE(attention_backward)
    TAKE(kv_write)
    TAKE(attention_cached)
    TAKE(logprob)
    TAKE(logprob_backward)
    TAKE(sample)
    TAKE(sum_squares)
    TAKE(adamw)
    return &table;
}
