// core_logits.c - m:logits: what tools look at.
#include "core.h"
#include "core_batch.h"
#include "slice.h"

// m:logits(ids [, images]) -> slice (T, V), untempered
int rv_core_logits(lua_State *L) {
    rv_vlm *m = rv_core_check(L, 1);
    lua_settop(L, 3);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_createtable(L, 1, 0); // the one sample: asked behind every token
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "ids");
    lua_pushvalue(L, 3);
    lua_setfield(L, -2, "images");
    lua_seti(L, -2, 1);
    rv_core_ask none = {.temperature = 1};
    rv_batch batch = *rv_core_batch(L, lua_gettop(L), m, &none);
    int64_t dim[2] = {batch.cu[1], rv_vlm_arch(m)->text.vocab};
    int32_t *rows = lua_newuserdatauv(L, (size_t)dim[0] * sizeof *rows, 0);
    for (int64_t i = 0; i < dim[0]; i++) {
        rows[i] = (int32_t)i;
    }
    batch.ask_row = rows;
    batch.ask_id = NULL;
    batch.n_ask = dim[0];
    rv_slice *s = rv_slice_push(L, RV_F32, 2, dim);
    rv_scores out = {.logits = rv_slice_bytes(s)};
    rv_err e = {0};
    if (rv_vlm_score(m, &batch, false, &out, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}
