// line.c - rl4vlm.line: lines typed at a terminal, with editing, history and completion where
// libedit is built in and stdin is a terminal; plain lines elsewhere. Stubs: lua/meta/line.lua.
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "bind.h"

#ifdef RV_HAVE_EDITLINE
#include <editline/readline.h>

#define COMPLETER "rl4vlm.line.completer" // registry: f(line up to the word, word) -> list of words

// libedit's callbacks get no pointer of ours, so these stand here.
static lua_State *caller;             // while a line is read
static volatile sig_atomic_t stopped; // Ctrl-C came while a line was read

static void on_interrupt(int signal) {
    (void)signal;
    stopped = 1;
}

// Reads one byte; -1 at the end or on Ctrl-C.
static int get_byte(int fd) {
    unsigned char c;
    for (;;) {
        ssize_t n = stopped ? 0 : read(fd, &c, 1);
        if (n == 1) {
            return c;
        }
        if (n == 0 || errno != EINTR) {
            return -1;
        }
    }
}

// Reads one character, which libedit wants as a code point.
static int get_character(FILE *in) {
    int fd = fileno(in), c = get_byte(fd);
    if (c < 0xC0) {
        return c;
    }
    int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    int point = c & (0x3F >> more);
    while (more-- > 0 && (c = get_byte(fd)) >= 0) {
        point = point << 6 | (c & 0x3F);
    }
    return c < 0 ? -1 : point;
}

// Calls the completer: [list of words].
static int call_completer(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, COMPLETER);
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    luaL_checktype(L, 1, LUA_TTABLE);
    return 1;
}

// Gives libedit the words of the list on top of the stack one by one; it frees them. Its protocol:
// state 0 begins, any other goes on.
static char *next_word(const char *word, int state) {
    static int i;
    (void)word;
    i = state ? i + 1 : 1;
    char *copy = NULL;
    if (lua_rawgeti(caller, -1, i) == LUA_TSTRING) {
        copy = strdup(lua_tostring(caller, -1));
    }
    lua_pop(caller, 1);
    return copy;
}

static char **complete(const char *word, int start, int end) {
    (void)end;
    rl_attempted_completion_over = 1; // no file names where we know of none
    lua_State *L = caller;
    int top = lua_gettop(L);
    char **matches = NULL;
    lua_pushcfunction(L, call_completer);
    lua_pushlstring(L, rl_line_buffer, (size_t)start);
    lua_pushstring(L, word);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK) {
        matches = rl_completion_matches(word, next_word);
    }
    lua_settop(L, top);
    return matches;
}

static void begin_editing(void) {
    rl_readline_name = "rl4vlm";
    rl_getc_function = get_character;
    rl_attempted_completion_function = complete;
    rl_basic_word_break_characters = " \t\n\"\\'><=;+-*/%^~#{}()[],|&?";
    rl_completion_append_character = 0;
    using_history();
    stifle_history(2000);
}

// Reads a line with editing. Returns it (to be freed), or NULL at the end or on Ctrl-C (`stopped`).
static char *edit_line(lua_State *L, const char *prompt) {
    struct sigaction ours = {.sa_handler = on_interrupt}, before; // no SA_RESTART: read returns
    caller = L;
    stopped = 0;
    sigaction(SIGINT, &ours, &before);
    char *text = readline(prompt);
    sigaction(SIGINT, &before, NULL);
    caller = NULL;
    if (stopped) {
        free(text);
        return NULL;
    }
    return text;
}
#endif

static bool editing(void) {
#ifdef RV_HAVE_EDITLINE
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
#else
    return false;
#endif
}

static char *plain_line(const char *prompt) {
    fputs(prompt, stdout);
    fflush(stdout);
    char *text = NULL;
    size_t cap = 0;
    ssize_t n = getline(&text, &cap, stdin);
    if (n < 0) {
        free(text);
        return NULL;
    }
    if (n > 0 && text[n - 1] == '\n') {
        text[n - 1] = 0;
    }
    return text;
}

// line.read(prompt) -> text; nil at the end of input; false after Ctrl-C
static int line_read(lua_State *L) {
    const char *prompt = luaL_checkstring(L, 1);
    char *text = NULL;
#ifdef RV_HAVE_EDITLINE
    if (editing()) {
        text = edit_line(L, prompt);
        if (!text && stopped) {
            fputs("^C\n", stdout);
            lua_pushboolean(L, 0);
            return 1;
        }
    } else
#endif
        text = plain_line(prompt);
    if (text) {
        lua_pushstring(L, text);
        free(text);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

// line.editing() -> true when lines are edited: libedit is built in and this is a terminal
static int line_editing(lua_State *L) {
    lua_pushboolean(L, editing());
    return 1;
}

// line.completer(f): f(text before the word, word) -> list of words, while a line is read
static int line_completer(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
#ifdef RV_HAVE_EDITLINE
    lua_settop(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, COMPLETER);
#endif
    return 0;
}

// line.add(text): to the history; line.load(path), line.save(path) -> boolean
static int line_add(lua_State *L) {
    const char *text = luaL_checkstring(L, 1);
#ifdef RV_HAVE_EDITLINE
    add_history(text);
#else
    (void)text;
#endif
    return 0;
}

static int line_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
#ifdef RV_HAVE_EDITLINE
    lua_pushboolean(L, read_history(path) == 0);
#else
    lua_pushboolean(L, path == NULL);
#endif
    return 1;
}

static int line_save(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
#ifdef RV_HAVE_EDITLINE
    lua_pushboolean(L, write_history(path) == 0);
#else
    lua_pushboolean(L, path == NULL);
#endif
    return 1;
}

// Sends `question` to the terminal and reads its answer up to the character `end`. Returns its
// length; what does not come within `ms` does not come.
static size_t ask(const char *question, char end, int ms, char *answer, size_t cap) {
    struct termios before, raw;
    if (tcgetattr(STDIN_FILENO, &before) != 0) {
        return 0;
    }
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    size_t n = 0;
    if (write(STDOUT_FILENO, question, strlen(question)) > 0) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        while (n < cap && (n == 0 || answer[n - 1] != end) && poll(&in, 1, ms) > 0 &&
               read(STDIN_FILENO, answer + n, 1) == 1) {
            n++;
        }
    }
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
    return n;
}

// line.ask(question, end, ms) -> the terminal's answer up to the character `end`, "" when none
// comes
static int line_ask(lua_State *L) {
    const char *question = luaL_checkstring(L, 1), *end = luaL_checkstring(L, 2);
    lua_Integer ms = luaL_checkinteger(L, 3);
    luaL_argcheck(L, ms >= 0 && ms <= 10000, 3, "wanted 0 to 10000 milliseconds");
    char answer[256];
    fflush(stdout);
    size_t n = editing() ? ask(question, end[0], (int)ms, answer, sizeof answer) : 0;
    lua_pushlstring(L, answer, n);
    return 1;
}

int luaopen_rv_line(lua_State *L);
int luaopen_rv_line(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"add", line_add},         {"ask", line_ask},   {"completer", line_completer},
        {"editing", line_editing}, {"load", line_load}, {"read", line_read},
        {"save", line_save},       {NULL, NULL},
    };
    setlocale(LC_CTYPE, ""); // characters only: numbers must stay C's
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) {
        setlocale(LC_CTYPE, "C.UTF-8");
    }
#ifdef RV_HAVE_EDITLINE
    begin_editing();
#endif
    luaL_newlib(L, functions);
    return 1;
}
