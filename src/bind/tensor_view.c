// tensor_view.c - rl4vlm.tensor: shapes, views, indexing, joining, products of matrices.
#include <limits.h>

#include "bind_tensor.h"
#include "index.h"
#include "view.h"

static int view_shape(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    lua_createtable(L, x->ndim, 0);
    for (int d = 0; d < x->ndim; d++) {
        lua_pushinteger(L, (lua_Integer)x->dim[d]);
        lua_seti(L, -2, d + 1);
    }
    return 1;
}

// x:size(dim) -> integer; x:size() -> all sizes as several values
static int view_size(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    if (!lua_isnoneornil(L, 2)) {
        lua_pushinteger(L, (lua_Integer)x->dim[rv_bind_check_dim(L, 2, x->ndim)]);
        return 1;
    }
    luaL_checkstack(L, RV_MAXDIM, "size");
    for (int d = 0; d < x->ndim; d++) {
        lua_pushinteger(L, (lua_Integer)x->dim[d]);
    }
    return x->ndim;
}

static int view_dim(lua_State *L) {
    lua_pushinteger(L, rv_bind_tensor_check(L, 1)->ndim);
    return 1;
}

static int view_numel(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)rv_tensor_numel(rv_bind_tensor_check(L, 1)));
    return 1;
}

static int view_dtype(lua_State *L) {
    lua_pushstring(L, rv_dtype_name(rv_bind_tensor_check(L, 1)->type));
    return 1;
}

static int view_is_contiguous(lua_State *L) {
    lua_pushboolean(L, rv_tensor_contiguous(rv_bind_tensor_check(L, 1)));
    return 1;
}

// A position as Lua counts (negative from the end), from 0; not checked against n.
static int64_t position(lua_Integer i, int64_t n) { return i < 0 ? i + n : i - 1; }

// x:slice(dim, first [, last [, step]]): last included, negative from the end, as string.sub
static int view_slice(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    int64_t n = x->dim[dim];
    int64_t first = position(luaL_optinteger(L, 3, 1), n);
    int64_t last = position(luaL_optinteger(L, 4, -1), n);
    lua_Integer step = luaL_optinteger(L, 5, 1);
    luaL_argcheck(L, step > 0, 5, "wanted a step of 1 or more");
    if (first < 0 || last >= n) {
        return luaL_error(L, "slice: %I..%I is outside 1..%I (dim %d of shape %s)",
                          luaL_optinteger(L, 3, 1), luaL_optinteger(L, 4, -1), (LUAI_UACINT)n,
                          dim + 1, rv_tensor_shape_str(x).s);
    }
    int64_t count = last >= first ? (last - first) / step + 1 : 0;
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_slice(y, x, dim, count ? first : 0, count, step, &e) == RV_OK
               ? 1
               : rv_bind_raise(L, &e);
}

// x:select(dim, i)
static int view_select(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    lua_Integer i = luaL_checkinteger(L, 3);
    int64_t at = position(i, x->dim[dim]);
    if (i == 0 || at < 0 || at >= x->dim[dim]) {
        return luaL_error(L, "select: index %I is outside 1..%I (dim %d of shape %s)",
                          (LUAI_UACINT)i, (LUAI_UACINT)x->dim[dim], dim + 1,
                          rv_tensor_shape_str(x).s);
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_select(y, x, dim, at, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int permuted(lua_State *L, rv_tensor *x, const int *order) {
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_permute(y, x, order, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:transpose([d1, d2]): the last two dims without arguments
static int view_transpose(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int order[RV_MAXDIM], a = x->ndim - 2, b = x->ndim - 1;
    if (!lua_isnoneornil(L, 2)) {
        a = rv_bind_check_dim(L, 2, x->ndim);
        b = rv_bind_check_dim(L, 3, x->ndim);
    } else if (x->ndim < 2) {
        return luaL_error(L, "transpose: wanted two dims, got shape %s", rv_tensor_shape_str(x).s);
    }
    for (int d = 0; d < x->ndim; d++) {
        order[d] = d == a ? b : d == b ? a : d;
    }
    return permuted(L, x, order);
}

// x:permute(d1, d2, ...) or a list
static int view_permute(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int64_t dims[RV_MAXDIM];
    int n = rv_bind_check_sizes(L, 2, dims), order[RV_MAXDIM];
    unsigned seen = 0;
    for (int i = 0; i < n; i++) {
        int64_t d = position(dims[i], x->ndim);
        order[i] = d >= 0 && d < x->ndim ? (int)d : 0;
        seen |= d >= 0 && d < x->ndim ? 1u << d : 0;
    }
    if (n != x->ndim || seen != (1u << x->ndim) - 1) {
        return luaL_error(L, "permute: wanted each dim of shape %s once, got %s",
                          rv_tensor_shape_str(x).s, rv_shape_str(n, dims).s);
    }
    return permuted(L, x, order);
}

static int view_reshape(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int64_t dim[RV_MAXDIM];
    int nd = rv_bind_check_sizes(L, 2, dim);
    if (lua_toboolean(L, lua_upvalueindex(1)) && !rv_tensor_contiguous(x)) {
        return luaL_error(L, "view: shape %s is not contiguous (use reshape)",
                          rv_tensor_shape_str(x).s);
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_reshape(y, x, nd, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:flatten()
static int view_flatten(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int64_t all = rv_tensor_numel(x);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_reshape(y, x, 1, &all, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:squeeze([dim]): without a dim, all dims of size 1 go
static int view_squeeze(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int only = lua_isnoneornil(L, 2) ? -1 : rv_bind_check_dim(L, 2, x->ndim), nd = 0;
    int64_t dim[RV_MAXDIM];
    for (int d = 0; d < x->ndim; d++) {
        if (x->dim[d] != 1 || (only >= 0 && d != only)) {
            dim[nd++] = x->dim[d];
        }
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_reshape(y, x, nd, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:unsqueeze(dim): a new dim of size 1 that becomes dim `dim`
static int view_unsqueeze(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int at = rv_bind_check_dim(L, 2, x->ndim + 1);
    luaL_argcheck(L, x->ndim < RV_MAXDIM, 1, "the tensor has the most dims already");
    int64_t dim[RV_MAXDIM];
    for (int d = 0; d <= x->ndim; d++) {
        dim[d] = d == at ? 1 : x->dim[d < at ? d : d - 1];
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_reshape(y, x, x->ndim + 1, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:expand(dims...), x:broadcast_to(dims...)
static int view_expand(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int64_t dim[RV_MAXDIM];
    int nd = rv_bind_check_sizes(L, 2, dim);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_expand(y, x, nd, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// ---- indexing: positions count from 1 ----

// x:index_select(dim, positions), x:gather(dim, positions)
static int view_take(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    rv_tensor *idx = rv_bind_tensor_check(L, 3);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    rv_status s = lua_toboolean(L, lua_upvalueindex(1))
                      ? rv_tensor_gather(y, x, dim, idx, 1, &e)
                      : rv_tensor_index_select(y, x, dim, idx, 1, &e);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:scatter_add(dim, positions, source)
static int view_scatter_add(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    rv_tensor *idx = rv_bind_tensor_check(L, 3), *src = rv_bind_tensor_check(L, 4);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_scatter_add(y, x, dim, idx, src, 1, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int view_masked_select(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1), *mask = rv_bind_tensor_check(L, 2);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_masked_select(y, x, mask, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// mask:nonzero() -> flat positions of the true elements
static int view_nonzero(lua_State *L) {
    rv_tensor *mask = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_nonzero(y, mask, 1, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// ---- joining, splitting ----

// The list of tensors at arg 1 as an array that Lua frees; each stays alive in the list's copy.
static rv_tensor **check_list(lua_State *L, int *n) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer count = luaL_len(L, 1);
    luaL_argcheck(L, count > 0 && count < INT_MAX, 1, "wanted a list of at least one tensor");
    *n = (int)count;
    lua_createtable(L, *n, 0);
    rv_tensor **list = lua_newuserdatauv(L, (size_t)*n * sizeof *list, 0); // [.., copy, list]
    for (int i = 0; i < *n; i++) {
        lua_geti(L, 1, i + 1);
        if (!luaL_testudata(L, -1, RV_TENSOR_MT)) {
            luaL_error(L, "element %d of the list is a %s, not a tensor", i + 1,
                       luaL_typename(L, -1));
        }
        list[i] = rv_bind_tensor_check(L, lua_gettop(L));
        lua_rawseti(L, -3, i + 1);
    }
    return list;
}

// cat(list [, dim])
static int view_cat(lua_State *L) {
    int n;
    lua_settop(L, 2);
    rv_tensor **list = check_list(L, &n);
    luaL_argcheck(L, list[0]->ndim > 0, 1, "tensors without dims do not join (use stack)");
    int dim = lua_isnil(L, 2) ? 0 : rv_bind_check_dim(L, 2, list[0]->ndim);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_cat(y, list, n, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// stack(list [, dim]): along a new dim
static int view_stack(lua_State *L) {
    int n;
    lua_settop(L, 2);
    rv_tensor **list = check_list(L, &n);
    luaL_argcheck(L, list[0]->ndim < RV_MAXDIM, 1, "the tensors have the most dims already");
    int at = lua_isnil(L, 2) ? 0 : rv_bind_check_dim(L, 2, list[0]->ndim + 1);
    lua_createtable(L, n, 0); // keeps the widened tensors
    for (int i = 0; i < n; i++) {
        int64_t dim[RV_MAXDIM];
        for (int d = 0; d <= list[i]->ndim && d < RV_MAXDIM; d++) {
            dim[d] = d == at ? 1 : list[i]->dim[d < at ? d : d - 1];
        }
        if (!rv_tensor_same_shape(list[i], list[0])) {
            return luaL_error(L, "stack: tensor %d has shape %s, the first %s", i + 1,
                              rv_tensor_shape_str(list[i]).s, rv_tensor_shape_str(list[0]).s);
        }
        rv_tensor **wide = rv_bind_tensor_push(L);
        rv_err e;
        if (rv_tensor_reshape(wide, list[i], list[i]->ndim + 1, dim, &e) != RV_OK) {
            return rv_bind_raise(L, &e);
        }
        lua_rawseti(L, -2, i + 1);
    }
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, -1, i + 1);
        list[i] = rv_bind_tensor_check(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_cat(y, list, n, at, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:split(size or list of sizes [, dim]) -> list of views
static int view_split(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    lua_settop(L, 3);
    int dim = lua_isnil(L, 3) ? 0 : rv_bind_check_dim(L, 3, x->ndim);
    luaL_argcheck(L, x->ndim > 0, 1, "a tensor without dims cannot be split");
    bool list = lua_istable(L, 2);
    lua_Integer size = list ? 0 : luaL_checkinteger(L, 2), parts = list ? luaL_len(L, 2) : 0;
    luaL_argcheck(L, list || size > 0, 2, "wanted a size of 1 or more");
    int64_t at = 0;
    lua_newtable(L);
    for (lua_Integer i = 1; list ? i <= parts : at < x->dim[dim]; i++) {
        int64_t count = size;
        if (list) {
            lua_geti(L, 2, i);
            count = luaL_checkinteger(L, -1);
            lua_pop(L, 1);
        } else if (count > x->dim[dim] - at) {
            count = x->dim[dim] - at;
        }
        if (count < 0 || count > x->dim[dim] - at) {
            return luaL_error(L, "split: size %I (number %I) does not fit into dim %d of shape %s",
                              (LUAI_UACINT)count, (LUAI_UACINT)i, dim + 1,
                              rv_tensor_shape_str(x).s);
        }
        rv_tensor **y = rv_bind_tensor_push(L);
        rv_err e;
        if (rv_tensor_slice(y, x, dim, at, count, 1, &e) != RV_OK) {
            return rv_bind_raise(L, &e);
        }
        lua_seti(L, -2, i);
        at += count;
    }
    if (at != x->dim[dim]) {
        return luaL_error(L, "split: the sizes add up to %I, dim %d of shape %s", (LUAI_UACINT)at,
                          dim + 1, rv_tensor_shape_str(x).s);
    }
    return 1;
}

// a:matmul(b)
static int view_matmul(lua_State *L) {
    rv_tensor *a = rv_bind_tensor_check(L, 1), *b = rv_bind_tensor_check(L, 2);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_matmul(y, a, b, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static void add_switch(lua_State *L, const char *name, lua_CFunction f, bool on) {
    lua_pushboolean(L, on);
    lua_pushcclosure(L, f, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, 1, name);
    lua_setfield(L, 2, name);
}

void rv_bind_tensor_view(lua_State *L) {
    static const luaL_Reg both[] = {{"shape", view_shape},
                                    {"size", view_size},
                                    {"dim", view_dim},
                                    {"numel", view_numel},
                                    {"dtype", view_dtype},
                                    {"is_contiguous", view_is_contiguous},
                                    {"slice", view_slice},
                                    {"select", view_select},
                                    {"transpose", view_transpose},
                                    {"permute", view_permute},
                                    {"flatten", view_flatten},
                                    {"squeeze", view_squeeze},
                                    {"unsqueeze", view_unsqueeze},
                                    {"expand", view_expand},
                                    {"broadcast_to", view_expand},
                                    {"scatter_add", view_scatter_add},
                                    {"masked_select", view_masked_select},
                                    {"nonzero", view_nonzero},
                                    {"split", view_split},
                                    {"matmul", view_matmul},
                                    {NULL, NULL}};
    static const luaL_Reg functions[] = {{"cat", view_cat}, {"stack", view_stack}, {NULL, NULL}};
    rv_bind_tensor_add(L, both);
    add_switch(L, "reshape", view_reshape, false);
    add_switch(L, "view", view_reshape, true);
    add_switch(L, "index_select", view_take, false);
    add_switch(L, "gather", view_take, true);
    lua_pushvalue(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
