// sum.h - sums in fp64 over 16 lanes, whatever the vector width: element i goes to lane i % 16, and
// the lanes are added in one fixed tree.
#pragma once

#include "vec.h"

enum { LANES = 16 };

RV_INLINE double sum_lanes(double lane[LANES]) {
    RV_UNROLL
    for (int w = LANES / 2; w > 0; w /= 2) {
        for (int i = 0; i < w; i++) {
            lane[i] += lane[i + w];
        }
    }
    return lane[0];
}

// Declares `name`, the sum of expr over i in [0, n); expr is a double.
#define SUM(name, n, expr)                                                                         \
    double name;                                                                                   \
    {                                                                                              \
        double lane_[LANES] = {0};                                                                 \
        int64_t at_ = 0;                                                                           \
        for (; at_ + LANES <= (n); at_ += LANES) {                                                 \
            for (int l_ = 0; l_ < LANES; l_++) {                                                   \
                const int64_t i = at_ + l_;                                                        \
                lane_[l_] += (expr);                                                               \
            }                                                                                      \
        }                                                                                          \
        for (int l_ = 0; at_ + l_ < (n); l_++) {                                                   \
            const int64_t i = at_ + l_;                                                            \
            lane_[l_] += (expr);                                                                   \
        }                                                                                          \
        name = sum_lanes(lane_);                                                                   \
    }
