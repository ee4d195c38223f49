// canvas.h - pictures drawn by environments: shapes with smooth edges, text, sprites.
//
// A canvas is RGBA with the colours multiplied by alpha, so a transparent canvas is a sprite that
// another one composites. Coordinates are pixels from the top left, and may be fractions; whatever
// lies outside is clipped, and the work of a call is bounded by the canvas and by the points given.
#pragma once

#include <stdint.h>

#include "err.h"
#include "image.h"

typedef struct {
    int w, h;    // both at least 1; 0 x 0 is "no canvas"
    uint8_t *px; // (h, w, 4), premultiplied
} rv_canvas;

typedef struct {
    uint8_t r, g, b, a; // a = 255 is opaque; r, g, b are not premultiplied
} rv_color;

/// Makes a canvas filled with one colour. Errors: RV_EARG (sides as rv_image_new), RV_ENOMEM.
rv_status rv_canvas_new(rv_canvas *c, int64_t w, int64_t h, rv_color color, rv_err *e);

/// Frees the pixels; `c` becomes "no canvas". Freeing that again does nothing.
void rv_canvas_free(rv_canvas *c);

/// Makes `c` a canvas that holds an image.
rv_status rv_canvas_from_image(rv_canvas *c, const rv_image *im, rv_err *e);

/// Makes `im` the picture on the canvas; what is transparent shows black.
rv_status rv_canvas_to_image(const rv_canvas *c, rv_image *im, rv_err *e);

/// Fills the polygon through `n` points (x0, y0, x1, y1, ...; not zero winding for simple ones).
/// Errors: RV_EARG (a coordinate that is not finite), RV_ENOMEM.
rv_status rv_canvas_polygon(rv_canvas *c, const double *xy, int64_t n, rv_color color, rv_err *e);

/// Fills a rectangle, with corners rounded by `radius` (at most half a side). Errors: as polygon.
rv_status rv_canvas_rect(rv_canvas *c, double x, double y, double w, double h, double radius,
                         rv_color color, rv_err *e);

/// Fills an ellipse around (x, y). Errors: as polygon.
rv_status rv_canvas_ellipse(rv_canvas *c, double x, double y, double rx, double ry, rv_color color,
                            rv_err *e);

/// Draws a straight line of a given width with flat ends. Errors: as polygon.
rv_status rv_canvas_line(rv_canvas *c, double x0, double y0, double x1, double y1, double width,
                         rv_color color, rv_err *e);

/// Composites `src`, scaled by `opacity` (0..255), with its top left at (x, y).
void rv_canvas_blit(rv_canvas *c, const rv_canvas *src, int64_t x, int64_t y, uint8_t opacity);

/// Blends `color` into the pixels through a coverage map (h, w) with its top left at (x, y).
void rv_canvas_stencil(rv_canvas *c, const uint8_t *coverage, int w, int h, int64_t x, int64_t y,
                       rv_color color);
