// generator.c - rl4vlm.generator: continuous batching under rl4vlm.vlm's model:generator.
#include "generate.h"

#include <limits.h>
#include <string.h>

#include "core.h"
#include "core_batch.h"

#define GENERATOR_MT "rl4vlm.Generator"

// User value 1: the model; 2: a table slot -> arrays of its images, which must outlive the request.
typedef struct {
    rv_generator *p; // NULL: closed
    rv_core *core;
} handle;

static handle *check(lua_State *L) {
    handle *h = luaL_checkudata(L, 1, GENERATOR_MT);
    luaL_argcheck(L, h->p, 1, "the generator is closed");
    luaL_argcheck(L, h->core->m, 1, "the model has been closed");
    return h;
}

static lua_Integer field_integer(lua_State *L, int arg, const char *name, lua_Integer otherwise) {
    lua_getfield(L, arg, name);
    int ok = 1;
    lua_Integer x = lua_isnil(L, -1) ? otherwise : lua_tointegerx(L, -1, &ok);
    if (!ok) {
        luaL_error(L, "%s: wanted a whole number, came %s", name, luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return x;
}

static lua_Number field_number(lua_State *L, int arg, const char *name, lua_Number otherwise) {
    lua_getfield(L, arg, name);
    int ok = 1;
    lua_Number x = lua_isnil(L, -1) ? otherwise : lua_tonumberx(L, -1, &ok);
    if (!ok) {
        luaL_error(L, "%s: wanted a number, came %s", name, luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return x;
}

// A number between bounds; NaN is none.
static lua_Number field_within(lua_State *L, int arg, const char *name, lua_Number otherwise,
                               lua_Number least, lua_Number most) {
    lua_Number x = field_number(L, arg, name, otherwise);
    if (!(x >= least && x <= most)) {
        luaL_error(L, "%s: wanted a number from %f to %f, came %f", name, least, most, x);
    }
    return x;
}

static rv_sample read_sample(lua_State *L, int arg) {
    lua_Integer top_k = field_integer(L, arg, "top_k", 0);
    if (top_k < 0) {
        luaL_error(L, "top_k: wanted 0 (off) or more, came %I", (LUAI_UACINT)top_k);
    }
    return (rv_sample){
        .temperature = (float)field_within(L, arg, "temperature", 1, 0, 1e6),
        .top_k = top_k < INT_MAX ? (int)top_k : INT_MAX,
        .top_p = (float)field_within(L, arg, "top_p", 1, 0, 1),
        .min_p = (float)field_within(L, arg, "min_p", 0, 0, 1),
        .penalty = (float)field_within(L, arg, "repetition_penalty", 1, 0.01, 100),
    };
}

// Reads the ids of the list `banned`.
static void read_banned(lua_State *L, int arg, rv_generator_options *o) {
    if (lua_getfield(L, arg, "banned") != LUA_TNIL) {
        luaL_checktype(L, -1, LUA_TTABLE);
        o->n_banned = (int64_t)lua_rawlen(L, -1);
        if (o->n_banned > RV_MAX_BANNED) {
            luaL_error(L, "banned: wanted at most %d ids, came %d", RV_MAX_BANNED,
                       (int)o->n_banned);
        }
        for (int i = 0; i < o->n_banned; i++) {
            lua_rawgeti(L, -1, i + 1);
            o->banned[i] = (int32_t)luaL_checkinteger(L, -1);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

static rv_generator_options read_options(lua_State *L) {
    static const char *const known[] = {"slots", "max_tokens", "chunk", "blocks",
                                        "share", "banned",     NULL};
    rv_bind_check_keys(L, 2, known);
    lua_settop(L, 2);
    lua_getfield(L, 2, "share");
    bool share = lua_isnil(L, -1) || lua_toboolean(L, -1);
    lua_pop(L, 1);
    rv_generator_options o = {
        .slots = (int)field_integer(L, 2, "slots", 1),
        .max_tokens = field_integer(L, 2, "max_tokens", 0),
        .chunk = field_integer(L, 2, "chunk", 0),
        .blocks = field_integer(L, 2, "blocks", 0),
        .share = share,
    };
    read_banned(L, 2, &o);
    return o;
}

// generator.bytes(core, {slots =, max_tokens =, chunk =, blocks =}) -> bytes of such a generator
static int generator_bytes(lua_State *L) {
    rv_vlm *m = rv_core_check(L, 1);
    rv_generator_options o = read_options(L);
    lua_pushinteger(L, (lua_Integer)rv_generator_bytes(rv_vlm_arch(m), &o));
    return 1;
}

// generator.new(core, {slots =, max_tokens =, chunk =, blocks =, share =, banned =}) -> generator
static int generator_new(lua_State *L) {
    rv_vlm *m = rv_core_check(L, 1);
    rv_generator_options o = read_options(L);
    handle *h = lua_newuserdatauv(L, sizeof *h, 2);
    *h = (handle){NULL, NULL};
    luaL_setmetatable(L, GENERATOR_MT);
    h->core = rv_core_ref(rv_core_shared(L, 1));
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 2);
    rv_err e;
    return rv_generator_new(&h->p, m, &o, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// Pushes scratch with the ids of the list in field `name` and returns it; its table stays below.
static int32_t *push_ids(lua_State *L, int arg, const char *name, int64_t *n) {
    *n = 0;
    if (lua_getfield(L, arg, name) == LUA_TNIL) {
        return NULL;
    }
    luaL_checktype(L, -1, LUA_TTABLE);
    *n = luaL_len(L, -1);
    int32_t *ids = lua_newuserdatauv(L, (size_t)(*n + 1) * sizeof *ids, 0);
    for (int64_t i = 0; i < *n; i++) {
        int ok;
        lua_geti(L, -2, i + 1);
        lua_Integer id = lua_tointegerx(L, -1, &ok);
        if (!ok || id < 0 || id > INT32_MAX) {
            luaL_error(L, "%s: entry %I: wanted an id, came %s", name, (lua_Integer)i + 1,
                       luaL_tolstring(L, -1, NULL));
        }
        ids[i] = (int32_t)id;
        lua_pop(L, 1);
    }
    return ids;
}

// Fills the request's images from {images = {view, ...}, hashes = {16 bytes, ...}}; pushes the list
// that keeps their arrays alive.
static void push_images(lua_State *L, int arg, const handle *h, rv_request *r) {
    lua_newtable(L);
    int anchors = lua_gettop(L);
    if (lua_getfield(L, arg, "images") == LUA_TNIL) {
        lua_settop(L, anchors);
        return;
    }
    int list = lua_gettop(L);
    lua_getfield(L, arg, "hashes");
    luaL_checktype(L, list, LUA_TTABLE);
    luaL_checktype(L, list + 1, LUA_TTABLE);
    r->n_images = luaL_len(L, list);
    rv_view *views = lua_newuserdatauv(L, (size_t)(r->n_images + 1) * sizeof *views, 0);
    uint64_t(*keys)[2] = lua_newuserdatauv(L, (size_t)(r->n_images + 1) * sizeof *keys, 0);
    for (int64_t i = 0; i < r->n_images; i++) {
        size_t n_hash;
        lua_geti(L, list, i + 1);
        rv_core_view(L, -1, anchors, rv_vlm_arch(h->core->m), &views[i], "", i + 1);
        lua_geti(L, list + 1, i + 1);
        const char *hash = luaL_checklstring(L, -1, &n_hash);
        if (n_hash != sizeof *keys) {
            luaL_error(L, "hashes[%I]: wanted %I bytes, came %I", (lua_Integer)i + 1,
                       (lua_Integer)sizeof *keys, (lua_Integer)n_hash);
        }
        memcpy(keys[i], hash, sizeof keys[i]);
        lua_pop(L, 2);
    }
    r->images = views;
    r->image_key = (const uint64_t(*)[2])keys;
    lua_pushvalue(L, anchors);
}

// g:submit{ids =, images =, hashes =, max_new_tokens =, temperature =, ..., eos =, stop =, seed =,
// ...} -> slot
static int generator_submit(lua_State *L) {
    static const char *const known[] = {
        "ids",   "images", "hashes", "max_new_tokens", "temperature", "top_k", "top_p",
        "min_p", "eos",    "stop",   "seed",           "episode",     "step",  "repetition_penalty",
        NULL};
    handle *h = check(L);
    rv_bind_check_keys(L, 2, known);
    lua_settop(L, 2);
    rv_request r = {.max_new = field_integer(L, 2, "max_new_tokens", 256),
                    .how = read_sample(L, 2),
                    .seed = (uint64_t)field_integer(L, 2, "seed", 0),
                    .episode = (uint64_t)field_integer(L, 2, "episode", 0),
                    .step = (uint64_t)field_integer(L, 2, "step", 0)};
    r.ids = push_ids(L, 2, "ids", &r.n);
    r.eos = push_ids(L, 2, "eos", &r.n_eos);
    r.stop = push_ids(L, 2, "stop", &r.n_stop);
    push_images(L, 2, h, &r);
    rv_err e;
    int slot;
    if (rv_generator_submit(h->p, &r, &slot, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_getiuservalue(L, 1, 2);
    lua_insert(L, -2); // [slots, arrays]
    lua_seti(L, -2, slot + 1);
    lua_pushinteger(L, slot + 1);
    return 1;
}

static int generator_step(lua_State *L) {
    rv_err e;
    return rv_generator_step(check(L)->p, &e) == RV_OK ? 0 : rv_bind_raise(L, &e);
}

static const rv_answer *check_answer(lua_State *L, const handle *h, int *slot) {
    *slot = (int)luaL_checkinteger(L, 2) - 1;
    const rv_answer *a = rv_generator_answer(h->p, *slot);
    luaL_argcheck(L, a, 2, "no request runs in this slot");
    return a;
}

static const char *const finishes[] = {NULL, "eos", "stop", "length"};

// g:poll(slot) -> tokens so far, finish or nil
static int generator_poll(lua_State *L) {
    int slot;
    const rv_answer *a = check_answer(L, check(L), &slot);
    lua_pushinteger(L, a->n);
    lua_pushstring(L, finishes[a->finish]);
    return 2;
}

// g:id(slot, index) -> the answer's id at a place
static int generator_id(lua_State *L) {
    int slot;
    const rv_answer *a = check_answer(L, check(L), &slot);
    lua_Integer i = luaL_checkinteger(L, 3);
    luaL_argcheck(L, i >= 1 && i <= a->n, 3, "outside the answer");
    lua_pushinteger(L, a->ids[i - 1]);
    return 1;
}

static void push_floats(lua_State *L, const float *x, int64_t n, const char *name) {
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushnumber(L, (lua_Number)x[i]);
        lua_seti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

// g:take(slot) -> {answer =, logprobs =, filtered =, value =, finish =, cached =}; the slot is
// vacant
static int generator_take(lua_State *L) {
    handle *h = check(L);
    int slot;
    const rv_answer *a = check_answer(L, h, &slot);
    lua_createtable(L, 0, 8);
    lua_createtable(L, (int)a->n, 0);
    for (int64_t i = 0; i < a->n; i++) {
        lua_pushinteger(L, a->ids[i]);
        lua_seti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "answer");
    push_floats(L, a->logp, a->n, "logprobs");
    push_floats(L, a->filtered, a->n, "filtered");
    lua_pushnumber(L, (lua_Number)a->value);
    lua_setfield(L, -2, "value");
    lua_pushstring(L, finishes[a->finish]);
    lua_setfield(L, -2, "finish");
    lua_pushinteger(L, a->cached);
    lua_setfield(L, -2, "cached");
    lua_getiuservalue(L, 1, 2);
    lua_pushnil(L);
    lua_seti(L, -2, slot + 1);
    lua_pop(L, 1);
    rv_generator_vacate(h->p, slot);
    return 1;
}

static int generator_vacant(lua_State *L) {
    lua_pushinteger(L, rv_generator_vacant(check(L)->p));
    return 1;
}

// g:stats() -> {prompt_rows =, cached_rows =, answer_rows =, images =, steps =}
static int generator_stats(lua_State *L) {
    rv_generator_stats s = rv_generator_count(check(L)->p);
    lua_createtable(L, 0, 5);
    const struct {
        const char *name;
        int64_t value;
    } all[] = {{"prompt_rows", s.prompt_rows},
               {"cached_rows", s.cached_rows},
               {"answer_rows", s.answer_rows},
               {"images", s.images},
               {"steps", s.steps}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        lua_pushinteger(L, all[i].value);
        lua_setfield(L, -2, all[i].name);
    }
    return 1;
}

static int generator_close(lua_State *L) {
    handle *h = luaL_checkudata(L, 1, GENERATOR_MT);
    if (h->p) {
        rv_generator_free(h->p, h->core->m != NULL);
    }
    rv_core_unref(h->core);
    h->p = NULL;
    h->core = NULL;
    return 0;
}

int luaopen_rv_generator(lua_State *L);
int luaopen_rv_generator(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"submit", generator_submit}, {"step", generator_step},   {"poll", generator_poll},
        {"id", generator_id},         {"take", generator_take},   {"vacant", generator_vacant},
        {"stats", generator_stats},   {"close", generator_close}, {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"new", generator_new}, {"bytes", generator_bytes}, {NULL, NULL}};
    if (luaL_newmetatable(L, GENERATOR_MT)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, generator_close);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, generator_close);
        lua_setfield(L, -2, "__close");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
