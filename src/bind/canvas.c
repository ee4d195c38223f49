// canvas.c - rl4vlm.canvas: drawing for Lua.
//
// Coordinates are pixels from 0 at the top left, fractions allowed. A colour is {r, g, b [, a]},
// 0..255, or "#rrggbb" or "#rrggbbaa".
#include <stdlib.h>
#include <string.h>

#include "bind_canvas.h"
#include "bind_image.h"

#define FONT_MT "rv.font"

rv_canvas *rv_bind_canvas_new(lua_State *L) {
    rv_canvas *c = lua_newuserdatauv(L, sizeof *c, 0);
    *c = (rv_canvas){0, 0, NULL};
    luaL_setmetatable(L, RV_CANVAS_MT);
    return c;
}

rv_canvas *rv_bind_canvas_check(lua_State *L, int arg) {
    rv_canvas *c = luaL_checkudata(L, arg, RV_CANVAS_MT);
    luaL_argcheck(L, c->px, arg, "the canvas is closed");
    return c;
}

static int font_gc(lua_State *L) {
    rv_font **f = luaL_checkudata(L, 1, FONT_MT);
    rv_font_free(*f);
    *f = NULL;
    return 0;
}

rv_font *rv_bind_font(lua_State *L, bool bold) {
    static const char keys[2]; // their addresses name the two registry entries
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &keys[bold]) != LUA_TUSERDATA) {
        rv_font **f = lua_newuserdatauv(L, sizeof *f, 0); // [nil, font]
        *f = NULL;
        if (luaL_newmetatable(L, FONT_MT)) {
            lua_pushcfunction(L, font_gc);
            lua_setfield(L, -2, "__gc");
        }
        lua_setmetatable(L, -2);
        rv_err e;
        if (rv_font_new(f, bold, &e) != RV_OK) {
            rv_bind_raise(L, &e);
        }
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &keys[bold]);
        lua_remove(L, -2);
    }
    rv_font *font = *(rv_font **)lua_touserdata(L, -1);
    lua_pop(L, 1);
    return font;
}

static void done(lua_State *L, rv_status s, const rv_err *e) {
    if (s != RV_OK) {
        rv_bind_raise(L, e);
    }
}

static bool parse_hex(const char *s, size_t n, uint8_t rgba[4]) {
    if ((n != 7 && n != 9) || s[0] != '#' || strspn(s + 1, "0123456789abcdefABCDEF") != n - 1) {
        return false;
    }
    for (size_t i = 0; i < (n - 1) / 2; i++) {
        const char byte[3] = {s[1 + 2 * i], s[2 + 2 * i], 0};
        rgba[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return true;
}

static rv_color check_color(lua_State *L, int arg) {
    static const char wanted[] =
        "wanted a colour: {r, g, b [, a]} of integers from 0 to 255, or \"#rrggbb\"";
    uint8_t v[4] = {0, 0, 0, 255};
    if (lua_type(L, arg) == LUA_TSTRING) {
        size_t n;
        const char *s = lua_tolstring(L, arg, &n);
        luaL_argcheck(L, parse_hex(s, n, v), arg, wanted);
        return (rv_color){v[0], v[1], v[2], v[3]};
    }
    luaL_argexpected(L, lua_istable(L, arg), arg, "colour");
    for (int i = 0; i < 4; i++) {
        int type = lua_geti(L, arg, i + 1), ok = type == LUA_TNIL && i == 3;
        if (!ok) {
            lua_Integer x = lua_tointegerx(L, -1, &ok);
            luaL_argcheck(L, ok && x >= 0 && x <= 255, arg, wanted);
            v[i] = (uint8_t)x;
        }
        lua_pop(L, 1);
    }
    return (rv_color){v[0], v[1], v[2], v[3]};
}

// canvas.new(w, h [, color]) -> canvas, transparent unless a colour is given
static int canvas_new(lua_State *L) {
    lua_Integer w = luaL_checkinteger(L, 1), h = luaL_checkinteger(L, 2);
    rv_color color = lua_isnoneornil(L, 3) ? (rv_color){0, 0, 0, 0} : check_color(L, 3);
    rv_canvas *c = rv_bind_canvas_new(L);
    rv_err e;
    done(L, rv_canvas_new(c, w, h, color, &e), &e);
    return 1;
}

// canvas.from(image) -> canvas that holds the image
static int canvas_from(lua_State *L) {
    rv_image *im = rv_bind_image_check(L, 1);
    rv_canvas *c = rv_bind_canvas_new(L);
    rv_err e;
    done(L, rv_canvas_from_image(c, im, &e), &e);
    return 1;
}

// c:image() -> rl4vlm.Image
static int canvas_image(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    rv_image *im = rv_bind_image_new(L);
    rv_err e;
    done(L, rv_canvas_to_image(c, im, &e), &e);
    return 1;
}

// c:size() -> width, height
static int canvas_size(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    lua_pushinteger(L, c->w);
    lua_pushinteger(L, c->h);
    return 2;
}

// c:rect(x, y, w, h, color [, radius]) -> c
static int canvas_rect(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    double v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = luaL_checknumber(L, i + 2);
    }
    rv_color color = check_color(L, 6);
    rv_err e;
    done(L, rv_canvas_rect(c, v[0], v[1], v[2], v[3], luaL_optnumber(L, 7, 0), color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// c:ellipse(x, y, rx, ry, color) -> c
static int canvas_ellipse(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    double x = luaL_checknumber(L, 2), y = luaL_checknumber(L, 3);
    double rx = luaL_checknumber(L, 4), ry = luaL_checknumber(L, 5);
    rv_color color = check_color(L, 6);
    rv_err e;
    done(L, rv_canvas_ellipse(c, x, y, rx, ry, color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// c:circle(x, y, r, color) -> c
static int canvas_circle(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    double x = luaL_checknumber(L, 2), y = luaL_checknumber(L, 3), r = luaL_checknumber(L, 4);
    rv_color color = check_color(L, 5);
    rv_err e;
    done(L, rv_canvas_ellipse(c, x, y, r, r, color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// c:line(x0, y0, x1, y1, width, color) -> c
static int canvas_line(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    double v[5];
    for (int i = 0; i < 5; i++) {
        v[i] = luaL_checknumber(L, i + 2);
    }
    rv_color color = check_color(L, 7);
    rv_err e;
    done(L, rv_canvas_line(c, v[0], v[1], v[2], v[3], v[4], color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// c:polygon({x0, y0, x1, y1, ...}, color) -> c
static int canvas_polygon(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 2);
    luaL_argcheck(L, n % 2 == 0 && n <= 1 << 20, 2, "wanted {x0, y0, x1, y1, ...}");
    rv_color color = check_color(L, 3);
    double *xy = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *xy, 0);
    for (lua_Integer i = 0; i < n; i++) {
        int ok;
        lua_geti(L, 2, i + 1);
        xy[i] = lua_tonumberx(L, -1, &ok);
        luaL_argcheck(L, ok, 2, "coordinates must be numbers");
        lua_pop(L, 1);
    }
    rv_err e;
    done(L, rv_canvas_polygon(c, xy, n / 2, color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// Reads {size =, bold =, color =} at `arg`.
static rv_font *check_style(lua_State *L, int arg, double *size, rv_color *color) {
    static const char *const known[] = {"size", "bold", "color", NULL};
    bool bold = false;
    *size = 16;
    *color = (rv_color){0, 0, 0, 255};
    rv_bind_check_keys(L, arg, known);
    if (lua_istable(L, arg)) {
        lua_getfield(L, arg, "size");
        *size = luaL_optnumber(L, -1, 16);
        lua_getfield(L, arg, "bold");
        bold = lua_toboolean(L, -1);
        if (lua_getfield(L, arg, "color") != LUA_TNIL) {
            *color = check_color(L, lua_gettop(L));
        }
        lua_pop(L, 3);
    }
    return rv_bind_font(L, bold);
}

// c:text(x, y, text [, {size = 16, bold = false, color = "#000000"}]) -> c
static int canvas_text(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    double x = luaL_checknumber(L, 2), y = luaL_checknumber(L, 3), size;
    size_t n;
    const char *text = luaL_checklstring(L, 4, &n);
    rv_color color;
    rv_font *f = check_style(L, 5, &size, &color);
    rv_err e;
    done(L, rv_font_draw(f, c, x, y, text, n, size, color, &e), &e);
    lua_settop(L, 1);
    return 1;
}

// canvas.measure(text [, {size = 16, bold = false}]) -> width, height
static int canvas_measure(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    double size, w, h;
    rv_color color;
    rv_font *f = check_style(L, 2, &size, &color);
    rv_err e;
    done(L, rv_font_measure(f, text, n, size, &w, &h, &e), &e);
    lua_pushinteger(L, (lua_Integer)w);
    lua_pushinteger(L, (lua_Integer)h);
    return 2;
}

// c:blit(canvas or image, x, y [, opacity 0..1]) -> c
static int canvas_blit(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    if (luaL_testudata(L, 2, RV_IMAGE_MT)) {
        rv_canvas *copy = rv_bind_canvas_new(L);
        rv_err e;
        done(L, rv_canvas_from_image(copy, rv_bind_image_check(L, 2), &e), &e);
        lua_replace(L, 2);
    }
    rv_canvas *src = rv_bind_canvas_check(L, 2);
    lua_Integer x = luaL_checkinteger(L, 3), y = luaL_checkinteger(L, 4);
    double opacity = luaL_optnumber(L, 5, 1);
    luaL_argcheck(L, opacity >= 0 && opacity <= 1, 5, "wanted an opacity from 0 to 1");
    luaL_argcheck(L, src != c, 2, "a canvas cannot be drawn onto itself");
    rv_canvas_blit(c, src, x, y, (uint8_t)(opacity * 255 + 0.5));
    lua_settop(L, 1);
    return 1;
}

static int canvas_close(lua_State *L) {
    rv_canvas_free(luaL_checkudata(L, 1, RV_CANVAS_MT));
    return 0;
}

static int canvas_tostring(lua_State *L) {
    rv_canvas *c = luaL_checkudata(L, 1, RV_CANVAS_MT);
    lua_pushfstring(L, "rl4vlm.Canvas(%d x %d)", c->w, c->h);
    return 1;
}

int luaopen_rv_image(lua_State *L);
int luaopen_rv_canvas(lua_State *L);
int luaopen_rv_canvas(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"image", canvas_image},
        {"size", canvas_size},
        {"rect", canvas_rect},
        {"ellipse", canvas_ellipse},
        {"circle", canvas_circle},
        {"line", canvas_line},
        {"polygon", canvas_polygon},
        {"text", canvas_text},
        {"blit", canvas_blit},
        {"close", canvas_close},
        {NULL, NULL},
    };
    static const luaL_Reg meta[] = {
        {"__tostring", canvas_tostring},
        {"__gc", canvas_close},
        {"__close", canvas_close},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"new", canvas_new}, {"from", canvas_from}, {"measure", canvas_measure}, {NULL, NULL}};
    if (luaL_newmetatable(L, RV_CANVAS_MT)) {
        luaL_setfuncs(L, meta, 0);
        luaL_newlib(L, methods); // [metatable, methods]
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
    luaL_requiref(L, "rl4vlm.image", luaopen_rv_image, 0); // sets the metatable of images up
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
