// tensor_reduce.c - rl4vlm.tensor: reductions, softmax, sorting, cumulative and segment sums.
#include "bind_tensor.h"
#include "elementwise.h"
#include "index.h"
#include "mem.h"
#include "reduce.h"
#include "view.h"

// The dims at `arg`: nil all, an integer, or a list of them.
static uint32_t check_dims(lua_State *L, int arg, int ndim) {
    if (lua_isnoneornil(L, arg)) {
        return RV_ALL_DIMS;
    }
    if (!lua_istable(L, arg)) {
        return 1u << rv_bind_check_dim(L, arg, ndim);
    }
    uint32_t dims = 0;
    lua_Integer n = luaL_len(L, arg);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, arg, i);
        dims |= 1u << rv_bind_check_dim(L, lua_gettop(L), ndim);
        lua_pop(L, 1);
    }
    return dims;
}

static bool opt_boolean(lua_State *L, int arg) {
    if (!lua_isnoneornil(L, arg)) {
        luaL_checktype(L, arg, LUA_TBOOLEAN);
    }
    return lua_toboolean(L, arg);
}

// x:sum([dims [, keepdim]]) and its like
static int reduce(lua_State *L) {
    rv_reduce_op op = (rv_reduce_op)lua_tointeger(L, lua_upvalueindex(1));
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    uint32_t dims = check_dims(L, 2, x->ndim);
    bool keep = opt_boolean(L, 3);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_reduce(y, op, x, dims, keep, 0, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:var([dims [, keepdim [, correction]]]), x:std(...)
static int reduce_var(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    uint32_t dims = check_dims(L, 2, x->ndim);
    bool keep = opt_boolean(L, 3);
    double correction = luaL_optnumber(L, 4, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    rv_status s = lua_toboolean(L, lua_upvalueindex(1))
                      ? rv_tensor_std(y, x, dims, keep, correction, &e)
                      : rv_tensor_reduce(y, RV_REDUCE_VAR, x, dims, keep, correction, &e);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// Positions counted from 0 become Lua's.
static rv_status from_one(rv_tensor **out, rv_tensor *at, rv_err *e) {
    rv_tensor *one = NULL;
    RV_TRY(rv_tensor_number(&one, at->buf->tape, true, 1, 0, e));
    rv_status s = rv_tensor_binary(out, RV_MAP_ADD, at, one, e);
    rv_tensor_free(one);
    return s;
}

// x:argmax([dim [, keepdim]]): flat position without a dim
static int reduce_arg(lua_State *L) {
    rv_reduce_op op = (rv_reduce_op)lua_tointeger(L, lua_upvalueindex(1));
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    uint32_t dims = lua_isnoneornil(L, 2) ? RV_ALL_DIMS : 1u << rv_bind_check_dim(L, 2, x->ndim);
    bool keep = opt_boolean(L, 3);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_tensor *at = NULL;
    rv_err e;
    rv_status s = rv_tensor_reduce(&at, op, x, dims, keep, 0, &e);
    s = s == RV_OK ? from_one(y, at, &e) : s;
    rv_tensor_free(at);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:max() -> value; x:max(dims [, keepdim]) -> values and, for one dim, positions
static int reduce_extreme(lua_State *L) {
    rv_reduce_op op = (rv_reduce_op)lua_tointeger(L, lua_upvalueindex(1));
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    if (!lua_isinteger(L, 2)) {
        return reduce(L);
    }
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    bool keep = opt_boolean(L, 3);
    rv_tensor **values = rv_bind_tensor_push(L), **where = rv_bind_tensor_push(L);
    rv_reduce_op arg = op == RV_REDUCE_MAX ? RV_REDUCE_ARGMAX : RV_REDUCE_ARGMIN;
    rv_tensor *at = NULL, *kept = NULL;
    rv_err e;
    rv_status s = rv_tensor_reduce(&kept, arg, x, 1u << dim, true, 0, &e);
    if (s == RV_OK && keep) {
        s = rv_tensor_gather(values, x, dim, kept, 0, &e);
        s = s == RV_OK ? from_one(where, kept, &e) : s;
    } else if (s == RV_OK) {
        rv_tensor *wide = NULL;
        s = rv_tensor_gather(&wide, x, dim, kept, 0, &e);
        s = s == RV_OK ? rv_tensor_reduce(values, op, wide, 1u << dim, false, 0, &e) : s;
        rv_tensor_free(wide);
        s = s == RV_OK ? rv_tensor_reduce(&at, RV_REDUCE_MAX, kept, 1u << dim, false, 0, &e) : s;
        s = s == RV_OK ? from_one(where, at, &e) : s;
    }
    rv_tensor_free(at);
    rv_tensor_free(kept);
    return s == RV_OK ? 2 : rv_bind_raise(L, &e);
}

// sum(where(mask, x, 0)) and, for the mean, over the number of true elements
static rv_status masked_sum(rv_tensor **out, rv_tensor *x, rv_tensor *mask, uint32_t dims,
                            bool keep, bool mean, rv_err *e) {
    rv_tensor *zero = NULL, *one = NULL, *part = NULL, *sum = NULL, *hit = NULL;
    rv_tensor *count = NULL, *n = NULL;
    rv_tape *tape = x->buf->tape;
    rv_status s = rv_tensor_number(&zero, tape, true, 0, 0, e);
    s = s == RV_OK ? rv_tensor_where(&part, mask, x, zero, e) : s;
    s = s == RV_OK ? rv_tensor_reduce(mean ? &sum : out, RV_REDUCE_SUM, part, dims, keep, 0, e) : s;
    if (mean) {
        s = s == RV_OK ? rv_tensor_number(&one, tape, true, 1, 0, e) : s;
        s = s == RV_OK ? rv_tensor_expand(&hit, mask, part->ndim, part->dim, e) : s;
        s = s == RV_OK ? rv_tensor_reduce(&count, RV_REDUCE_SUM, hit, dims, keep, 0, e) : s;
        s = s == RV_OK ? rv_tensor_binary(&n, RV_MAP_MAXIMUM, count, one, e) : s;
        s = s == RV_OK ? rv_tensor_binary(out, RV_MAP_DIV, sum, n, e) : s;
    }
    rv_tensor *mine[] = {zero, one, part, sum, hit, count, n};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        rv_tensor_free(mine[i]);
    }
    return s;
}

// x:masked_sum(mask [, dims [, keepdim]]), x:masked_mean(...): 0 where nothing is true
static int reduce_masked(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1), *mask = rv_bind_tensor_check(L, 2);
    int nd = x->ndim > mask->ndim ? x->ndim : mask->ndim;
    uint32_t dims = check_dims(L, 3, nd);
    bool keep = opt_boolean(L, 4), mean = lua_toboolean(L, lua_upvalueindex(1));
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return masked_sum(y, x, mask, dims, keep, mean, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:softmax(dim), x:log_softmax(dim)
static int reduce_softmax(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    bool log = lua_toboolean(L, lua_upvalueindex(1));
    return rv_tensor_softmax(y, x, dim, log, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:cumsum(dim)
static int reduce_cumsum(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    int dim = rv_bind_check_dim(L, 2, x->ndim);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_cumsum(y, x, dim, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:segment_sum(offsets), x:segment_mean(offsets): a list or an integer tensor of n + 1
static int reduce_segments(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1), *given = rv_bind_tensor_test(L, 2);
    int64_t n;
    int64_t *off;
    rv_err e;
    if (given) {
        luaL_argcheck(L, given->type == RV_I64 && given->ndim == 1, 2,
                      "wanted a list of offsets or an i64 tensor of one dim");
        n = given->dim[0];
        off = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *off, 0);
        if (rv_tensor_read(given, off, &e) != RV_OK) {
            return rv_bind_raise(L, &e);
        }
    } else {
        luaL_checktype(L, 2, LUA_TTABLE);
        n = (int64_t)luaL_len(L, 2);
        off = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *off, 0);
        for (int64_t i = 0; i < n; i++) {
            int whole;
            lua_geti(L, 2, i + 1);
            off[i] = lua_tointegerx(L, -1, &whole);
            luaL_argcheck(L, whole, 2, "offsets must be integers");
            lua_pop(L, 1);
        }
    }
    luaL_argcheck(L, n >= 1, 2, "wanted n + 1 offsets for n segments");
    bool mean = lua_toboolean(L, lua_upvalueindex(1));
    rv_tensor **y = rv_bind_tensor_push(L);
    return rv_tensor_segment_sum(y, x, off, n - 1, mean, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:sort([dim [, descending]]) -> values, positions; x:topk(k [, dim [, smallest]])
static int reduce_sort(lua_State *L) {
    bool top = lua_toboolean(L, lua_upvalueindex(1));
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    lua_Integer k = top ? luaL_checkinteger(L, 2) : -1;
    luaL_argcheck(L, !top || k >= 0, 2, "wanted 0 or more elements");
    int arg = top ? 3 : 2, dim = x->ndim - 1;
    luaL_argcheck(L, x->ndim > 0, 1, "a tensor without dims cannot be sorted");
    if (!lua_isnoneornil(L, arg)) {
        dim = rv_bind_check_dim(L, arg, x->ndim);
    }
    bool flag = opt_boolean(L, arg + 1);
    rv_tensor **values = rv_bind_tensor_push(L), **where = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_sort(values, where, x, dim, top ? !flag : flag, k, 1, &e) == RV_OK
               ? 2
               : rv_bind_raise(L, &e);
}

typedef struct {
    const char *name;
    lua_CFunction f;
    int upvalue;
} entry;

static const entry entries[] = {
    {"sum", reduce, RV_REDUCE_SUM},
    {"mean", reduce, RV_REDUCE_MEAN},
    {"prod", reduce, RV_REDUCE_PROD},
    {"any", reduce, RV_REDUCE_ANY},
    {"all", reduce, RV_REDUCE_ALL},
    {"norm", reduce, RV_REDUCE_NORM},
    {"logsumexp", reduce, RV_REDUCE_LOGSUMEXP},
    {"max", reduce_extreme, RV_REDUCE_MAX},
    {"min", reduce_extreme, RV_REDUCE_MIN},
    {"argmax", reduce_arg, RV_REDUCE_ARGMAX},
    {"argmin", reduce_arg, RV_REDUCE_ARGMIN},
};

static const entry switches[] = {
    // the upvalue is a boolean
    {"var", reduce_var, false},
    {"std", reduce_var, true},
    {"masked_sum", reduce_masked, false},
    {"masked_mean", reduce_masked, true},
    {"softmax", reduce_softmax, false},
    {"log_softmax", reduce_softmax, true},
    {"segment_sum", reduce_segments, false},
    {"segment_mean", reduce_segments, true},
    {"sort", reduce_sort, false},
    {"topk", reduce_sort, true},
};

static void add(lua_State *L, const entry *e, size_t n, bool boolean) {
    for (size_t i = 0; i < n; i++) {
        if (boolean) {
            lua_pushboolean(L, e[i].upvalue);
        } else {
            lua_pushinteger(L, e[i].upvalue);
        }
        lua_pushcclosure(L, e[i].f, 1);
        lua_pushvalue(L, -1);
        lua_setfield(L, 1, e[i].name);
        lua_setfield(L, 2, e[i].name);
    }
}

void rv_bind_tensor_reduce(lua_State *L) {
    static const luaL_Reg both[] = {{"cumsum", reduce_cumsum}, {NULL, NULL}};
    rv_bind_tensor_add(L, both);
    add(L, entries, sizeof entries / sizeof *entries, false);
    add(L, switches, sizeof switches / sizeof *switches, true);
}
