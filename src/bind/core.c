// core.c - rl4vlm.core: the model of src/vlm for Lua, parameter by parameter.
#include "core.h"

#include <math.h>
#include <stdlib.h>

#include "core_arch.h"
#include "mem.h"
#include "slice.h"

#define CORE_MT "rl4vlm.Core"

typedef struct {
    rv_core *c; // NULL: closed
} handle;

rv_core *rv_core_ref(rv_core *c) {
    c->refs++;
    return c;
}

void rv_core_unref(rv_core *c) {
    if (c && --c->refs == 0) {
        free(c);
    }
}

static void core_free(rv_core *c) {
    if (c) {
        rv_vlm_free(c->m);
        if (c->ctx) {
            c->be->ctx_free(c->ctx);
        }
        c->m = NULL;
        c->live = NULL;
        c->ctx = NULL;
        rv_core_unref(c);
    }
}

rv_core *rv_core_shared(lua_State *L, int arg) {
    handle *h = luaL_checkudata(L, arg, CORE_MT);
    luaL_argcheck(L, h->c, arg, "the model has been closed");
    return h->c;
}

rv_vlm *rv_core_check(lua_State *L, int arg) { return rv_core_shared(L, arg)->m; }

static int core_close(lua_State *L) {
    handle *h = luaL_checkudata(L, 1, CORE_MT);
    rv_core *c = h->c;
    h->c = NULL;
    core_free(c);
    return 0;
}

// core.new(arch [, options]) -> model
static int core_new(lua_State *L) {
    rv_arch arch;
    rv_core_options o;
    lua_settop(L, 2);
    rv_core_read_arch(L, 1, &arch);
    rv_core_read_options(L, 2, &o);
    handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = (handle){NULL};
    luaL_setmetatable(L, CORE_MT);
    rv_err e = {0};
    h->c = rv_calloc(1, sizeof *h->c);
    if (!h->c) {
        return luaL_error(L, "out of memory");
    }
    h->c->refs = 1;
    if (rv_backend_get(&h->c->be, o.device, &e) != RV_OK ||
        h->c->be->ctx_new(&h->c->ctx, o.device_index, o.threads, &e) != RV_OK ||
        rv_vlm_new(&h->c->m, h->c->be, h->c->ctx, &arch, &o.vlm, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}

static int push_plan(lua_State *L, const rv_plan *p) {
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = {
        {"weights", p->weights},
        {"adapters", p->adapters},
        {"gradients", p->gradients},
        {"optimizer", p->optimizer},
        {"activations", p->activations},
        {"kv_cache", p->kv_cache},
        {"scratch", p->scratch},
        {"host", p->host},
        {"total", p->total},
    };
    lua_createtable(L, 0, 9);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lua_pushinteger(L, (lua_Integer)rows[i].bytes);
        lua_setfield(L, -2, rows[i].name);
    }
    return 1;
}

// core.plan(arch [, options]) -> bytes by name, nothing taken
static int core_plan(lua_State *L) {
    rv_arch arch;
    rv_core_options o;
    const rv_backend *be;
    rv_plan plan;
    rv_err e = {0};
    lua_settop(L, 2);
    rv_core_read_arch(L, 1, &arch);
    rv_core_read_options(L, 2, &o);
    if (rv_backend_get(&be, o.device, &e) != RV_OK ||
        rv_vlm_plan(&plan, be, &arch, &o.vlm, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return push_plan(L, &plan);
}

// m:plan() -> bytes by name, adapters included
static int model_plan(lua_State *L) {
    rv_plan plan;
    rv_vlm_memory(rv_core_check(L, 1), &plan);
    return push_plan(L, &plan);
}

// m:peak_bytes() -> the most bytes in use at once so far
static int model_peak_bytes(lua_State *L) {
    const rv_core *c = rv_core_shared(L, 1);
    size_t now, peak;
    c->be->usage(c->ctx, &now, &peak);
    lua_pushinteger(L, (lua_Integer)peak);
    return 1;
}

static void push_param(lua_State *L, const rv_param_info *p) {
    lua_createtable(L, 0, 6);
    lua_pushstring(L, p->role);
    lua_setfield(L, -2, "role");
    lua_pushstring(L, rv_core_parts[p->part]);
    lua_setfield(L, -2, "part");
    lua_createtable(L, p->ndim, 0);
    for (int i = 0; i < p->ndim; i++) {
        lua_pushinteger(L, p->dim[i]);
        lua_seti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
    lua_pushboolean(L, p->matrix);
    lua_setfield(L, -2, "matrix");
    lua_pushboolean(L, p->linear);
    lua_setfield(L, -2, "linear");
    lua_pushboolean(L, p->trained);
    lua_setfield(L, -2, "trained");
}

// m:params() -> list of {role =, part =, shape =, matrix =, linear =, trained =}
static int model_params(lua_State *L) {
    const rv_vlm *m = rv_core_check(L, 1);
    lua_createtable(L, (int)rv_vlm_param_count(m), 0);
    for (int64_t i = 0; i < rv_vlm_param_count(m); i++) {
        push_param(L, rv_vlm_param(m, i));
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

static int64_t check_role(lua_State *L, const rv_vlm *m, int arg) {
    const char *role = luaL_checkstring(L, arg);
    int64_t i = rv_vlm_param_find(m, role);
    if (i < 0) {
        luaL_argerror(L, arg, lua_pushfstring(L, "the model has no parameter '%s'", role));
    }
    return i;
}

static rv_of check_of(lua_State *L, int arg) {
    static const char *const words[] = {"param", "grad", "m", "v", NULL};
    return (rv_of)luaL_checkoption(L, arg, "param", words);
}

static void push_shape(lua_State *L, int n, const int64_t *dim) {
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '(');
    for (int i = 0; i < n; i++) {
        lua_pushfstring(L, i ? ", %I" : "%I", (lua_Integer)dim[i]);
        luaL_addvalue(&b);
    }
    luaL_addchar(&b, ')');
    luaL_pushresult(&b);
}

static bool same_shape(const rv_param_info *p, const rv_slice *s) {
    bool same = p->ndim == s->ndim;
    for (int i = 0; same && i < p->ndim; i++) {
        same = p->dim[i] == s->dim[i];
    }
    return same;
}

// m:set(role, slice [, of])
static int model_set(lua_State *L) {
    rv_core *c = rv_core_shared(L, 1);
    rv_vlm *m = c->m;
    int64_t i = check_role(L, m, 2);
    rv_of of = check_of(L, 4);
    const rv_slice *s = rv_slice_check(L, 3);
    const rv_param_info *p = rv_vlm_param(m, i);
    bool real = s->type == RV_F32 || s->type == RV_BF16 || s->type == RV_F16 || s->type == RV_F64;
    if (!real) {
        return luaL_error(L, "%s: wanted F32, BF16, F16 or F64, came %s", p->role, s->name);
    }
    if (!same_shape(p, s)) {
        push_shape(L, p->ndim, p->dim);
        push_shape(L, s->ndim, s->dim);
        return luaL_error(L, "%s: wanted shape %s, came %s", p->role, lua_tostring(L, -2),
                          lua_tostring(L, -1));
    }
    rv_err e = {0};
    if (rv_vlm_param_set(m, i, of, s->data, s->type, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    c->live = of == RV_OF_PARAM ? NULL : c->live; // a score of other weights is void
    return 0;
}

// m:get(role [, of]) -> slice (F32)
static int model_get(lua_State *L) {
    const rv_vlm *m = rv_core_check(L, 1);
    int64_t i = check_role(L, m, 2);
    rv_of of = check_of(L, 3);
    const rv_param_info *p = rv_vlm_param(m, i);
    rv_slice *s = rv_slice_push(L, RV_F32, p->ndim, p->dim);
    rv_err e = {0};
    if (rv_vlm_param_get(m, i, of, rv_slice_bytes(s), &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 1;
}

// Adapters count from 1; 0 is none.
static int check_adapter(lua_State *L, int arg, lua_Integer least) {
    lua_Integer k = luaL_checkinteger(L, arg);
    luaL_argcheck(L, k >= least && k <= RV_ADAPTERS, arg, "no such adapter");
    return (int)k - 1;
}

static bool flag(lua_State *L, int table, const char *key) {
    lua_getfield(L, table, key);
    bool on = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return on;
}

// m:lora_add(adapter, role, {r =, scale =, bias =, train =})
static int model_lora_add(lua_State *L) {
    static const char *const known[] = {"r", "scale", "bias", "train", NULL};
    rv_vlm *m = rv_core_check(L, 1);
    int adapter = check_adapter(L, 2, 1);
    int64_t i = check_role(L, m, 3);
    luaL_checktype(L, 4, LUA_TTABLE);
    rv_bind_check_keys(L, 4, known);
    lua_getfield(L, 4, "r");
    lua_Integer r = luaL_checkinteger(L, -1);
    luaL_argcheck(L, r > 0 && r <= INT32_MAX, 4, "wanted a positive rank");
    lua_getfield(L, 4, "scale");
    rv_lora_spec o = {.r = (int)r,
                      .scale = (float)luaL_checknumber(L, -1),
                      .bias = flag(L, 4, "bias"),
                      .train = flag(L, 4, "train")};
    rv_err e = {0};
    if (rv_vlm_lora_add(m, adapter, i, &o, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 0;
}

// m:lora_use(adapter): 0 is the base model
static int model_lora_use(lua_State *L) {
    rv_vlm_lora_use(rv_core_check(L, 1), check_adapter(L, 2, 0));
    return 0;
}

// m:train(role)
static int model_train(lua_State *L) {
    rv_vlm *m = rv_core_check(L, 1);
    rv_err e = {0};
    if (rv_vlm_train(m, check_role(L, m, 2), &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 0;
}

static int model_epoch(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)rv_vlm_epoch(rv_core_check(L, 1)));
    return 1;
}

static int model_zero_grad(lua_State *L) {
    rv_vlm_zero_grad(rv_core_check(L, 1));
    return 0;
}

static int model_grad_norm(lua_State *L) {
    lua_pushnumber(L, rv_vlm_grad_norm(rv_core_check(L, 1)));
    return 1;
}

static lua_Number option(lua_State *L, const char *key, lua_Number otherwise) {
    lua_getfield(L, 2, key);
    lua_Number x = luaL_optnumber(L, -1, otherwise);
    lua_pop(L, 1);
    return x;
}

// m:adamw{lr =, step =, value_lr =, beta1 =, beta2 =, eps =, weight_decay =, max_norm =} -> norm
// Gradients are clipped as torch does: by max_norm / (norm + 1e-6) where that is below 1.
static int model_adamw(lua_State *L) {
    static const char *const known[] = {"lr",  "step",         "value_lr", "beta1", "beta2",
                                        "eps", "weight_decay", "max_norm", NULL};
    rv_core *c = rv_core_shared(L, 1);
    rv_vlm *m = c->m;
    luaL_checktype(L, 2, LUA_TTABLE);
    rv_bind_check_keys(L, 2, known);
    lua_getfield(L, 2, "step");
    lua_Integer step = luaL_optinteger(L, -1, 0);
    luaL_argcheck(L, step > 0, 2, "wanted step = 1, 2, ...");
    double lr = option(L, "lr", -1), value_lr = option(L, "value_lr", lr);
    luaL_argcheck(L, lr >= 0 && value_lr >= 0, 2, "wanted learning rates of 0 or more");
    double norm = rv_vlm_grad_norm(m), max = option(L, "max_norm", 0);
    rv_adamw how = {.lr = (float)lr,
                    .beta1 = (float)option(L, "beta1", 0.9),
                    .beta2 = (float)option(L, "beta2", 0.999),
                    .eps = (float)option(L, "eps", 1e-8),
                    .weight_decay = (float)option(L, "weight_decay", 0),
                    .grad_scale = max > 0 ? (float)fmin(1, max / (norm + 1e-6)) : 1,
                    .step = step};
    rv_err e = {0};
    if (rv_vlm_adamw(m, &how, (float)value_lr, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    c->live = NULL; // a score of the weights before is void
    lua_pushnumber(L, norm);
    return 1;
}

int luaopen_rv_core(lua_State *L);
int luaopen_rv_core(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"plan", model_plan},
        {"peak_bytes", model_peak_bytes},
        {"params", model_params},
        {"set", model_set},
        {"get", model_get},
        {"lora_add", model_lora_add},
        {"lora_use", model_lora_use},
        {"train", model_train},
        {"epoch", model_epoch},
        {"zero_grad", model_zero_grad},
        {"grad_norm", model_grad_norm},
        {"adamw", model_adamw},
        {"score", rv_core_score},
        {"logits", rv_core_logits},
        {"close", core_close},
        {"__gc", core_close},
        {"__close", core_close},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {{"new", core_new}, {"plan", core_plan}, {NULL, NULL}};
    if (luaL_newmetatable(L, CORE_MT)) {
        luaL_setfuncs(L, methods, 0);
        lua_pushvalue(L, -1);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
