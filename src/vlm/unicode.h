// unicode.h - what tokenizers ask of Unicode: UTF-8, three classes of characters, and the alphabet
// in which byte-level vocabularies write bytes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "utf8.h"

/// Encodes a code point; returns the number of bytes (1..4).
size_t rv_utf8_put(char out[4], uint32_t cp);

/// White_Space; numeric (Nd, Nl, No); word characters (letters, marks, digits, connectors).
bool rv_is_space(uint32_t cp);
bool rv_is_numeric(uint32_t cp);
bool rv_is_word(uint32_t cp);

/// The code point that stands for a byte in byte-level vocabularies (GPT-2's map: printable Latin-1
/// for itself, the others from U+0100 on).
uint32_t rv_byte_char(uint8_t byte);

/// The byte that a code point stands for, or -1.
int rv_char_byte(uint32_t cp);
