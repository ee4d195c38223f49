// tokenizer_impl.h - the parts of a tokenizer: read by tokenizer_json.c, run by tokenizer.c.
#pragma once

#include "added_tokens.h"
#include "bpe.h"
#include "decode.h"
#include "normalize.h"
#include "pretokenize.h"
#include "tokenizer.h"
#include "vocab.h"

struct rv_tokenizer {
    char *name;     // the file, for messages
    rv_vocab vocab; // the model's, without added tokens
    rv_added_tokens added;
    rv_normalizer normalizer;
    rv_pretokenizer pretokenizer;
    rv_bpe bpe;
    rv_decoder decoder;
    rv_ids before, after; // what the template puts around a text
    uint8_t *flags;       // (size) per id: IS_ADDED, IS_SPECIAL
    int32_t size;
    char *no_encode, *no_template, *no_decode; // why not; NULL: fine
    rv_bytes text, tmp;                        // scratch
    rv_pieces pieces;
};

enum { IS_ADDED = 1, IS_SPECIAL = 2 };
