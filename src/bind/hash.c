// hash.c - rl4vlm.hash: digests of bytes.
#include "bind.h"
#include "sha256.h"

// hash.sha256(bytes) -> 64 lower-case hexadecimal digits
static int hash_sha256(lua_State *L) {
    size_t n;
    const char *bytes = luaL_checklstring(L, 1, &n);
    rv_sha256 s;
    rv_sha256_begin(&s);
    rv_sha256_add(&s, bytes, n);
    uint8_t digest[32];
    rv_sha256_end(&s, digest);
    char hex[64];
    for (int i = 0; i < 64; i++) {
        hex[i] = "0123456789abcdef"[i % 2 ? digest[i / 2] & 15 : digest[i / 2] >> 4];
    }
    lua_pushlstring(L, hex, sizeof hex);
    return 1;
}

int luaopen_rv_hash(lua_State *L);
int luaopen_rv_hash(lua_State *L) {
    static const luaL_Reg functions[] = {{"sha256", hash_sha256}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
