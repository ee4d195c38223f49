// safetensors_impl.h - what reading and writing checkpoint files share.
#pragma once

#include "safetensors.h"

/// What the format keeps the metadata under: no tensor can have this name.
#define RV_SAFETENSORS_METADATA "__metadata__"

/// The place of a type's name in the format's list, ordered by width; -1: none.
int rv_safetensors_type(const char *name);
/// Bytes that a tensor's shape needs; false on overflow or when the last byte is not full.
bool rv_safetensors_size(const rv_safetensor *t, int type, size_t *out);
