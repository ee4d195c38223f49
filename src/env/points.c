// points.c - depth-first search over tokens, with the parse of the formula so far as its state.
#include "points.h"

#include <stdlib.h>
#include <string.h>

// A value, unreduced: with at most six numbers up to 100 nothing overflows. `f` is what doubles
// give.
typedef struct {
    int64_t num, den;
    double f;
} value;

// One level of brackets: sum `add` (product `mul` operand).
typedef struct {
    value sum, product;
    char add, mul; // pending operators, 0: none; sum and product hold something only with one
    bool negative; // a sign stands before the operand to come
    bool signed_;  // some sign does, so a second one is not tried
    bool given;    // opened by the prefix
    char before;   // the operator before the bracket, 0: none
} level;

typedef struct {
    const rv_points_rules *rules;
    level levels[RV_POINTS_MAX_TOKENS + 1];
    int depth;    // index of the innermost level
    bool operand; // an operand comes next; else an operator or a closing bracket
    bool times;   // only * or / may come next: without, the brackets just closed would be idle
    bool signs;
    int count[RV_POINTS_MAX_NUMBER + 1], left; // numbers still to be used
    int distinct[RV_POINTS_MAX_NUMBERS], n_distinct;
    int length, limit, *out;
    bool cut; // the limit ended a branch: a longer one may lead on
} search;

static bool apply(value *a, char op, value b) {
    switch (op) {
    case '+':
        *a = (value){a->num * b.den + b.num * a->den, a->den * b.den, a->f + b.f};
        break;
    case '-':
        *a = (value){a->num * b.den - b.num * a->den, a->den * b.den, a->f - b.f};
        break;
    case '*':
        *a = (value){a->num * b.num, a->den * b.den, a->f * b.f};
        break;
    default:
        if (b.num == 0 || b.f == 0) {
            return false;
        }
        *a = (value){a->num * b.den, a->den * b.num, a->f / b.f};
    }
    return true;
}

static bool put_operand(search *s, value v) {
    level *l = &s->levels[s->depth];
    if (l->negative) {
        v.num = -v.num;
        v.f = -v.f;
        l->negative = false;
    }
    l->signed_ = false;
    s->operand = false;
    if (!l->mul) {
        l->product = v;
        return true;
    }
    return apply(&l->product, l->mul, v);
}

static bool close_sum(level *l) { return !l->add || apply(&l->sum, l->add, l->product); }

// Takes one token; false when it cannot stand here or a division by zero comes up.
static bool put(search *s, int token) {
    level *l = &s->levels[s->depth];
    char c = token < 0 ? (char)-token : 0;
    if (token > 0) {
        return s->operand && put_operand(s, (value){token, 1, token});
    }
    if (c == '(') {
        if (!s->operand || s->depth >= RV_POINTS_MAX_TOKENS) {
            return false;
        }
        s->levels[++s->depth] = (level){.before = l->mul ? l->mul : l->add};
        return true;
    }
    if (c == ')') {
        if (s->operand || s->depth == 0 || !close_sum(l)) {
            return false;
        }
        s->depth--;
        return put_operand(s, l->add ? l->sum : l->product);
    }
    if (s->operand) { // a sign
        l->negative = l->negative != (c == '-');
        l->signed_ = true;
        return c == '+' || c == '-';
    }
    if (c == '*' || c == '/') {
        l->mul = c;
    } else {
        if (!close_sum(l)) {
            return false;
        }
        l->sum = l->add ? l->sum : l->product;
        l->add = c;
        l->mul = 0;
    }
    s->operand = true;
    return true;
}

static bool hits(const search *s) {
    level l = s->levels[0];
    if (s->operand || s->depth || s->left || !close_sum(&l)) {
        return false;
    }
    value v = l.add ? l.sum : l.product;
    return s->rules->floats ? v.f == (double)s->rules->target : v.num == s->rules->target * v.den;
}

static bool find(search *s);

// Tries one token and everything after it; puts the state back when that fails.
static bool try_token(search *s, int token, bool times) {
    int depth = s->depth;
    level top = s->levels[depth], below = s->levels[depth > 0 ? depth - 1 : 0];
    bool operand = s->operand, before = s->times;
    s->times = times;
    s->out[s->length++] = token;
    if (put(s, token) && find(s)) {
        return true;
    }
    s->length--;
    s->depth = depth;
    s->levels[depth > 0 ? depth - 1 : 0] = below;
    s->levels[depth] = top;
    s->operand = operand;
    s->times = before;
    return false;
}

static bool allowed(const search *s, char op) { return strchr(s->rules->operators, op) != NULL; }

// Brackets of our own change a value only around a sum (behind a / also around a product), and a
// sum that begins a level, or stands behind a +, only with a * or / after it.
static bool needs_times(const search *s, int depth) {
    const level *l = &s->levels[depth];
    return (l->before == 0 || l->before == '+') && !s->levels[depth - 1].signed_;
}

// The operands that all open brackets of our own still need to be of use.
static int operands_needed(const search *s) {
    int n = 0;
    for (int d = s->depth; d > 0 && !s->levels[d].given; d--) {
        n += !s->levels[d].add && (s->levels[d].before != '/' || s->levels[d - 1].signed_);
        n += needs_times(s, d);
    }
    return n;
}

static bool may_open(const search *s) {
    const level *l = &s->levels[s->depth];
    char before = l->mul ? l->mul : l->add;
    int after = (before == 0 || before == '+') && !l->signed_;
    return allowed(s, '(') && s->left >= 2 + after + operands_needed(s);
}

static bool find_operand(search *s) {
    const level *l = &s->levels[s->depth];
    for (int i = 0; i < s->n_distinct; i++) {
        int n = s->distinct[i];
        if (s->count[n] > 0) {
            s->count[n]--;
            s->left--;
            if (try_token(s, n, false)) {
                return true;
            }
            s->count[n]++;
            s->left++;
        }
    }
    if (may_open(s) && try_token(s, -'(', false)) {
        return true;
    }
    return s->signs && !l->signed_ && allowed(s, '-') && try_token(s, -'-', false);
}

// Whether closing the innermost brackets is of use, and whether only before * or /.
static bool may_close(const search *s, bool *times) {
    const level *l = &s->levels[s->depth];
    *times = s->depth > 0 && !l->given && needs_times(s, s->depth);
    bool of_use =
        l->given || l->add || (l->mul && l->before == '/' && !s->levels[s->depth - 1].signed_);
    return s->depth > 0 && of_use;
}

static bool find_operator(search *s) {
    static const char operators[] = "+-*/";
    for (int i = s->times ? 2 : 0; s->left > 0 && i < 4; i++) {
        if (allowed(s, operators[i]) && try_token(s, -operators[i], false)) {
            return true;
        }
    }
    bool times;
    return !s->times && may_close(s, &times) && try_token(s, -')', times);
}

static bool find(search *s) {
    int needed = 2 * s->left - (s->operand ? 1 : 0) + s->depth;
    if (needed == 0 && hits(s)) {
        return s->length == s->limit;
    }
    if (s->operand && s->left == 0) {
        return false;
    }
    if (s->length + needed > s->limit) {
        s->cut = true;
        return false;
    }
    return s->operand ? find_operand(s) : find_operator(s);
}

static int ascending(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static bool start(search *s, const int *prefix, int prefix_len, const int *numbers, int count) {
    int used = 0;
    s->operand = true;
    for (int i = 0; i < prefix_len; i++) {
        used += prefix[i] > 0;
        s->signs = s->signs || prefix[i] > 0 || prefix[i] == -'-';
        if (prefix[i] > RV_POINTS_MAX_NUMBER || used > RV_POINTS_MAX_NUMBERS ||
            !put(s, prefix[i])) {
            return false;
        }
        s->levels[s->depth].given = s->depth > 0;
    }
    for (int i = 0; i < count; i++) {
        int n = numbers[i];
        if (used + count > RV_POINTS_MAX_NUMBERS || n < 1 || n > RV_POINTS_MAX_NUMBER) {
            return false;
        }
        if (s->count[n]++ == 0) {
            s->distinct[s->n_distinct++] = n;
        }
    }
    qsort(s->distinct, (size_t)s->n_distinct, sizeof *s->distinct, ascending);
    s->left = count;
    return true;
}

int rv_points_solve(const rv_points_rules *rules, const int *prefix, int prefix_len,
                    const int *numbers, int count, int *out) {
    search s = {.rules = rules, .out = out};
    int max = rules->max_tokens;
    if (prefix_len > RV_POINTS_MAX_TOKENS || !start(&s, prefix, prefix_len, numbers, count)) {
        return -1;
    }
    max = max > RV_POINTS_MAX_TOKENS - prefix_len ? RV_POINTS_MAX_TOKENS - prefix_len : max;
    int shortest = 2 * count - (s.operand ? 1 : 0) + s.depth;
    s.cut = true;
    for (s.limit = shortest; s.cut && s.limit <= max; s.limit++) {
        s.cut = false;
        if (find(&s)) {
            return s.length;
        }
    }
    return -1;
}
