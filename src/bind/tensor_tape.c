// tensor_tape.c - rl4vlm.tensor: gradients, and foreign operations written in Lua.
#include <limits.h>
#include <stdlib.h>

#include "bind_tensor.h"

// x:requires_grad_([on]) -> x
static int tape_requires_grad(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    bool on = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    rv_err e;
    if (rv_tape_requires_grad(x, on, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_settop(L, 1);
    return 1;
}

static int tape_is_recorded(lua_State *L) {
    lua_pushboolean(L, rv_bind_tensor_check(L, 1)->node != NULL);
    return 1;
}

static int tape_detach(lua_State *L) {
    rv_tensor *x = rv_bind_tensor_check(L, 1);
    rv_tensor **y = rv_bind_tensor_push(L);
    rv_err e;
    return rv_tensor_alias(y, x, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int tape_zero_grad(lua_State *L) {
    rv_tape_zero_grad(rv_bind_tensor_check(L, 1));
    return 0;
}

// no_grad(f, ...) -> f(...), nothing recorded meanwhile
static int tape_no_grad(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    rv_tape *tape = rv_bind_tape(L);
    bool grad = tape->grad;
    tape->grad = false;
    int rc = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    tape->grad = grad;
    return rc == LUA_OK ? lua_gettop(L) : lua_error(L);
}

// ---- backward, with Lua functions inside ----

// The state that runs the innermost backward pass; Lua nodes run there. NULL: none.
static const char running_key;

static lua_State *running(lua_State *L, lua_State *now) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &running_key);
    lua_State **slot = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (!slot) {
        slot = lua_newuserdatauv(L, sizeof *slot, 0);
        *slot = NULL;
        lua_rawsetp(L, LUA_REGISTRYINDEX, &running_key);
    }
    lua_State *before = *slot;
    *slot = now;
    return before;
}

// loss:backward([gradient])
static int tape_backward(lua_State *L) {
    rv_tensor *loss = rv_bind_tensor_check(L, 1);
    rv_tensor *seed = lua_isnoneornil(L, 2) ? NULL : rv_bind_tensor_check(L, 2);
    luaL_checkstack(L, 8, "backward");
    lua_State *before = running(L, L);
    rv_err e;
    rv_status s = rv_tape_backward(loss, seed, &e);
    running(L, before);
    return s == RV_OK ? 0 : rv_bind_raise(L, &e);
}

typedef struct {
    lua_State *main; // for the registry only
    int function;    // reference to the Lua function
    int n_out, n_in;
} lua_node;

static void lua_node_free(void *ctx) {
    lua_node *n = ctx;
    luaL_unref(n->main, LUA_REGISTRYINDEX, n->function);
    free(n);
}

// What a Lua node's backward pass hands to the protected call.
typedef struct {
    const lua_node *node;
    rv_tensor *const *grad_out;
    rv_tensor **grad_in;
} lua_call_args;

static int call_backward(lua_State *L) {
    lua_call_args *a = lua_touserdata(L, 1);
    luaL_checkstack(L, a->node->n_out + a->node->n_in + 4, "backward");
    lua_rawgeti(L, LUA_REGISTRYINDEX, a->node->function);
    for (int i = 0; i < a->node->n_out; i++) {
        if (a->grad_out[i]) {
            rv_tensor **h = rv_bind_tensor_push(L);
            *h = rv_tensor_ref(a->grad_out[i]);
        } else {
            lua_pushnil(L);
        }
    }
    lua_call(L, a->node->n_out, a->node->n_in);
    for (int i = 0; i < a->node->n_in; i++) {
        int at = i - a->node->n_in;
        if (!lua_isnil(L, at) && !luaL_testudata(L, at, RV_TENSOR_MT)) {
            return luaL_error(L, "custom: gradient %d is a %s; wanted a tensor or nil", i + 1,
                              luaL_typename(L, at));
        }
    }
    for (int i = 0; i < a->node->n_in; i++) {
        rv_tensor *g = rv_bind_tensor_test(L, i - a->node->n_in);
        a->grad_in[i] = g ? rv_tensor_ref(g) : NULL;
    }
    return 0;
}

static rv_status lua_node_backward(void *ctx, rv_tensor *const *grad_out, rv_tensor **grad_in,
                                   rv_err *e) {
    lua_node *n = ctx;
    lua_rawgetp(n->main, LUA_REGISTRYINDEX, &running_key);
    lua_State **slot = lua_touserdata(n->main, -1);
    lua_State *L = slot && *slot ? *slot : n->main;
    lua_pop(n->main, 1);
    lua_call_args args = {n, grad_out, grad_in};
    lua_pushcfunction(L, call_backward);
    lua_pushlightuserdata(L, &args);
    rv_status s = RV_OK;
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        s = RV_FAIL(e, RV_EARG, "%s", luaL_tolstring(L, -1, NULL));
        lua_pop(L, 2);
    }
    return s;
}

// Tensors at `arg` (one, or a list of them) as an array that Lua frees, kept alive by a table.
static rv_tensor **check_tensors(lua_State *L, int arg, int *n) {
    bool one = luaL_testudata(L, arg, RV_TENSOR_MT) != NULL;
    if (!one) {
        luaL_checktype(L, arg, LUA_TTABLE);
    }
    lua_Integer count = one ? 1 : luaL_len(L, arg);
    luaL_argcheck(L, count >= 0 && count < INT_MAX, arg, "too many tensors");
    *n = (int)count;
    rv_tensor **list = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *list, 0);
    for (int i = 0; i < *n; i++) {
        if (one) {
            lua_pushvalue(L, arg);
        } else {
            lua_geti(L, arg, i + 1);
        }
        rv_tensor *t = rv_bind_tensor_test(L, -1);
        luaL_argcheck(L, t, arg, "wanted open tensors");
        list[i] = t;
        lua_pop(L, 1);
    }
    return list;
}

// custom(outputs [, inputs], backward) -> outputs
static int tape_custom(lua_State *L) {
    bool has_inputs = lua_gettop(L) > 2;
    int f = has_inputs ? 3 : 2, n_out, n_in = 0;
    luaL_checktype(L, f, LUA_TFUNCTION);
    lua_settop(L, f);
    rv_tensor **outputs = check_tensors(L, 1, &n_out), **inputs = NULL;
    if (has_inputs && !lua_isnil(L, 2)) {
        inputs = check_tensors(L, 2, &n_in);
    }
    rv_bind_tape(L);
    lua_pushvalue(L, f);
    int function = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    lua_State *main = lua_tothread(L, -1);
    lua_node *n = malloc(sizeof *n);
    rv_err e;
    rv_status s = RV_OK;
    if (n) {
        *n = (lua_node){main, function, n_out, n_in};
        s = rv_tape_custom(outputs, n_out, inputs, n_in, lua_node_backward, n, lua_node_free, &e);
    } else {
        s = RV_FAIL(&e, RV_ENOMEM, "custom: out of memory");
    }
    if (s != RV_OK) {
        luaL_unref(L, LUA_REGISTRYINDEX, function);
        free(n);
        return rv_bind_raise(L, &e);
    }
    lua_settop(L, 1);
    return 1;
}

void rv_bind_tensor_tape(lua_State *L) {
    static const luaL_Reg both[] = {{"requires_grad_", tape_requires_grad},
                                    {"requires_grad", tape_is_recorded},
                                    {"detach", tape_detach},
                                    {"zero_grad", tape_zero_grad},
                                    {"backward", tape_backward},
                                    {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"no_grad", tape_no_grad}, {"custom", tape_custom}, {NULL, NULL}};
    rv_bind_tensor_add(L, both);
    lua_pushvalue(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
