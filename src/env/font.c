#include "font.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <stb_truetype.h>

#include "utf8.h"

extern const unsigned char rv_font_sans[], rv_font_bold[];

enum { SLOTS = 1024, KEEP_BELOW = 128 * 128 }; // drawn glyphs kept, and their largest area

typedef struct {
    int glyph; // -1: empty
    float sx, sy;
    int w, h, dx, dy;  // size, and offset from the pen on the baseline
    uint8_t *coverage; // (h, w), NULL when there is no ink
} drawn;

struct rv_font {
    stbtt_fontinfo info;
    int ascent, descent; // font units above and below (negative) the baseline
    drawn slots[SLOTS];
    drawn big; // the last glyph too large for the slots
};

rv_status rv_font_new(rv_font **f, bool bold, rv_err *e) {
    rv_font *p = *f = calloc(1, sizeof *p);
    if (!p) {
        return RV_FAIL(e, RV_ENOMEM, "font: no memory");
    }
    RV_ASSERT(stbtt_InitFont(&p->info, bold ? rv_font_bold : rv_font_sans, 0));
    int gap;
    stbtt_GetFontVMetrics(&p->info, &p->ascent, &p->descent, &gap);
    for (int i = 0; i < SLOTS; i++) {
        p->slots[i].glyph = -1;
    }
    p->big.glyph = -1;
    return RV_OK;
}

void rv_font_free(rv_font *f) {
    if (!f) {
        return;
    }
    for (int i = 0; i < SLOTS; i++) {
        free(f->slots[i].coverage);
    }
    free(f->big.coverage);
    free(f);
}

// Reads one character; what is no UTF-8 is one byte of U+FFFD. Returns its length.
static size_t next_char(const char *text, size_t n, uint32_t *code) {
    size_t len = rv_utf8_read(text, n, code);
    if (len == 0) {
        *code = 0xFFFD;
        return 1;
    }
    return len;
}

// The glyph at one scale, drawn or found; NULL when out of memory. Valid until the next call.
static const drawn *glyph_at(rv_font *f, int glyph, float sx, float sy) {
    uint32_t kx, ky;
    memcpy(&kx, &sx, 4);
    memcpy(&ky, &sy, 4);
    uint32_t hash = (uint32_t)glyph * 0x9E3779B1u ^ kx * 0x85EBCA6Bu ^ ky * 0xC2B2AE35u;
    int x0, y0, x1, y1;
    stbtt_GetGlyphBitmapBox(&f->info, glyph, sx, sy, &x0, &y0, &x1, &y1);
    drawn *d = (x1 - x0) * (y1 - y0) < KEEP_BELOW ? &f->slots[hash >> 22] : &f->big;
    if (d->glyph == glyph && d->sx == sx && d->sy == sy) {
        return d;
    }
    uint8_t *coverage = NULL;
    if (x1 > x0 && y1 > y0) {
        coverage = calloc((size_t)(x1 - x0), (size_t)(y1 - y0));
        if (!coverage) {
            return NULL;
        }
        stbtt_MakeGlyphBitmap(&f->info, coverage, x1 - x0, y1 - y0, x1 - x0, sx, sy, glyph);
    }
    free(d->coverage);
    *d = (drawn){glyph, sx, sy, x1 - x0, y1 - y0, x0, y0, coverage};
    return d;
}

static rv_status check_size(double size, rv_err *e) {
    if (!(size >= RV_TEXT_MIN_SIZE && size <= RV_TEXT_MAX_SIZE)) {
        return RV_FAIL(e, RV_EARG, "text: wanted a size from %g to %g pixels, got %g",
                       RV_TEXT_MIN_SIZE, RV_TEXT_MAX_SIZE, size);
    }
    return RV_OK;
}

static double advance_of(const rv_font *f, int glyph, double scale) {
    int advance, bearing;
    stbtt_GetGlyphHMetrics(&f->info, glyph, &advance, &bearing);
    return floor(advance * scale + 0.5);
}

rv_status rv_font_draw(rv_font *f, rv_canvas *c, double x, double y, const char *text, size_t n,
                       double size, rv_color color, rv_err *e) {
    RV_TRY(check_size(size, e));
    if (!isfinite(x) || !isfinite(y)) {
        return RV_FAIL(e, RV_EARG, "text: position (%g, %g), wanted finite numbers", x, y);
    }
    const double far = 1e7, scale = stbtt_ScaleForMappingEmToPixels(&f->info, (float)size);
    double left = floor(fmax(-far, fmin(far, x)) + 0.5), pen = left;
    double base = floor(fmax(-far, fmin(far, y)) + 0.5) + ceil(f->ascent * scale);
    double line = ceil(f->ascent * scale) + ceil(-f->descent * scale);
    n = n > RV_TEXT_MAX ? RV_TEXT_MAX : n;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += next_char(text + i, n - i, &code);
        if (code == '\n') {
            pen = left;
            base += line;
            continue;
        }
        int glyph = stbtt_FindGlyphIndex(&f->info, (int)code);
        double next = pen + advance_of(f, glyph, scale);
        bool near =
            next + size >= 0 && pen - size <= c->w && base + size >= 0 && base - 2 * size <= c->h;
        const drawn *d = near ? glyph_at(f, glyph, (float)scale, (float)scale) : NULL;
        if (near && !d) {
            return RV_FAIL(e, RV_ENOMEM, "text: no memory for a glyph");
        }
        if (d && d->coverage) {
            rv_canvas_stencil(c, d->coverage, d->w, d->h, (int64_t)pen + d->dx,
                              (int64_t)base + d->dy, color);
        }
        pen = next;
    }
    return RV_OK;
}

rv_status rv_font_measure(rv_font *f, const char *text, size_t n, double size, double *w, double *h,
                          rv_err *e) {
    RV_TRY(check_size(size, e));
    double scale = stbtt_ScaleForMappingEmToPixels(&f->info, (float)size);
    double line = ceil(f->ascent * scale) + ceil(-f->descent * scale), pen = 0;
    *w = 0;
    *h = line;
    n = n > RV_TEXT_MAX ? RV_TEXT_MAX : n;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += next_char(text + i, n - i, &code);
        if (code == '\n') {
            pen = 0;
            *h += line;
        } else {
            pen += advance_of(f, stbtt_FindGlyphIndex(&f->info, (int)code), scale);
        }
        *w = fmax(*w, pen);
    }
    return RV_OK;
}

// The ink of one line in font units: left, bottom, right, top; false when there is none.
static bool ink_of(const rv_font *f, const char *text, size_t n, int box[4]) {
    int pen = 0;
    bool any = false;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += next_char(text + i, n - i, &code);
        int glyph = stbtt_FindGlyphIndex(&f->info, (int)code), b[4], advance, bearing;
        if (stbtt_GetGlyphBox(&f->info, glyph, &b[0], &b[1], &b[2], &b[3])) {
            b[0] += pen;
            b[2] += pen;
            for (int k = 0; k < 4; k++) {
                bool wider = k < 2 ? b[k] < box[k] : b[k] > box[k];
                box[k] = !any || wider ? b[k] : box[k];
            }
            any = true;
        }
        stbtt_GetGlyphHMetrics(&f->info, glyph, &advance, &bearing);
        pen += advance;
    }
    return any;
}

rv_status rv_font_fit(rv_font *f, rv_canvas *c, const double box[4], const char *text, size_t n,
                      rv_color color, rv_err *e) {
    for (int k = 0; k < 4; k++) {
        if (!isfinite(box[k]) || fabs(box[k]) > 1e6 || (k > 1 && box[k] > RV_TEXT_MAX_SIZE)) {
            return RV_FAIL(e, RV_EARG, "text: box side %d is %g", k + 1, box[k]);
        }
    }
    int ink[4];
    n = n > 64 ? 64 : n;
    if (box[2] <= 0 || box[3] <= 0 || !ink_of(f, text, n, ink)) {
        return RV_OK;
    }
    double sy = box[3] / (ink[3] - ink[1]), sx = fmin(sy, box[2] / (ink[2] - ink[0]));
    double left = box[0] + (box[2] - sx * (ink[2] - ink[0])) / 2 - sx * ink[0];
    double base = floor(box[1] + sy * ink[3] + 0.5);
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += next_char(text + i, n - i, &code);
        int glyph = stbtt_FindGlyphIndex(&f->info, (int)code), advance, bearing;
        const drawn *d = glyph_at(f, glyph, (float)sx, (float)sy);
        if (!d) {
            return RV_FAIL(e, RV_ENOMEM, "text: no memory for a glyph");
        }
        if (d->coverage) {
            rv_canvas_stencil(c, d->coverage, d->w, d->h, (int64_t)floor(left + 0.5) + d->dx,
                              (int64_t)base + d->dy, color);
        }
        stbtt_GetGlyphHMetrics(&f->info, glyph, &advance, &bearing);
        left += advance * sx;
    }
    return RV_OK;
}
