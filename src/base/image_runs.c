// image_runs.c - a picture as runs of equal pixels: drawn frames take a hundredth of their bytes.
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "mem.h"

enum { RUN = 4, LONGEST = 255 }; // bytes: how often, R, G, B

static size_t run_length(const uint8_t *px, size_t left) {
    size_t n = 1;
    while (n < left && n < LONGEST && memcmp(px, px + 3 * n, 3) == 0) {
        n++;
    }
    return n;
}

bool rv_image_pack(const rv_image *im, uint8_t **runs, size_t *n) {
    const size_t pixels = rv_image_bytes(im) / 3;
    *n = 0;
    for (size_t i = 0; i < pixels; i += run_length(im->px + 3 * i, pixels - i)) {
        *n += RUN;
    }
    *runs = *n < rv_image_bytes(im) / 2 ? malloc(*n) : NULL;
    uint8_t *to = *runs;
    for (size_t i = 0, k; to && i < pixels; i += k, to += RUN) {
        k = run_length(im->px + 3 * i, pixels - i);
        to[0] = (uint8_t)k;
        memcpy(to + 1, im->px + 3 * i, 3);
    }
    return *runs != NULL;
}

rv_status rv_image_unpack(rv_image *im, int w, int h, const uint8_t *runs, size_t n, rv_err *e) {
    RV_TRY(rv_image_new(im, w, h, NULL, e));
    uint8_t *to = im->px;
    for (const uint8_t *r = runs; r < runs + n; r += RUN) {
        for (int i = 0; i < r[0]; i++, to += 3) {
            memcpy(to, r + 1, 3);
        }
    }
    return RV_OK;
}
