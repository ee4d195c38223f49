#include "bind.h"

#include <stdbool.h>
#include <string.h>

int rv_bind_raise(lua_State *L, const rv_err *e) {
    return luaL_error(L, "%s", e->code == RV_EINTERRUPT ? RV_INTERRUPTED : e->msg);
}

int rv_bind_distance(const char *a, const char *b) {
    enum { MAX = 48 };
    int row[MAX + 1];
    size_t na = strlen(a), nb = strlen(b);
    if (na > MAX || nb > MAX) {
        return MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = (int)j;
    }
    for (size_t i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            best = up + 1 < best ? up + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[nb];
}

int rv_bind_far(const char *word) { return 2 + (int)strlen(word) / 3; }

void rv_bind_check_keys(lua_State *L, int arg, const char *const *known) {
    if (lua_isnoneornil(L, arg)) {
        return;
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, arg)) { // [key, value]
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_argerror(L, arg, "option names must be strings");
        }
        const char *key = lua_tostring(L, -1), *nearest = known[0];
        bool found = false;
        for (const char *const *k = known; *k; k++) {
            found = found || strcmp(key, *k) == 0;
            nearest = rv_bind_distance(key, *k) < rv_bind_distance(key, nearest) ? *k : nearest;
        }
        if (!found) {
            luaL_argerror(
                L, arg,
                lua_pushfstring(L, "unknown option '%s' (did you mean '%s'?)", key, nearest));
        }
    }
}
