// norm.c - RMSNorm and LayerNorm. Statistics in fp64, rounded once.
//
// The backward pass walks the rows in chunks, three passes each: statistics, then the sums over
// rows (split by columns, rows ascending), then dx, so that dx may be dy.
#include "isa.h"
#include "sum.h"

enum { CHUNK = 4096 }; // rows whose statistics are kept at a time

typedef struct {
    float *y, *dx, *dw, *db;
    const float *x, *dy, *w, *b;
    int64_t m, n;
    float eps;
    bool centre, add;
    float *mean, *rstd; // (CHUNK)
} norm_args;

static void row_stats(const norm_args *a, const float *x, float *mean, float *rstd) {
    int64_t n = a->n;
    double mu = 0;
    if (a->centre) {
        SUM(s, n, (double)x[i])
        mu = s / (double)n;
    }
    SUM(q, n, ((double)x[i] - mu) * ((double)x[i] - mu))
    *mean = (float)mu;
    *rstd = (float)(1 / __builtin_sqrt(q / (double)n + (double)a->eps));
}

static void norm_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const norm_args *a = arg;
    for (int64_t r = lo; r < hi; r++) {
        const float *x = a->x + r * a->n;
        float *y = a->y + r * a->n;
        float mean, rstd;
        row_stats(a, x, &mean, &rstd);
        if (a->b) {
            for (int64_t i = 0; i < a->n; i++) {
                y[i] = __builtin_fmaf((x[i] - mean) * rstd, a->w[i], a->b[i]);
            }
        } else {
            for (int64_t i = 0; i < a->n; i++) {
                y[i] = (x[i] - mean) * rstd * a->w[i];
            }
        }
    }
}

static void stats_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const norm_args *a = arg;
    for (int64_t r = lo; r < hi; r++) {
        row_stats(a, a->x + r * a->n, a->mean + r, a->rstd + r);
    }
}

static void weight_columns(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const norm_args *a = arg;
    for (int64_t r = 0; r < a->m; r++) {
        const float *x = a->x + r * a->n, *dy = a->dy + r * a->n;
        float mean = a->mean[r], rstd = a->rstd[r];
        if (a->dw) {
            for (int64_t i = lo; i < hi; i++) {
                a->dw[i] = __builtin_fmaf(dy[i], (x[i] - mean) * rstd, a->dw[i]);
            }
        }
        if (a->db) {
            for (int64_t i = lo; i < hi; i++) {
                a->db[i] += dy[i];
            }
        }
    }
}

static void dx_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const norm_args *a = arg;
    int64_t n = a->n;
    for (int64_t r = lo; r < hi; r++) {
        const float *x = a->x + r * n, *dy = a->dy + r * n, *w = a->w;
        float *dx = a->dx + r * n;
        float mean = a->mean[r], rstd = a->rstd[r];
        // u = dy w, xh = (x - mean) rstd: dx = rstd (u - mean(u) - xh mean(u xh))
        SUM(uh, n, (double)(dy[i] * w[i]) * (double)((x[i] - mean) * rstd))
        float along = (float)(uh / (double)n), level = 0;
        if (a->centre) {
            SUM(u, n, (double)(dy[i] * w[i]))
            level = (float)(u / (double)n);
        }
        if (a->add) {
            for (int64_t i = 0; i < n; i++) {
                float xh = (x[i] - mean) * rstd;
                dx[i] += rstd * (dy[i] * w[i] - level - xh * along);
            }
        } else {
            for (int64_t i = 0; i < n; i++) {
                float xh = (x[i] - mean) * rstd;
                dx[i] = rstd * (dy[i] * w[i] - level - xh * along);
            }
        }
    }
}

static void norm_backward(rv_ctx *c, norm_args a) {
    float stats[2][CHUNK];
    const int64_t m = a.m;
    a.mean = stats[0];
    a.rstd = stats[1];
    for (int64_t r = 0; r < m; r += CHUNK) {
        a.m = m - r < CHUNK ? m - r : CHUNK;
        rv_for(c, a.m, a.n * 16, 1, stats_rows, &a);
        if (a.dw || a.db) {
            rv_for(c, a.n, a.m * 8, 16, weight_columns, &a);
        }
        rv_for(c, a.m, a.n * 16, 1, dx_rows, &a);
        a.x += a.m * a.n;
        a.dy += a.m * a.n;
        a.dx += a.m * a.n;
    }
}

void ISA(rv_rmsnorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, int64_t m, int64_t n, float eps) {
    norm_args a = {.y = rv_f32(y), .x = rv_f32(x), .w = rv_f32(w), .m = m, .n = n, .eps = eps};
    rv_for(c, m, n * 16, 1, norm_rows, &a);
}

void ISA(rv_layernorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, rv_dev b, int64_t m, int64_t n,
                       float eps) {
    norm_args a = {.y = rv_f32(y),
                   .x = rv_f32(x),
                   .w = rv_f32(w),
                   .b = rv_f32(b),
                   .m = m,
                   .n = n,
                   .eps = eps,
                   .centre = true};
    rv_for(c, m, n * 16, 1, norm_rows, &a);
}

void ISA(rv_rmsnorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev dy, rv_dev x, rv_dev w,
                              int64_t m, int64_t n, float eps, bool add) {
    norm_backward(c, (norm_args){.dx = rv_f32(dx),
                                 .dw = rv_f32(dw),
                                 .dy = rv_f32(dy),
                                 .x = rv_f32(x),
                                 .w = rv_f32(w),
                                 .m = m,
                                 .n = n,
                                 .eps = eps,
                                 .add = add});
}

void ISA(rv_layernorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x,
                                rv_dev w, int64_t m, int64_t n, float eps, bool add) {
    norm_backward(c, (norm_args){.dx = rv_f32(dx),
                                 .dw = rv_f32(dw),
                                 .db = rv_f32(db),
                                 .dy = rv_f32(dy),
                                 .x = rv_f32(x),
                                 .w = rv_f32(w),
                                 .m = m,
                                 .n = n,
                                 .eps = eps,
                                 .centre = true,
                                 .add = add});
}
