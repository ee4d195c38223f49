// tensor_math.c - rl4vlm.tensor: operators and elementwise functions.
#include <math.h>

#include "bind_tensor.h"
#include "elementwise.h"

// The tensor among the operands that decides whether a number fits.
static void check_fits(lua_State *L, int arg, int other, const char *op) {
    rv_tensor *x = rv_bind_tensor_test(L, other);
    if (!x || !lua_isinteger(L, arg) || rv_dtype_is_float(x->type) || x->type == RV_BOOL) {
        return;
    }
    lua_Integer v = lua_tointeger(L, arg);
    bool fits = x->type == RV_I64 || (x->type == RV_U8 && v >= 0 && v <= 255) ||
                (x->type == RV_I32 && v >= INT32_MIN && v <= INT32_MAX);
    if (!fits) {
        luaL_error(L, "%s: %I does not fit into %s", op, (LUAI_UACINT)v, rv_dtype_name(x->type));
    }
}

static rv_map_op op_of(lua_State *L) { return (rv_map_op)lua_tointeger(L, lua_upvalueindex(1)); }

static int math_unary(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_unary(y, op_of(L), x, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// Whether the result has the operands' integer type: quotients and powers are floating, comparisons
// exact for any number.
static bool keeps_type(rv_map_op op) {
    switch (op) {
    case RV_MAP_DIV:
    case RV_MAP_POW:
    case RV_MAP_EQ:
    case RV_MAP_NE:
    case RV_MAP_LT:
    case RV_MAP_LE:
    case RV_MAP_GT:
    case RV_MAP_GE:
        return false;
    default:
        return true;
    }
}

static int math_binary(lua_State *L) {
    rv_map_op op = op_of(L);
    lua_settop(L, 2);
    rv_bind_check_operand(L, 1);
    rv_bind_check_operand(L, 2);
    if (keeps_type(op)) {
        check_fits(L, 1, 2, rv_map_name(op));
        check_fits(L, 2, 1, rv_map_name(op));
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    rv_operand_arg a = {NULL, NULL}, b = {NULL, NULL};
    rv_status s = rv_bind_operand(L, 1, &a, &e);
    s = s == RV_OK ? rv_bind_operand(L, 2, &b, &e) : s;
    s = s == RV_OK ? rv_tensor_binary(y, op, a.t, b.t, &e) : s;
    rv_tensor_free(a.own);
    rv_tensor_free(b.own);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// where(cond, a, b)
static int math_where(lua_State *L) {
    lua_settop(L, 3);
    rv_tensor *cond = rv_bind_tensor_check(L, 1);
    rv_bind_check_operand(L, 2);
    rv_bind_check_operand(L, 3);
    check_fits(L, 2, 3, "where");
    check_fits(L, 3, 2, "where");
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    rv_operand_arg a = {NULL, NULL}, b = {NULL, NULL};
    rv_status s = rv_bind_operand(L, 2, &a, &e);
    s = s == RV_OK ? rv_bind_operand(L, 3, &b, &e) : s;
    s = s == RV_OK ? rv_tensor_where(y, cond, a.t, b.t, &e) : s;
    rv_tensor_free(a.own);
    rv_tensor_free(b.own);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// x:masked_fill(mask, value)
static int math_masked_fill(lua_State *L) {
    rv_bind_tensor_check(L, 1);
    rv_bind_tensor_check(L, 2);
    rv_bind_check_operand(L, 3);
    lua_settop(L, 3);
    lua_rotate(L, 1, -1); // [mask, value, x]
    return math_where(L);
}

// x:clamp(lo, hi); nil: no bound
static int math_clamp(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    double lo = luaL_optnumber(L, 2, -HUGE_VAL), hi = luaL_optnumber(L, 3, HUGE_VAL);
    if (!(lo <= hi)) {
        return luaL_error(L, "clamp: the lower bound %f is above the upper bound %f", lo, hi);
    }
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_clamp(y, x, lo, hi, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// ---- in place: only where the tape does not need what is overwritten ----

static int math_inplace(lua_State *L) {
    rv_map_op op = op_of(L);
    const char *name = lua_tostring(L, lua_upvalueindex(2));
    lua_settop(L, 2);
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_bind_check_operand(L, 2);
    check_fits(L, 2, 1, name);
    rv_operand_arg b = {NULL, NULL};
    rv_err e;
    rv_status s = rv_tape_check_write(x, name, &e);
    s = s == RV_OK ? rv_bind_operand(L, 2, &b, &e) : s;
    if (s == RV_OK && rv_tape_wants(b.t)) {
        s = RV_FAIL(&e, RV_EARG,
                    "%s: the tape does not record writes; the other operand requires "
                    "a gradient (detach it)",
                    name);
    }
    if (s == RV_OK) {
        s = op == RV_MAP_COPY ? rv_copy_into(x, b.t, name, &e)
                              : rv_map_into(x, op, (const rv_tensor *[]){x, b.t}, 2, name, &e);
    }
    rv_tensor_free(b.own);
    if (s != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_settop(L, 1);
    return 1;
}

// ---- dtype, copies ----

static int math_to(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    luaL_checkstring(L, 2);
    rv_dtype t = rv_bind_check_dtype(L, 2, RV_F32);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_to(y, x, t, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int math_clone(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_clone(y, x, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int math_contiguous(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_compact(y, x, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// ---- tables ----

typedef struct {
    const char *name;
    rv_map_op op;
} named_op;

static const named_op unary[] = {
    {"neg", RV_MAP_NEG},           {"abs", RV_MAP_ABS},       {"sign", RV_MAP_SIGN},
    {"relu", RV_MAP_RELU},         {"square", RV_MAP_SQUARE}, {"floor", RV_MAP_FLOOR},
    {"ceil", RV_MAP_CEIL},         {"round", RV_MAP_ROUND},   {"exp", RV_MAP_EXP},
    {"log", RV_MAP_LOG},           {"sqrt", RV_MAP_SQRT},     {"tanh", RV_MAP_TANH},
    {"sigmoid", RV_MAP_SIGMOID},   {"sin", RV_MAP_SIN},       {"cos", RV_MAP_COS},
    {"logical_not", RV_MAP_NOT},   {"isnan", RV_MAP_ISNAN},   {"isinf", RV_MAP_ISINF},
    {"isfinite", RV_MAP_ISFINITE},
};

static const named_op binary[] = {
    {"add", RV_MAP_ADD},         {"sub", RV_MAP_SUB},         {"mul", RV_MAP_MUL},
    {"div", RV_MAP_DIV},         {"mod", RV_MAP_MOD},         {"floor_divide", RV_MAP_FLOORDIV},
    {"pow", RV_MAP_POW},         {"maximum", RV_MAP_MAXIMUM}, {"minimum", RV_MAP_MINIMUM},
    {"eq", RV_MAP_EQ},           {"ne", RV_MAP_NE},           {"lt", RV_MAP_LT},
    {"le", RV_MAP_LE},           {"gt", RV_MAP_GT},           {"ge", RV_MAP_GE},
    {"logical_and", RV_MAP_AND}, {"logical_or", RV_MAP_OR},   {"logical_xor", RV_MAP_XOR},
};

static const named_op operators[] = {
    {"__add", RV_MAP_ADD},  {"__sub", RV_MAP_SUB},       {"__mul", RV_MAP_MUL},
    {"__div", RV_MAP_DIV},  {"__idiv", RV_MAP_FLOORDIV}, {"__mod", RV_MAP_MOD},
    {"__pow", RV_MAP_POW},  {"__band", RV_MAP_AND},      {"__bor", RV_MAP_OR},
    {"__bxor", RV_MAP_XOR},
};

static const named_op inplace[] = {
    {"copy_", RV_MAP_COPY}, {"add_", RV_MAP_ADD}, {"sub_", RV_MAP_SUB},
    {"mul_", RV_MAP_MUL},   {"div_", RV_MAP_DIV},
};

static void add_closures(lua_State *L, const named_op *ops, size_t n, lua_CFunction f) {
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ops[i].op);
        lua_pushstring(L, ops[i].name);
        lua_pushcclosure(L, f, 2);
        lua_pushvalue(L, -1);
        lua_setfield(L, 1, ops[i].name);
        lua_setfield(L, 2, ops[i].name);
    }
}

void rv_bind_tensor_math(lua_State *L) {
    static const luaL_Reg both[] = {{"where", math_where}, {"masked_fill", math_masked_fill},
                                    {"clamp", math_clamp}, {"to", math_to},
                                    {"clone", math_clone}, {"contiguous", math_contiguous},
                                    {NULL, NULL}};
    rv_bind_tensor_add(L, both);
    add_closures(L, unary, sizeof unary / sizeof *unary, math_unary);
    add_closures(L, binary, sizeof binary / sizeof *binary, math_binary);
    add_closures(L, inplace, sizeof inplace / sizeof *inplace, math_inplace);
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        lua_pushinteger(L, operators[i].op);
        lua_pushcclosure(L, math_binary, 1);
        lua_setfield(L, 3, operators[i].name);
    }
    lua_getfield(L, 2, "neg");
    lua_setfield(L, 3, "__unm");
    lua_getfield(L, 2, "logical_not");
    lua_setfield(L, 3, "__bnot");
}
