// core_score.c - m:score: the whole model as one node on the tape.
#include <stdlib.h>

#include "bind_tensor.h"
#include "core.h"
#include "core_batch.h"
#include "mem.h"

enum { LOGPROBS, ENTROPIES, VALUES, HIDDEN, N_OUTPUTS };
static const char *const names[] = {"logprobs", "entropies", "values", "hidden"};

// A differentiable score: which outputs stand on the tape, and room for their gradients.
typedef struct {
    rv_core *core;
    lua_State *L; // the main thread, in whose registry
    int batch;    // the batch is held
    int n, kind[N_OUTPUTS];
    float value_grad;
    float *grad[N_OUTPUTS]; // by kind; in one block behind this record
} score;

static rv_status score_backward(void *ctx, rv_tensor *const *grad_out, rv_tensor **grad_in,
                                rv_err *e) {
    (void)grad_in;
    score *s = ctx;
    float *g[N_OUTPUTS] = {NULL};
    if (!s->core->m || s->core->live != s) {
        return RV_FAIL(e, RV_EARG, "%s since this score was made",
                       s->core->m ? "the model's weights have changed"
                                  : "the model has been closed");
    }
    s->core->live = NULL;
    for (int i = 0; i < s->n; i++) {
        if (grad_out[i]) {
            g[s->kind[i]] = s->grad[s->kind[i]];
            RV_TRY(rv_tensor_read(grad_out[i], g[s->kind[i]], e));
        }
    }
    rv_scores up = {g[LOGPROBS], g[ENTROPIES], g[VALUES], g[HIDDEN], NULL};
    return rv_vlm_backward(s->core->m, &up, s->value_grad, e);
}

static void score_free(void *ctx) {
    score *s = ctx;
    if (s->core->live == s) {
        s->core->live = NULL;
        rv_vlm_forget(s->core->m);
    }
    luaL_unref(s->L, LUA_REGISTRYINDEX, s->batch);
    rv_core_unref(s->core);
    free(s);
}

typedef struct {
    bool want[N_OUTPUTS], grad;
    float value_grad;
    rv_core_ask ask;
} request;

static bool flag(lua_State *L, int arg, const char *key) {
    lua_getfield(L, arg, key);
    bool on = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return on;
}

static float number(lua_State *L, int arg, const char *key, lua_Number otherwise) {
    lua_getfield(L, arg, key);
    float x = (float)luaL_optnumber(L, -1, otherwise);
    lua_pop(L, 1);
    return x;
}

static request read_request(lua_State *L, int arg) {
    static const char *const known[] = {"temperature", "grad",        "values",     "entropy",
                                        "hidden",      "every_value", "value_grad", NULL};
    if (lua_isnil(L, arg)) {
        lua_newtable(L);
        lua_replace(L, arg);
    }
    rv_bind_check_keys(L, arg, known);
    request r = {.grad = flag(L, arg, "grad"), .value_grad = number(L, arg, "value_grad", 1)};
    r.ask = (rv_core_ask){.values = flag(L, arg, "values"),
                          .every_value = flag(L, arg, "every_value"),
                          .hidden = flag(L, arg, "hidden"),
                          .temperature = number(L, arg, "temperature", 1)};
    r.want[LOGPROBS] = true;
    r.want[ENTROPIES] = flag(L, arg, "entropy");
    r.want[VALUES] = r.ask.values || r.ask.every_value;
    r.want[HIDDEN] = r.ask.hidden;
    return r;
}

// The outputs: how many numbers of each kind.
static void sizes_of(const rv_batch *b, const rv_vlm *m, int64_t n[N_OUTPUTS]) {
    n[LOGPROBS] = n[ENTROPIES] = b->n_ask;
    n[VALUES] = b->n_value;
    n[HIDDEN] = b->n_hidden * rv_vlm_arch(m)->text.width;
}

static rv_status output_tensor(rv_tensor **out, rv_tape *tape, const rv_batch *b, const rv_vlm *m,
                               int kind, const float *x, rv_err *e) {
    int64_t dim[2] = {kind == VALUES   ? b->n_value
                      : kind == HIDDEN ? b->n_hidden
                                       : b->n_ask,
                      rv_vlm_arch(m)->text.width};
    return rv_tensor_from(out, tape, RV_F32, kind == HIDDEN ? 2 : 1, dim, x, e);
}

static score *score_new(rv_core *core, const request *r, const rv_batch *b, rv_err *e) {
    int64_t n[N_OUTPUTS], total = 0;
    sizes_of(b, core->m, n);
    for (int k = 0; k < N_OUTPUTS; k++) {
        total += r->want[k] ? n[k] : 0;
    }
    score *s = rv_calloc((int64_t)sizeof *s + total * (int64_t)sizeof(float), 1);
    if (!s) {
        (void)RV_FAIL(e, RV_ENOMEM, "out of memory");
        return NULL;
    }
    float *at = (float *)(void *)(s + 1);
    for (int k = 0; k < N_OUTPUTS; k++) {
        s->grad[k] = at;
        at += r->want[k] ? n[k] : 0;
    }
    s->core = rv_core_ref(core);
    s->batch = LUA_NOREF;
    s->value_grad = r->value_grad;
    return s;
}

static lua_State *main_thread(lua_State *L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    lua_State *main = lua_tothread(L, -1);
    lua_pop(L, 1);
    return main;
}

// Puts the outputs on the tape as one node, which holds the batch at index `batch` of the stack.
static rv_status record(lua_State *L, int batch, rv_core *core, const request *r, const rv_batch *b,
                        rv_tensor **const outputs[N_OUTPUTS], rv_err *e) {
    score *s = score_new(core, r, b, e);
    if (!s) {
        return RV_ENOMEM;
    }
    lua_pushvalue(L, batch);
    s->L = main_thread(L);
    s->batch = luaL_ref(L, LUA_REGISTRYINDEX);
    rv_tensor *on_tape[N_OUTPUTS];
    for (int k = 0; k < N_OUTPUTS; k++) {
        if (r->want[k]) {
            s->kind[s->n] = k;
            on_tape[s->n++] = *outputs[k];
        }
    }
    core->live = s;
    rv_status status = rv_tape_custom(on_tape, s->n, NULL, 0, score_backward, s, score_free, e);
    if (status != RV_OK) {
        score_free(s);
    }
    return status;
}

// Scores; when another score is live that nothing holds any more, its collection makes room.
static rv_status run(lua_State *L, rv_core *core, const rv_batch *b, bool grad,
                     const rv_scores *out, rv_err *e) {
    if (grad && core->live) {
        lua_gc(L, LUA_GCCOLLECT);
    }
    return rv_vlm_score(core->m, b, grad, out, e);
}

// m:score(samples [, options]) -> {logprobs =, entropies =, values =, hidden =, offsets =}
int rv_core_score(lua_State *L) {
    rv_core *core = rv_core_shared(L, 1);
    lua_settop(L, 3);
    request r = read_request(L, 3);
    rv_tape *tape = rv_bind_tape(L);
    r.grad = r.grad && tape->grad;
    const rv_batch *b = rv_core_batch(L, 2, core->m, &r.ask); // [.., batch, offsets]
    int64_t n[N_OUTPUTS];
    sizes_of(b, core->m, n);
    lua_createtable(L, 0, N_OUTPUTS + 1);
    lua_insert(L, -2);
    lua_setfield(L, -2, "offsets"); // [.., batch, result]
    int result = lua_gettop(L);
    float *x[N_OUTPUTS] = {NULL};
    rv_tensor **t[N_OUTPUTS] = {NULL};
    for (int k = 0; k < N_OUTPUTS; k++) {
        if (r.want[k]) {
            x[k] = lua_newuserdatauv(L, (size_t)n[k] * sizeof(float) + 1, 0);
            t[k] = rv_bind_tensor_push(L);
            lua_setfield(L, result, names[k]);
        }
    }
    rv_scores out = {x[LOGPROBS], x[ENTROPIES], x[VALUES], x[HIDDEN], NULL};
    rv_err e = {0};
    rv_status s = run(L, core, b, r.grad, &out, &e);
    const bool kept = s == RV_OK && r.grad;
    for (int k = 0; s == RV_OK && k < N_OUTPUTS; k++) {
        s = r.want[k] ? output_tensor(t[k], tape, b, core->m, k, x[k], &e) : RV_OK;
    }
    if (s == RV_OK && r.grad) {
        s = record(L, result - 1, core, &r, b, t, &e);
    }
    if (s != RV_OK) {
        if (kept && !core->live) {
            rv_vlm_forget(core->m); // there is no node that could ask for it
        }
        return rv_bind_raise(L, &e);
    }
    lua_settop(L, result);
    return 1;
}
