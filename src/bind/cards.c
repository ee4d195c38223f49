// cards.c - rl4vlm.cards: playing cards for Lua.
//
// Drawn cards are kept, one canvas for each card and size, so that a frame only copies pixels.
#include <string.h>

#include "bind_canvas.h"
#include "cards.h"

enum { KEEP = 512 }; // drawn cards kept; later ones are drawn each time

static rv_card check_card(lua_State *L, int arg) {
    size_t n;
    const char *name = luaL_checklstring(L, arg, &n);
    rv_card card;
    rv_err e;
    if (rv_card_parse(&card, name, n, &e) != RV_OK) {
        luaL_argerror(L, arg, lua_pushstring(L, e.msg));
    }
    return card;
}

// Pushes the drawn card `name` ("back" too) of one size.
static rv_canvas *sprite(lua_State *L, int name, lua_Integer w, lua_Integer h) {
    static const char cache; // its address names the registry entry: {n = count, [key] = canvas}
    bool back = strcmp(luaL_checkstring(L, name), "back") == 0;
    rv_card card = back ? (rv_card){0, 0} : check_card(L, name);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &cache) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &cache);
    }
    lua_pushfstring(L, "%s %I %I", lua_tostring(L, name), w, h); // [cache, key]
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TUSERDATA) { // [cache, key, canvas]
        return lua_touserdata(L, -1);
    }
    lua_pop(L, 1);
    rv_canvas *c = rv_bind_canvas_new(L); // [cache, key, canvas]
    rv_err e;
    rv_status s =
        back ? rv_card_back(c, w, h, &e)
             : rv_card_face(c, card, w, h, rv_bind_font(L, true), rv_bind_font(L, false), &e);
    if (s != RV_OK) {
        rv_bind_raise(L, &e);
    }
    lua_getfield(L, -3, "n");
    lua_Integer n = lua_tointeger(L, -1) + 1;
    lua_pop(L, 1);
    if (n <= KEEP && (int64_t)c->w * c->h < 1 << 18) {
        lua_pushinteger(L, n);
        lua_setfield(L, -4, "n");
        lua_insert(L, -2);
        lua_pushvalue(L, -2); // [cache, canvas, key, canvas]
        lua_rawset(L, -4);
    }
    return lua_touserdata(L, -1);
}

// cards.draw(canvas, card or "back", x, y, w, h) -> canvas
static int cards_draw(lua_State *L) {
    rv_canvas *c = rv_bind_canvas_check(L, 1);
    lua_Integer x = luaL_checkinteger(L, 3), y = luaL_checkinteger(L, 4);
    rv_canvas *card = sprite(L, 2, luaL_checkinteger(L, 5), luaL_checkinteger(L, 6));
    rv_canvas_blit(c, card, x, y, 255);
    lua_settop(L, 1);
    return 1;
}

// cards.rank(card) -> 1 (ace) .. 13 (king)
static int cards_rank(lua_State *L) {
    lua_pushinteger(L, check_card(L, 1).rank);
    return 1;
}

// cards.value(card) -> 1 (ace) .. 10 (ten and court cards)
static int cards_value(lua_State *L) {
    int rank = check_card(L, 1).rank;
    lua_pushinteger(L, rank < 10 ? rank : 10);
    return 1;
}

// cards.name(rank, suit) -> name; rank 1..13, suit 1..4 (clubs, diamonds, hearts, spades)
static int cards_name(lua_State *L) {
    lua_Integer rank = luaL_checkinteger(L, 1), suit = luaL_checkinteger(L, 2);
    luaL_argcheck(L, rank >= 1 && rank <= 13, 1, "wanted a rank from 1 to 13");
    luaL_argcheck(L, suit >= 1 && suit <= 4, 2, "wanted a suit from 1 to 4");
    const char name[2] = {RV_CARD_RANKS[rank - 1], RV_CARD_SUITS[suit - 1]};
    lua_pushlstring(L, name, 2);
    return 1;
}

int luaopen_rv_canvas(lua_State *L);
int luaopen_rv_cards(lua_State *L);
int luaopen_rv_cards(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"draw", cards_draw}, {"rank", cards_rank}, {"value", cards_value},
        {"name", cards_name}, {NULL, NULL},
    };
    luaL_requiref(L, "rl4vlm.canvas", luaopen_rv_canvas, 0); // sets the metatable of canvases up
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
