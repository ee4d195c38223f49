// sha256.h - SHA-256 (FIPS 180-4), for manifests and for comparing long lists of numbers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t h[8];
    uint8_t block[64]; // bytes that do not fill a block yet
    uint64_t n;        // bytes seen
} rv_sha256;

void rv_sha256_begin(rv_sha256 *s);
void rv_sha256_add(rv_sha256 *s, const void *bytes, size_t n);
void rv_sha256_end(rv_sha256 *s, uint8_t digest[32]);

#ifdef __cplusplus
}
#endif
