// head.c - log-probabilities, their gradient, and drawing tokens.
#include "isa.h"
#include "softmax.h"

typedef struct {
    float *logp, *entropy, *lse, *logits;
    const float *g_logp, *g_entropy;
    const int32_t *ids;
    int64_t v;
    float temp;
} score_args;

static void score_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const score_args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        const float *l = a->logits + i * a->v;
        softmax_row r = softmax_stats(l, a->v, a->temp, a->entropy != NULL);
        if (a->logp) {
            a->logp[i] = a->ids[i] < 0 ? 0 : softmax_logp(&r, l[a->ids[i]], a->temp);
        }
        if (a->entropy) {
            a->entropy[i] = (float)(r.log_sum - r.mean);
        }
        if (a->lse) {
            a->lse[i] = (float)((double)r.max + r.log_sum);
        }
    }
}

void ISA(rv_logprob)(rv_ctx *c, rv_dev logp, rv_dev entropy, rv_dev lse, rv_dev logits,
                     const int32_t *ids, int64_t m, int64_t v, float temperature) {
    score_args a = {.logp = rv_f32(logp),
                    .entropy = rv_f32(entropy),
                    .lse = rv_f32(lse),
                    .logits = rv_f32(logits),
                    .ids = ids,
                    .v = v,
                    .temp = temperature};
    rv_for(c, m, v * 8, 1, score_rows, &a);
}

static void score_backward_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const score_args *a = arg;
    for (int64_t r = lo; r < hi; r++) {
        float *l = a->logits + r * a->v;
        const float lse = a->lse[r], temp = a->temp, inv = 1 / temp;
        const int64_t v = a->v;
        float gl = a->g_logp && a->ids[r] >= 0 ? a->g_logp[r] : 0;
        float ge = a->g_entropy ? a->g_entropy[r] : 0, h = a->g_entropy ? a->entropy[r] : 0;
        if (ge == 0) {
            for (int64_t i = 0; i < v; i++) {
                l[i] = -gl * fn_exp(l[i] / temp - lse) * inv;
            }
        } else {
            for (int64_t i = 0; i < v; i++) {
                float z = l[i] / temp - lse, p = fn_exp(z);
                float surprise = p > 0 ? z + h : 0; // p ln p is 0 at p = 0
                l[i] = -p * __builtin_fmaf(ge, surprise, gl) * inv;
            }
        }
        if (a->ids[r] >= 0) {
            l[a->ids[r]] += gl * inv;
        }
    }
}

void ISA(rv_logprob_backward)(rv_ctx *c, rv_dev logits, rv_dev g_logp, rv_dev g_entropy, rv_dev lse,
                              rv_dev entropy, const int32_t *ids, int64_t m, int64_t v,
                              float temperature) {
    score_args a = {.g_logp = rv_f32(g_logp),
                    .g_entropy = rv_f32(g_entropy),
                    .lse = rv_f32(lse),
                    .entropy = rv_f32(entropy),
                    .logits = rv_f32(logits),
                    .ids = ids,
                    .v = v,
                    .temp = temperature};
    rv_for(c, m, v * 8, 1, score_backward_rows, &a);
}

// ---- sampling ----
//
// Filters are thresholds on the logit, found by bisection over the ordered bit patterns of floats:
// no sorting, no memory, and ties are kept or cut as a stable sort would. They see the logits after
// the repetition penalty.

// Order-preserving map of floats to unsigned numbers.
static uint32_t key_of(float x) {
    uint32_t u;
    x += 0.0f; // -0 and 0 are equal
    memcpy(&u, &x, sizeof u);
    return u >> 31 ? ~u : u | 0x80000000u;
}

typedef struct {
    const float *l;
    int64_t v;
    float temp;
    float top; // largest l / temp that may be drawn
    const int32_t *banned;
    int64_t n_banned;
    float penalty; // of the logits of these ids
    const int32_t *seen;
    int64_t n_seen;
    uint32_t least; // keys below it are cut
    int64_t cut;    // of the ids whose key is `least`, those below `cut` are cut too
} draw;

// The first of the seen ids that is not below `id`.
static int64_t seen_from(const draw *d, int64_t id) {
    int64_t lo = 0, hi = d->n_seen;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (d->seen[mid] < id) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

// Logits of ids i0..i0+n-1 after the penalty, in `buffer` where it changes one.
static const float *logits_of(const draw *d, float *buffer, int64_t i0, int64_t n) {
    int64_t k = seen_from(d, i0);
    if (k == d->n_seen || d->seen[k] >= i0 + n) {
        return d->l + i0;
    }
    memcpy(buffer, d->l + i0, (size_t)n * sizeof *buffer);
    for (; k < d->n_seen && d->seen[k] < i0 + n; k++) {
        float *x = &buffer[d->seen[k] - i0];
        *x = *x < 0 ? *x * d->penalty : *x / d->penalty;
    }
    return buffer;
}

static float logit_of(const draw *d, int64_t id) {
    float x;
    return *logits_of(d, &x, id, 1);
}

// Weights exp(z - top) of ids i0..i0+n-1, whose logits are `l`; 0 for those that can't be drawn.
static void weights(const draw *d, float *e, const float *l, int64_t i0, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        e[i] = fn_exp(l[i] / d->temp - d->top);
    }
    if (d->least > 0) {
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = key_of(l[i]);
            e[i] = key < d->least || (key == d->least && i0 + i < d->cut) ? 0 : e[i];
        }
    }
    for (int64_t b = 0; b < d->n_banned; b++) {
        if (d->banned[b] >= i0 && d->banned[b] < i0 + n) {
            e[d->banned[b] - i0] = 0;
        }
    }
}

static double sum_of(const float *e, int64_t n) {
    SUM(sum, n, (double)e[i])
    return sum;
}

// Sum of the weights of ids that may be drawn with key < limit; `count` receives how many ids are
// not below the limit.
static double weight_below(const draw *d, uint64_t limit, int64_t *count) {
    float e[SOFTMAX_CHUNK], buffer[SOFTMAX_CHUNK];
    const uint32_t last = limit ? (uint32_t)(limit - 1) : 0; // one vector of keys at a time
    const bool any = limit > 0;
    double sum = 0;
    *count = 0;
    for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        const float *l = logits_of(d, buffer, i0, n);
        int32_t above = 0;
        weights(d, e, l, i0, n);
        for (int64_t i = 0; i < n; i++) {
            bool below = any & (key_of(l[i]) <= last);
            above += !below & (e[i] > 0);
            e[i] = below ? e[i] : 0;
        }
        sum += sum_of(e, n);
        *count += above;
    }
    return sum;
}

// The k-th largest logit becomes the least that stays; ties with it stay.
static void keep_top_k(draw *d, int64_t k) {
    uint64_t lo = 0, hi = (uint64_t)1 << 32; // count(lo) >= k or all; count(hi) = 0
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        int64_t count;
        weight_below(d, mid, &count);
        if (count >= k) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    d->least = (uint32_t)lo;
}

// Cuts the longest ascending run whose share of the whole is at most 1 - p; the largest stays.
static void keep_top_p(draw *d, double p) {
    int64_t count;
    double whole = weight_below(d, (uint64_t)1 << 32, &count), budget = (1 - p) * whole;
    uint64_t lo = d->least, hi = (uint64_t)1 << 32;
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        double below = weight_below(d, mid, &count);
        if (below <= budget && count > 0) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    // Among equal logits the run goes on in index order; the last of them stays when it is the top.
    double sum = weight_below(d, lo, &count);
    int64_t above, stop = 0;
    weight_below(d, lo + 1, &above);
    int64_t ties = count - above;
    for (int64_t i = 0; i < d->v && ties > (above > 0 ? 0 : 1); i++) {
        float e, l = logit_of(d, i);
        if (key_of(l) != lo) {
            continue;
        }
        weights(d, &e, &l, i, 1);
        if (e > 0) {
            sum += (double)e;
            if (sum > budget) {
                break;
            }
            stop = i + 1;
            ties--;
        }
    }
    if (lo > d->least || stop > d->cut) {
        d->cut = lo > d->least ? stop : d->cut > stop ? d->cut : stop;
        d->least = (uint32_t)lo;
    }
}

// Cuts ids whose weight is under p times the largest that may be drawn.
static void keep_min_p(draw *d, float p) {
    float e[SOFTMAX_CHUNK], buffer[SOFTMAX_CHUNK], top = 0;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t least = UINT32_MAX;
        for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
            int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
            const float *l = logits_of(d, buffer, i0, n);
            weights(d, e, l, i0, n);
            for (int64_t i = 0; i < n; i++) {
                if (pass == 0) {
                    top = e[i] > top ? e[i] : top;
                } else if (e[i] > 0 && e[i] >= p * top) {
                    uint32_t key = key_of(l[i]);
                    least = key < least ? key : least;
                }
            }
        }
        if (pass == 1 && least > d->least && least < UINT32_MAX) {
            d->least = least;
            d->cut = 0;
        }
    }
}

enum { PIECES = 256 }; // of a row, at the most, whose weights are summed up one by one

// Of the ids of chunks c0..c1-1, the first with which `sum` and the weights so far pass `target`.
static int32_t pick_among(const draw *d, int64_t c0, int64_t c1, double sum, double target) {
    float e[SOFTMAX_CHUNK], buffer[SOFTMAX_CHUNK];
    int64_t last = -1;
    for (int64_t i0 = c0 * SOFTMAX_CHUNK; i0 < c1 * SOFTMAX_CHUNK && i0 < d->v;
         i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        weights(d, e, logits_of(d, buffer, i0, n), i0, n);
        for (int64_t i = 0; i < n; i++) {
            if (e[i] > 0) {
                sum += (double)e[i];
                last = i0 + i;
                if (sum > target) {
                    return (int32_t)last;
                }
            }
        }
    }
    return (int32_t)last;
}

// The id at the share u of the weights, in index order; -1 when nothing may be drawn. The sums of
// pieces say in which one it lies.
static int32_t pick(const draw *d, double u, double *whole) {
    float e[SOFTMAX_CHUNK], buffer[SOFTMAX_CHUNK];
    double sums[PIECES] = {0};
    int64_t chunks = (d->v + SOFTMAX_CHUNK - 1) / SOFTMAX_CHUNK;
    int64_t each = (chunks + PIECES - 1) / PIECES, n_pieces = (chunks + each - 1) / each;
    for (int64_t c = 0; c < chunks; c++) {
        int64_t i0 = c * SOFTMAX_CHUNK;
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        weights(d, e, logits_of(d, buffer, i0, n), i0, n);
        sums[c / each] += sum_of(e, n);
    }
    *whole = 0;
    for (int64_t p = 0; p < n_pieces; p++) {
        *whole += sums[p];
    }
    double target = u * *whole, sum = 0;
    int64_t p = 0;
    for (; p < n_pieces && sum + sums[p] <= target; p++) {
        sum += sums[p];
    }
    return pick_among(d, p * each, (p + 1) * each, sum, target);
}

static bool is_banned(const draw *d, int64_t id) {
    for (int64_t b = 0; b < d->n_banned; b++) {
        if (d->banned[b] == id) {
            return true;
        }
    }
    return false;
}

// True when the largest logit / temperature, `max`, is that of a banned id.
static bool bans_top(const draw *d, float max) {
    for (int64_t b = 0; b < d->n_banned; b++) {
        int64_t id = d->banned[b];
        if (id >= 0 && id < d->v && d->l[id] / d->temp >= max) {
            return true;
        }
    }
    return false;
}

static int32_t argmax(const draw *d) {
    float buffer[SOFTMAX_CHUNK], top = 0;
    int64_t best = -1;
    for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        const float *l = logits_of(d, buffer, i0, n);
        for (int64_t i = 0; i < n; i++) {
            if ((best < 0 || l[i] > top) && !is_banned(d, i0 + i)) {
                best = i0 + i;
                top = l[i];
            }
        }
    }
    return (int32_t)best;
}

typedef struct {
    rv_drawn *out;
    const float *logits;
    int64_t v;
    const rv_sample *how;
    const int32_t *banned;
    int64_t n_banned;
} sample_args;

static int32_t draw_id(draw *d, const rv_sample *how, double *whole) {
    if (how->top_k > 0 && how->top_k < d->v) {
        keep_top_k(d, how->top_k);
    }
    if (how->top_p < 1) {
        keep_top_p(d, (double)how->top_p);
    }
    if (how->min_p > 0) {
        keep_min_p(d, how->min_p);
    }
    return pick(d, how->u, whole);
}

enum { NOT_FINITE = -1, ALL_BANNED = -2 }; // instead of an id

static rv_drawn draw_row(const sample_args *a, int64_t row) {
    const rv_sample *how = a->how + row;
    const bool greedy = !(how->temperature > 0);
    draw d = {.l = a->logits + row * a->v,
              .v = a->v,
              .banned = a->banned,
              .n_banned = a->n_banned,
              .penalty = how->penalty,
              .seen = how->seen,
              .n_seen = how->penalty > 0 && how->penalty != 1 ? how->n_seen : 0,
              .temp = greedy ? 1 : how->temperature};
    softmax_row stats = softmax_stats(d.l, d.v, d.temp, false);
    rv_drawn r = {.id = NOT_FINITE};
    if (stats.max != stats.max) {
        return r;
    }
    double whole = 0;
    const bool changed = d.n_banned || d.n_seen;
    const bool search = greedy || d.n_seen || bans_top(&d, stats.max);
    r.id = search ? argmax(&d) : 0;
    if (r.id >= 0 && !greedy) {
        d.top = search ? logit_of(&d, r.id) / d.temp : stats.max;
        r.id = draw_id(&d, how, &whole);
    }
    if (r.id < 0) {
        r.id = ALL_BANNED;
        return r;
    }
    r.logp = softmax_logp(&stats, d.l[r.id], d.temp);
    if (!greedy && d.least == 0 && !changed) {
        r.filtered_logp = r.logp;
    } else if (!greedy) {
        r.filtered_logp = (float)((double)(logit_of(&d, r.id) / d.temp - d.top) - rv_log(whole));
    }
    return r;
}

static void sample_rows(void *arg, int64_t lo, int64_t hi, int tid) {
    (void)tid;
    const sample_args *a = arg;
    for (int64_t i = lo; i < hi; i++) {
        a->out[i] = draw_row(a, i);
    }
}

rv_status ISA(rv_sample_run)(rv_ctx *c, rv_drawn *out, rv_dev logits, int64_t m, int64_t v,
                             const rv_sample *how, const int32_t *banned, int64_t n_banned,
                             rv_err *e) {
    sample_args a = {out, rv_f32(logits), v, how, banned, n_banned};
    rv_for(c, m, v * 16, 1, sample_rows, &a);
    for (int64_t i = 0; i < m; i++) {
        if (out[i].id == NOT_FINITE) {
            return RV_FAIL(e, RV_ENUMERIC, "sample: row %lld of the logits holds NaN or infinity",
                           (long long)i);
        }
        if (out[i].id == ALL_BANNED) {
            return RV_FAIL(e, RV_EARG, "sample: row %lld: no id may be drawn (all %lld are banned)",
                           (long long)i, (long long)v);
        }
    }
    return RV_OK;
}
