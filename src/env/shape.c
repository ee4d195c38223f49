// shape.c - fills shapes with the exact area that they cover of every pixel.
//
// Each edge adds to a map, in the pixels that it crosses, the change of coverage that it causes
// for all pixels right of it; running sums along the rows then give the coverage.
#include <math.h>
#include <stdlib.h>

#include "canvas.h"

typedef struct {
    int x, y, w, h; // the map's place on the canvas
    float *delta;   // (h, w + 2)
} coverage;

static double clampd(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

// The point at `t` of the way from a to b, never beyond them.
static double between(double a, double b, double t) {
    return clampd(a + (b - a) * t, fmin(a, b), fmax(a, b));
}

// Adds the piece of an edge that lies in one row: from (x0, row) to (x1, row), `dy` high (signed).
static void add_in_row(const coverage *m, float *row, double x0, double x1, double dy) {
    if (x0 > x1) {
        double t = x0;
        x0 = x1;
        x1 = t;
    }
    int first = (int)x0, last = (int)x1;
    if (first >= m->w) {
        return; // changes nothing on the map
    }
    if (first == last) {
        double right = 1 - ((x0 + x1) / 2 - first); // share of the first pixel right of the edge
        row[first] += (float)(dy * right);
        row[first + 1] += (float)(dy * (1 - right));
        return;
    }
    double slope = dy / (x1 - x0), before = 0; // `before`: coverage change up to the last pixel
    for (int i = first; i <= last && i < m->w; i++) {
        double a = i == first ? x0 : i, b = i == last ? x1 : i + 1.0;
        // what the pixel sees of the pieces that began in earlier pixels, and of its own piece
        double own = slope * (b - a), seen = slope * (a - x0) + own * (i + 1 - (a + b) / 2);
        row[i] += (float)(seen - before);
        before = seen;
    }
    if (last < m->w) {
        row[last + 1] += (float)(dy - before);
    }
}

// Adds an edge whose x lies within the map's columns 0..w and y within its rows.
static void add_edge(const coverage *m, double x0, double y0, double x1, double y1) {
    double sign = 1;
    if (y0 > y1) {
        double t = x0;
        x0 = x1;
        x1 = t;
        t = y0;
        y0 = y1;
        y1 = t;
        sign = -1;
    }
    for (int r = (int)y0; r < m->h && r < y1; r++) {
        double a = y0 > r ? y0 : r, b = y1 < r + 1.0 ? y1 : r + 1.0;
        double xa = between(x0, x1, (a - y0) / (y1 - y0));
        double xb = between(x0, x1, (b - y0) / (y1 - y0));
        add_in_row(m, m->delta + (size_t)r * (size_t)(m->w + 2), xa, xb, sign * (b - a));
    }
}

// Cuts an edge at the left border, then at the right one, and adds the pieces; what lies left of
// the map acts from column 0.
static void add_columns(const coverage *m, double x0, double y0, double x1, double y1, int cuts) {
    if (cuts == 2) {
        if (y0 != y1) {
            add_edge(m, clampd(x0, 0, m->w), y0, clampd(x1, 0, m->w), y1);
        }
        return;
    }
    double border = cuts == 0 ? 0 : m->w;
    if ((x0 < border) != (x1 < border)) {
        double y = between(y0, y1, (border - x0) / (x1 - x0));
        add_columns(m, x0, y0, border, y, cuts + 1);
        add_columns(m, border, y, x1, y1, cuts + 1);
    } else {
        add_columns(m, x0, y0, x1, y1, cuts + 1);
    }
}

// Cuts an edge (in map coordinates) at the top and the bottom, then at the sides.
static void add_clipped(const coverage *m, double x0, double y0, double x1, double y1) {
    double cy0 = clampd(y0, 0, m->h), cy1 = clampd(y1, 0, m->h);
    if (cy0 == cy1) {
        return;
    }
    double t0 = (cy0 - y0) / (y1 - y0), t1 = (cy1 - y0) / (y1 - y0);
    add_columns(m, between(x0, x1, t0), cy0, between(x0, x1, t1), cy1, 0);
}

// The part of the polygon's bounding box that lies on the canvas; false when there is none.
static bool bounds(coverage *m, const rv_canvas *c, const double *xy, int64_t n) {
    double x0 = xy[0], x1 = xy[0], y0 = xy[1], y1 = xy[1];
    for (int64_t i = 1; i < n; i++) {
        x0 = fmin(x0, xy[2 * i]);
        x1 = fmax(x1, xy[2 * i]);
        y0 = fmin(y0, xy[2 * i + 1]);
        y1 = fmax(y1, xy[2 * i + 1]);
    }
    m->x = (int)clampd(floor(x0), 0, c->w);
    m->y = (int)clampd(floor(y0), 0, c->h);
    m->w = (int)clampd(ceil(x1), 0, c->w) - m->x;
    m->h = (int)clampd(ceil(y1), 0, c->h) - m->y;
    return m->w > 0 && m->h > 0;
}

static void paint(rv_canvas *c, const coverage *m, rv_color color, uint8_t *line) {
    for (int j = 0; j < m->h; j++) {
        const float *row = m->delta + (size_t)j * (size_t)(m->w + 2);
        float sum = 0;
        for (int i = 0; i < m->w; i++) {
            sum += row[i];
            float a = fabsf(sum);
            line[i] = (uint8_t)((a > 1 ? 1 : a) * 255 + 0.5f);
        }
        rv_canvas_stencil(c, line, m->w, 1, m->x, m->y + j, color);
    }
}

rv_status rv_canvas_polygon(rv_canvas *c, const double *xy, int64_t n, rv_color color, rv_err *e) {
    const double far = 1e7; // farther points are pulled in, so that differences stay exact enough
    for (int64_t i = 0; i < 2 * n; i++) {
        if (!isfinite(xy[i])) {
            return RV_FAIL(e, RV_EARG, "canvas: coordinate %lld is %g, wanted a finite number",
                           (long long)i + 1, xy[i]);
        }
    }
    coverage m;
    if (n < 3 || !bounds(&m, c, xy, n)) {
        return RV_OK;
    }
    m.delta = calloc((size_t)m.h * (size_t)(m.w + 2), sizeof *m.delta);
    uint8_t *line = malloc((size_t)m.w);
    if (m.delta && line) {
        for (int64_t i = 0; i < n; i++) {
            const double *p = xy + 2 * i, *q = xy + (i + 1 < n ? 2 * (i + 1) : 0);
            add_clipped(&m, clampd(p[0], -far, far) - m.x, clampd(p[1], -far, far) - m.y,
                        clampd(q[0], -far, far) - m.x, clampd(q[1], -far, far) - m.y);
        }
        paint(c, &m, color, line);
    }
    bool done = m.delta && line;
    free(m.delta);
    free(line);
    return done ? RV_OK : RV_FAIL(e, RV_ENOMEM, "canvas: no memory for a shape");
}

enum { QUARTER = 16 }; // straight pieces of a quarter circle

// The unit circle's quarter from (1, 0) to (0, 1): angles by halving, so no libm beyond sqrt.
static void quarter(double cs[QUARTER + 1][2]) {
    cs[0][0] = cs[QUARTER][1] = 1;
    cs[0][1] = cs[QUARTER][0] = 0;
    for (int step = QUARTER; step > 1; step /= 2) {
        for (int i = step / 2; i < QUARTER; i += step) {
            double x = cs[i - step / 2][0] + cs[i + step / 2][0];
            double y = cs[i - step / 2][1] + cs[i + step / 2][1], r = sqrt(x * x + y * y);
            cs[i][0] = x / r;
            cs[i][1] = y / r;
        }
    }
}

// A box whose corners are quarter ellipses of radii rx, ry around four centres.
static rv_status rounded(rv_canvas *c, const double box[4], double rx, double ry, rv_color color,
                         rv_err *e) {
    double cs[QUARTER + 1][2], xy[4 * (QUARTER + 1)][2];
    const double cx[4] = {box[2] - rx, box[0] + rx, box[0] + rx, box[2] - rx};
    const double cy[4] = {box[3] - ry, box[3] - ry, box[1] + ry, box[1] + ry};
    quarter(cs);
    for (int q = 0, n = 0; q < 4; q++) {
        for (int i = 0; i <= QUARTER; i++, n++) {
            double u = cs[i][0], v = cs[i][1]; // turned by q right angles
            double du = q == 0 ? u : q == 1 ? -v : q == 2 ? -u : v;
            double dv = q == 0 ? v : q == 1 ? u : q == 2 ? -v : -u;
            xy[n][0] = cx[q] + rx * du;
            xy[n][1] = cy[q] + ry * dv;
        }
    }
    return rv_canvas_polygon(c, xy[0], 4 * (QUARTER + 1), color, e);
}

rv_status rv_canvas_rect(rv_canvas *c, double x, double y, double w, double h, double radius,
                         rv_color color, rv_err *e) {
    const double box[4] = {x, y, x + w, y + h};
    if (radius > 0 && w > 0 && h > 0) {
        double r = fmin(radius, fmin(w, h) / 2);
        return rounded(c, box, r, r, color, e);
    }
    const double xy[8] = {box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]};
    return rv_canvas_polygon(c, xy, 4, color, e);
}

rv_status rv_canvas_ellipse(rv_canvas *c, double x, double y, double rx, double ry, rv_color color,
                            rv_err *e) {
    const double box[4] = {x - rx, y - ry, x + rx, y + ry};
    return rounded(c, box, rx, ry, color, e);
}

rv_status rv_canvas_line(rv_canvas *c, double x0, double y0, double x1, double y1, double width,
                         rv_color color, rv_err *e) {
    double dx = x1 - x0, dy = y1 - y0, length = sqrt(dx * dx + dy * dy);
    if (length == 0) {
        return RV_OK;
    }
    double px = -dy / length * width / 2, py = dx / length * width / 2;
    const double xy[8] = {x0 + px, y0 + py, x1 + px, y1 + py, x1 - px, y1 - py, x0 - px, y0 - py};
    return rv_canvas_polygon(c, xy, 4, color, e);
}
