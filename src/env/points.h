// points.h - finds the shortest formula that uses given numbers once each and hits a target.
//
// A formula is a list of tokens: numbers, + - * / ( and ). The search continues any prefix.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    RV_POINTS_MAX_NUMBERS = 6, // in the prefix and to be used, together
    RV_POINTS_MAX_NUMBER = 100,
    RV_POINTS_MAX_TOKENS = 32, // of a whole formula
};

// A token is a number (1..100), or minus the character code of an operator or bracket.
typedef struct {
    const char *operators; // those that may be used, out of "+-*/("; "(" brings ")"
    int64_t target;
    int max_tokens; // of the continuation
    bool floats;    // values as Python's doubles, compared with ==; else exact
} rv_points_rules;

/// Writes the shortest continuation of `prefix` that uses all `numbers` and hits the target to
/// `out` (RV_POINTS_MAX_TOKENS entries) and returns its length: 0 when the prefix is one already,
/// -1 when there is none. Among the shortest it takes the first, with small numbers before large,
/// and + - * / ( ) in this order. Beyond the limits above there is none either.
/// Signs are tried only behind a number or a sign of the prefix: elsewhere none ever helps.
int rv_points_solve(const rv_points_rules *rules, const int *prefix, int prefix_len,
                    const int *numbers, int count, int *out);
