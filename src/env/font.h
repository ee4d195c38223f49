// font.h - text on a canvas, in the two typefaces that are built in (DejaVu Sans, and bold).
//
// (x, y) is the left end of the ascender line, as Pillow's anchor "la". Glyphs stand on whole
// pixels with whole advances, so that a digit looks the same wherever it stands. Text is UTF-8;
// bytes that are not show U+FFFD. "\n" begins a new line. Only the first RV_TEXT_MAX bytes count.
#pragma once

#include <stdbool.h>

#include "canvas.h"

#define RV_TEXT_MAX      65536
#define RV_TEXT_MIN_SIZE 1.0
#define RV_TEXT_MAX_SIZE 1024.0

typedef struct rv_font rv_font; // a typeface and the glyphs drawn lately

/// Makes a typeface ready. Errors: RV_ENOMEM.
rv_status rv_font_new(rv_font **f, bool bold, rv_err *e);
void rv_font_free(rv_font *f);

/// Draws text; `size` is the em in pixels. Errors: RV_EARG (a size outside the limits, a
/// coordinate that is not finite), RV_ENOMEM.
rv_status rv_font_draw(rv_font *f, rv_canvas *c, double x, double y, const char *text, size_t n,
                       double size, rv_color color, rv_err *e);

/// Measures text: the widest line's advance, and the lines' height. Errors: RV_EARG.
rv_status rv_font_measure(rv_font *f, const char *text, size_t n, double size, double *w, double *h,
                          rv_err *e);

/// Draws one line so that its ink stands in the middle of the box, as high as the box; it is
/// squeezed where it would be wider. Errors: RV_EARG (not finite, or over the size limit),
/// RV_ENOMEM.
rv_status rv_font_fit(rv_font *f, rv_canvas *c, const double box[4], const char *text, size_t n,
                      rv_color color, rv_err *e);
