#include "unicode.h"

#include <string.h>
#include <utf8proc.h>

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

size_t rv_utf8_put(char out[4], uint32_t cp) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
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

bool rv_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool rv_is_numeric(uint32_t c) {
    if (c < 0x80) {
        return c >= '0' && c <= '9';
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool rv_is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: // joiners, and the circled and squared letters, which are alphabetic symbols
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
               (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
               (c >= 0x1F170 && c <= 0x1F189);
    }
}

// Bytes that stand for themselves.
static bool printable(uint32_t b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
}

uint32_t rv_byte_char(uint8_t byte) {
    if (printable(byte)) {
        return byte;
    }
    // The 68 others take U+0100.. in order: 0..32, 127..160, 173.
    uint32_t b = byte;
    return 0x100 + (b <= 32 ? b : b <= 160 ? b - 127 + 33 : 67);
}

int rv_char_byte(uint32_t cp) {
    if (cp < 0x100) {
        return printable(cp) ? (int)cp : -1;
    }
    uint32_t i = cp - 0x100;
    return i > 67 ? -1 : (int)(i <= 32 ? i : i <= 66 ? i - 33 + 127 : 173);
}
