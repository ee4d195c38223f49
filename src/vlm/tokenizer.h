// tokenizer.h - text to token ids and back, from a Hugging Face tokenizer.json or the files that
// were there before it.
//
// Encoding: cut out added tokens; normalize what is between; cut out added tokens that are looked
// for in normal form; split into pieces; byte-pair encode each; put the template's tokens around.
// A part of the file that this program does not know is an error only where it is needed: ids can
// still be counted, named and compared.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpe.h"
#include "bytes.h"
#include "decode.h"
#include "err.h"

typedef struct rv_tokenizer rv_tokenizer;

/// Reads DIR/tokenizer.json, or where there is none, tokenizer.model or vocab.json with merges.txt
/// and the small files beside them. Errors: RV_EFILE, RV_EFORMAT (file and place), RV_EUNSUPPORTED
/// (older files that say what is not known), RV_ENOMEM.
rv_status rv_tokenizer_load(rv_tokenizer **out, const char *dir, rv_err *e);

/// Reads the content of a tokenizer.json; `name` stands in messages.
rv_status rv_tokenizer_parse(rv_tokenizer **out, const void *json, size_t n, const char *name,
                             rv_err *e);
void rv_tokenizer_free(rv_tokenizer *t);

/// Appends the ids of `text`; with `special`, the template's tokens (BOS) around them.
/// Errors: RV_EFORMAT (text that is no UTF-8, naming the byte), RV_EUNSUPPORTED (an unknown part),
/// RV_EARG (over 256 MB), RV_EINTERRUPT, RV_ENOMEM.
rv_status rv_tokenizer_encode(rv_tokenizer *t, const char *text, size_t n, bool special,
                              rv_ids *out, rv_err *e);

/// Appends the text of `n` ids (UTF-8; what is no character becomes U+FFFD). An id without a token
/// gives nothing; with `skip_special`, so does a special token. Errors: RV_EUNSUPPORTED, RV_ENOMEM.
rv_status rv_tokenizer_decode(const rv_tokenizer *t, const int32_t *ids, size_t n,
                              bool skip_special, rv_bytes *out, rv_err *e);

/// Begins a stream (freed with rv_decode_stream_free, before the tokenizer); tokens are pushed by
/// id. Errors: RV_EUNSUPPORTED.
rv_status rv_tokenizer_stream(const rv_tokenizer *t, rv_decode_stream *s, rv_err *e);
void rv_tokenizer_push(const rv_tokenizer *t, rv_decode_stream *s, int64_t id, bool skip_special);

/// Appends the bytes that an id contributes to a text (a leading space that decoders take from the
/// start of a text is still there). Errors: RV_EUNSUPPORTED, RV_ENOMEM.
rv_status rv_tokenizer_bytes(const rv_tokenizer *t, int64_t id, rv_bytes *out, rv_err *e);

/// Id of a token as the file writes it, or -1.
int32_t rv_tokenizer_id(const rv_tokenizer *t, const char *token, size_t n);

/// A token as the file writes it (an added one in the form it is looked for; not 0-ended), or NULL
/// when the id has none.
const char *rv_tokenizer_token(const rv_tokenizer *t, int64_t id, size_t *n);

/// True for added tokens that are marked special.
bool rv_tokenizer_special(const rv_tokenizer *t, int64_t id);

/// One more than the largest id.
int32_t rv_tokenizer_size(const rv_tokenizer *t);
