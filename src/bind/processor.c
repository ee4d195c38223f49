// processor.c - rl4vlm.processor: what the vision tower sees of an image.
#include "processor.h"

#include "bind_image.h"

#define PROCESSOR_MT "rl4vlm.Processor"

static rv_processor *check(lua_State *L) { return luaL_checkudata(L, 1, PROCESSOR_MT); }

// processor.load(DIR) -> processor
static int processor_load(lua_State *L) {
    const char *dir = luaL_checkstring(L, 1);
    rv_processor *p = lua_newuserdatauv(L, sizeof *p, 0);
    luaL_setmetatable(L, PROCESSOR_MT);
    rv_err e;
    return rv_processor_load(p, dir, &e) == RV_OK ? 1 : rv_bind_raise(L, &e);
}

// p:size(image) -> width, height of its pixels
static int processor_size(lua_State *L) {
    int64_t w, h;
    rv_processor_size(check(L), rv_bind_image_check(L, 2), &w, &h);
    lua_pushinteger(L, w);
    lua_pushinteger(L, h);
    return 2;
}

// p:pixels(image) -> string of float32, (3, height, width)
static int processor_pixels(lua_State *L) {
    const rv_processor *p = check(L);
    const rv_image *im = rv_bind_image_check(L, 2);
    int64_t w, h;
    rv_processor_size(p, im, &w, &h);
    luaL_Buffer b;
    size_t bytes = (size_t)(3 * w * h) * sizeof(float);
    float *out = (float *)(void *)luaL_buffinitsize(L, &b, bytes);
    rv_err e;
    if (rv_processor_pixels(p, im, out, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    luaL_pushresultsize(&b, bytes);
    return 1;
}

int luaopen_rv_processor(lua_State *L);
int luaopen_rv_processor(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"size", processor_size}, {"pixels", processor_pixels}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"load", processor_load}, {NULL, NULL}};
    if (luaL_newmetatable(L, PROCESSOR_MT)) {
        luaL_newlib(L, methods); // [metatable, methods]
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
