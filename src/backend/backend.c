// backend.c - dtypes and the choice of a backend.
#include "backend.h"

#include <string.h>

static const struct {
    size_t size;
    const char *name;
} types[RV_NTYPES] = {
    [RV_F32] = {4, "f32"},   [RV_BF16] = {2, "bf16"}, [RV_F16] = {2, "f16"},
    [RV_I32] = {4, "i32"},   [RV_I64] = {8, "i64"},   [RV_U8] = {1, "u8"},
    [RV_BOOL] = {1, "bool"}, [RV_F64] = {8, "f64"},   [RV_I8] = {1, "i8"},
};

size_t rv_dtype_size(rv_dtype t) { return types[t].size; }
const char *rv_dtype_name(rv_dtype t) { return types[t].name; }
