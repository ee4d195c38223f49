// utf8.h - reading UTF-8.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Decodes the character at `p` (n > 0 bytes are readable). Returns its length in bytes; 0 when the
/// bytes are no UTF-8 (`*cp` is then untouched).
size_t rv_utf8_read(const char *p, size_t n, uint32_t *cp);

/// Length of the piece of bad UTF-8 at `p` that stands for one U+FFFD: the longest start of a
/// character, or one byte. Sets `*unfinished` when more bytes could still complete it.
size_t rv_utf8_bad(const char *p, size_t n, bool *unfinished);

/// Offset of the first byte that is no UTF-8, or n when all is well.
size_t rv_utf8_check(const char *p, size_t n);

/// True when every byte is below 0x80.
bool rv_is_ascii(const char *p, size_t n);

#ifdef __cplusplus
}
#endif
