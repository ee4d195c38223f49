// linear.c - linear layers: y = x W^T and dX = dY W on packed weights, with what stands around
// them.
//
// A unit of work is a block of rows times a panel of 32 columns; threads take runs of units, and
// every output element is computed whole on one thread. The rows of a block pass over groups of
// panels, some of their steps at a time, so that both stay in the first caches; the sums wait in
// memory in between, which costs no bits. Few rows meet the weights as they stream from memory,
// more rows meet copies that lie near (product.h).
#include "isa.h"
#include "product.h"

#include "act.h"

enum {
    ROWS = 256,             // at most in a block
    NEAR_GROUP = 8,         // panels that share a copy of a block's rows
    PLAIN_GROUP = 32,       // the same where sums need no place but y
    COPY_PANELS = 4,        // panels up to which rows are read where they are
    COPY_ROWS = 96,         // rows up to which weights are
    NEAR_BYTES = 256 << 10, // of weights that stay in the second cache
    STREAM_ROWS = 16,       // rows with which weights stream from memory
    STREAM_BYTES = 8192,    // of a panel at a time then
    STREAM_GROUP = 4,       // panels that share these steps while they are near
    WAIT_ROWS = 4           // rows that take less time than their weights
};

// A panel's steps in place, strides known to the compiler.
RV_INLINE tile panel_tile(const tile_kind kind, const tile *t) {
    tile u = *t;
    u.at = kind == B_PAIR ? PAIR_WIDTH : 1;
    u.ldb = RV_PANEL;
    return u;
}

// Few rows times a panel's steps, which stream from memory.
RV_INLINE void stream_tiles(const tile_kind kind, const tile *t, int64_t rows) {
    const tile u = panel_tile(kind, t);
    tile_block(kind, true, &u, rows, RV_PANEL);
}

static __attribute__((noinline)) void stream_f32(const tile *t, int64_t rows) {
    stream_tiles(B_F32, t, rows);
}

static __attribute__((noinline)) void stream_bf16(const tile *t, int64_t rows) {
    stream_tiles(B_BF16, t, rows);
}

static __attribute__((noinline)) void stream_f16(const tile *t, int64_t rows) {
    stream_tiles(B_F16, t, rows);
}

static __attribute__((noinline)) void stream_pair(const tile *t, int64_t rows) {
    stream_tiles(B_PAIR, t, rows);
}

// Many rows times a panel's steps; at every tile some lines of what comes next are asked for.
RV_INLINE void near_tiles(const tile_kind kind, const tile *t, int64_t rows, ahead *next,
                          int64_t lines) {
    tile u = panel_tile(kind, t);
    for (int64_t row = 0, high; row < rows; row += high) {
        high = tile_height(rows - row);
        for (int i = 0; i < MR; i++) { // the next tile's sums, needed as soon as it begins
            __builtin_prefetch(u.c + (row + high + i) * u.ldc, 1, 3);
        }
        ask(next, lines);
        tile_high(kind, 0, &u, high, row, 0, 0);
    }
}

static __attribute__((noinline)) void near_f32(const tile *t, int64_t rows, ahead *next,
                                               int64_t lines) {
    near_tiles(B_F32, t, rows, next, lines);
}

static __attribute__((noinline)) void near_pair(const tile *t, int64_t rows, ahead *next,
                                                int64_t lines) {
    near_tiles(B_PAIR, t, rows, next, lines);
}

// What happens to the sums on their way to y.
typedef struct {
    product main, lora; // lora.panels NULL: none
    float lora_scale, scale;
    const float *bias;
    float *y, *pre;
    const float *residual;
    rv_act act;
    int64_t m, rows; // of a block, but the last
    pair_t *rounded; // few rows of main's x, when they are there already
} job;

// Where the sums of a group of panels go.
typedef struct {
    float *c[PLAIN_GROUP]; // (rows, 32) each
    int64_t ldc[PLAIN_GROUP];
} sums;

// A block of rows on its way through the panels.
typedef struct {
    const job *b;
    int64_t row0, rows;
    char *work;
    bool stream;         // few rows; the rounded ones of both products lie in `work`, else:
    const product *held; // whose rows lie there, from step held_s0 on
    int64_t held_s0;
} block;

// ---- few rows ----

// Floats of workspace that rounded rows of a product take.
static int64_t rounded_size(const product *g, int64_t rows) {
    return g->paired ? rows * steps_of(g) / 2 * PAIR_WIDTH : 0;
}

static pair_t *rounded_rows(const block *k, const product *g) {
    pair_t *own = (pair_t *)(void *)k->work, *main = k->b->rounded ? k->b->rounded : own;
    return g == &k->b->main ? main : own + rounded_size(&k->b->main, k->rows);
}

static void stream_rows(const block *k, const product *g) {
    for (int64_t i = 0; g->paired && i < k->rows; i++) {
        round_row(rounded_rows(k, g) + rounded_size(g, i), g->x + (k->row0 + i) * g->k, g->k);
    }
}

static void stream_stored(tile *t, const block *k, const product *g, int64_t s0) {
    const int64_t rows = k->rows;
    if (g->paired) {
        t->ar = steps_of(g) / 2 * PAIR_WIDTH;
        t->a = rounded_rows(k, g) + s0 / 2 * PAIR_WIDTH;
        t->steps /= 2;
        stream_pair(t, rows);
        return;
    }
    t->ar = g->k;
    t->a = g->x + k->row0 * g->k + s0;
    if (g->store == RV_F32) {
        stream_f32(t, rows);
    } else if (g->store == RV_BF16) {
        stream_bf16(t, rows);
    } else {
        stream_f16(t, rows);
    }
}

// What follows steps s0.. of panel p of a group's n: the next panel's same steps, or the first
// one's next, or the next group.
static const void *next_steps(const product *g, int64_t p, int64_t i, int64_t n, int64_t s0,
                              int64_t most) {
    int64_t s = i + 1 < n ? s0 : s0 + most;
    if (s >= steps_of(g)) {
        return steps_at(g, p + n, 0);
    }
    return steps_at(g, p + (i + 1) % n, s);
}

// The rows of x pass over panels p.., whose steps and the next ones are together in the cache.
static void stream_product(const block *k, const product *g, const sums *to, int64_t p,
                           int64_t panels) {
    const int64_t all = steps_of(g);
    const int64_t stream = STREAM_BYTES / RV_PANEL / (int64_t)rv_dtype_size(g->store);
    const int64_t most = k->rows <= STREAM_ROWS ? stream : NEAR_STEPS;
    for (int64_t s0 = 0; s0 < all || s0 == 0; s0 += most) {
        for (int64_t i = 0; i < panels; i++) {
            tile t = {.c = to->c[i],
                      .ldc = to->ldc[i],
                      .b = steps_at(g, p + i, s0),
                      .steps = all - s0 < most ? all - s0 : most,
                      .load = s0 > 0,
                      .next = next_steps(g, p, i, panels, s0, most)};
            stream_stored(&t, k, g, s0);
        }
    }
}

// ---- more rows: copies of both operands ----

// Some steps of a product for a block of rows.
typedef struct {
    const product *g;
    const float *x; // the rows at these steps, or their copy
    int64_t stride, rows, s0, steps;
} span;

// Rows no longer than a copy are contiguous where they are, and few panels do not earn one.
static bool copies_rows(const product *g, int64_t panels) {
    return g->paired || (g->k > NEAR_STEPS && panels > COPY_PANELS);
}

static span span_of(block *k, const product *g, int64_t panels, int64_t s0) {
    const int64_t left = steps_of(g) - s0, steps = left < NEAR_STEPS ? left : NEAR_STEPS;
    float *copy = (float *)(void *)k->work;
    if (!copies_rows(g, panels)) {
        return (span){g, g->x + k->row0 * g->k + s0, g->k, k->rows, s0, steps};
    }
    if (k->held != g || k->held_s0 != s0) {
        near_rows(copy, g, k->row0, k->rows, s0, steps);
        k->held = g;
        k->held_s0 = s0;
    }
    return (span){g, copy, NEAR_ROW, k->rows, s0, steps};
}

// A span times panel p, whose sums are at `c`.
static void near_panel(const span *n, float *c, int64_t ldc, int64_t p, ahead next) {
    _Alignas(64) uint32_t copy[NEAR_STEPS * RV_PANEL];
    const product *g = n->g;
    const int64_t tiles = RV_PANEL / NC * ((n->rows + MR - 1) / MR);
    const int64_t lines = (next.rows * next.lines + tiles - 1) / tiles;
    const float *columns = near_steps(copy, g, p, n->s0, n->steps);
    tile t = {.ldc = ldc,
              .a = n->x,
              .ar = n->stride,
              .steps = g->paired ? n->steps / 2 : n->steps,
              .load = n->s0 > 0};
    for (int64_t col = 0; col < RV_PANEL && p * RV_PANEL + col < g->n; col += NC) {
        t.c = c + col;
        t.b = columns + col;
        if (g->paired) {
            near_pair(&t, n->rows, &next, lines);
        } else {
            near_f32(&t, n->rows, &next, lines);
        }
    }
}

// What panel p has to be asked for while another is multiplied: nothing if all panels stay in the
// second cache.
static ahead next_panel(const span *n, int64_t p) {
    const product *g = n->g;
    const int64_t bytes = g->n * steps_of(g) * (int64_t)rv_dtype_size(g->store);
    return bytes > NEAR_BYTES ? steps_ahead(g, p, n->s0, n->steps) : (ahead){0};
}

static void near_product(block *k, const product *g, const sums *to, int64_t p, int64_t panels) {
    for (int64_t s0 = 0; s0 < steps_of(g) || s0 == 0; s0 += NEAR_STEPS) {
        const span n = span_of(k, g, panels, s0);
        for (int64_t i = 0; i < panels; i++) {
            ahead next = i + 1 < panels ? next_panel(&n, p + i + 1) : (ahead){0};
            near_panel(&n, to->c[i], to->ldc[i], p + i, next);
        }
    }
}

static void product_group(block *k, const product *g, const sums *to, int64_t p, int64_t panels) {
    if (g->quantised) {
        const rv_quant_call call = {g->quantised, g->transposed, g->x + k->row0 * g->k,
                                    k->rows,      to->c,         to->ldc};
        ISA(rv_quant_product)(&call, p, panels);
    } else if (k->stream) {
        stream_product(k, g, to, p, panels);
    } else {
        near_product(k, g, to, p, panels);
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

enum {
    SUM_BYTES = ROWS * RV_PANEL * 4, // of a panel
    ROW_BYTES = RV_WORK_BYTES - 2 * NEAR_GROUP * SUM_BYTES
};
_Static_assert(ROW_BYTES >= ROWS * NEAR_ROW * 4, "a block's copies fit the workspace");

static bool streams(const job *b) {
    return !b->main.transposed && b->m <= (b->main.paired ? STREAM_ROWS : COPY_ROWS);
}

// Rows of a block: at most what the workspace holds, blocks alike in size.
static int64_t block_rows(const job *b) {
    const int64_t row = (rounded_size(&b->main, 1) + rounded_size(&b->lora, 1)) * 4;
    RV_ASSERT(!streams(b) || row <= ROW_BYTES);
    int64_t most = streams(b) && row > 0 && ROW_BYTES / row < ROWS ? ROW_BYTES / row : ROWS;
    int64_t blocks = (b->m + most - 1) / most, each = (b->m + blocks - 1) / blocks;
    int64_t whole = (each + MR - 1) / MR * MR;
    return whole < most ? whole : most;
}

static void block_group(block *k, int64_t p, int64_t panels) {
    const job *b = k->b;
    const int64_t n = b->main.n;
    float *main = (float *)(void *)(k->work + ROW_BYTES), *lora = main + NEAR_GROUP * SUM_BYTES / 4;
    const bool plain = is_plain(b);
    const int64_t size =
        plain ? 0 : SUM_BYTES / 4; // of plain ones only the last panel needs a place
    sums to, to_lora;
    for (int64_t i = 0; i < panels; i++) {
        bool direct = plain && (p + i + 1) * RV_PANEL <= n;
        to.c[i] = direct ? b->y + k->row0 * n + (p + i) * RV_PANEL : main + i * size;
        to.ldc[i] = direct ? n : RV_PANEL;
        to_lora.c[i] = lora + i * size;
        to_lora.ldc[i] = RV_PANEL;
    }
    product_group(k, &b->main, &to, p, panels);
    if (b->lora.panels) {
        product_group(k, &b->lora, &to_lora, p, panels);
    }
    for (int64_t i = 0; i < panels; i++) {
        int64_t col = (p + i) * RV_PANEL, left = n - col < RV_PANEL ? n - col : RV_PANEL;
        for (int64_t r = 0; to.c[i] == main + i * size && r < k->rows; r++) {
            finish_row(b, k->row0 + r, col, left, to.c[i] + r * RV_PANEL,
                       b->lora.panels ? to_lora.c[i] + r * RV_PANEL : NULL);
        }
    }
}

static void job_block(const job *b, void *work, int64_t row0, int64_t rows, int64_t p0,
                      int64_t p1) {
    block k = {.b = b, .row0 = row0, .rows = rows, .work = work, .stream = streams(b)};
    int64_t group = is_plain(b) && !b->main.quantised ? PLAIN_GROUP : NEAR_GROUP;
    if (k.stream) {
        if (!b->rounded) {
            stream_rows(&k, &b->main);
        }
        stream_rows(&k, &b->lora);
        group = steps_of(&b->main) > STREAM_BYTES / RV_PANEL / 4 ? STREAM_GROUP : 1;
    }
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

// Few rows are rounded once for all threads and jobs, in the caller's workspace: the jobs have the
// same x.
static void round_once(rv_ctx *c, job *b, int n) {
    pair_t *rounded = NULL;
    for (int i = 0; i < n; i++) {
        if (b[i].main.paired && streams(&b[i]) && b[i].m <= b[i].rows) {
            if (!rounded) {
                const block all = {.b = &b[i], .rows = b[i].m, .work = rv_work(c, 0)};
                stream_rows(&all, &b[i].main);
                rounded = rounded_rows(&all, &b[i].main);
            }
            b[i].rounded = rounded;
        }
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
        round_once(c, b, n);
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
