// tokenizer.c - rl4vlm.tokenizer: token ids for Lua.
//
// Ids are data and count from 0, as in Hugging Face's files.
#include "tokenizer.h"

#include <stdlib.h>

#include "bind.h"

#define TOKENIZER_MT "rl4vlm.Tokenizer"
#define STREAM_MT    "rl4vlm.TokenStream"
#define SCRATCH_MT   "rl4vlm.tokenizer.scratch"

typedef struct {
    rv_tokenizer *t;
} l_tokenizer;

// Memory of one call, collected if the call raises.
typedef struct {
    rv_bytes bytes;
    rv_ids ids;
} l_scratch;

typedef struct { // user value 1: the tokenizer
    rv_decode_stream s;
    bool skip_special, finished;
} l_stream;

static rv_tokenizer *check(lua_State *L) {
    l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER_MT);
    luaL_argcheck(L, u->t, 1, "the tokenizer is closed");
    return u->t;
}

static l_scratch *new_scratch(lua_State *L) {
    l_scratch *s = lua_newuserdatauv(L, sizeof *s, 0);
    *s = (l_scratch){{0}, {0}};
    luaL_setmetatable(L, SCRATCH_MT);
    return s;
}

static int scratch_gc(lua_State *L) {
    l_scratch *s = luaL_checkudata(L, 1, SCRATCH_MT);
    rv_bytes_free(&s->bytes);
    rv_ids_free(&s->ids);
    return 0;
}

// Pushes what the scratch holds and frees it.
static int give_bytes(lua_State *L, l_scratch *s) {
    lua_pushlstring(L, s->bytes.p ? s->bytes.p : "", s->bytes.n);
    rv_bytes_free(&s->bytes);
    return 1;
}

static bool option(lua_State *L, int arg, const char *key, bool fallback) {
    if (lua_isnoneornil(L, arg)) {
        return fallback;
    }
    bool v = fallback;
    if (lua_getfield(L, arg, key) != LUA_TNIL) {
        luaL_argcheck(L, lua_isboolean(L, -1), arg,
                      lua_pushfstring(L, "'%s': wanted true or false", key));
        v = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return v;
}

// tokenizer.load(DIR) -> tokenizer
static int tokenizer_load(lua_State *L) {
    const char *dir = luaL_checkstring(L, 1);
    l_tokenizer *u = lua_newuserdatauv(L, sizeof *u, 0);
    u->t = NULL;
    luaL_setmetatable(L, TOKENIZER_MT);
    rv_err e;
    return rv_tokenizer_load(&u->t, dir, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// tokenizer.parse(json [, name]) -> tokenizer, from the content of a tokenizer.json
static int tokenizer_parse(lua_State *L) {
    size_t n;
    const char *json = luaL_checklstring(L, 1, &n);
    const char *name = luaL_optstring(L, 2, "tokenizer.json");
    l_tokenizer *u = lua_newuserdatauv(L, sizeof *u, 0);
    u->t = NULL;
    luaL_setmetatable(L, TOKENIZER_MT);
    rv_err e;
    return rv_tokenizer_parse(&u->t, json, n, name, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// tok:encode(text [, {special = true}]) -> list of ids; special: with the template's tokens (BOS)
static int tokenizer_encode(lua_State *L) {
    rv_tokenizer *t = check(L);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    static const char *const keys[] = {"special", NULL};
    rv_bind_check_keys(L, 3, keys);
    bool special = option(L, 3, "special", true);
    l_scratch *s = new_scratch(L);
    rv_err e;
    if (rv_tokenizer_encode(t, text, n, special, &s->ids, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_createtable(L, (int)s->ids.n, 0);
    for (int64_t i = 0; i < s->ids.n; i++) {
        lua_pushinteger(L, s->ids.p[i]);
        lua_rawseti(L, -2, i + 1);
    }
    rv_ids_free(&s->ids);
    return 1;
}

// Reads a list of ids at `arg` into the scratch.
static void check_ids(lua_State *L, int arg, l_scratch *s) {
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_Integer n = luaL_len(L, arg);
    for (lua_Integer i = 1; i <= n; i++) {
        int ok;
        lua_geti(L, arg, i);
        lua_Integer id = lua_tointegerx(L, -1, &ok);
        if (!ok) {
            luaL_error(L, "ids[%I]: wanted an integer, got %s", i, luaL_typename(L, -1));
        }
        rv_ids_add(&s->ids, id < 0 || id > INT32_MAX ? -1 : (int32_t)id); // -1: no token
        lua_pop(L, 1);
    }
    if (s->ids.failed) {
        luaL_error(L, "out of memory for %I ids", n);
    }
}

// tok:decode(ids [, {skip_special = false}]) -> text
static int tokenizer_decode(lua_State *L) {
    const rv_tokenizer *t = check(L);
    static const char *const keys[] = {"skip_special", NULL};
    rv_bind_check_keys(L, 3, keys);
    bool skip = option(L, 3, "skip_special", false);
    l_scratch *s = new_scratch(L);
    check_ids(L, 2, s);
    rv_err e;
    if (rv_tokenizer_decode(t, s->ids.p, (size_t)s->ids.n, skip, &s->bytes, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    rv_ids_free(&s->ids);
    return give_bytes(L, s);
}

// tok:token_bytes(id) -> the bytes that the id contributes to a text ("" when it has no token)
static int tokenizer_token_bytes(lua_State *L) {
    const rv_tokenizer *t = check(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    l_scratch *s = new_scratch(L);
    rv_err e;
    if (rv_tokenizer_bytes(t, id, &s->bytes, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return give_bytes(L, s);
}

// tok:id(token) -> id of a token as the file writes it, or nil
static int tokenizer_id(lua_State *L) {
    const rv_tokenizer *t = check(L);
    size_t n;
    const char *token = luaL_checklstring(L, 2, &n);
    int32_t id = rv_tokenizer_id(t, token, n);
    if (id < 0) {
        lua_pushnil(L);
    } else {
        lua_pushinteger(L, id);
    }
    return 1;
}

// tok:token(id) -> the token as the file writes it, or nil
static int tokenizer_token(lua_State *L) {
    size_t n;
    const char *token = rv_tokenizer_token(check(L), luaL_checkinteger(L, 2), &n);
    if (token) {
        lua_pushlstring(L, token, n);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

// tok:is_special(id) -> true for added tokens that are marked special
static int tokenizer_is_special(lua_State *L) {
    lua_pushboolean(L, rv_tokenizer_special(check(L), luaL_checkinteger(L, 2)));
    return 1;
}

// tok:size() -> one more than the largest id
static int tokenizer_size(lua_State *L) {
    lua_pushinteger(L, rv_tokenizer_size(check(L)));
    return 1;
}

static int tokenizer_tostring(lua_State *L) {
    const l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER_MT);
    if (u->t) {
        lua_pushfstring(L, "tokenizer of %d ids", (int)rv_tokenizer_size(u->t));
    } else {
        lua_pushliteral(L, "tokenizer (closed)");
    }
    return 1;
}

static int tokenizer_gc(lua_State *L) {
    l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER_MT);
    rv_tokenizer_free(u->t);
    u->t = NULL;
    return 0;
}

// ---- streams ----

// tok:stream([{skip_special = false}]) -> stream
static int tokenizer_stream(lua_State *L) {
    const rv_tokenizer *t = check(L);
    static const char *const keys[] = {"skip_special", NULL};
    rv_bind_check_keys(L, 2, keys);
    bool skip = option(L, 2, "skip_special", false);
    l_stream *s = lua_newuserdatauv(L, sizeof *s, 1);
    *s = (l_stream){.skip_special = skip};
    luaL_setmetatable(L, STREAM_MT);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1); // the tokenizer outlives its streams
    rv_err e;
    return rv_tokenizer_stream(t, &s->s, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static int give_text(lua_State *L, l_stream *s) {
    if (s->s.out.failed) {
        return luaL_error(L, "out of memory while decoding");
    }
    lua_pushlstring(L, s->s.out.p ? s->s.out.p : "", s->s.out.n);
    s->s.out.n = 0;
    return 1;
}

// s:push(id) -> the text that became complete
static int stream_push(lua_State *L) {
    l_stream *s = luaL_checkudata(L, 1, STREAM_MT);
    lua_Integer id = luaL_checkinteger(L, 2);
    luaL_argcheck(L, !s->finished, 1, "the stream is finished");
    lua_getiuservalue(L, 1, 1);
    const l_tokenizer *u = lua_touserdata(L, -1);
    luaL_argcheck(L, u->t, 1, "the tokenizer is closed");
    rv_tokenizer_push(u->t, &s->s, id, s->skip_special);
    return give_text(L, s);
}

// s:finish() -> the rest; what never became a character is U+FFFD
static int stream_finish(lua_State *L) {
    l_stream *s = luaL_checkudata(L, 1, STREAM_MT);
    lua_getiuservalue(L, 1, 1);
    const l_tokenizer *u = lua_touserdata(L, -1);
    luaL_argcheck(L, u->t || s->finished, 1, "the tokenizer is closed");
    if (!s->finished) {
        rv_decode_finish(&s->s);
    }
    s->finished = true;
    return give_text(L, s);
}

static int stream_gc(lua_State *L) {
    rv_decode_stream_free(&((l_stream *)luaL_checkudata(L, 1, STREAM_MT))->s);
    return 0;
}

// tokenizer.train{...}: see lua/rl4vlm/tokenizer_trainer.lua
static int tokenizer_train(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "rl4vlm.tokenizer_trainer");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "train"); // [options, module, train]
    lua_pushvalue(L, 1);
    lua_call(L, 1, 2);
    return 2;
}

static void new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
    if (luaL_newmetatable(L, name)) {
        lua_newtable(L); // [metatable, methods]
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
}

int luaopen_rv_tokenizer(lua_State *L);
int luaopen_rv_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"encode", tokenizer_encode},
        {"decode", tokenizer_decode},
        {"stream", tokenizer_stream},
        {"token_bytes", tokenizer_token_bytes},
        {"id", tokenizer_id},
        {"token", tokenizer_token},
        {"size", tokenizer_size},
        {"is_special", tokenizer_is_special},
        {NULL, NULL},
    };
    static const luaL_Reg stream_methods[] = {
        {"push", stream_push}, {"finish", stream_finish}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {{"load", tokenizer_load},
                                         {"parse", tokenizer_parse},
                                         {"train", tokenizer_train},
                                         {NULL, NULL}};
    new_type(L, STREAM_MT, stream_methods, stream_gc);
    new_type(L, SCRATCH_MT, none, scratch_gc);
    new_type(L, TOKENIZER_MT, methods, tokenizer_gc);
    lua_pushcfunction(L, tokenizer_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 3);
    luaL_newlib(L, functions);
    return 1;
}
