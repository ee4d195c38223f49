// image_stb.h - stb_image with our limits; each file that includes it decodes one kind of file.
#pragma once

#include <stdlib.h>

#include "image.h"

// No single buffer of a decoder is larger than this: a small file cannot unpack to the whole
// memory.
#define MAX_BUFFER ((size_t)1 << 30)

static inline void *limited_realloc(void *p, size_t n) {
    return n > MAX_BUFFER ? NULL : realloc(p, n);
}

#define STBI_MALLOC(n)      limited_realloc(NULL, (n))
#define STBI_REALLOC(p, n)  limited_realloc((p), (n))
#define STBI_FREE(p)        free(p)
#define STBI_MAX_DIMENSIONS RV_IMAGE_MAX_SIDE
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
// stb declares more than it defines under these settings; gcc says so at the end of the file.
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>

// A file's bytes, and its name for messages.
typedef struct {
    const uint8_t *p;
    size_t n;
    const char *name;
} rv_image_source;

/// Wants no more pixels than an image can have, as the file's header says. Errors: RV_EFORMAT.
static inline rv_status rv_image_check_size(const rv_image_source *s, const char *format,
                                            rv_err *e) {
    int w, h, channels;
    if (stbi_info_from_memory(s->p, (int)s->n, &w, &h, &channels) &&
        (int64_t)w * h > RV_IMAGE_MAX_PIXELS) {
        return RV_FAIL(e, RV_EFORMAT, "%s: a %s of %d x %d pixels: wanted at most %d pixels",
                       s->name, format, w, h, RV_IMAGE_MAX_PIXELS);
    }
    return RV_OK;
}

/// Decodes a JPEG file (image_jpeg.c). Errors: RV_EFORMAT, RV_ENOMEM.
rv_status rv_image_jpeg(rv_image *out, const rv_image_source *s, rv_err *e);
