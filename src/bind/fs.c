// fs.c - rl4vlm.fs: files and folders for Lua.
//
// What the file system refuses is an expected failure: nil and a message with the path and the
// system's reason. A wrong argument is an error. Stubs: lua/meta/fs.lua.
#define _XOPEN_SOURCE 700
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bind.h"
#include "file.h"

static int fail_errno(lua_State *L, const char *what, const char *path) {
    int why = errno;
    lua_pushnil(L);
    lua_pushfstring(L, "cannot %s %s: %s", what, path, strerror(why));
    return 2;
}

// Ends a function that returns true or nil and a message.
static int answer(lua_State *L, bool ok, const char *what, const char *path) {
    if (!ok) {
        return fail_errno(L, what, path);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int answer_status(lua_State *L, rv_status s, const rv_err *e) {
    if (s != RV_OK) {
        lua_pushnil(L);
        lua_pushstring(L, e->msg);
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

// fs.exists(path) -> boolean
static int fs_exists(lua_State *L) {
    struct stat st;
    lua_pushboolean(L, stat(luaL_checkstring(L, 1), &st) == 0);
    return 1;
}

static const char *type_name(mode_t mode) {
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "folder" : "other";
}

// fs.is_stream(path) -> boolean
static int fs_is_stream(lua_State *L) {
    lua_pushboolean(L, rv_is_stream(luaL_checkstring(L, 1)));
    return 1;
}

// fs.stat(path) -> {type, size, mtime, inode} | nil, err
static int fs_stat(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    struct stat st;
    if (stat(path, &st) != 0) {
        return fail_errno(L, "stat", path);
    }
    lua_createtable(L, 0, 4);
    lua_pushstring(L, type_name(st.st_mode));
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, st.st_size);
    lua_setfield(L, -2, "size");
    lua_pushnumber(L, (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec);
    lua_setfield(L, -2, "mtime");
    lua_pushinteger(L, (lua_Integer)st.st_ino);
    lua_setfield(L, -2, "inode");
    return 1;
}

static int fs_mkdirs(lua_State *L) {
    rv_err e;
    return answer_status(L, rv_mkdirs(luaL_checkstring(L, 1), &e), &e);
}

// fs.mkdir(path): one folder; fails when anything of that name is there, so it can claim a name
static int fs_mkdir(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    return answer(L, mkdir(path, 0777) == 0, "make folder", path);
}

static int list_gc(lua_State *L) {
    DIR **d = lua_touserdata(L, 1);
    if (*d) {
        closedir(*d);
        *d = NULL;
    }
    return 0;
}

// fs.list(path) -> names in a folder, sorted by bytes, without "." and ".." | nil, err
static int fs_list(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    DIR **d = lua_newuserdatauv(L, sizeof *d, 0); // closed by __gc when a push below raises
    *d = NULL;
    if (luaL_newmetatable(L, "rv.folder")) {
        lua_pushcfunction(L, list_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, 2);
    *d = opendir(path);
    if (!*d) {
        return fail_errno(L, "open folder", path);
    }
    lua_getglobal(L, "table");
    lua_getfield(L, -1, "sort");
    lua_newtable(L); // [.., sort, names]
    lua_Integer n = 0;
    for (struct dirent *entry; (entry = readdir(*d));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            lua_pushstring(L, entry->d_name);
            lua_seti(L, -2, ++n);
        }
    }
    closedir(*d);
    *d = NULL;
    lua_pushvalue(L, -1);
    lua_insert(L, -3); // [.., names, sort, names]
    lua_call(L, 1, 0);
    return 1;
}

static int fs_rename(lua_State *L) {
    const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
    if (rename(from, to) != 0) {
        int why = errno;
        lua_pushnil(L);
        lua_pushfstring(L, "cannot rename %s to %s: %s", from, to, strerror(why));
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

// fs.remove(path): a file or an empty folder
static int fs_remove(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    return answer(L, remove(path) == 0, "remove", path);
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

// fs.remove_tree(path): a file or a folder with all that is in it (links are not followed); nothing
// there is fine
static int fs_remove_tree(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    enum { OPEN_FOLDERS = 16 };
    int rc = nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    return answer(L, rc == 0 || errno == ENOENT, "remove", path);
}

// Reads what `f` still holds into fresh memory; NULL with errno set on failure.
static char *read_all(FILE *f, size_t *n) {
    size_t cap = 65536, used = 0;
    char *data = malloc(cap);
    while (data) {
        used += fread(data + used, 1, cap - used, f);
        if (used < cap) {
            break;
        }
        char *more = cap < SIZE_MAX / 2 ? realloc(data, cap *= 2) : NULL;
        if (!more) {
            free(data);
        }
        data = more;
    }
    if (!data) {
        errno = ENOMEM;
    } else if (ferror(f)) {
        free(data);
        return NULL;
    }
    *n = used;
    return data;
}

typedef struct {
    char *data;
    size_t n;
} bytes;

static int push_bytes(lua_State *L) {
    const bytes *b = lua_touserdata(L, 1);
    lua_pushlstring(L, b->data, b->n);
    return 1;
}

// fs.read_file(path) -> bytes | nil, err
static int fs_read_file(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    bytes b = {NULL, 0};
    FILE *f = fopen(path, "rb");
    if (f) {
        b.data = read_all(f, &b.n);
        int why = errno;
        fclose(f);
        errno = why;
    }
    if (!b.data) {
        return fail_errno(L, "read", path);
    }
    lua_pushcfunction(L, push_bytes); // protected: the push may run out of memory
    lua_pushlightuserdata(L, &b);
    int rc = lua_pcall(L, 1, 1, 0);
    free(b.data);
    return rc == LUA_OK ? 1 : lua_error(L);
}

static int fs_write_atomic(lua_State *L) {
    size_t n;
    const char *path = luaL_checkstring(L, 1), *data = luaL_checklstring(L, 2, &n);
    rv_err e;
    return answer_status(L, rv_file_write(path, data, n, &e), &e);
}

static bool write_all(int fd, const char *data, size_t n) {
    while (n > 0) {
        ssize_t k = write(fd, data, n);
        if (k < 0 && errno != EINTR) {
            return false;
        }
        data += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
    return true;
}

// fs.append(path, bytes): adds to the end and waits until it is on the disk. A write that fails
// half-way is taken back.
static int fs_append(lua_State *L) {
    size_t n;
    const char *path = luaL_checkstring(L, 1), *data = luaL_checklstring(L, 2, &n);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return fail_errno(L, "write", path);
    }
    off_t before = lseek(fd, 0, SEEK_END);
    bool ok = write_all(fd, data, n) && (fsync(fd) == 0 || errno == EINVAL);
    int why = errno;
    bool back = ok || before < 0 || ftruncate(fd, before) == 0;
    ok = close(fd) == 0 && ok && back;
    errno = why;
    return answer(L, ok, "write", path);
}

// fs.truncate(path, size): cuts a file back
static int fs_truncate(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    lua_Integer size = luaL_checkinteger(L, 2);
    luaL_argcheck(L, size >= 0, 2, "wanted a size of at least 0");
    return answer(L, truncate(path, (off_t)size) == 0, "cut", path);
}

static int fs_sync_dir(lua_State *L) {
    rv_err e;
    return answer_status(L, rv_sync_dir(luaL_checkstring(L, 1), &e), &e);
}

static int fs_realpath(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    char full[PATH_MAX];
    if (!realpath(path, full)) {
        return fail_errno(L, "resolve", path);
    }
    lua_pushstring(L, full);
    return 1;
}

static int fs_cwd(lua_State *L) {
    char full[PATH_MAX];
    if (!getcwd(full, sizeof full)) {
        return fail_errno(L, "find", "the working directory");
    }
    lua_pushstring(L, full);
    return 1;
}

// fs.copy_file(from, to): atomic and synced, as write_atomic
static int fs_copy_file(lua_State *L) {
    const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
    rv_err e;
    rv_map m;
    rv_status s = rv_map_open(&m, from, &e);
    if (s == RV_OK) {
        s = rv_file_write(to, m.data, m.size, &e);
        rv_map_close(&m);
    }
    return answer_status(L, s, &e);
}

// fs.tempdir([prefix]) -> a fresh folder that only this user can read | nil, err
static int fs_tempdir(lua_State *L) {
    const char *prefix = luaL_optstring(L, 1, "rl4vlm"), *base = getenv("TMPDIR");
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s-XXXXXX", base && *base ? base : "/tmp", prefix);
    luaL_argcheck(L, n > 0 && (size_t)n < sizeof path, 1, "too long");
    if (!mkdtemp(path)) {
        return fail_errno(L, "make folder", path);
    }
    lua_pushstring(L, path);
    return 1;
}

int luaopen_rv_fs(lua_State *L);
int luaopen_rv_fs(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"append", fs_append},
        {"copy_file", fs_copy_file},
        {"cwd", fs_cwd},
        {"exists", fs_exists},
        {"list", fs_list},
        {"mkdir", fs_mkdir},
        {"mkdirs", fs_mkdirs},
        {"read_file", fs_read_file},
        {"realpath", fs_realpath},
        {"remove", fs_remove},
        {"remove_tree", fs_remove_tree},
        {"is_stream", fs_is_stream},
        {"rename", fs_rename},
        {"stat", fs_stat},
        {"sync_dir", fs_sync_dir},
        {"tempdir", fs_tempdir},
        {"truncate", fs_truncate},
        {"write_atomic", fs_write_atomic},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    return 1;
}
