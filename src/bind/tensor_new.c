// tensor_new.c - rl4vlm.tensor: making tensors, and getting their elements back to Lua.
#include <math.h>
#include <string.h>

#include "bind_tensor.h"
#include "elementwise.h"
#include "mem.h"
#include "rng.h"

static int raise_in(lua_State *L, const char *op, rv_err *e) {
    rv_err_context(e, "%s", op);
    return rv_bind_raise(L, e);
}

// ---- options: the last argument may be {dtype = "f32", device = "cpu"} or a dtype's name ----

static rv_dtype pop_options(lua_State *L, int arg, rv_dtype otherwise) {
    static const char *const known[] = {"dtype", "device", NULL};
    if (!lua_istable(L, arg)) {
        return rv_bind_check_dtype(L, arg, otherwise);
    }
    rv_bind_check_keys(L, arg, known);
    lua_getfield(L, arg, "device");
    const char *device = luaL_optstring(L, -1, "cpu");
    if (strcmp(device, "cpu") != 0) {
        luaL_argerror(L, arg, lua_pushfstring(L, "device '%s' is not there (cpu)", device));
    }
    lua_getfield(L, arg, "dtype");
    rv_dtype t = rv_bind_check_dtype(L, lua_gettop(L), otherwise);
    lua_pop(L, 2);
    return t;
}

// Takes options off the end of sizes: zeros(2, 3, "i32"), zeros({2, 3}, {dtype = "i32"}).
static rv_dtype take_options(lua_State *L, int first) {
    int top = lua_gettop(L);
    bool options =
        top >= first && (lua_type(L, top) == LUA_TSTRING ||
                         (lua_istable(L, top) && (top > first || luaL_len(L, top) == 0)));
    if (options && lua_istable(L, top) && top == first) {
        lua_pushnil(L);
        options = lua_next(L, top) != 0; // {} alone is the shape of a tensor without dims
        lua_settop(L, top);
    }
    if (!options) {
        return RV_F32;
    }
    rv_dtype t = pop_options(L, top, RV_F32);
    lua_settop(L, top - 1);
    return t;
}

static int make_full(lua_State *L, int first, double value, const char *op) {
    rv_dtype t = take_options(L, first);
    int64_t dim[RV_MAXDIM];
    int nd = rv_bind_check_sizes(L, first, dim);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    if (rv_tensor_full(y, rv_bind_tape(L), t, nd, dim, value, &e) != RV_OK) {
        return raise_in(L, op, &e);
    }
    return 1;
}

static int new_zeros(lua_State *L) { return make_full(L, 1, 0, "zeros"); }
static int new_ones(lua_State *L) { return make_full(L, 1, 1, "ones"); }

// full(value, dims... [, dtype])
static int new_full(lua_State *L) { return make_full(L, 2, luaL_checknumber(L, 1), "full"); }

static int new_like(lua_State *L, double value) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    if (rv_tensor_full(y, x->buf->tape, x->type, x->ndim, x->dim, value, &e) != RV_OK) {
        return raise_in(L, "zeros_like", &e);
    }
    return 1;
}

static int new_zeros_like(lua_State *L) { return new_like(L, 0); }
static int new_ones_like(lua_State *L) { return new_like(L, 1); }

// Pushes a handle with a fresh tensor of one dim or more; the caller writes the elements.
static rv_tensor *push_fresh(lua_State *L, const char *op, rv_dtype t, int nd, const int64_t *dim) {
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    if (rv_tensor_new(y, rv_bind_tape(L), t, nd, dim, &e) != RV_OK) {
        raise_in(L, op, &e);
    }
    return *y;
}

// Pushes scratch memory that Lua frees.
static void *push_scratch(lua_State *L, int64_t n, size_t size) {
    size_t bytes = 0;
    if (!rv_mul_size((size_t)n, size, &bytes)) {
        luaL_error(L, "out of memory for %I elements", (LUAI_UACINT)n);
    }
    return lua_newuserdatauv(L, bytes ? bytes : 1, 0);
}

// Replaces the fp32 (or i64) tensor on top by one of dtype `t`.
static int finish_as(lua_State *L, rv_tensor *x, rv_dtype t) {
    if (x->type == t) {
        return 1;
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    if (rv_tensor_to(y, x, t, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}

// arange(n), arange(first, last [, step]) [, dtype]: last included, as in Lua's for
static int new_arange(lua_State *L) {
    bool floats = false;
    int top = lua_gettop(L);
    rv_dtype type = RV_NTYPES;
    if (top && (lua_type(L, top) == LUA_TSTRING || lua_istable(L, top))) {
        type = pop_options(L, top, RV_NTYPES);
        lua_settop(L, --top);
    }
    for (int i = 1; i <= top; i++) {
        luaL_checknumber(L, i);
        floats = floats || !lua_isinteger(L, i);
    }
    luaL_argcheck(L, top >= 1 && top <= 3, 1, "wanted (n), (first, last) or (first, last, step)");
    double first = top == 1 ? 1 : lua_tonumber(L, 1), last = lua_tonumber(L, top == 1 ? 1 : 2);
    double step = top == 3 ? lua_tonumber(L, 3) : 1;
    luaL_argcheck(L, step != 0, 3, "the step is 0");
    double count = floor((last - first) / step + 1e-9) + 1;
    luaL_argcheck(L, count < 0x1p40, 1, "too many elements");
    int64_t n = count > 0 ? (int64_t)count : 0;
    rv_dtype work = floats ? RV_F32 : RV_I64;
    void *v = push_scratch(L, n, 8);
    for (int64_t i = 0; i < n; i++) {
        if (floats) {
            ((float *)v)[i] = (float)(first + (double)i * step);
        } else {
            ((int64_t *)v)[i] = (int64_t)first + i * (int64_t)step;
        }
    }
    rv_tensor *x = push_fresh(L, "arange", work, 1, &n);
    rv_tensor_write(x, v);
    return finish_as(L, x, type == RV_NTYPES ? work : type);
}

// linspace(first, last, n [, dtype]): both ends included
static int new_linspace(lua_State *L) {
    double a = luaL_checknumber(L, 1), b = luaL_checknumber(L, 2);
    int64_t n = luaL_checkinteger(L, 3);
    luaL_argcheck(L, n >= 0, 3, "wanted 0 or more elements");
    lua_settop(L, 4);
    rv_dtype t = pop_options(L, 4, RV_F32);
    float *v = push_scratch(L, n, sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        v[i] =
            (float)(i == n - 1 && n > 1 ? b : a + (b - a) * (double)i / (double)(n - 1 + (n == 1)));
    }
    rv_tensor *x = push_fresh(L, "linspace", RV_F32, 1, &n);
    rv_tensor_write(x, v);
    return finish_as(L, x, t);
}

// eye(n [, m] [, dtype])
static int new_eye(lua_State *L) {
    int64_t dim[2] = {luaL_checkinteger(L, 1), 0};
    bool square = !lua_isinteger(L, 2);
    dim[1] = square ? dim[0] : lua_tointeger(L, 2);
    luaL_argcheck(L, dim[0] >= 0 && dim[1] >= 0 && dim[0] < 1 << 24 && dim[1] < 1 << 24, 1,
                  "wanted a size of 0 or more");
    lua_settop(L, 3);
    rv_dtype t = pop_options(L, square ? 2 : 3, RV_F32);
    float *v = push_scratch(L, dim[0] * dim[1], sizeof *v);
    memset(v, 0, (size_t)(dim[0] * dim[1]) * sizeof *v);
    for (int64_t i = 0; i < dim[0] && i < dim[1]; i++) {
        v[i * dim[1] + i] = 1;
    }
    rv_tensor *x = push_fresh(L, "eye", RV_F32, 2, dim);
    rv_tensor_write(x, v);
    return finish_as(L, x, t);
}

static int random_from(lua_State *L, double (*draw)(rv_rng *), const char *op) {
    rv_rng *r = luaL_checkudata(L, 1, "rl4vlm.Rng");
    rv_dtype t = take_options(L, 2);
    int64_t dim[RV_MAXDIM];
    int nd = rv_bind_check_sizes(L, 2, dim);
    rv_tensor *x = push_fresh(L, op, RV_F32, nd, dim);
    int64_t n = rv_tensor_numel(x);
    float *v = push_scratch(L, n, sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        v[i] = (float)draw(r);
    }
    rv_tensor_write(x, v);
    lua_pop(L, 1);
    return finish_as(L, x, t);
}

// A float below 1: 24 random bits, since rounding a double could give 1.
static double uniform24(rv_rng *r) { return (double)(rv_rng_u32(r) >> 8) * 0x1p-24; }

static int new_rand(lua_State *L) { return random_from(L, uniform24, "rand"); }
static int new_randn(lua_State *L) { return random_from(L, rv_rng_normal, "randn"); }

// ---- from and to Lua tables ----

// Finds the shape of a nested list, and whether its leaves are all integers or all booleans.
typedef struct {
    int ndim;
    int64_t dim[RV_MAXDIM];
    bool integers, booleans;
} nested;

static void measure(lua_State *L, int at, nested *s) {
    s->ndim = 0;
    lua_pushvalue(L, at);
    while (lua_istable(L, -1)) {
        if (s->ndim == RV_MAXDIM) {
            luaL_error(L, "new: the list is nested deeper than %d levels", RV_MAXDIM);
        }
        s->dim[s->ndim++] = luaL_len(L, -1);
        if (s->dim[s->ndim - 1] == 0) {
            break;
        }
        lua_geti(L, -1, 1);
        lua_remove(L, -2);
    }
    lua_pop(L, 1);
}

// Reads the leaves below the value on top, level `level`, into v (numbers) and w (integers).
static void read_leaves(lua_State *L, nested *s, int level, float *v, int64_t *w, int64_t *at) {
    if (level == s->ndim) {
        int type = lua_type(L, -1);
        if (type != LUA_TNUMBER && type != LUA_TBOOLEAN) {
            luaL_error(L, "new: element %I is a %s; wanted a number or a boolean",
                       (LUAI_UACINT)(*at + 1), lua_typename(L, type));
        }
        bool whole = type == LUA_TBOOLEAN || lua_isinteger(L, -1);
        s->booleans = s->booleans && type == LUA_TBOOLEAN;
        s->integers = s->integers && whole;
        w[*at] = type == LUA_TBOOLEAN ? lua_toboolean(L, -1) : lua_tointeger(L, -1);
        v[(*at)++] = (float)(type == LUA_TBOOLEAN ? lua_toboolean(L, -1) : lua_tonumber(L, -1));
        return;
    }
    if (!lua_istable(L, -1) || luaL_len(L, -1) != s->dim[level]) {
        if (!lua_istable(L, -1)) {
            luaL_error(L, "new: lists at level %d have %I elements, then there is a %s", level + 1,
                       (LUAI_UACINT)s->dim[level], luaL_typename(L, -1));
        }
        luaL_error(L, "new: lists at level %d have %I and %I elements", level + 1,
                   (LUAI_UACINT)s->dim[level], (LUAI_UACINT)luaL_len(L, -1));
    }
    luaL_checkstack(L, 2, "new");
    for (int64_t i = 1; i <= s->dim[level]; i++) {
        lua_geti(L, -1, i);
        read_leaves(L, s, level + 1, v, w, at);
        lua_pop(L, 1);
    }
}

// new(nested list, number or tensor [, dtype])
static int new_new(lua_State *L) {
    luaL_checkany(L, 1);
    lua_settop(L, 2);
    rv_tensor *given = rv_bind_tensor_test(L, 1);
    if (given) {
        rv_dtype t = pop_options(L, 2, given->type);
        rv_tensor **y = rv_bind_tensor_push(L);
        rv_err e;
        rv_status s =
            t == given->type ? rv_tensor_clone(y, given, &e) : rv_tensor_to(y, given, t, &e);
        return s == RV_OK ? 1 : rv_bind_raise(L, &e);
    }
    nested s = {.integers = true, .booleans = true};
    measure(L, 1, &s);
    int64_t n = 1, at = 0;
    for (int d = 0; d < s.ndim; d++) {
        if (!rv_mul_count(n, s.dim[d], &n)) {
            return luaL_error(L, "new: too many elements");
        }
    }
    int64_t *w = push_scratch(L, n, sizeof *w);
    float *v = push_scratch(L, n, sizeof *v);
    lua_pushvalue(L, 1);
    read_leaves(L, &s, 0, v, w, &at);
    lua_pop(L, 1);
    bool empty = n == 0, whole = s.integers && !empty;
    rv_dtype natural = empty ? RV_F32 : s.booleans ? RV_BOOL : s.integers ? RV_I64 : RV_F32;
    rv_dtype t = pop_options(L, 2, natural);
    rv_tensor *x = push_fresh(L, "new", whole ? RV_I64 : RV_F32, s.ndim, s.dim);
    rv_tensor_write(x, whole ? (void *)w : (void *)v);
    return finish_as(L, x, t);
}

// from_bytes(string, dims, dtype): the elements as they lie in memory, little-endian
static int new_from_bytes(lua_State *L) {
    size_t have;
    const char *bytes = luaL_checklstring(L, 1, &have);
    int64_t dim[RV_MAXDIM];
    luaL_checktype(L, 2, LUA_TTABLE);
    int nd = rv_bind_check_sizes(L, 2, dim);
    rv_tensor *x = push_fresh(L, "from_bytes", rv_bind_check_dtype(L, 3, RV_F32), nd, dim);
    if (rv_tensor_bytes(x) != have) {
        return luaL_error(L, "from_bytes: %s of shape %s is %I bytes, got %I",
                          rv_dtype_name(x->type), rv_tensor_shape_str(x).s,
                          (LUAI_UACINT)rv_tensor_bytes(x), (LUAI_UACINT)have);
    }
    for (size_t i = 0; i < have && x->type == RV_BOOL; i++) {
        if ((unsigned char)bytes[i] > 1) {
            return luaL_error(L, "from_bytes: byte %I is %d; a bool is 0 or 1",
                              (LUAI_UACINT)(i + 1), (unsigned char)bytes[i]);
        }
    }
    rv_tensor_write(x, bytes);
    return 1;
}

// Pushes scratch with all elements, as i64 or f32; returns it.
static void *push_elements(lua_State *L, rv_tensor *x) {
    rv_dtype wide = rv_dtype_is_float(x->type) ? RV_F32 : RV_I64;
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    if (rv_tensor_to(y, x, wide, &e) != RV_OK) {
        rv_bind_raise(L, &e);
    }
    void *v = push_scratch(L, rv_tensor_numel(x), rv_dtype_size(wide));
    if (rv_tensor_read(*y, v, &e) != RV_OK) {
        rv_bind_raise(L, &e);
    }
    lua_remove(L, -2);
    return v;
}

static void push_element(lua_State *L, const rv_tensor *x, const void *v, int64_t i) {
    if (rv_dtype_is_float(x->type)) {
        lua_pushnumber(L, (lua_Number)((const float *)v)[i]);
    } else if (x->type == RV_BOOL) {
        lua_pushboolean(L, ((const int64_t *)v)[i] != 0);
    } else {
        lua_pushinteger(L, (lua_Integer)((const int64_t *)v)[i]);
    }
}

static void push_level(lua_State *L, const rv_tensor *x, const void *v, int level, int64_t *at) {
    if (level == x->ndim) {
        push_element(L, x, v, (*at)++);
        return;
    }
    luaL_checkstack(L, 2, "to_table");
    int64_t n = x->dim[level];
    lua_createtable(L, n < 1 << 20 ? (int)n : 0, 0);
    for (int64_t i = 1; i <= n; i++) {
        push_level(L, x, v, level + 1, at);
        lua_seti(L, -2, i);
    }
}

// x:to_table() -> nested lists (a plain value without dims)
static int to_table(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    const void *v = push_elements(L, x);
    int64_t at = 0;
    push_level(L, x, v, 0, &at);
    return 1;
}

// x:tolist() -> one flat list, row-major
static int to_list(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    const void *v = push_elements(L, x);
    int64_t n = rv_tensor_numel(x);
    lua_createtable(L, n < 1 << 24 ? (int)n : 0, 0);
    for (int64_t i = 0; i < n; i++) {
        push_element(L, x, v, i);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

// x:item() -> the only element
static int to_item(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    if (rv_tensor_numel(x) != 1) {
        return luaL_error(L, "item: wanted one element, got shape %s", rv_tensor_shape_str(x).s);
    }
    push_element(L, x, push_elements(L, x), 0);
    return 1;
}

// x:to_bytes() -> string of the elements as they lie in memory, row-major
static int to_bytes(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    luaL_Buffer b;
    size_t n = rv_tensor_bytes(x);
    char *to = luaL_buffinitsize(L, &b, n);
    rv_err e;
    if (rv_tensor_read(x, to, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    luaL_pushresultsize(&b, n);
    return 1;
}

void rv_bind_tensor_new(lua_State *L) {
    static const luaL_Reg functions[] = {{"new", new_new},
                                         {"zeros", new_zeros},
                                         {"ones", new_ones},
                                         {"full", new_full},
                                         {"arange", new_arange},
                                         {"linspace", new_linspace},
                                         {"eye", new_eye},
                                         {"rand", new_rand},
                                         {"randn", new_randn},
                                         {"from_bytes", new_from_bytes},
                                         {NULL, NULL}};
    static const luaL_Reg both[] = {{"zeros_like", new_zeros_like},
                                    {"ones_like", new_ones_like},
                                    {"to_table", to_table},
                                    {"tolist", to_list},
                                    {"item", to_item},
                                    {"to_bytes", to_bytes},
                                    {NULL, NULL}};
    rv_bind_tensor_add(L, both);
    lua_pushvalue(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
