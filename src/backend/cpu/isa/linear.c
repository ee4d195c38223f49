// linear.c - linear layers: forward, dX and dW on packed weights.
//
// Work is cut into a grid of row ranges and ranges of 32-column panels, one piece a thread; every
// output element is computed whole on one thread.
#include "isa.h"
#include "tile.h"

#include "act.h"

enum { ROWS = 96 }; // rows that pass over one panel while it is in the cache

static __attribute__((noinline)) void tile_bf16(const tile *t, int64_t rows) {
    tile_block(B_BF16, t, rows, RV_PANEL);
}

static __attribute__((noinline)) void tile_f16(const tile *t, int64_t rows) {
    tile_block(B_F16, t, rows, RV_PANEL);
}

static __attribute__((noinline)) void tile_pair(const tile *t, int64_t rows) {
    tile_block(B_PAIR, t, rows, RV_PANEL);
}

// One product y (M, n) = x (M, k) times panels: a weight's forward copy, or its transposed copy.
typedef struct {
    const float *x;
    const char *panels;
    int64_t n, k;
    rv_dtype store;
    bool paired;
} product;

static product forward_of(const rv_weight *w, rv_dev x) {
    return (product){rv_f32(x), (const char *)w->fwd.addr, w->n, w->k, w->store, rv_paired(w)};
}

static product backward_of(const rv_weight *w, rv_dev dy) {
    return (product){rv_f32(dy), (const char *)w->dx.addr, w->k, w->n, w->store, rv_paired(w)};
}

// What happens to the sums on their way to y.
typedef struct {
    product main, lora; // lora.panels NULL: none
    float lora_scale, scale;
    const float *bias;
    float *y, *pre;
    const float *residual;
    rv_act act;
    int64_t m;
    int row_parts, panel_parts;
} job;

// Rounds rows of activations to bf16 in the form that pair_fma reads; odd k are padded with zero.
static void round_rows(pair_t *dst, const float *x, int64_t rows, int64_t k) {
    int64_t pairs = (k + 1) / 2;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < pairs; j++) {
            const float *p = x + i * k + 2 * j;
            uint32_t even = rv_f32_to_bf16(p[0]);
            uint32_t odd = 2 * j + 1 < k ? rv_f32_to_bf16(p[1]) : 0;
            pair_t *d = dst + (i * pairs + j) * PAIR_WIDTH;
#if PAIR_WIDTH == 1
            *d = odd << 16 | even;
#else
            d[0] = rv_bf16_to_f32((uint16_t)even);
            d[1] = rv_bf16_to_f32((uint16_t)odd);
#endif
        }
    }
}

// sums (rows, 32) = rows row0.. of x times panel p; `rounded` holds those rows when paired.
static void product_tile(const product *g, float *sums, const pair_t *rounded, int64_t row0,
                         int64_t rows, int64_t p) {
    tile t = {.c = sums,
              .ldc = RV_PANEL,
              .a = g->x + row0 * g->k,
              .ar = g->k,
              .at = 1,
              .ldb = RV_PANEL,
              .steps = g->k};
    size_t panel = (size_t)(p * RV_PANEL) * rv_dtype_size(g->store);
    t.b = g->panels + panel * (size_t)g->k;
    if (g->paired) {
        t.steps = (g->k + 1) / 2;
        t.b = g->panels + panel * (size_t)(t.steps * 2);
        t.a = rounded;
        t.ar = t.steps * PAIR_WIDTH;
        t.at = PAIR_WIDTH;
        tile_pair(&t, rows);
    } else if (g->store == RV_F32) {
        tile_f32(&t, rows, RV_PANEL);
    } else if (g->store == RV_BF16) {
        tile_bf16(&t, rows);
    } else {
        tile_f16(&t, rows);
    }
}

// y = act(scale * (sums + lora_scale * lora) + bias) + residual, n <= 32 columns of one row.
static void finish_row(const job *b, int64_t row, int64_t col, int64_t n, float *s,
                       const float *lora) {
    if (lora) {
        for (int64_t j = 0; j < n; j++) {
            s[j] = __builtin_fmaf(b->lora_scale, lora[j], s[j]);
        }
    }
    if (b->scale != 1) {
        for (int64_t j = 0; j < n; j++) {
            s[j] *= b->scale;
        }
    }
    if (b->bias) {
        for (int64_t j = 0; j < n; j++) {
            s[j] += b->bias[col + j];
        }
    }
    int64_t at = row * b->main.n + col;
    if (b->pre) {
        memcpy(b->pre + at, s, (size_t)n * sizeof *s);
    }
    if (b->act != RV_ACT_NONE) {
        act_run(b->act, s, s, n);
    }
    if (b->residual) {
        for (int64_t j = 0; j < n; j++) {
            s[j] += b->residual[at + j];
        }
    }
    memcpy(b->y + at, s, (size_t)n * sizeof *s);
}

// Rows that fit the rounding workspace of one thread.
static int64_t block_rows(const job *b) {
    int64_t bytes = 0;
    const product *g[2] = {&b->main, &b->lora};
    for (int i = 0; i < 2; i++) {
        if (g[i]->panels && g[i]->paired) {
            bytes += ((g[i]->k + 1) / 2 * PAIR_WIDTH + 1) * (int64_t)sizeof(pair_t);
        }
    }
    int64_t rows = bytes ? RV_WORK_BYTES / bytes : ROWS;
    RV_ASSERT(rows > 0);
    return rows < ROWS ? rows : ROWS;
}

static void job_block(const job *b, pair_t *work, int64_t row0, int64_t rows, int64_t p0,
                      int64_t p1) {
    _Alignas(64) float sums[ROWS * RV_PANEL], lora[ROWS * RV_PANEL];
    pair_t *lora_work = work;
    if (b->main.paired) {
        round_rows(work, b->main.x + row0 * b->main.k, rows, b->main.k);
        lora_work = work + rows * ((b->main.k + 1) / 2) * PAIR_WIDTH;
    }
    if (b->lora.panels && b->lora.paired) {
        round_rows(lora_work, b->lora.x + row0 * b->lora.k, rows, b->lora.k);
    }
    for (int64_t p = p0; p < p1; p++) {
        product_tile(&b->main, sums, work, row0, rows, p);
        if (b->lora.panels) {
            product_tile(&b->lora, lora, lora_work, row0, rows, p);
        }
        int64_t col = p * RV_PANEL, n = b->main.n - col < RV_PANEL ? b->main.n - col : RV_PANEL;
        for (int64_t i = 0; i < rows; i++) {
            finish_row(b, row0 + i, col, n, sums + i * RV_PANEL,
                       b->lora.panels ? lora + i * RV_PANEL : NULL);
        }
    }
}

static void job_part(void *arg, int tid, int team);

typedef struct {
    const job *b;
    const rv_ctx *c;
} job_call;

static void job_part(void *arg, int tid, int team) {
    (void)team;
    const job_call *call = arg;
    const job *b = call->b;
    int64_t panels = rv_panels(b->main.n), units = (b->m + MR - 1) / MR;
    int64_t pr = tid / b->panel_parts, pp = tid % b->panel_parts;
    int64_t p0 = panels * pp / b->panel_parts, p1 = panels * (pp + 1) / b->panel_parts;
    int64_t r0 = units * pr / b->row_parts * MR, r1 = units * (pr + 1) / b->row_parts * MR;
    r1 = r1 < b->m ? r1 : b->m;
    int64_t step = block_rows(b);
    for (int64_t r = r0; r < r1 && p0 < p1; r += step) {
        job_block(b, rv_work(call->c, tid), r, r1 - r < step ? r1 - r : step, p0, p1);
    }
}

// Chooses the grid whose largest piece is smallest.
static void split(job *b, int team) {
    int64_t panels = rv_panels(b->main.n), units = (b->m + MR - 1) / MR, best = INT64_MAX;
    for (int rows = 1; rows <= team; rows++) {
        int cols = team / rows;
        int64_t most = ((units + rows - 1) / rows) * ((panels + cols - 1) / cols);
        if (most < best) {
            best = most;
            b->row_parts = rows;
            b->panel_parts = cols;
        }
    }
}

static void run_job(rv_ctx *c, job *b) {
    int64_t k = b->main.k + (b->lora.panels ? b->lora.k : 0);
    split(b, rv_team(c, b->m * b->main.n * k));
    rv_together(c, b->row_parts * b->panel_parts, job_part, &(job_call){b, c});
}

void ISA(rv_linear)(rv_ctx *c, rv_dev y, rv_dev x, int64_t m, const rv_linear *l) {
    job b = {.main = forward_of(l->w, x),
             .scale = 1,
             .bias = rv_f32(l->bias),
             .y = rv_f32(y),
             .pre = rv_f32(l->pre),
             .residual = rv_f32(l->residual),
             .act = l->act,
             .m = m};
    if (l->lora) {
        job h = {.main = forward_of(l->lora->a, x), .scale = 1, .y = rv_f32(l->lora_h), .m = m};
        run_job(c, &h);
        b.lora = forward_of(l->lora->b, l->lora_h);
        b.lora_scale = l->lora->scale;
    }
    run_job(c, &b);
}

void ISA(rv_linear_dx)(rv_ctx *c, rv_dev dx, rv_dev dy, int64_t m, const rv_linear *l,
                       rv_dev lora_g, bool add) {
    job b = {.main = backward_of(l->w, dy),
             .scale = 1,
             .y = rv_f32(dx),
             .residual = add ? rv_f32(dx) : NULL,
             .m = m};
    if (l->lora) {
        job g = {.main = backward_of(l->lora->b, dy),
                 .scale = l->lora->scale,
                 .y = rv_f32(lora_g),
                 .m = m};
        run_job(c, &g);
        b.lora = backward_of(l->lora->a, lora_g);
        b.lora_scale = 1;
    }
    run_job(c, &b);
}

// ---- dW ----

typedef struct {
    const rv_ctx *c;
    float *dw, *db;
    const float *dy, *x;
    float scale;
    int64_t m, n, k;
} dw_args;

enum { STEPS = 1024 }; // rows of dY copied at a time

// dy rows m0.. of one panel as (steps, 32), times scale, padded with zeros.
static void copy_panel(float *dst, const dw_args *a, int64_t m0, int64_t steps, int64_t col) {
    int64_t n = a->n - col < RV_PANEL ? a->n - col : RV_PANEL;
    for (int64_t i = 0; i < steps; i++) {
        const float *src = a->dy + (m0 + i) * a->n + col;
        for (int64_t j = 0; j < n; j++) {
            dst[i * RV_PANEL + j] = src[j] * a->scale;
        }
        for (int64_t j = n; j < RV_PANEL; j++) {
            dst[i * RV_PANEL + j] = 0;
        }
    }
}

static void dw_panels(void *arg, int64_t lo, int64_t hi, int tid) {
    const dw_args *a = arg;
    float *b = rv_work(a->c, tid);
    for (int64_t p = lo; p < hi; p++) {
        int64_t col = p * RV_PANEL, n = a->n - col < RV_PANEL ? a->n - col : RV_PANEL;
        for (int64_t m0 = 0; m0 < a->m; m0 += STEPS) {
            int64_t steps = a->m - m0 < STEPS ? a->m - m0 : STEPS;
            copy_panel(b, a, m0, steps, col);
            tile t = {.c = a->dw + col * a->k,
                      .ldc = RV_PANEL,
                      .a = a->x + m0 * a->k,
                      .ar = 1,
                      .at = a->k,
                      .b = b,
                      .ldb = RV_PANEL,
                      .steps = steps,
                      .load = true};
            tile_f32(&t, a->k, RV_PANEL);
            for (int64_t i = 0; a->db && i < steps; i++) {
                for (int64_t j = 0; j < n; j++) {
                    a->db[col + j] += b[i * RV_PANEL + j];
                }
            }
        }
    }
}

static void run_dw(rv_ctx *c, dw_args a) {
    if (a.m > 0) {
        rv_for(c, rv_panels(a.n), a.m * a.k * RV_PANEL, 1, dw_panels, &a);
    }
}

void ISA(rv_linear_dw)(rv_ctx *c, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, int64_t m,
                       const rv_weight *w) {
    run_dw(c, (dw_args){c, rv_f32(dw), rv_f32(db), rv_f32(dy), rv_f32(x), 1, m, w->n, w->k});
}

void ISA(rv_lora_dw)(rv_ctx *c, rv_dev da, rv_dev db, rv_dev dy, rv_dev x, rv_dev lora_g, int64_t m,
                     const rv_linear *l) {
    const rv_weight *a = l->lora->a, *b = l->lora->b;
    run_dw(c, (dw_args){c, rv_f32(da), NULL, rv_f32(lora_g), rv_f32(x), 1, m, a->n, a->k});
    run_dw(c, (dw_args){c, rv_f32(db), NULL, rv_f32(dy), rv_f32(l->lora_h), l->lora->scale, m, b->n,
                        b->k});
}
