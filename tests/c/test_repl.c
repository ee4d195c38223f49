// test_repl.c - the prompt at a terminal: editing, completion, history, Ctrl-C. Drives the program
// through a pseudo-terminal as a person would.
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    pid_t pid;
    int fd;
    char seen[65536]; // output since the last match
    size_t n;
    char home[64];
} terminal;

static void start_program(terminal *t) {
    struct winsize size = {.ws_row = 24, .ws_col = 100};
    t->n = 0;
    t->pid = forkpty(&t->fd, NULL, NULL, &size);
    assert_true(t->pid >= 0);
    if (t->pid == 0) {
        const char *program = getenv("RL4VLM");
        setenv("XDG_STATE_HOME", t->home, 1);
        setenv("TERM", "xterm", 1);
        setenv("LC_ALL", "C.UTF-8", 1);
        setenv("RL4VLM_PICTURES", "blocks", 1);
        program = program ? program : "build/rl4vlm";
        execl(program, program, (char *)NULL);
        _exit(127);
    }
}

static int setup(void **state) {
    terminal *t = calloc(1, sizeof *t);
    assert_non_null(t);
    snprintf(t->home, sizeof t->home, "/tmp/rl4vlm-repl-XXXXXX");
    assert_non_null(mkdtemp(t->home));
    start_program(t);
    *state = t;
    return 0;
}

static void send_keys(terminal *t, const char *text) {
    size_t n = strlen(text);
    assert_int_equal(write(t->fd, text, n), (ssize_t)n);
}

// Reads what the program shows next; 0 when it ended or was silent for ten seconds.
static ssize_t read_more(terminal *t, char *text, size_t cap) {
    struct pollfd in = {.fd = t->fd, .events = POLLIN};
    ssize_t n = poll(&in, 1, 10000) > 0 ? read(t->fd, text, cap) : 0;
    return n > 0 ? n : 0;
}

// Reads until `text` has come, and forgets all up to its end.
static void expect(terminal *t, const char *text) {
    for (;;) {
        t->seen[t->n] = 0;
        char *at = strstr(t->seen, text);
        if (at) {
            size_t used = (size_t)(at - t->seen) + strlen(text);
            memmove(t->seen, t->seen + used, t->n - used);
            t->n -= used;
            return;
        }
        ssize_t n = read_more(t, t->seen + t->n, sizeof t->seen - 1 - t->n);
        if (n == 0) {
            fail_msg("wanted \"%s\", the terminal shows \"%s\"", text, t->seen);
        }
        t->n += (size_t)n;
    }
}

// Waits for a prompt and types: keys that come before it would meet the terminal's own line
// editing.
static void type(terminal *t, const char *text) {
    expect(t, "> ");
    poll(NULL, 0, 30); // the editor changes the terminal's mode just after it shows its prompt
    send_keys(t, text);
}

// Waits for the program's end; returns its exit status.
static int wait_end(terminal *t) {
    int status = 0;
    char rest[4096];
    while (read_more(t, rest, sizeof rest) > 0) {
    }
    // The terminal closes a moment before the program has ended.
    for (int i = 0; i < 200 && waitpid(t->pid, &status, WNOHANG) == 0; i++) {
        poll(NULL, 0, 10);
        if (i == 199) {
            kill(t->pid, SIGKILL);
            waitpid(t->pid, &status, 0);
        }
    }
    close(t->fd);
    t->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Types the end of input until it is taken; returns the exit status. The editor shows its prompt a
// moment before it changes the terminal's mode, and what is typed between is bent: so the line is
// cleared first.
static int end_input(terminal *t) {
    type(t, "\x04");
    for (int i = 0; i < 20; i++) {
        struct pollfd in = {.fd = t->fd, .events = 0};
        if (poll(&in, 1, 250) > 0 && (in.revents & POLLHUP)) {
            break;
        }
        (void)!write(t->fd, "\x15\x04", 2);
    }
    return wait_end(t);
}

static int teardown(void **state) {
    terminal *t = *state;
    if (t->pid > 0) {
        kill(t->pid, SIGKILL);
        wait_end(t);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/rl4vlm/history", t->home);
    unlink(path);
    snprintf(path, sizeof path, "%s/rl4vlm", t->home);
    rmdir(path);
    rmdir(t->home);
    free(t);
    return 0;
}

static void prints_values(void **state) {
    terminal *t = *state;
    type(t, "6 * 7\n");
    expect(t, "\n42\r\n");
    type(t, "=_ + 1, 'x'\n");
    expect(t, "\n43\tx\r\n");
    type(t, "{ a = { 1, 2 }, ['b c'] = 'é' }\n");
    expect(t, "{ a = { 1, 2 }, [\"b c\"] = \"é\" }\r\n");
    type(t, "local v = {} v.v = v return v\n");
    expect(t, "{ v = <cycle> }");
    type(t, "nil + 1\n");
    expect(t, "attempt to perform arithmetic on a nil value");
    assert_int_equal(end_input(t), 0);
}

static void reads_statements_over_lines(void **state) {
    terminal *t = *state;
    type(t, "for i = 1, 2 do\n");
    type(t, "print('line ' .. i) end\n");
    expect(t, "\nline 1\r\nline 2\r\n");
    type(t, "s = [[a\n");
    type(t, "b]]\n");
    type(t, "#s\n");
    expect(t, "\n3\r\n");
    type(t, "{ 10,\n");
    type(t, "20 }\n");
    expect(t, "\n{ 10, 20 }\r\n");
    type(t, "7 *\n");
    type(t, "6\n");
    expect(t, "\n42\r\n");
}

static void completes(void **state) {
    terminal *t = *state;
    type(t, "string.for\t'%d', 12)\n");
    expect(t, "\n12\r\n");
    type(t, "words = { alpha = 1, albert = 2 }\n");
    type(t, "words.al\t\t");
    expect(t, "words.albert");
    expect(t, "words.alpha");
    send_keys(t, "p\t\n");
    expect(t, "\n1\r\n");
    type(t, "('' .. type(require \"rl4vlm.complet\t\"))\n");
    expect(t, "table");
    type(t, "r = require(\"rl4vlm.rng\").new(1)\n");
    type(t, "r:unif\t) < 1\n");
    expect(t, "\ntrue\r\n");
}

static void stops_on_ctrl_c(void **state) {
    terminal *t = *state;
    type(t, "thrown away\x03");
    expect(t, "^C");
    type(t, "while true do end\n");
    usleep(300000);
    send_keys(t, "\x03");
    expect(t, "interrupted!");
    type(t, "for i = 1, 2 do\n");
    type(t, "\x03");
    expect(t, "^C\r\n> "); // no word of the statement that was left
    send_keys(t, "require('rl4vlm.host').interrupted(), 5\n");
    expect(t, "false\t5\r\n");
    type(t, "os.exit(3)\n");
    assert_int_equal(wait_end(t), 3);
}

static void remembers(void **state) {
    terminal *t = *state;
    type(t, "12345 * 10\n");
    expect(t, "\n123450\r\n");
    assert_int_equal(end_input(t), 0);
    start_program(t);
    type(t, "\x1b[A\n"); // up
    expect(t, "\n123450\r\n");
}

static void helps(void **state) {
    terminal *t = *state;
    type(t, "?fs.stat\n");
    expect(t, "rl4vlm.fs.stat(path)");
    type(t, "?\n");
    expect(t, "modules");
    expect(t, "recipe, ");
    type(t, "??rl4vlm.pretty.text\n");
    expect(t, "function M.text(value, options)");
    type(t, "?no.such.thing\n");
    expect(t, "no help on 'no.such.thing'");
}

static void draws_images(void **state) {
    terminal *t = *state;
    type(t, "require('rl4vlm.image').new(8, 8, {255, 0, 0})\n");
    expect(t, "▀");
    expect(t, "8");
}

int main(void) {
#define REPL(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        REPL(prints_values), REPL(reads_statements_over_lines),
        REPL(completes),     REPL(stops_on_ctrl_c),
        REPL(remembers),     REPL(helps),
        REPL(draws_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
