// unicode.h - what tokenizers ask of Unicode: UTF-8, three classes of characters, and the alphabet
// in which byte-level vocabularies write bytes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Decodes the character at `p` (n > 0 bytes are readable). Returns its length in bytes; 0 when the
/// bytes are no UTF-8 (`*cp` is then untouched).
size_t rv_utf8_read(const char *p, size_t n, uint32_t *cp);

/// Length of the piece of bad UTF-8 at `p` that stands for one U+FFFD: the longest start of a
/// character, or one byte. Sets `*unfinished` when more bytes could still complete it.
size_t rv_utf8_bad(const char *p, size_t n, bool *unfinished);

/// Encodes a code point; returns the number of bytes (1..4).
size_t rv_utf8_put(char out[4], uint32_t cp);

/// Offset of the first byte that is no UTF-8, or n when all is well.
size_t rv_utf8_check(const char *p, size_t n);

/// True when every byte is below 0x80.
bool rv_is_ascii(const char *p, size_t n);

/// White_Space; numeric (Nd, Nl, No); word characters (letters, marks, digits, connectors).
bool rv_is_space(uint32_t cp);
bool rv_is_numeric(uint32_t cp);
bool rv_is_word(uint32_t cp);

/// The code point that stands for a byte in byte-level vocabularies (GPT-2's map: printable Latin-1
/// for itself, the others from U+0100 on).
uint32_t rv_byte_char(uint8_t byte);

/// The byte that a code point stands for, or -1.
int rv_char_byte(uint32_t cp);
