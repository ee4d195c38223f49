// lora.c - rl4vlm.lora: adapters added into weights.
#include "bind.h"
#include "merge.h"
#include "slice.h"

#include <string.h>

static const rv_slice *check_matrix(lua_State *L, int arg) {
    const rv_slice *s = rv_slice_check(L, arg);
    luaL_argcheck(L, s->type == RV_F32 && s->ndim == 2, arg, "wanted a matrix of F32");
    return s;
}

// lora.merge(w, a, b, scale) -> w + scale b a
static int lora_merge(lua_State *L) {
    const rv_slice *w = check_matrix(L, 1), *a = check_matrix(L, 2), *b = check_matrix(L, 3);
    lua_Number scale = luaL_checknumber(L, 4);
    luaL_argcheck(L, a->dim[1] == w->dim[1] && b->dim[0] == w->dim[0] && a->dim[0] == b->dim[1], 2,
                  "the shapes are not those of an adapter of the weight");
    rv_slice *out = rv_slice_push_raw(L, RV_F32, 2, w->dim);
    memcpy(rv_slice_bytes(out), w->data, w->bytes);
    rv_err e = {0};
    const rv_merge m = {.w = rv_slice_bytes(out),
                        .a = a->data,
                        .b = b->data,
                        .n = w->dim[0],
                        .k = w->dim[1],
                        .r = a->dim[0],
                        .scale = (float)scale};
    if (rv_lora_merge(&m, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}

int luaopen_rv_lora(lua_State *L);
int luaopen_rv_lora(lua_State *L) {
    static const luaL_Reg functions[] = {{"merge", lora_merge}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
