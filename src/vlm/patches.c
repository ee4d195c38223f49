// patches.c - tiles of uint8 pixels as the normalised patches that a vision tower takes.
#include <string.h>

#include "processor_impl.h"

// One line of a patch in the three channels, `plane` numbers apart; pixels a .. b - 1 come from
// `from`, the others are black.
static void write_line(const rv_sink *s, float *to, int64_t plane, const uint8_t *from, int a,
                       int b) {
    for (int c = 0; c < 3; c++, to += plane) {
        const float *value = s->value[c];
        for (int x = 0; x < a; x++) {
            to[x] = value[0];
        }
        for (int x = a; x < b; x++) {
            to[x] = value[from[3 * (x - a) + c]];
        }
        for (int x = b; x < s->pw; x++) {
            to[x] = value[0];
        }
    }
}

static int clamp(int64_t v, int most) { return (int)(v < 0 ? 0 : v > most ? most : v); }

// The patch whose top left corner lies at (x, y) of the image.
static void write_patch(const rv_sink *s, float *to, const rv_image *im, int64_t x, int64_t y) {
    int64_t pixels = (int64_t)s->ph * s->pw, plane = s->temporal * pixels;
    int a = clamp(-x, s->pw), b = clamp(im->w - x, s->pw);
    for (int row = 0; row < s->ph; row++) {
        bool inside = y + row >= 0 && y + row < im->h && a < b;
        const uint8_t *from = inside ? rv_image_at(im, (int)(x + a), (int)(y + row)) : NULL;
        write_line(s, to + (int64_t)row * s->pw, plane, from, inside ? a : s->pw,
                   inside ? b : s->pw);
    }
    for (int c = 0; c < 3; c++) {
        for (int t = 1; t < s->temporal; t++) {
            memcpy(to + c * plane + t * pixels, to + c * plane, (size_t)pixels * sizeof *to);
        }
    }
}

// Place in the tower's order of the patch in row i, column j.
static int64_t place(const rv_sink *s, int64_t i, int64_t j) {
    int64_t m = s->merge;
    return (i / m * (s->w / m) + j / m) * m * m + i % m * m + j % m;
}

void rv_sink_tile(const rv_sink *s, int64_t tile, const rv_image *im, int64_t x, int64_t y) {
    int64_t k = (int64_t)3 * s->temporal * s->ph * s->pw;
    float *out = s->out + tile * s->h * s->w * k;
    for (int64_t i = 0; i < s->h; i++) {
        for (int64_t j = 0; j < s->w; j++) {
            write_patch(s, out + place(s, i, j) * k, im, x + j * s->pw, y + i * s->ph);
        }
    }
}
