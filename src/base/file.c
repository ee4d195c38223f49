#define _DEFAULT_SOURCE // madvise
#define _XOPEN_SOURCE   700
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem.h"

static rv_status fail_errno(rv_err *e, const char *what, const char *path) {
    return RV_FAIL(e, RV_EFILE, "%s %s: %s", what, path, strerror(errno));
}

rv_status rv_map_open(rv_map *m, const char *path, rv_err *e) {
    *m = (rv_map){NULL, 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(e, "cannot open", path);
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rv_status s = fail_errno(e, "cannot stat", path);
        close(fd);
        return s;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return RV_FAIL(e, RV_EFILE, "cannot read %s: wanted a regular file", path);
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            rv_status s = fail_errno(e, "cannot map", path);
            close(fd);
            return s;
        }
        m->data = p;
        m->size = (size_t)st.st_size;
    }
    close(fd);
    return RV_OK;
}

void rv_map_close(rv_map *m) {
    if (m->data) {
        munmap((void *)(uintptr_t)m->data, m->size);
    }
    *m = (rv_map){NULL, 0};
}

void rv_map_drop(const void *data, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)data / page * page;
    if (bytes) {
        madvise((void *)first, (uintptr_t)data + bytes - first, MADV_DONTNEED);
    }
}

bool rv_is_stream(const char *path) {
    struct stat st;
    static const char *const fds[] = {"/dev/std", "/dev/fd/", "/proc/"};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (strncmp(path, fds[i], strlen(fds[i])) == 0) {
            return true; // a link to an open file, which may be a regular one
        }
    }
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

rv_status rv_atomic_open(rv_atomic *a, const char *path, rv_err *e) {
    *a = (rv_atomic){NULL, NULL, NULL};
    struct stat st;
    bool stream = rv_is_stream(path);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        return fail_errno(e, "cannot write", path);
    }
    size_t n = strlen(path), cap = n + 32;
    a->path = rv_strndup(path, n);
    a->temp = stream ? NULL : malloc(cap);
    if (!a->path || (!stream && !a->temp)) {
        rv_atomic_abort(a);
        return RV_FAIL(e, RV_ENOMEM, "out of memory while opening %s", path);
    }
    if (!stream) {
        snprintf(a->temp, cap, "%s.tmp.%ld", path, (long)getpid());
    }
    a->f = fopen(stream ? path : a->temp, "wb");
    if (!a->f) {
        rv_status s = fail_errno(e, "cannot write", path);
        rv_atomic_abort(a);
        return s;
    }
    return RV_OK;
}

static void release(rv_atomic *a) {
    free(a->path);
    free(a->temp);
    *a = (rv_atomic){NULL, NULL, NULL};
}

rv_status rv_atomic_commit(rv_atomic *a, rv_err *e) {
    bool ok = fflush(a->f) == 0 && !ferror(a->f) && (!a->temp || fsync(fileno(a->f)) == 0);
    int why = errno;
    ok = fclose(a->f) == 0 && ok;
    a->f = NULL;
    if (ok && (!a->temp || rename(a->temp, a->path) == 0)) {
        release(a);
        return RV_OK;
    }
    if (ok) {
        why = errno;
    }
    rv_status s = RV_FAIL(e, RV_EFILE, "cannot write %s: %s", a->path, strerror(why));
    rv_atomic_abort(a);
    return s;
}

void rv_atomic_abort(rv_atomic *a) {
    if (a->f) {
        fclose(a->f);
    }
    if (a->temp) {
        unlink(a->temp);
    }
    release(a);
}

rv_status rv_file_write(const char *path, const void *data, size_t n, rv_err *e) {
    rv_atomic a;
    RV_TRY(rv_atomic_open(&a, path, e));
    if (n && fwrite(data, 1, n, a.f) != n) {
        rv_status s = fail_errno(e, "cannot write", path);
        rv_atomic_abort(&a);
        return s;
    }
    return rv_atomic_commit(&a, e);
}

rv_status rv_mkdirs(const char *path, rv_err *e) {
    char *p = rv_strndup(path, strlen(path));
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while making %s", path);
    }
    for (char *s = p + 1; s[-1]; s++) {
        if (*s != '/' && *s != 0) {
            continue;
        }
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) {
            rv_status st = fail_errno(e, "cannot make folder", p);
            free(p);
            return st;
        }
        *s = c;
    }
    struct stat st;
    bool is_dir = stat(p, &st) == 0 && S_ISDIR(st.st_mode);
    free(p);
    if (!is_dir) {
        return RV_FAIL(e, RV_EFILE, "cannot make folder %s: a file of that name is in the way",
                       path);
    }
    return RV_OK;
}

rv_status rv_sync_dir(const char *path, rv_err *e) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(e, "cannot open folder", path);
    }
    int rc = fsync(fd);
    rv_status s = rc == 0 || errno == EINVAL ? RV_OK : fail_errno(e, "cannot sync folder", path);
    close(fd);
    return s;
}
