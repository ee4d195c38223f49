#include "cards.h"

#include <math.h>
#include <string.h>

static const rv_color paper = {255, 255, 255, 255}, edge = {120, 120, 120, 255},
                      black = {20, 20, 24, 255}, red = {200, 16, 32, 255},
                      blue = {38, 70, 140, 255}, pale = {222, 230, 245, 255};

rv_status rv_card_parse(rv_card *card, const char *name, size_t n, rv_err *e) {
    const char *rank = n == 2 && name[0] ? strchr(RV_CARD_RANKS, name[0]) : NULL;
    const char *suit = n == 2 && name[1] ? strchr(RV_CARD_SUITS, name[1]) : NULL;
    if (!rank || !suit) {
        return RV_FAIL(e, RV_EARG,
                       "card: wanted a rank of " RV_CARD_RANKS " and a suit of " RV_CARD_SUITS
                       ", as in TH, got '%.*s'",
                       n > 16 ? 16 : (int)n, name);
    }
    *card = (rv_card){(int)(rank - RV_CARD_RANKS) + 1, (int)(suit - RV_CARD_SUITS)};
    return RV_OK;
}

// The sheet: an edge one pixel wide, paper inside it, round corners.
static rv_status sheet(rv_canvas *c, int64_t w, int64_t h, rv_err *e) {
    double radius = (double)(w < h ? w : h) * 0.08;
    RV_TRY(rv_canvas_new(c, w, h, (rv_color){0, 0, 0, 0}, e));
    RV_TRY(rv_canvas_rect(c, 0, 0, (double)w, (double)h, radius, edge, e));
    return rv_canvas_rect(c, 1, 1, (double)w - 2, (double)h - 2, fmax(0, radius - 1), paper, e);
}

static rv_status face(rv_canvas *c, rv_card card, int64_t width, int64_t height, rv_font *bold,
                      rv_font *sans, rv_err *e) {
    static const char *const suits[] = {"\u2663", "\u2666", "\u2665", "\u2660"};
    double w = (double)width, h = (double)height;
    char index[3] = {RV_CARD_RANKS[card.rank - 1], 0, 0};
    if (card.rank == 10) {
        memcpy(index, "10", 2);
    }
    rv_color ink = card.suit == 1 || card.suit == 2 ? red : black;
    double wide = card.rank == 10 ? 0.52 : 0.39; // of the card's width: two digits need the room
    double tall = card.rank == 11 || card.rank == 12 ? 0.42 : 0.39; // J and Q hang below the line
    // a little right of the middle, where the cells of the tables' frames cut the least
    const double top[4] = {w * ((1 - wide) / 2 + 0.01), h * 0.09, w * wide, h * tall};
    const double bottom[4] = {w * 0.2, h * 0.56, w * 0.6, h * 0.36};
    RV_TRY(sheet(c, width, height, e));
    RV_TRY(rv_font_fit(bold, c, top, index, strlen(index), ink, e));
    return rv_font_fit(sans, c, bottom, suits[card.suit], 3, ink, e);
}

rv_status rv_card_face(rv_canvas *c, rv_card card, int64_t w, int64_t h, rv_font *bold,
                       rv_font *sans, rv_err *e) {
    rv_status s = face(c, card, w, h, bold, sans, e);
    if (s != RV_OK) {
        rv_canvas_free(c);
    }
    return s;
}

// A blue field with a lattice of pale diamonds.
static rv_status back(rv_canvas *c, int64_t width, int64_t height, rv_err *e) {
    double w = (double)width, h = (double)height, margin = w * 0.07, radius = w * 0.05;
    RV_TRY(sheet(c, width, height, e));
    RV_TRY(rv_canvas_rect(c, margin, margin, w - 2 * margin, h - 2 * margin, radius, blue, e));
    enum { COLUMNS = 5, ROWS = 7 };
    double dx = (w - 4 * margin) / COLUMNS, dy = (h - 4 * margin) / ROWS;
    for (int j = 0; j < ROWS; j++) {
        for (int i = 0; i < COLUMNS; i++) {
            double x = 2 * margin + (i + 0.5) * dx, y = 2 * margin + (j + 0.5) * dy;
            double rx = dx * 0.36, ry = dy * 0.36;
            const double diamond[8] = {x, y - ry, x + rx, y, x, y + ry, x - rx, y};
            RV_TRY(rv_canvas_polygon(c, diamond, 4, pale, e));
        }
    }
    return RV_OK;
}

rv_status rv_card_back(rv_canvas *c, int64_t w, int64_t h, rv_err *e) {
    rv_status s = back(c, w, h, e);
    if (s != RV_OK) {
        rv_canvas_free(c);
    }
    return s;
}
