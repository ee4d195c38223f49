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
// Filters are thresholds on the logit, found digit by digit of the ordered bit patterns of floats:
// no sorting, three passes, and ties are kept or cut as a stable sort would. They see the logits
// after the repetition penalty.

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
static void weights(const draw *d, float *restrict e, const float *restrict l, int64_t i0,
                    int64_t n) {
    const float temp = d->temp, top = d->top;
    for (int64_t i = 0; i < n; i++) {
        e[i] = fn_exp(l[i] / temp - top);
    }
    if (d->least > 0) {
        const uint32_t least = d->least;
        const int64_t cut = d->cut - i0;
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = key_of(l[i]);
            e[i] = key < least || (key == least && i < cut) ? 0 : e[i];
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

// The ids that may be drawn, by one digit of their keys. Digits have 11, 11 and 10 bits.
enum { DIGITS = 3, DIGIT = 11, BINS = 1 << DIGIT };
typedef struct {
    double weight[BINS]; // sums, ids ascending
    int64_t count[BINS];
} bins;

static int digit_shift(int digit) { return digit + 1 < DIGITS ? 32 - DIGIT * (digit + 1) : 0; }
static int digit_bins(int digit) { return digit + 1 < DIGITS ? BINS : BINS / 2; }

static void add_to_bin(bins *h, uint32_t bin, float e) {
    h->weight[bin] += (double)e;
    h->count[bin] += e > 0;
}

// Counts the first digit of all ids.
static void first_digit(const draw *d, bins *h) {
    float e[SOFTMAX_CHUNK], buffer[SOFTMAX_CHUNK];
    for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        const float *l = logits_of(d, buffer, i0, n);
        weights(d, e, l, i0, n);
        for (int64_t i = 0; i < n; i++) {
            add_to_bin(h, key_of(l[i]) >> digit_shift(0), e[i]);
        }
    }
}

// Counts a later digit of the ids whose digits before it are `prefix`: few, mostly.
static void next_digit(const draw *d, bins *h, uint32_t prefix, int digit) {
    float buffer[SOFTMAX_CHUNK];
    const int before = digit_shift(digit - 1), shift = digit_shift(digit);
    for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        const float *l = logits_of(d, buffer, i0, n);
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = key_of(l[i]);
            if (key >> before == prefix) {
                float e;
                weights(d, &e, l + i, i0 + i, 1);
                add_to_bin(h, key >> shift & ((uint32_t)digit_bins(digit) - 1), e);
            }
        }
    }
}

static void count_digit(const draw *d, bins *h, uint32_t prefix, int digit) {
    memset(h, 0, sizeof *h);
    if (digit == 0) {
        first_digit(d, h);
    } else {
        next_digit(d, h, prefix, digit);
    }
}

// The k-th largest logit becomes the least that stays; ties with it stay.
static void keep_top_k(draw *d, int64_t k) {
    bins h;
    uint32_t prefix = 0;
    int64_t above = 0;
    for (int digit = 0; digit < DIGITS; digit++) {
        count_digit(d, &h, prefix, digit);
        int bin = digit_bins(digit) - 1;
        for (; bin >= 0 && above + h.count[bin] < k; bin--) {
            above += h.count[bin];
        }
        if (bin < 0) {
            return; // there are fewer
        }
        prefix = prefix << (digit + 1 < DIGITS ? DIGIT : DIGIT - 1) | (uint32_t)bin;
    }
    d->least = prefix;
}

// Where an ascending run of logits ends.
typedef struct {
    uint32_t key;         // of the first ids that are not in it all
    double below, budget; // weight of the run before them, and most that it may have
    int64_t ties, above;  // ids with that key, with larger ones
} run_end;

// The longest ascending run whose share of the whole is at most 1 - p.
static run_end find_run(const draw *d, double p) {
    bins h;
    run_end r = {0};
    for (int digit = 0; digit < DIGITS; digit++) {
        const int n = digit_bins(digit);
        count_digit(d, &h, r.key, digit);
        double whole = 0, sum = r.below;
        for (int bin = 0; digit == 0 && bin < n; bin++) {
            whole += h.weight[bin];
        }
        r.budget = digit == 0 ? (1 - p) * whole : r.budget;
        int at = 0;
        for (int bin = 0; bin < n; sum += h.weight[bin++]) {
            if (h.count[bin] > 0 && sum <= r.budget) {
                at = bin;
                r.below = sum;
            }
        }
        for (int bin = at + 1; bin < n; bin++) {
            r.above += h.count[bin];
        }
        r.ties = h.count[at];
        r.key = r.key << (digit + 1 < DIGITS ? DIGIT : DIGIT - 1) | (uint32_t)at;
    }
    return r;
}

// Among equal logits a run goes on in index order: the id behind its last one, or 0. Of the largest
// logits one stays.
static int64_t end_among_ties(const draw *d, const run_end *r) {
    float buffer[SOFTMAX_CHUNK];
    int64_t left = r->ties - (r->above > 0 ? 0 : 1), end = 0;
    double sum = r->below;
    for (int64_t i0 = 0; i0 < d->v; i0 += SOFTMAX_CHUNK) {
        int64_t n = d->v - i0 < SOFTMAX_CHUNK ? d->v - i0 : SOFTMAX_CHUNK;
        const float *l = logits_of(d, buffer, i0, n);
        for (int64_t i = 0; i < n; i++) {
            float e = 0;
            if (key_of(l[i]) == r->key) {
                weights(d, &e, l + i, i0 + i, 1);
            }
            sum += (double)e;
            if (e > 0 && (sum > r->budget || left-- == 0)) {
                return end;
            }
            end = e > 0 ? i0 + i + 1 : end;
        }
    }
    return end;
}

// Cuts the longest ascending run whose share of the whole is at most 1 - p; the largest stays.
static void keep_top_p(draw *d, double p) {
    const run_end r = find_run(d, p);
    const int64_t end = r.ties > 1 ? end_among_ties(d, &r) : 0; // one alone passes the budget
    if (r.key > d->least) {
        d->least = r.key;
        d->cut = end;
    } else if (end > d->cut) {
        d->cut = end;
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
