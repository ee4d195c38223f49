// core_batch.c - samples in Lua as a packed batch.
//
// A sample is {ids =, answer =, images = {view, ...}}: token ids of prompt and answer (0-based,
// image tokens in place) and what the processor made of each image. Asked are the answer's tokens,
// each in the row before it; the answer's last token is then no row of its own, since none follows
// it. `positions` and `targets` (lists as long as each other; positions from 1, the token after
// which the id is looked at) ask for something else; `hidden` lists positions of hidden states.
#include "core_batch.h"

#include <stdio.h>
#include <string.h>

#include "mem.h"
#include "slice.h"

enum { IDS, ANSWER, IMAGES, POSITIONS, TARGETS, HIDDEN, N_FIELDS };
static const char *const fields[] = {"ids", "answer", "images", "positions", "targets", "hidden"};

// One sample: its lists stand on the stack from `base` on.
typedef struct {
    int base;
    int64_t number, n[N_FIELDS], rows, asks, values, hidden;
    bool own; // asks by positions of its own
} sample;

static int64_t length(lua_State *L, int index, int64_t number, const char *field) {
    if (lua_isnil(L, index)) {
        return 0;
    }
    if (!lua_istable(L, index)) {
        luaL_error(L, "sample %I: %s: wanted a list, came %s", (lua_Integer)number, field,
                   luaL_typename(L, index));
    }
    return (int64_t)lua_rawlen(L, index);
}

// Pushes the lists of sample `number` and counts what it needs.
static sample open(lua_State *L, int list, int64_t number, const rv_core_ask *ask) {
    sample s = {.number = number};
    if (lua_geti(L, list, number) != LUA_TTABLE) {
        luaL_error(L, "sample %I: wanted a table, came %s", (lua_Integer)number,
                   luaL_typename(L, -1));
    }
    s.base = lua_gettop(L) + 1;
    for (int i = 0; i < N_FIELDS; i++) {
        lua_getfield(L, s.base - 1, fields[i]);
        s.n[i] = length(L, s.base + i, number, fields[i]);
    }
    if (s.n[IDS] == 0) {
        luaL_error(L, "sample %I: ids is empty", (lua_Integer)number);
    }
    if (s.n[POSITIONS] != s.n[TARGETS]) {
        luaL_error(L, "sample %I: %I positions, but %I targets", (lua_Integer)number,
                   (lua_Integer)s.n[POSITIONS], (lua_Integer)s.n[TARGETS]);
    }
    s.own = !lua_isnil(L, s.base + POSITIONS);
    bool last = s.own || (ask->hidden && s.n[HIDDEN]);
    s.rows = s.n[IDS] + s.n[ANSWER] - (s.n[ANSWER] > 0 && !last);
    s.asks = s.own ? s.n[POSITIONS] : s.n[ANSWER];
    s.values = ask->every_value ? s.n[ANSWER] : ask->values;
    s.hidden = !ask->hidden ? 0 : s.n[HIDDEN] ? s.n[HIDDEN] : 1;
    return s;
}

static void close(lua_State *L, const sample *s) { lua_settop(L, s->base - 2); }

static int32_t integer_at(lua_State *L, const sample *s, int field, int64_t i) {
    int ok;
    lua_geti(L, s->base + field, i + 1);
    lua_Integer x = lua_tointegerx(L, -1, &ok);
    if (!ok || x < 0 || x > INT32_MAX) {
        luaL_error(L, "sample %I: %s[%I]: wanted an integer of 0 or more, came %s",
                   (lua_Integer)s->number, fields[field], (lua_Integer)i + 1,
                   luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return (int32_t)x;
}

// The row of a position (from 1) of the sample that begins at `row0`.
static int32_t row_at(lua_State *L, const sample *s, int field, int64_t i, int64_t row0) {
    int32_t p = integer_at(L, s, field, i);
    if (p < 1 || p > s->rows) {
        luaL_error(L, "sample %I: %s[%I] is %I: it has %I tokens", (lua_Integer)s->number,
                   fields[field], (lua_Integer)i + 1, (lua_Integer)p, (lua_Integer)s->rows);
    }
    return (int32_t)(row0 + p - 1);
}

// A batch and its arrays, in one userdata.
typedef struct {
    rv_batch b;
    int32_t *ids, *cu, *ask_row, *ask_id, *value_row, *hidden_row;
    rv_view *images;
} packed;

static size_t part(int64_t n, size_t size) { return ((size_t)n * size + 15) / 16 * 16; }

static packed *make(lua_State *L, const sample *sum, int64_t n) {
    size_t head = part(1, sizeof(packed)), word = sizeof(int32_t);
    if (sum->rows > INT32_MAX || sum->asks > INT32_MAX || sum->n[IMAGES] > INT32_MAX) {
        luaL_error(L, "a batch of %I rows", (lua_Integer)sum->rows);
    }
    size_t bytes = head + part(sum->rows, word) + part(n + 1, word) + 2 * part(sum->asks, word) +
                   part(sum->values, word) + part(sum->hidden, word) +
                   part(sum->n[IMAGES], sizeof(rv_view));
    char *at = lua_newuserdatauv(L, bytes, 1);
    packed *p = (packed *)(void *)at;
    memset(p, 0, sizeof *p);
    at += head;
    int32_t **const arrays[] = {&p->ids,    &p->cu,        &p->ask_row,
                                &p->ask_id, &p->value_row, &p->hidden_row};
    const int64_t counts[] = {sum->rows, n + 1, sum->asks, sum->asks, sum->values, sum->hidden};
    for (int i = 0; i < 6; i++) {
        *arrays[i] = (int32_t *)(void *)at;
        at += part(counts[i], word);
    }
    p->images = (rv_view *)(void *)at;
    return p;
}

enum { MOST = 1 << 20 }; // tiles, patches of a side, rows: their products stay below 2^63

// A count in field `key` of the view at `view`.
static int32_t count_of(lua_State *L, int view, const char *key) {
    int ok;
    lua_getfield(L, view, key);
    lua_Integer x = lua_tointegerx(L, -1, &ok);
    if (!ok || x < 1 || x > MOST) {
        luaL_error(L, "%s: wanted a number from 1 to %d, came %s", key, MOST,
                   luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return (int32_t)x;
}

// The array in field `key` of the view at `view`, `type` (n, k) or (n) for k = 0; kept in
// `anchors`.
static const void *array_of(lua_State *L, int view, int anchors, const char *key, rv_dtype type,
                            int64_t n, int64_t k) {
    lua_getfield(L, view, key);
    const rv_slice *s = rv_slice_check(L, -1);
    bool fits = s->type == type && s->ndim == (k ? 2 : 1) && s->dim[0] == n;
    if (!fits || (k && s->dim[1] != k)) {
        lua_pushfstring(L, k ? "(%I, %I)" : "(%I)", (lua_Integer)n, (lua_Integer)k);
        luaL_error(L, "%s: wanted %s %s", key, type == RV_F32 ? "F32" : "I32", lua_tostring(L, -1));
    }
    lua_seti(L, anchors, luaL_len(L, anchors) + 1);
    return s->data;
}

static void read_key(lua_State *L, rv_view *v) {
    size_t n = 0;
    bool given = lua_getfield(L, 1, "key") != LUA_TNIL;
    const char *key = lua_tolstring(L, -1, &n);
    if (given && n != sizeof v->key) {
        luaL_error(L, "key: wanted %d bytes, came %s", (int)sizeof v->key,
                   key ? lua_pushfstring(L, "%I", (lua_Integer)n) : luaL_typename(L, -1));
    }
    if (given) {
        memcpy(v->key, key, sizeof v->key);
    }
    lua_pop(L, 1);
}

static int read_view(lua_State *L) {
    const rv_arch *a = lua_touserdata(L, 3);
    rv_view *v = lua_touserdata(L, 4);
    if (!lua_istable(L, 1)) {
        luaL_error(L, "wanted a view, came %s", luaL_typename(L, 1));
    }
    *v = (rv_view){.tiles = count_of(L, 1, "tiles"),
                   .h = count_of(L, 1, "h"),
                   .w = count_of(L, 1, "w"),
                   .rows = count_of(L, 1, "rows")};
    v->patches =
        array_of(L, 1, 2, "patches", RV_F32, v->tiles * (int64_t)v->h * v->w, rv_patch_numbers(a));
    read_key(L, v);
    if (lua_getfield(L, 1, "order") != LUA_TNIL) {
        v->order = array_of(L, 1, 2, "order", RV_I32, v->rows, 0);
    }
    return 0;
}

void rv_core_view(lua_State *L, int arg, int anchors, const rv_arch *a, rv_view *v,
                  const char *where, int64_t i) {
    arg = lua_absindex(L, arg);
    anchors = lua_absindex(L, anchors);
    lua_pushcfunction(L, read_view);
    lua_pushvalue(L, arg);
    lua_pushvalue(L, anchors);
    lua_pushlightuserdata(L, (void *)(uintptr_t)a);
    lua_pushlightuserdata(L, v);
    if (lua_pcall(L, 4, 0, 0) != LUA_OK) {
        luaL_error(L, "%simages[%I]: %s", where, (lua_Integer)i, lua_tostring(L, -1));
    }
}

static void add_image(lua_State *L, const sample *s, int64_t i, int anchors, const rv_vlm *m,
                      rv_view *v) {
    char where[48];
    snprintf(where, sizeof where, "sample %lld: ", (long long)s->number);
    lua_geti(L, s->base + IMAGES, i + 1);
    rv_core_view(L, -1, anchors, rv_vlm_arch(m), v, where, i + 1);
    lua_pop(L, 1);
}

static void add(lua_State *L, packed *p, const sample *s, const rv_vlm *m, const rv_core_ask *ask,
                int anchors) {
    rv_batch *b = &p->b;
    int64_t row0 = p->cu[b->n];
    int64_t first = row0 + s->n[IDS] - 1; // the row that the first answer token follows
    for (int64_t i = 0; i < s->rows; i++) {
        p->ids[row0 + i] =
            i < s->n[IDS] ? integer_at(L, s, IDS, i) : integer_at(L, s, ANSWER, i - s->n[IDS]);
    }
    for (int64_t i = 0; i < s->asks; i++, b->n_ask++) {
        p->ask_row[b->n_ask] = s->own ? row_at(L, s, POSITIONS, i, row0) : (int32_t)(first + i);
        p->ask_id[b->n_ask] = integer_at(L, s, s->own ? TARGETS : ANSWER, i);
    }
    for (int64_t i = 0; i < s->values; i++) {
        p->value_row[b->n_value++] = (int32_t)(ask->every_value ? first + i : first);
    }
    for (int64_t i = 0; i < s->hidden; i++) {
        p->hidden_row[b->n_hidden++] =
            s->n[HIDDEN] ? row_at(L, s, HIDDEN, i, row0) : (int32_t)first;
    }
    for (int64_t i = 0; i < s->n[IMAGES]; i++) {
        add_image(L, s, i, anchors, m, &p->images[b->n_images++]);
    }
    p->cu[++b->n] = (int32_t)(row0 + s->rows);
}

rv_batch *rv_core_batch(lua_State *L, int arg, const rv_vlm *m, const rv_core_ask *ask) {
    luaL_checktype(L, arg, LUA_TTABLE);
    int64_t n = (int64_t)lua_rawlen(L, arg);
    luaL_argcheck(L, n > 0 && n < INT32_MAX, arg, "wanted a list of samples, came an empty one");
    luaL_checkstack(L, N_FIELDS + 8, NULL);
    sample sum = {0};
    for (int64_t i = 1; i <= n; i++) {
        sample s = open(L, arg, i, ask);
        sum.rows += s.rows;
        sum.asks += s.asks;
        sum.values += s.values;
        sum.hidden += s.hidden;
        sum.n[IMAGES] += s.n[IMAGES];
        close(L, &s);
    }
    packed *p = make(L, &sum, n);
    lua_newtable(L); // [batch, arrays of the images]
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, -3, 1);
    int anchors = lua_gettop(L);
    lua_createtable(L, (int)n + 1, 0); // [batch, arrays, offsets]
    int offsets = lua_gettop(L);
    p->cu[0] = 0;
    lua_pushinteger(L, 0);
    lua_seti(L, offsets, 1);
    for (int64_t i = 1; i <= n; i++) {
        sample s = open(L, arg, i, ask);
        add(L, p, &s, m, ask, anchors);
        close(L, &s);
        lua_pushinteger(L, p->b.n_ask);
        lua_seti(L, offsets, i + 1);
    }
    p->b.ids = p->ids;
    p->b.cu = p->cu;
    p->b.images = p->images;
    p->b.ask_row = p->ask_row;
    p->b.ask_id = p->ask_id;
    p->b.value_row = p->value_row;
    p->b.hidden_row = p->hidden_row;
    p->b.temperature = ask->temperature;
    lua_remove(L, anchors);
    return &p->b;
}
