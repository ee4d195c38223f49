// image.c - rl4vlm.image: uint8 RGB pictures for Lua.
//
// Pixel coordinates count from 0 at the top left, as everywhere in graphics.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bind_image.h"
#include "resample.h"

// A picture; while it is packed its pixels are runs, and what they hash to is known.
typedef struct {
    rv_image im; // packed: its size, without pixels
    uint8_t *runs;
    size_t n_runs;
    uint8_t digest[16];
} picture;

rv_image *rv_bind_image_new(lua_State *L) {
    picture *p = lua_newuserdatauv(L, sizeof *p, 0);
    *p = (picture){.n_runs = 0};
    luaL_setmetatable(L, RV_IMAGE_MT);
    return &p->im;
}

static picture *check_picture(lua_State *L, int arg) {
    picture *p = luaL_checkudata(L, arg, RV_IMAGE_MT);
    luaL_argcheck(L, p->im.px || p->runs, arg, "the image is closed");
    return p;
}

static void unpack(lua_State *L, picture *p) {
    rv_err e;
    if (p->runs) {
        if (rv_image_unpack(&p->im, p->im.w, p->im.h, p->runs, p->n_runs, &e) != RV_OK) {
            rv_bind_raise(L, &e);
        }
        free(p->runs);
        p->runs = NULL;
    }
}

rv_image *rv_bind_image_check(lua_State *L, int arg) {
    picture *p = check_picture(L, arg);
    unpack(L, p);
    return &p->im;
}

// img:pack(): keeps the pixels as runs of equal ones until they are asked for again
static int image_pack(lua_State *L) {
    picture *p = check_picture(L, 1);
    uint8_t *runs;
    size_t n;
    if (!p->runs && rv_image_pack(&p->im, &runs, &n)) {
        const int w = p->im.w, h = p->im.h;
        rv_image_hash(&p->im, p->digest);
        rv_image_free(&p->im);
        p->im = (rv_image){w, h, NULL};
        p->runs = runs;
        p->n_runs = n;
    }
    return 0;
}

// img:is_packed() -> boolean
static int image_is_packed(lua_State *L) {
    lua_pushboolean(L, check_picture(L, 1)->runs != NULL);
    return 1;
}

// Returns the new image on top of the stack, or raises what went wrong while it was filled.
static int give(lua_State *L, rv_status s, const rv_err *e) {
    return s == RV_OK ? 1 : rv_bind_raise(L, e);
}

// A colour: {r, g, b}, each 0..255. Absent: `fallback` in all three.
static void check_color(lua_State *L, int arg, uint8_t rgb[3], uint8_t fallback) {
    memset(rgb, fallback, 3);
    if (lua_isnoneornil(L, arg)) {
        return;
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    for (int i = 0; i < 3; i++) {
        lua_geti(L, arg, i + 1);
        int ok = 0;
        lua_Integer v = lua_tointegerx(L, -1, &ok);
        luaL_argcheck(L, ok && v >= 0 && v <= 255, arg,
                      "wanted a colour {r, g, b} of integers from 0 to 255");
        rgb[i] = (uint8_t)v;
        lua_pop(L, 1);
    }
}

// image.new(w, h [, {r, g, b}]) -> image, black unless a colour is given
static int image_new(lua_State *L) {
    lua_Integer w = luaL_checkinteger(L, 1), h = luaL_checkinteger(L, 2);
    uint8_t rgb[3];
    check_color(L, 3, rgb, 0);
    rv_err e;
    return give(L, rv_image_new(rv_bind_image_new(L), w, h, rgb, &e), &e);
}

// Whether the options at `arg` ask for EXIF's orientation.
static bool wants_exif(lua_State *L, int arg) {
    static const char *const known[] = {"exif", NULL};
    rv_bind_check_keys(L, arg, known);
    if (lua_isnoneornil(L, arg)) {
        return false;
    }
    lua_getfield(L, arg, "exif");
    return lua_toboolean(L, -1);
}

// image.load(path [, {exif = true}]) -> image
static int image_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    bool exif = wants_exif(L, 2);
    rv_err e;
    return give(L, rv_image_load(rv_bind_image_new(L), path, exif, &e), &e);
}

// image.decode(bytes [, name [, {exif = true}]]) -> image; the name stands in messages
static int image_decode(lua_State *L) {
    size_t n;
    const char *bytes = luaL_checklstring(L, 1, &n), *name = luaL_optstring(L, 2, "image");
    bool exif = wants_exif(L, 3);
    rv_err e;
    return give(L, rv_image_decode(rv_bind_image_new(L), bytes, n, name, exif, &e), &e);
}

// image.from_bytes(w, h, bytes) -> image of raw pixels, h * w * 3 bytes
static int image_from_bytes(lua_State *L) {
    lua_Integer w = luaL_checkinteger(L, 1), h = luaL_checkinteger(L, 2);
    size_t n;
    const char *bytes = luaL_checklstring(L, 3, &n);
    rv_image *im = rv_bind_image_new(L);
    rv_err e;
    if (rv_image_new(im, w, h, NULL, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    if (n != rv_image_bytes(im)) {
        return luaL_error(L, "wanted %I bytes for %d x %d pixels, got %I",
                          (lua_Integer)rv_image_bytes(im), im->w, im->h, (lua_Integer)n);
    }
    memcpy(im->px, bytes, n);
    return 1;
}

// img:save(path): a PNG file, the old one or the new one whatever happens
static int image_save(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    rv_err e;
    if (rv_image_save(im, luaL_checkstring(L, 2), &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    return 0;
}

// img:png() -> the bytes of a PNG file
static int image_png(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    rv_image *box = rv_bind_image_new(L); // owns the bytes while Lua copies them
    size_t n;
    rv_err e;
    if (rv_image_png(&box->px, &n, im, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    lua_pushlstring(L, (const char *)box->px, n);
    rv_image_free(box);
    return 1;
}

// img:size() -> width, height
static int image_size(lua_State *L) {
    const rv_image *im = &check_picture(L, 1)->im;
    lua_pushinteger(L, im->w);
    lua_pushinteger(L, im->h);
    return 2;
}

// img:bytes() -> the raw pixels, rows from the top, R G B each
static int image_bytes(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    lua_pushlstring(L, (const char *)im->px, rv_image_bytes(im));
    return 1;
}

// img:hash() -> 16 bytes that name size and pixels
static int image_hash(lua_State *L) {
    picture *p = check_picture(L, 1);
    if (!p->runs) {
        rv_image_hash(&p->im, p->digest);
    }
    lua_pushlstring(L, (const char *)p->digest, sizeof p->digest);
    return 1;
}

// img:copy() -> image
static int image_copy(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    rv_err e;
    return give(L, rv_image_copy(rv_bind_image_new(L), im, &e), &e);
}

// img:crop(x, y, w, h) -> image
static int image_crop(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    lua_Integer x = luaL_checkinteger(L, 2), y = luaL_checkinteger(L, 3);
    lua_Integer w = luaL_checkinteger(L, 4), h = luaL_checkinteger(L, 5);
    rv_err e;
    return give(L, rv_image_crop(rv_bind_image_new(L), im, x, y, w, h, &e), &e);
}

// img:resize(w, h [, filter]) -> image; filter: bicubic (default), lanczos, bilinear, box, hamming
static int image_resize(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    lua_Integer w = luaL_checkinteger(L, 2), h = luaL_checkinteger(L, 3);
    static const char *const names[] = {"lanczos", "bilinear", "bicubic", "box", "hamming", NULL};
    rv_filter filter = (rv_filter)(luaL_checkoption(L, 4, "bicubic", names) + RV_LANCZOS);
    rv_err e;
    return give(L, rv_image_resize(rv_bind_image_new(L), im, w, h, filter, &e), &e);
}

static uint8_t *check_pixel(lua_State *L) {
    const rv_image *im = rv_bind_image_check(L, 1);
    lua_Integer x = luaL_checkinteger(L, 2), y = luaL_checkinteger(L, 3);
    if (x < 0 || y < 0 || x >= im->w || y >= im->h) {
        luaL_error(L, "pixel (%I, %I) is outside the image of %d x %d", x, y, im->w, im->h);
    }
    return rv_image_at(im, (int)x, (int)y);
}

// img:get(x, y) -> r, g, b
static int image_get(lua_State *L) {
    const uint8_t *p = check_pixel(L);
    for (int c = 0; c < 3; c++) {
        lua_pushinteger(L, p[c]);
    }
    return 3;
}

// img:set(x, y, {r, g, b})
static int image_set(lua_State *L) {
    uint8_t *p = check_pixel(L), rgb[3];
    luaL_checktype(L, 4, LUA_TTABLE);
    check_color(L, 4, rgb, 0);
    memcpy(p, rgb, 3);
    return 0;
}

static int image_eq(lua_State *L) {
    picture *a = luaL_testudata(L, 1, RV_IMAGE_MT), *b = luaL_testudata(L, 2, RV_IMAGE_MT);
    for (int i = 0; a && b && a != b && i < 2; i++) {
        unpack(L, i ? a : b);
    }
    lua_pushboolean(L,
                    a && b && (a == b || (a->im.px && b->im.px && rv_image_equal(&a->im, &b->im))));
    return 1;
}

static int image_tostring(lua_State *L) {
    const picture *p = luaL_checkudata(L, 1, RV_IMAGE_MT);
    if (p->im.px || p->runs) {
        lua_pushfstring(L, "image %dx%d", p->im.w, p->im.h);
    } else {
        lua_pushliteral(L, "image (closed)");
    }
    return 1;
}

// img:close(), __gc and __close
static int image_close(lua_State *L) {
    picture *p = luaL_checkudata(L, 1, RV_IMAGE_MT);
    rv_image_free(&p->im);
    free(p->runs);
    p->runs = NULL;
    return 0;
}

int luaopen_rv_image(lua_State *L);
int luaopen_rv_image(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"save", image_save},
        {"png", image_png},
        {"size", image_size},
        {"bytes", image_bytes},
        {"hash", image_hash},
        {"copy", image_copy},
        {"crop", image_crop},
        {"resize", image_resize},
        {"get", image_get},
        {"set", image_set},
        {"close", image_close},
        {"pack", image_pack},
        {"is_packed", image_is_packed},
        {NULL, NULL},
    };
    static const luaL_Reg meta[] = {
        {"__eq", image_eq},    {"__tostring", image_tostring},
        {"__gc", image_close}, {"__close", image_close},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"new", image_new},
        {"load", image_load},
        {"decode", image_decode},
        {"from_bytes", image_from_bytes},
        {NULL, NULL},
    };
    if (luaL_newmetatable(L, RV_IMAGE_MT)) {
        luaL_setfuncs(L, meta, 0);
        luaL_newlib(L, methods); // [metatable, methods]
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
