// image_write.c - PNG files from images.
#include <stdlib.h>

#include "file.h"
#include "image.h"

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
// stb declares more than it defines under these settings; gcc says so at the end of the file.
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_write.h>

rv_status rv_image_png(uint8_t **bytes, size_t *n, const rv_image *im, rv_err *e) {
    int len = 0;
    *bytes = stbi_write_png_to_mem(im->px, im->w * 3, im->w, im->h, 3, &len);
    *n = (size_t)len;
    if (!*bytes) {
        *n = 0;
        return RV_FAIL(e, RV_ENOMEM, "out of memory while encoding an image of %d x %d pixels",
                       im->w, im->h);
    }
    return RV_OK;
}

rv_status rv_image_save(const rv_image *im, const char *path, rv_err *e) {
    uint8_t *bytes;
    size_t n;
    RV_TRY(rv_image_png(&bytes, &n, im, e));
    rv_status s = rv_file_write(path, bytes, n, e);
    free(bytes);
    return s;
}
