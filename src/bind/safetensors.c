// safetensors.c - rl4vlm.safetensors: checkpoint files for Lua.
#include "safetensors.h"

#include <string.h>

#include "file.h"
#include "slice.h"

#define FILE_MT   "rl4vlm.SafetensorsFile"
#define WRITER_MT "rl4vlm.SafetensorsWriter"

typedef struct {
    rv_safetensors *p; // NULL: closed
} file_handle;

typedef struct {
    rv_safetensors_writer *p; // NULL: committed or aborted
} writer_handle;

// ---- reading ----

static rv_safetensors *check_file(lua_State *L) {
    file_handle *h = luaL_checkudata(L, 1, FILE_MT);
    luaL_argcheck(L, h->p, 1, "the file is closed");
    return h->p;
}

// safetensors.open(path) -> file; a path that ends with .json names a sharded checkpoint's index
static int st_open(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    file_handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->p = NULL;
    luaL_setmetatable(L, FILE_MT);
    rv_err e;
    if (rv_safetensors_open(&h->p, path, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}

// f:names() -> list, sorted
static int file_names(lua_State *L) {
    const rv_safetensors *s = check_file(L);
    int64_t n = rv_safetensors_count(s);
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushstring(L, rv_safetensors_at(s, i)->name);
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

// f:info(name) -> {dtype =, shape =, bytes =, file =} or nil
static int file_info(lua_State *L) {
    const rv_safetensors *s = check_file(L);
    const rv_safetensor *t = rv_safetensors_find(s, luaL_checkstring(L, 2));
    if (!t) {
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, 0, 4);
    lua_pushstring(L, t->dtype);
    lua_setfield(L, -2, "dtype");
    lua_createtable(L, t->ndim, 0);
    for (int i = 0; i < t->ndim; i++) {
        lua_pushinteger(L, t->dim[i]);
        lua_seti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
    lua_pushinteger(L, (lua_Integer)t->bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushstring(L, rv_safetensors_path(s, t->shard));
    lua_setfield(L, -2, "file");
    return 1;
}

// f:get(name) -> slice of the mapped file (nothing is copied), or nil
static int file_get(lua_State *L) {
    const rv_safetensors *s = check_file(L);
    const rv_safetensor *t = rv_safetensors_find(s, luaL_checkstring(L, 2));
    if (!t) {
        lua_pushnil(L);
        return 1;
    }
    rv_slice_push_view(L, t->type, t->dtype, t->ndim, t->dim, t->data, t->bytes, 1);
    return 1;
}

// f:drop(name): the tensor's pages leave the process until it is read again
static int file_drop(lua_State *L) {
    const rv_safetensor *t = rv_safetensors_find(check_file(L), luaL_checkstring(L, 2));
    if (t) {
        rv_map_drop(t->data, t->bytes);
    }
    return 0;
}

// f:metadata(key) -> text or nil
static int file_metadata(lua_State *L) {
    lua_pushstring(L, rv_safetensors_metadata(check_file(L), luaL_checkstring(L, 2)));
    return 1;
}

static int file_gc(lua_State *L) {
    file_handle *h = luaL_checkudata(L, 1, FILE_MT);
    rv_safetensors *p = h->p;
    h->p = NULL;
    rv_safetensors_close(p);
    return 0;
}

// ---- writing ----

static writer_handle *check_writer(lua_State *L) {
    writer_handle *h = luaL_checkudata(L, 1, WRITER_MT);
    luaL_argcheck(L, h->p, 1, "the file is finished");
    return h;
}

// Reads {dtype =, shape =} at the top of the stack into `t`.
static void read_spec(lua_State *L, rv_safetensor *t) {
    lua_getfield(L, -1, "dtype");
    const char *dtype = lua_tostring(L, -1);
    t->type = dtype ? rv_safetensors_dtype(dtype) : RV_NTYPES;
    if (t->type == RV_NTYPES) {
        luaL_error(L, "tensor '%s': dtype: wanted one of F32, BF16, F16, ..., came %s", t->name,
                   dtype ? dtype : "none");
    }
    if (lua_getfield(L, -2, "shape") != LUA_TTABLE || luaL_len(L, -1) > RV_SAFETENSORS_MAXDIM) {
        luaL_error(L, "tensor '%s': shape: wanted a list of at most %d sizes", t->name,
                   RV_SAFETENSORS_MAXDIM);
    }
    t->ndim = (int)luaL_len(L, -1);
    for (int i = 0; i < t->ndim; i++) {
        lua_geti(L, -1, i + 1);
        t->dim[i] = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : -1;
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

static int64_t count_pairs(lua_State *L, int arg) {
    int64_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_argerror(L, arg, "wanted names (strings) as keys");
        }
        n++;
    }
    return n;
}

// Pushes scratch that holds the specs of the table {name = {dtype =, shape =}} at `arg`.
static rv_safetensor *push_specs(lua_State *L, int arg, int64_t *n) {
    *n = count_pairs(L, arg);
    rv_safetensor *t = lua_newuserdatauv(L, (size_t)(*n + 1) * sizeof *t, 0);
    lua_pushnil(L);
    for (int64_t i = 0; lua_next(L, arg); i++) {
        t[i] = (rv_safetensor){.name = lua_tostring(L, -2)};
        luaL_checktype(L, -1, LUA_TTABLE);
        read_spec(L, &t[i]);
        lua_pop(L, 1);
    }
    return t;
}

static const char **push_metadata(lua_State *L, int arg, int64_t *n) {
    if (lua_isnoneornil(L, arg)) {
        *n = 0;
        return NULL;
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    *n = count_pairs(L, arg);
    const char **pairs = lua_newuserdatauv(L, (size_t)(*n + 1) * 2 * sizeof *pairs, 0);
    lua_pushnil(L);
    for (int64_t i = 0; lua_next(L, arg); i++) {
        pairs[2 * i] = lua_tostring(L, -2);
        pairs[2 * i + 1] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        if (!pairs[2 * i + 1]) {
            luaL_error(L, "metadata '%s': wanted text", pairs[2 * i]);
        }
        lua_pop(L, 1);
    }
    return pairs;
}

// safetensors.create(path, {name = {dtype =, shape =}}, [metadata]) -> writer
static int st_create(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    writer_handle *h = lua_newuserdatauv(L, sizeof *h, 0); // [path, specs, metadata, writer]
    h->p = NULL;
    luaL_setmetatable(L, WRITER_MT);
    int64_t n, n_meta;
    const rv_safetensor *t = push_specs(L, 2, &n);
    const char **metadata = push_metadata(L, 3, &n_meta);
    rv_err e;
    if (rv_safetensors_create(&h->p, path, t, n, metadata, n_meta, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_settop(L, 4);
    return 1;
}

// w:next() -> name of the tensor whose data is wanted next, or nil
static int writer_next(lua_State *L) {
    const rv_safetensor *t = rv_safetensors_next(check_writer(L)->p);
    lua_pushstring(L, t ? t->name : NULL);
    return 1;
}

// w:put(slice or bytes): the data of the next tensor
static int writer_put(lua_State *L) {
    writer_handle *h = check_writer(L);
    rv_err e;
    size_t bytes;
    const void *data;
    if (lua_type(L, 2) == LUA_TSTRING) {
        data = lua_tolstring(L, 2, &bytes);
    } else {
        const rv_slice *s = rv_slice_check(L, 2);
        data = s->data;
        bytes = s->bytes;
    }
    if (rv_safetensors_put(h->p, data, bytes, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 0;
}

// w:commit(): syncs and renames
static int writer_commit(lua_State *L) {
    writer_handle *h = check_writer(L);
    rv_safetensors_writer *p = h->p;
    h->p = NULL;
    rv_err e;
    if (rv_safetensors_commit(p, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 0;
}

static int writer_gc(lua_State *L) {
    writer_handle *h = luaL_checkudata(L, 1, WRITER_MT);
    rv_safetensors_writer *p = h->p;
    h->p = NULL;
    rv_safetensors_abort(p);
    return 0;
}

// safetensors.write(path, {name = slice, tensor or {dtype =, shape =, data =}}, [metadata])
static int st_write(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    writer_handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->p = NULL;
    luaL_setmetatable(L, WRITER_MT); // [path, tensors, metadata, writer]
    int64_t n = count_pairs(L, 2), n_meta;
    rv_safetensor *t = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *t, 0);
    lua_createtable(L, (int)n, 0); // [.., specs, slices]: keeps the slices alive
    int slices = lua_gettop(L);
    lua_pushnil(L);
    for (int64_t i = 0; lua_next(L, 2); i++) {
        const char *name = lua_tostring(L, -2);
        const rv_slice *s = rv_slice_check(L, -1);
        t[i] = (rv_safetensor){.name = name, .type = s->type, .ndim = s->ndim, .data = s->data};
        memcpy(t[i].dim, s->dim, sizeof t[i].dim);
        lua_seti(L, slices, i + 1);
    }
    const char **metadata = push_metadata(L, 3, &n_meta);
    rv_err e;
    rv_status st = rv_safetensors_create(&h->p, path, t, n, metadata, n_meta, &e);
    for (const rv_safetensor *x; st == RV_OK && (x = rv_safetensors_next(h->p));) {
        st = rv_safetensors_put(h->p, x->data, x->bytes, &e);
    }
    if (st == RV_OK) {
        rv_safetensors_writer *p = h->p;
        h->p = NULL;
        st = rv_safetensors_commit(p, &e);
    }
    return st == RV_OK ? 0 : rv_bind_raise(L, &e);
}

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
    if (luaL_newmetatable(L, name)) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

int luaopen_rv_safetensors(lua_State *L);
int luaopen_rv_safetensors(lua_State *L) {
    static const luaL_Reg file_methods[] = {
        {"names", file_names}, {"info", file_info},         {"get", file_get},
        {"drop", file_drop},   {"metadata", file_metadata}, {NULL, NULL},
    };
    static const luaL_Reg writer_methods[] = {
        {"next", writer_next}, {"put", writer_put}, {"commit", writer_commit},
        {"abort", writer_gc},  {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"open", st_open}, {"create", st_create}, {"write", st_write}, {NULL, NULL}};
    luaL_requiref(L, "rl4vlm.slice", luaopen_rv_slice, 0);
    lua_pop(L, 1);
    new_class(L, FILE_MT, file_methods, file_gc);
    new_class(L, WRITER_MT, writer_methods, writer_gc);
    luaL_newlib(L, functions);
    return 1;
}
