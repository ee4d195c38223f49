// processor.c - rl4vlm.processor: what the vision tower sees of an image.
#include "processor.h"

#include "bind_image.h"
#include "slice.h"

#define PROCESSOR_MT "rl4vlm.Processor"

static rv_processor *check(lua_State *L) { return luaL_checkudata(L, 1, PROCESSOR_MT); }

static rv_processor *new_processor(lua_State *L) {
    rv_processor *p = lua_newuserdatauv(L, sizeof *p, 0);
    luaL_setmetatable(L, PROCESSOR_MT);
    return p;
}

// The options table at `arg` as JSON; the caller frees it.
static json_t *options(lua_State *L, int arg) {
    static const char *const known[] = {"patch",       "temporal",     "merge",      "pad",
                                        "anyres",      "min_pixels",   "max_pixels", "splitting",
                                        "max_patches", "longest_edge", NULL};
    rv_bind_check_keys(L, arg, known);
    json_t *o = json_object();
    for (int i = 0; known[i] && !lua_isnoneornil(L, arg); i++) {
        int type = lua_getfield(L, arg, known[i]);
        if (type != LUA_TNIL) {
            json_object_set_new(o, known[i],
                                lua_isinteger(L, -1)   ? json_integer(lua_tointeger(L, -1))
                                : type == LUA_TBOOLEAN ? json_boolean(lua_toboolean(L, -1))
                                                       : json_string(lua_typename(L, type)));
        }
        lua_pop(L, 1);
    }
    return o;
}

// processor.load(DIR [, options]) -> processor
static int processor_load(lua_State *L) {
    const char *dir = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    rv_processor *p = new_processor(L);
    json_t *o = options(L, 2);
    rv_err e;
    rv_status s = rv_processor_load(p, dir, o, &e);
    json_decref(o);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// processor.parse(json [, options]) -> processor
static int processor_parse(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    lua_settop(L, 2);
    rv_processor *p = new_processor(L);
    json_t *o = options(L, 2), *config = NULL;
    rv_err e;
    rv_status s = rv_json_parse(&config, text, n, "preprocessor_config.json", &e);
    s = s == RV_OK ? rv_processor_read(p, config, "preprocessor_config.json", o, &e) : s;
    json_decref(config);
    json_decref(o);
    return s == RV_OK ? 1 : rv_bind_raise(L, &e);
}

static rv_layout layout_of(lua_State *L, const rv_processor *p, int64_t w, int64_t h) {
    rv_layout l;
    rv_err e;
    if (rv_processor_layout(p, w, h, &l, &e) != RV_OK) {
        rv_bind_raise(L, &e);
    }
    return l;
}

static void set_integer(lua_State *L, const char *key, int64_t v) {
    lua_pushinteger(L, v);
    lua_setfield(L, -2, key);
}

// Pushes a layout as a table.
static void push_layout(lua_State *L, const rv_layout *l) {
    lua_createtable(L, 0, 12);
    set_integer(L, "width", l->width);
    set_integer(L, "height", l->height);
    set_integer(L, "tiles", l->tiles);
    set_integer(L, "h", l->h);
    set_integer(L, "w", l->w);
    if (l->grid_rows) {
        set_integer(L, "grid_rows", l->grid_rows);
        set_integer(L, "grid_cols", l->grid_cols);
        set_integer(L, "best_width", l->best_w);
        set_integer(L, "best_height", l->best_h);
    }
}

static void check_patch(lua_State *L, const rv_processor *p) {
    if (!p->patch) {
        luaL_error(L, "the processor was loaded without the option \"patch\": it makes pixels, "
                      "not patches");
    }
}

// p:layout(width, height) -> table
static int processor_layout(lua_State *L) {
    const rv_processor *p = check(L);
    check_patch(L, p);
    rv_layout l = layout_of(L, p, luaL_checkinteger(L, 2), luaL_checkinteger(L, 3));
    push_layout(L, &l);
    return 1;
}

// p:most_patches() -> integer, or nil where nothing bounds them
static int processor_most_patches(lua_State *L) {
    int64_t n = rv_processor_most_patches(check(L));
    if (n) {
        lua_pushinteger(L, n);
    } else {
        luaL_pushfail(L);
    }
    return 1;
}

// p:view(image) -> table: the layout and its patches
static int processor_view(lua_State *L) {
    const rv_processor *p = check(L);
    const rv_image *im = rv_bind_image_check(L, 2);
    check_patch(L, p);
    rv_layout l = layout_of(L, p, im->w, im->h);
    push_layout(L, &l);
    int64_t dim[] = {l.tiles * l.h * l.w, (int64_t)3 * p->temporal * p->patch * p->patch};
    rv_slice *out = rv_slice_push_raw(L, RV_F32, 2, dim);
    rv_err e;
    if (rv_processor_patches(p, im, &l, rv_slice_bytes(out), &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_setfield(L, -2, "patches");
    return 1;
}

// p:pixels(image) -> slice of float32 in the shape of transformers' pixel_values
static int processor_pixels(lua_State *L) {
    const rv_processor *p = check(L);
    const rv_image *im = rv_bind_image_check(L, 2);
    rv_layout l = layout_of(L, p, im->w, im->h);
    int64_t dim[4];
    rv_slice *out = rv_slice_push_raw(L, RV_F32, rv_processor_pixel_shape(p, &l, dim), dim);
    rv_err e;
    return rv_processor_pixels(p, im, &l, rv_slice_bytes(out), &e) == RV_OK ? 1
                                                                            : rv_bind_raise(L, &e);
}

int luaopen_rv_processor(lua_State *L);
int luaopen_rv_processor(lua_State *L) {
    static const luaL_Reg methods[] = {{"layout", processor_layout},
                                       {"most_patches", processor_most_patches},
                                       {"view", processor_view},
                                       {"pixels", processor_pixels},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"load", processor_load}, {"parse", processor_parse}, {NULL, NULL}};
    luaL_requiref(L, "rl4vlm.slice", luaopen_rv_slice, 0); // patches and pixels are slices
    lua_pop(L, 1);
    if (luaL_newmetatable(L, PROCESSOR_MT)) {
        luaL_newlib(L, methods); // [metatable, methods]
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
