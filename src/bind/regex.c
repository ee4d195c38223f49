// regex.c - rl4vlm.regex: Perl's regular expressions (PCRE2), for files whose formats contain them.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "bind.h"

// Steps after which a match is given up: a hostile pattern must not hang the program.
enum { MATCH_LIMIT = 1000000 };

typedef struct {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
} matcher;

static void release(matcher *m) {
    pcre2_match_context_free(m->limits);
    pcre2_match_data_free(m->match);
    pcre2_code_free(m->code);
}

// regex.full_match(pattern, text) -> boolean: whether all of the text matches
static int full_match(lua_State *L) {
    size_t n_pattern, n_text, at;
    const char *pattern = luaL_checklstring(L, 1, &n_pattern);
    const char *text = luaL_checklstring(L, 2, &n_text);
    matcher m = {NULL, NULL, NULL};
    int why, rc = PCRE2_ERROR_NOMEMORY;
    m.code = pcre2_compile((PCRE2_SPTR)pattern, n_pattern, PCRE2_ANCHORED | PCRE2_ENDANCHORED, &why,
                           &at, NULL);
    if (!m.code) {
        PCRE2_UCHAR message[256];
        pcre2_get_error_message(why, message, sizeof message);
        return luaL_error(L, "regular expression '%s': %s at byte %d", pattern,
                          (const char *)message, (int)at);
    }
    m.match = pcre2_match_data_create_from_pattern(m.code, NULL);
    m.limits = pcre2_match_context_create(NULL);
    if (m.match && m.limits) {
        pcre2_set_match_limit(m.limits, MATCH_LIMIT);
        rc = pcre2_match(m.code, (PCRE2_SPTR)text, n_text, 0, 0, m.match, m.limits);
    }
    release(&m);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        return luaL_error(L, "regular expression '%s': matching took too long", pattern);
    }
    lua_pushboolean(L, rc >= 0);
    return 1;
}

int luaopen_rv_regex(lua_State *L);
int luaopen_rv_regex(lua_State *L) {
    static const luaL_Reg functions[] = {{"full_match", full_match}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
