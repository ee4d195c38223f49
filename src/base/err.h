// err.h - statuses and error records.
//
// Every function that can fail returns rv_status and fills an rv_err with a message that says what
// was wanted, what came and where. Nothing below main.c prints or exits; RV_ASSERT is for our own
// bugs.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RV_OK = 0,
    RV_EARG,         // a value that the caller passed is wrong
    RV_ESHAPE,       // shapes do not fit together
    RV_ETYPE,        // wrong dtype
    RV_EFILE,        // the operating system refused a file operation
    RV_EFORMAT,      // a file's content is not what its format asks for
    RV_ENOMEM,       // out of memory, or over the planned budget
    RV_EINTERRUPT,   // stopped by Ctrl-C
    RV_ENUMERIC,     // NaN or Inf where a finite number is needed
    RV_EUNSUPPORTED, // known, but not built into this program or backend
} rv_status;

typedef struct {
    rv_status code;
    const char *file; // source position of the failure
    int line;
    char msg[1024];
} rv_err;

#if defined(__GNUC__)
#define RV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define RV_PRINTF(fmt, args)
#endif

/// Fills `e` (which may be NULL) with a formatted message and returns `code`.
rv_status rv_fail(rv_err *e, rv_status code, const char *file, int line, const char *fmt, ...)
    RV_PRINTF(5, 6);

/// Puts a formatted context in front of the message that `e` holds: "context: message".
void rv_err_context(rv_err *e, const char *fmt, ...) RV_PRINTF(2, 3);

/// Aborts with a message: a bug in rl4vlm, never bad input.
void rv_die(const char *what, const char *file, int line);

#define RV_FAIL(e, code, ...) rv_fail((e), (code), __FILE__, __LINE__, __VA_ARGS__)
#define RV_TRY(expr)                                                                               \
    do {                                                                                           \
        rv_status rv_s_ = (expr);                                                                  \
        if (rv_s_ != RV_OK) {                                                                      \
            return rv_s_;                                                                          \
        }                                                                                          \
    } while (0)
#define RV_ASSERT(x)                                                                               \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            rv_die(#x, __FILE__, __LINE__);                                                        \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
