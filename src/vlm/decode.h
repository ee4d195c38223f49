// decode.h - the decoder of a tokenizer.json: tokens to text, at once or as they come.
//
// A stream never gives half a character, and what it gives, put together, is what decoding all at
// once gives: the batch decoder is the stream.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "err.h"

typedef struct {
    struct rv_decode_step *step; // on each token: Replace, Metaspace
    int n;
    bool byte_level;    // tokens are bytes, written by rv_byte_char
    bool byte_fallback; // <0xHH> is a byte
    bool fuse;          // steps behind this one see the whole text
    char *strip;        // removed from the start of the text, at most strip_n times
    size_t strip_len;
    int64_t strip_n;
    bool spaced; // no decoder: tokens are joined by spaces
} rv_decoder;

typedef struct {
    const rv_decoder *d;
    rv_bytes out;  // text that is complete
    rv_bytes held; // bytes that may still become characters
    rv_bytes tmp[2];
    int64_t tokens;   // so far
    int64_t stripped; // times `strip` was removed; -1: the start is behind us
} rv_decode_stream;

/// Reads a "decoder" (null: none). Errors: RV_EUNSUPPORTED, RV_EFORMAT, RV_ENOMEM.
rv_status rv_decoder_read(rv_decoder *d, const json_t *v, rv_err *e);
void rv_decoder_free(rv_decoder *d);

/// Appends the bytes that a token stands for, wherever it stands.
void rv_decoder_bytes(const rv_decoder *d, const char *token, size_t n, rv_bytes *out);

/// Takes a token. Complete text is appended to s->out, which the caller reads and empties.
/// Memory running out shows as s->out.failed.
void rv_decode_push(rv_decode_stream *s, const char *token, size_t n);

/// Ends the text: what is held back comes out, bad bytes as U+FFFD.
void rv_decode_finish(rv_decode_stream *s);

void rv_decode_stream_free(rv_decode_stream *s);
