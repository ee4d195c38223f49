// core_batch.c - samples in Lua as a packed batch.
//
// A sample is {ids =, answer =, pixels = {slice, ...}}: token ids of prompt and answer (0-based,
// image tokens in place) and one array (3, S, S) for each image. Asked are the answer's tokens,
// each in the row before it; the answer's last token is then no row of its own, since none follows
// it. `positions` and `targets` (lists as long as each other; positions from 1, the token after
// which the id is looked at) ask for something else; `hidden` lists positions of hidden states.
#include "core_batch.h"

#include <string.h>

#include "mem.h"
#include "slice.h"

enum { IDS, ANSWER, PIXELS, POSITIONS, TARGETS, HIDDEN, N_FIELDS };
static const char *const fields[] = {"ids", "answer", "pixels", "positions", "targets", "hidden"};

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
    float *pixels;
} packed;

static size_t part(int64_t n, size_t size) { return ((size_t)n * size + 15) / 16 * 16; }

static packed *make(lua_State *L, const sample *sum, int64_t n, int64_t image) {
    size_t head = part(1, sizeof(packed)), word = sizeof(int32_t);
    if (sum->rows > INT32_MAX || sum->asks > INT32_MAX || sum->n[PIXELS] > INT32_MAX) {
        luaL_error(L, "a batch of %I rows", (lua_Integer)sum->rows);
    }
    size_t bytes = head + part(sum->rows, word) + part(n + 1, word) + 2 * part(sum->asks, word) +
                   part(sum->values, word) + part(sum->hidden, word) +
                   part(sum->n[PIXELS] * image, sizeof(float));
    char *at = lua_newuserdatauv(L, bytes, 0);
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
    p->pixels = (float *)(void *)at;
    return p;
}

static void copy_image(lua_State *L, const sample *s, int64_t i, const rv_vlm *m, float *out) {
    int64_t side = rv_vlm_arch(m)->vision.image_size;
    lua_geti(L, s->base + PIXELS, i + 1);
    const rv_slice *x = rv_slice_check(L, -1);
    if (x->type != RV_F32 || x->ndim != 3 || x->dim[0] != 3 || x->dim[1] != side ||
        x->dim[2] != side) {
        luaL_error(L, "sample %I: pixels[%I]: wanted F32 (3, %I, %I)", (lua_Integer)s->number,
                   (lua_Integer)i + 1, (lua_Integer)side, (lua_Integer)side);
    }
    memcpy(out, x->data, x->bytes);
    lua_pop(L, 1);
}

static void add(lua_State *L, packed *p, const sample *s, const rv_vlm *m, const rv_core_ask *ask) {
    rv_batch *b = &p->b;
    int64_t side = rv_vlm_arch(m)->vision.image_size, row0 = p->cu[b->n];
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
    for (int64_t i = 0; i < s->n[PIXELS]; i++) {
        copy_image(L, s, i, m, p->pixels + b->n_images++ * 3 * side * side);
    }
    p->cu[++b->n] = (int32_t)(row0 + s->rows);
}

rv_batch *rv_core_batch(lua_State *L, int arg, const rv_vlm *m, const rv_core_ask *ask) {
    luaL_checktype(L, arg, LUA_TTABLE);
    int64_t n = (int64_t)lua_rawlen(L, arg), side = rv_vlm_arch(m)->vision.image_size;
    luaL_argcheck(L, n > 0 && n < INT32_MAX, arg, "wanted a list of samples, came an empty one");
    luaL_checkstack(L, N_FIELDS + 8, NULL);
    sample sum = {0};
    for (int64_t i = 1; i <= n; i++) {
        sample s = open(L, arg, i, ask);
        sum.rows += s.rows;
        sum.asks += s.asks;
        sum.values += s.values;
        sum.hidden += s.hidden;
        sum.n[PIXELS] += s.n[PIXELS];
        close(L, &s);
    }
    packed *p = make(L, &sum, n, 3 * side * side);
    lua_createtable(L, (int)n + 1, 0); // [batch, offsets]
    int offsets = lua_gettop(L);
    p->cu[0] = 0;
    lua_pushinteger(L, 0);
    lua_seti(L, offsets, 1);
    for (int64_t i = 1; i <= n; i++) {
        sample s = open(L, arg, i, ask);
        add(L, p, &s, m, ask);
        close(L, &s);
        lua_pushinteger(L, p->b.n_ask);
        lua_seti(L, offsets, i + 1);
    }
    p->b.ids = p->ids;
    p->b.cu = p->cu;
    p->b.pixels = p->pixels;
    p->b.ask_row = p->ask_row;
    p->b.ask_id = p->ask_id;
    p->b.value_row = p->value_row;
    p->b.hidden_row = p->hidden_row;
    p->b.temperature = ask->temperature;
    return &p->b;
}
