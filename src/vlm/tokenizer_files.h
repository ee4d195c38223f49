// tokenizer_files.h - a folder without a tokenizer.json: its other files in that form.
#pragma once

#include <jansson.h>

#include "err.h"

/// Reads DIR/tokenizer.model, else DIR/vocab.json and merges.txt, with what tokenizer_config.json,
/// added_tokens.json and special_tokens_map.json say, and gives it in the form of a
/// tokenizer.json. `*name` becomes the file that the vocabulary came from. The caller frees both
/// (json_decref, free). Errors: RV_EFILE (none of them is there), RV_EFORMAT naming file and key,
/// RV_EUNSUPPORTED (a tokenizer_class or a SentencePiece model that is not known), RV_ENOMEM.
rv_status rv_tokenizer_gather(json_t **root, char **name, const char *dir, rv_err *e);
