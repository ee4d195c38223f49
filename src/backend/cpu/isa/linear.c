// linear.c - linear layers: y = x W^T and dX = dY W on packed weights, with what stands around
// them.
//
// A unit of work is a block of rows times a panel of 32 columns; threads take runs of units, and
// every output element is computed whole on one thread. The rows of a block pass over a few panels,
// STEPS of their steps at a time, so that both stay in the first caches; the sums wait in memory in
// between, which costs no bits.
#include "isa.h"
#include "tile.h"
#include "turn.h"

#include "act.h"

enum {
    ROWS = 192,          // at most in a block
    STEPS = 4096 / NC,   // of a panel at a time: 16 KiB of a tile's columns
    STREAM_ROWS = 16,    // rows with which weights stream from memory
    STREAM_BYTES = 8192, // of a panel at a time then
    WAIT_ROWS = 4,       // rows that take less time than their weights
    GROUP = 4            // panels that share a block's steps while they are near
};

static __attribute__((noinline)) void tile_bf16(const tile *t, int64_t rows) {
    tile_block(B_BF16, t, rows, RV_PANEL);
}

static __attribute__((noinline)) void tile_f16(const tile *t, int64_t rows) {
    tile_block(B_F16, t, rows, RV_PANEL);
}

static __attribute__((noinline)) void tile_pair(const tile *t, int64_t rows) {
    tile_block(B_PAIR, t, rows, RV_PANEL);
}

// One product y (M, n) = x (M, k) times panels: a weight's, or (transposed) what turn.h makes of
// them.
typedef struct {
    const float *x;
    const char *panels;
    int64_t n, k;
    rv_dtype store;
    bool paired;
    const rv_weight *quantised; // or NULL
    bool transposed;
} product;

static product forward_of(const rv_weight *w, rv_dev x) {
    return (product){.x = rv_f32(x),
                     .panels = (const char *)w->fwd.addr,
                     .n = w->n,
                     .k = w->k,
                     .store = w->store,
                     .paired = rv_paired(w),
                     .quantised = rv_quantised(w->store) ? w : NULL};
}

static product backward_of(const rv_weight *w, rv_dev dy) {
    return (product){.x = rv_f32(dy),
                     .panels = (const char *)w->fwd.addr,
                     .n = w->k,
                     .k = w->n,
                     .store = w->store,
                     .paired = rv_paired(w),
                     .quantised = rv_quantised(w->store) ? w : NULL,
                     .transposed = true};
}

// Steps as the panels hold them.
static int64_t steps_of(const product *g) { return g->paired ? (g->k + 1) / 2 * 2 : g->k; }

// What happens to the sums on their way to y.
typedef struct {
    product main, lora; // lora.panels NULL: none
    float lora_scale, scale;
    const float *bias;
    float *y, *pre;
    const float *residual;
    rv_act act;
    int64_t m, rows; // of a block, but the last
} job;

// Rounds rows of activations to bf16 in the form that pair_fma reads; odd k are padded with zero.
static void round_rows(pair_t *dst, const float *x, int64_t rows, int64_t k) {
    int64_t pairs = (k + 1) / 2;
    for (int64_t i = 0; i < rows; i++, x += k, dst += pairs * PAIR_WIDTH) {
#if PAIR_WIDTH == 1
        for (int64_t j = 0; j < k / 2; j++) {
            dst[j] = fn_bf16(x[2 * j + 1]) | fn_bf16(x[2 * j]) >> 16;
        }
        if (k % 2) {
            dst[k / 2] = fn_bf16(x[k - 1]) >> 16;
        }
#else
        for (int64_t j = 0; j < k; j++) {
            dst[j] = fn_bits((int32_t)fn_bf16(x[j]));
        }
        if (k % 2) {
            dst[k] = 0;
        }
#endif
    }
}

// Multiplies by the steps s0.. that t->b holds in `store`.
static void tile_of(tile *t, const product *g, rv_dtype store, int64_t s0, int64_t rows) {
    if (g->paired) {
        t->a = (const pair_t *)t->a + s0 / 2 * PAIR_WIDTH;
        t->at = PAIR_WIDTH;
        t->steps /= 2;
        tile_pair(t, rows);
        return;
    }
    t->a = (const float *)t->a + s0;
    if (store == RV_F32) {
        tile_f32(t, rows, RV_PANEL);
    } else if (store == RV_BF16) {
        tile_bf16(t, rows);
    } else {
        tile_f16(t, rows);
    }
}

// Steps s0.. of a panel as they are stored.
static void tile_stored(tile *t, const product *g, const char *panel, int64_t s0, int64_t rows) {
    t->b = panel + (size_t)(s0 * RV_PANEL) * rv_dtype_size(g->store);
    tile_of(t, g, g->store, s0, rows);
}

// Steps s0.. of panel p of the transposed matrix; its steps are the weight's outputs.
static void tile_turned(tile *t, const product *g, int64_t p, int64_t s0, int64_t rows) {
    _Alignas(64) uint32_t turned[STEPS * RV_PANEL];
    const int64_t per = g->paired ? 2 : 1, inputs = (g->n + per - 1) / per; // rows of a panel
    const int64_t row0 = p * RV_PANEL / per, rest = inputs - row0, most = RV_PANEL / per;
    const size_t row = RV_PANEL * (size_t)per * rv_dtype_size(g->store);
    for (int64_t s = 0; s < t->steps; s += RV_PANEL) {
        const char *from = g->panels + (size_t)((s0 + s) / RV_PANEL * inputs + row0) * row;
        uint32_t *to = turned + s / per * RV_PANEL;
        if (g->paired) {
            turn_pairs(to, (const uint32_t *)from, rest < most ? rest : most);
        } else {
            turn_panel((float *)to, from, g->store, rest < most ? rest : most);
        }
    }
    t->b = turned;
    tile_of(t, g, RV_F32, s0, rows);
}

// Where the sums of a group of panels go.
typedef struct {
    float *c[GROUP]; // (rows, 32) each
    int64_t ldc[GROUP];
} sums;

// What follows steps s0.. of panel i of a group that begins at `panels`: the next panel's same
// steps, or the first one's next.
static const void *next_steps(const product *g, const char *panels, size_t size, int64_t s0,
                              int64_t most, int64_t i, int64_t n) {
    int64_t s = i + 1 < n ? s0 : s0 + most;
    if (s >= steps_of(g)) {
        return panels + (size_t)n * size; // the next group
    }
    return panels + (size_t)((i + 1) % n) * size + (size_t)(s * RV_PANEL) * rv_dtype_size(g->store);
}

// Steps of a panel at a time. Of few rows, these and the next ones are together in the cache.
static int64_t steps_at_once(const product *g, int64_t rows) {
    const int64_t stream = STREAM_BYTES / RV_PANEL / (int64_t)rv_dtype_size(g->store);
    return rows <= STREAM_ROWS && !g->transposed ? stream : STEPS;
}

// Rows row0.. of x times `panels` panels from p on. `rounded` holds those rows when paired.
static void product_group(const product *g, const sums *to, const void *rounded, int64_t row0,
                          int64_t rows, int64_t p, int64_t panels) {
    if (g->quantised) {
        const rv_quant_call call = {g->quantised, g->transposed, g->x + row0 * g->k,
                                    rows,         to->c,         to->ldc};
        ISA(rv_quant_product)(&call, p, panels);
        return;
    }
    const int64_t all = steps_of(g), most = steps_at_once(g, rows);
    const size_t size = (size_t)(RV_PANEL * all) * rv_dtype_size(g->store);
    for (int64_t s0 = 0; s0 < all || s0 == 0; s0 += most) {
        for (int64_t i = 0; i < panels; i++) {
            tile t = {.c = to->c[i],
                      .ldc = to->ldc[i],
                      .a = g->x + row0 * g->k,
                      .ar = g->k,
                      .at = 1,
                      .ldb = RV_PANEL,
                      .steps = all - s0 < most ? all - s0 : most,
                      .load = s0 > 0};
            if (g->paired) {
                t.a = rounded;
                t.ar = all / 2 * PAIR_WIDTH;
            }
            const char *group = g->panels + (size_t)p * size, *panel = group + (size_t)i * size;
            if (g->transposed) {
                tile_turned(&t, g, p + i, s0, rows);
            } else {
                t.next = next_steps(g, group, size, s0, most, i, panels);
                tile_stored(&t, g, panel, s0, rows);
            }
        }
    }
}

// Brings rows of x into the form that the product reads: nothing, or rounded pairs in `work`.
static void prepare_rows(const product *g, pair_t *work, int64_t row0, int64_t rows) {
    if (g->paired) {
        round_rows(work, g->x + row0 * g->k, rows, g->k);
    }
}

// y = act(scale (sums + lora_scale lora) + bias) + residual, n <= 32 columns of one row.
RV_INLINE void finish_columns(const job *b, int64_t row, int64_t col, const int64_t n, float *s,
                              const float *lora) {
    for (int64_t j = 0; lora && j < n; j++) {
        s[j] = __builtin_fmaf(b->lora_scale, lora[j], s[j]);
    }
    for (int64_t j = 0; b->scale != 1 && j < n; j++) {
        s[j] *= b->scale;
    }
    for (int64_t j = 0; b->bias && j < n; j++) {
        s[j] += b->bias[col + j];
    }
    int64_t at = row * b->main.n + col;
    if (b->pre) {
        memcpy(b->pre + at, s, (size_t)n * sizeof *s);
    }
    if (b->act != RV_ACT_NONE) {
        act_run(b->act, s, s, n);
    }
    for (int64_t j = 0; b->residual && j < n; j++) {
        s[j] += b->residual[at + j];
    }
    memcpy(b->y + at, s, (size_t)n * sizeof *s);
}

static void finish_row(const job *b, int64_t row, int64_t col, int64_t n, float *s,
                       const float *lora) {
    if (n == RV_PANEL) { // a constant width
        finish_columns(b, row, col, RV_PANEL, s, lora);
    } else {
        finish_columns(b, row, col, n, s, lora);
    }
}

static bool is_plain(const job *b) {
    return !b->lora.panels && b->scale == 1 && !b->bias && !b->pre && b->act == RV_ACT_NONE &&
           !b->residual;
}

static int64_t work_per_row(const product *g) {
    return g->panels && g->paired ? steps_of(g) / 2 * PAIR_WIDTH * (int64_t)sizeof(pair_t) : 0;
}

// Rows of a block: at most what the rounding workspace holds, blocks alike in size.
static int64_t block_rows(const job *b) {
    int64_t work = work_per_row(&b->main) + work_per_row(&b->lora);
    RV_ASSERT(work <= RV_WORK_BYTES);
    int64_t most = work > 0 && RV_WORK_BYTES / work < ROWS ? RV_WORK_BYTES / work : ROWS;
    int64_t blocks = (b->m + most - 1) / most, each = (b->m + blocks - 1) / blocks;
    int64_t whole = (each + MR - 1) / MR * MR;
    return whole < most ? whole : most;
}

// A block of rows on its way through the panels.
typedef struct {
    const job *b;
    int64_t row0, rows;
    pair_t *work, *lora_work;
    bool plain;
} block;

static void block_group(const block *k, int64_t p, int64_t panels) {
    _Alignas(64) float main[GROUP][ROWS * RV_PANEL], lora[GROUP][ROWS * RV_PANEL];
    const job *b = k->b;
    const int64_t n = b->main.n;
    sums to, to_lora;
    for (int i = 0; i < GROUP; i++) {
        bool direct = k->plain && (p + i + 1) * RV_PANEL <= n;
        to.c[i] = direct ? b->y + k->row0 * n + (p + i) * RV_PANEL : main[i];
        to.ldc[i] = direct ? n : RV_PANEL;
        to_lora.c[i] = lora[i];
        to_lora.ldc[i] = RV_PANEL;
    }
    product_group(&b->main, &to, k->work, k->row0, k->rows, p, panels);
    if (b->lora.panels) {
        product_group(&b->lora, &to_lora, k->lora_work, k->row0, k->rows, p, panels);
    }
    for (int64_t i = 0; i < panels; i++) {
        int64_t col = (p + i) * RV_PANEL, left = n - col < RV_PANEL ? n - col : RV_PANEL;
        for (int64_t r = 0; to.c[i] == main[i] && r < k->rows; r++) {
            finish_row(b, k->row0 + r, col, left, main[i] + r * RV_PANEL,
                       b->lora.panels ? lora[i] + r * RV_PANEL : NULL);
        }
    }
}

static void job_block(const job *b, pair_t *work, int64_t row0, int64_t rows, int64_t p0,
                      int64_t p1) {
    const bool two = b->lora.panels != NULL;
    block k = {.b = b,
               .row0 = row0,
               .rows = rows,
               .work = work,
               .plain = is_plain(b),
               .lora_work = work + rows * work_per_row(&b->main) / (int64_t)sizeof(pair_t)};
    prepare_rows(&b->main, work, row0, rows);
    if (two) {
        prepare_rows(&b->lora, k.lora_work, row0, rows);
    }
    const int64_t group = steps_of(&b->main) > STEPS ? GROUP : 1;
    for (int64_t p = p0; p < p1; p += group) {
        block_group(&k, p, p1 - p < group ? p1 - p : group);
    }
}

// Jobs of the same number of rows that are shared out as one.
typedef struct {
    const rv_ctx *c;
    const job *b;
    int n;
} job_list;

static int64_t units_of(const job *b) {
    return (b->m + b->rows - 1) / b->rows * rv_panels(b->main.n);
}

// Units lo..hi-1 of a job, counted block by block.
static void job_units(const job *b, void *work, int64_t lo, int64_t hi) {
    const int64_t panels = rv_panels(b->main.n);
    for (int64_t u = lo, next; u < hi; u = next) {
        int64_t row = u / panels * b->rows, left = b->m - row;
        next = (u / panels + 1) * panels < hi ? (u / panels + 1) * panels : hi;
        job_block(b, work, row, left < b->rows ? left : b->rows, u % panels, u % panels + next - u);
    }
}

// Units lo..hi-1, counted job by job.
static void list_units(void *arg, int64_t lo, int64_t hi, int who) {
    const job_list *list = arg;
    void *work = rv_work(list->c, who);
    for (int i = 0; i < list->n && hi > 0; i++) {
        int64_t n = units_of(&list->b[i]);
        job_units(&list->b[i], work, lo > 0 ? lo : 0, hi < n ? hi : n);
        lo -= n;
        hi -= n;
    }
}

static void run_jobs(rv_ctx *c, job *b, int n) {
    int64_t units = 0, cost = 0;
    for (int i = 0; i < n && b[i].m > 0; i++) {
        b[i].rows = block_rows(&b[i]);
        int64_t k = b[i].main.k + (b[i].lora.panels ? b[i].lora.k : 0);
        int64_t rows = b[i].rows < WAIT_ROWS ? WAIT_ROWS : b[i].rows; // fewer wait as long
        units += units_of(&b[i]);
        cost += units_of(&b[i]) * rows * RV_PANEL * k;
    }
    if (units > 0) {
        rv_for(c, units, cost / units, 1, list_units, &(job_list){c, b, n});
    }
}

static job job_of(const rv_linear *l, rv_dev y, rv_dev x, int64_t m) {
    job b = {.main = forward_of(l->w, x),
             .scale = 1,
             .bias = rv_f32(l->bias),
             .y = rv_f32(y),
             .pre = rv_f32(l->pre),
             .residual = rv_f32(l->residual),
             .act = l->act,
             .m = m};
    if (l->lora) {
        b.lora = forward_of(l->lora->b, l->lora_h);
        b.lora_scale = l->lora->scale;
    }
    return b;
}

void ISA(rv_linears)(rv_ctx *c, const rv_dev *y, rv_dev x, int64_t m, const rv_linear *l, int n) {
    job b[RV_LINEARS], h[RV_LINEARS];
    int n_h = 0;
    RV_ASSERT(n <= RV_LINEARS);
    for (int i = 0; i < n; i++) {
        b[i] = job_of(&l[i], y[i], x, m);
        if (l[i].lora) {
            h[n_h++] = job_of(&(rv_linear){.w = l[i].lora->a}, l[i].lora_h, x, m);
        }
    }
    run_jobs(c, h, n_h);
    run_jobs(c, b, n);
}

void ISA(rv_linear)(rv_ctx *c, rv_dev y, rv_dev x, int64_t m, const rv_linear *l) {
    ISA(rv_linears)(c, &y, x, m, l, 1);
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
        run_jobs(c, &g, 1);
        b.lora = backward_of(l->lora->a, lora_g);
        b.lora_scale = 1;
    }
    run_jobs(c, &b, 1);
}
