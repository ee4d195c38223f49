// tokenizer_spm.h - a SentencePiece model (tokenizer.model) in the form of a tokenizer.json.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "err.h"

// What a folder's tokenizer_config.json says of how its SentencePiece model is used.
typedef struct {
    bool legacy; // the prefix space goes before every stretch of text, not only the first
    bool bos;    // the template begins with the model's BOS
    bool eos;    // and ends with its EOS
    int prefix;  // a space before the text: 1 or 0; -1: as the model says
} rv_spm_options;

/// Reads a BPE model's protobuf: vocabulary, merges in the order of its scores, byte fallback,
/// control pieces as special tokens. The caller frees `*root` with json_decref.
/// Errors: RV_EFORMAT (no such protobuf, naming the byte or the piece), RV_EUNSUPPORTED (a unigram,
/// word or character model; a normalisation with a table of its own; unused pieces), RV_ENOMEM.
/// Source: sentencepiece_model.proto; the merges are those of transformers' conversion.
rv_status rv_spm_read(json_t **root, const void *bytes, size_t n, const rv_spm_options *o,
                      rv_err *e);
