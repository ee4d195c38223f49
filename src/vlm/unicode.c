#include "unicode.h"

#include <utf8proc.h>

size_t rv_utf8_put(char out[4], uint32_t cp) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
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
