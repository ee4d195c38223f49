// rng.h - counter-based random streams (Philox4x32-10; Salmon et al., SC 2011).
//
// A stream is named by (seed, purpose, a, b): for rollouts a = global episode number, b = step.
// Nothing hangs on the slot, the thread or the clock, so results do not depend on how work was
// batched.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Computes one Philox4x32-10 block: four 32-bit words from a 128-bit counter and a 64-bit key.
void rv_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

// What a stream is for; streams of different purposes never overlap.
typedef enum {
    RV_STREAM_USER = 0,     // recipes and scripts
    RV_STREAM_ENV = 1,      // environment resets and steps
    RV_STREAM_SAMPLE = 2,   // token sampling
    RV_STREAM_FALLBACK = 3, // random legal action after a parse failure
    RV_STREAM_INIT = 4,     // parameter initialisation
    RV_STREAM_SHUFFLE = 5,  // minibatch order
    RV_STREAM_DATA = 6,     // generated demonstrations
} rv_stream;

typedef struct {
    uint64_t key;  // from seed and purpose
    uint64_t a, b; // stream coordinates: counter words that never change
    uint64_t pos;  // 32-bit words drawn so far: the whole state beside the name
} rv_rng;

/// Names a stream. Two streams with different (seed, purpose, a, b) are independent.
/// `a` and `b` use their low 48 and 48 bits.
rv_rng rv_rng_make(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);

/// Draws the next 32 (64) random bits.
uint32_t rv_rng_u32(rv_rng *r);
uint64_t rv_rng_u64(rv_rng *r);

/// Draws an integer in [0, n), unbiased; n > 0.
uint64_t rv_rng_below(rv_rng *r, uint64_t n);

/// Draws a double in [0, 1) with 53 random bits.
double rv_rng_uniform(rv_rng *r);

/// Draws a standard normal number (Box-Muller; two words pairs a draw, no state kept).
double rv_rng_normal(rv_rng *r);

#ifdef __cplusplus
}
#endif
