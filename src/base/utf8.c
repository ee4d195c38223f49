#include "utf8.h"

#include <string.h>

// Length of a character by its first byte and the range of its second byte (Unicode, table 3-7).
static size_t lead(uint8_t c, uint8_t *lo, uint8_t *hi) {
    *lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    *hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    return c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
}

// Number of bytes at `p` that begin a character of `len` bytes, at most len.
static size_t valid_bytes(const uint8_t *p, size_t n, size_t len, uint8_t lo, uint8_t hi) {
    size_t i = 1;
    for (; i < len && i < n; i++) {
        if (p[i] < (i == 1 ? lo : 0x80) || p[i] > (i == 1 ? hi : 0xBF)) {
            break;
        }
    }
    return i;
}

size_t rv_utf8_read(const char *s, size_t n, uint32_t *cp) {
    const uint8_t *p = (const uint8_t *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    uint8_t lo, hi;
    size_t len = lead(p[0], &lo, &hi);
    if (len == 0 || valid_bytes(p, n, len, lo, hi) < len) {
        return 0;
    }
    uint32_t c = p[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        c = c << 6 | (p[i] & 0x3F);
    }
    *cp = c;
    return len;
}

size_t rv_utf8_bad(const char *s, size_t n, bool *unfinished) {
    const uint8_t *p = (const uint8_t *)s;
    uint8_t lo, hi;
    size_t len = lead(p[0], &lo, &hi), have = len ? valid_bytes(p, n, len, lo, hi) : 1;
    *unfinished = len > 0 && have == n && have < len;
    return have;
}

bool rv_is_ascii(const char *p, size_t n) {
    uint64_t high = 0, w;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&w, p + i, 8);
        high |= w;
    }
    for (; i < n; i++) {
        high |= (uint8_t)p[i];
    }
    return (high & 0x8080808080808080u) == 0;
}

size_t rv_utf8_check(const char *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        size_t len = n - i >= 64 && rv_is_ascii(p + i, 64) ? 64 : rv_utf8_read(p + i, n - i, &cp);
        if (len == 0) {
            return i;
        }
        i += len;
    }
    return n;
}
