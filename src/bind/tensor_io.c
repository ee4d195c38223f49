// tensor_io.c - rl4vlm.tensor: tensors in safetensors files.
#include <stdlib.h>
#include <string.h>

#include "bind_tensor.h"
#include "safetensors.h"

#define FILE_MT "rv.tensor.file"

// ---- reading ----

// An open file that Lua closes, whatever happens.
static int file_gc(lua_State *L) {
    rv_safetensors **f = luaL_checkudata(L, 1, FILE_MT);
    rv_safetensors *s = *f;
    *f = NULL;
    rv_safetensors_close(s);
    return 0;
}

static rv_status load_one(rv_tensor **out, rv_tape *tape, const rv_safetensor *s, rv_err *e) {
    bool widen = s->type == RV_F16 || s->type == RV_F64;
    RV_TRY(rv_tensor_new(out, tape, widen ? RV_F32 : s->type, s->ndim, s->dim, e));
    if (!widen) {
        rv_tensor_write(*out, s->data);
        return RV_OK;
    }
    int64_t n = rv_tensor_numel(*out);
    float *host = malloc(n ? (size_t)n * sizeof *host : 1);
    void *aligned = malloc(s->bytes ? s->bytes : 1); // data in the file has no alignment
    if (!host || !aligned) {
        free(host);
        free(aligned);
        return RV_FAIL(e, RV_ENOMEM, "out of memory for %lld elements", (long long)n);
    }
    memcpy(aligned, s->data, s->bytes);
    rv_convert(host, RV_F32, aligned, s->type, n);
    rv_tensor_write(*out, host);
    free(host);
    free(aligned);
    return RV_OK;
}

// load(path) -> {name = tensor}
static int io_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    rv_safetensors **f = lua_newuserdatauv(L, sizeof *f, 0);
    *f = NULL;
    luaL_setmetatable(L, FILE_MT);
    lua_toclose(L, -1);
    rv_err e;
    if (rv_safetensors_open(f, path, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    int64_t n = rv_safetensors_count(*f);
    lua_createtable(L, 0, (int)n);
    for (int64_t i = 0; i < n; i++) {
        const rv_safetensor *s = rv_safetensors_at(*f, i);
        if (!rv_dtype_is_tensor(s->type) && s->type != RV_F16 && s->type != RV_F64) {
            return luaL_error(L,
                              "%s: tensor '%s' is %s; tensors are F32, F16, F64, BF16, I32, "
                              "I64, U8 or BOOL",
                              path, s->name, s->dtype);
        }
        rv_tensor **t = rv_bind_tensor_push(L);
        if (load_one(t, rv_bind_tape(L), s, &e) != RV_OK) {
            rv_err_context(&e, "%s: tensor '%s'", path, s->name);
            return rv_bind_raise(L, &e);
        }
        lua_setfield(L, -2, s->name);
    }
    return 1;
}

// ---- writing ----

// Fills `list` from the table {name = tensor} at arg 2; gives the largest number of bytes.
static size_t list_tensors(lua_State *L, rv_safetensor *list, rv_tensor **tensors) {
    size_t largest = 0;
    int64_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, 2)) { // [key, tensor]
        rv_tensor *t = rv_bind_tensor_check(L, lua_gettop(L));
        rv_safetensor *s = &list[n];
        *s = (rv_safetensor){.name = lua_tostring(L, -2), .type = t->type, .ndim = t->ndim};
        memcpy(s->dim, t->dim, sizeof s->dim);
        tensors[n++] = t;
        largest = rv_tensor_bytes(t) > largest ? rv_tensor_bytes(t) : largest;
        lua_pop(L, 1);
    }
    return largest;
}

// Writes all tensors through `scratch`; touches no Lua, so the writer cannot leak.
static rv_status write_all(const char *path, const rv_safetensor *list, rv_tensor *const *tensors,
                           int64_t n, void *scratch, rv_err *e) {
    rv_safetensors_writer *w = NULL;
    RV_TRY(rv_safetensors_create(&w, path, list, n, NULL, 0, e));
    rv_status s = RV_OK;
    const rv_safetensor *next;
    while (s == RV_OK && (next = rv_safetensors_next(w)) != NULL) {
        const rv_tensor *t = tensors[next->shard];
        s = rv_tensor_read(t, scratch, e);
        s = s == RV_OK ? rv_safetensors_put(w, scratch, rv_tensor_bytes(t), e) : s;
    }
    if (s != RV_OK) {
        rv_safetensors_abort(w);
        return s;
    }
    return rv_safetensors_commit(w, e);
}

// save(path, {name = tensor})
static int io_save(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    int64_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, 2)) {
        if (lua_type(L, -2) != LUA_TSTRING || !luaL_testudata(L, -1, RV_TENSOR_MT)) {
            return luaL_error(L, "save: wanted names and tensors, got a %s with a %s",
                              luaL_typename(L, -2), luaL_typename(L, -1));
        }
        n++;
        lua_pop(L, 1);
    }
    rv_safetensor *list = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *list, 0);
    rv_tensor **tensors = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *tensors, 0);
    size_t largest = list_tensors(L, list, tensors);
    void *scratch = lua_newuserdatauv(L, largest + 1, 0);
    rv_err e;
    return write_all(path, list, tensors, n, scratch, &e) == RV_OK ? 0 : rv_bind_raise(L, &e);
}

void rv_bind_tensor_io(lua_State *L) {
    static const luaL_Reg functions[] = {{"load", io_load}, {"save", io_save}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", file_gc}, {"__close", file_gc}, {NULL, NULL}};
    if (luaL_newmetatable(L, FILE_MT)) {
        luaL_setfuncs(L, meta, 0);
    }
    lua_pop(L, 1);
    lua_pushvalue(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
