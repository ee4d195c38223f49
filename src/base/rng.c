#include "rng.h"

#include <math.h>

static uint32_t mul_hi_lo(uint32_t a, uint32_t b, uint32_t *lo) {
    uint64_t p = (uint64_t)a * b;
    *lo = (uint32_t)p;
    return (uint32_t)(p >> 32);
}

void rv_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint32_t lo0, lo1;
        uint32_t hi0 = mul_hi_lo(0xD2511F53u, c0, &lo0);
        uint32_t hi1 = mul_hi_lo(0xCD9E8D57u, c2, &lo1);
        uint32_t n0 = hi1 ^ c1 ^ k0, n2 = hi0 ^ c3 ^ k1;
        c0 = n0;
        c1 = lo1;
        c2 = n2;
        c3 = lo0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// SplitMix64's finaliser: a bijection that spreads every input bit.
static uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

rv_rng rv_rng_make(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b) {
    rv_rng r = {mix64(mix64(seed) ^ purpose), a & 0xFFFFFFFFFFFFu, b & 0xFFFFFFFFFFFFu, 0};
    return r;
}

uint32_t rv_rng_u32(rv_rng *r) {
    // counter: 32 bits of block number, then the 48-bit coordinates
    uint64_t block = r->pos / 4;
    uint32_t ctr[4] = {(uint32_t)block, (uint32_t)r->a, (uint32_t)r->b,
                       (uint32_t)((r->a >> 32) << 16 | r->b >> 32)};
    uint32_t key[2] = {(uint32_t)r->key, (uint32_t)(r->key >> 32)}, out[4];
    rv_philox(ctr, key, out);
    return out[r->pos++ % 4];
}

uint64_t rv_rng_u64(rv_rng *r) {
    uint64_t lo = rv_rng_u32(r);
    return (uint64_t)rv_rng_u32(r) << 32 | lo;
}

uint64_t rv_rng_below(rv_rng *r, uint64_t n) {
    uint64_t limit = (0 - n) % n; // 2^64 mod n: values below it would be one too many
    for (;;) {
        uint64_t x = rv_rng_u64(r);
        if (x >= limit) {
            return x % n;
        }
    }
}

double rv_rng_uniform(rv_rng *r) { return (double)(rv_rng_u64(r) >> 11) * 0x1p-53; }

double rv_rng_normal(rv_rng *r) {
    double u = 1.0 - rv_rng_uniform(r); // (0, 1]
    double v = rv_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
