// cards.h - playing cards: names, values and our own art at any size.
//
// A card is two letters, rank (A 2..9 T J Q K) and suit (C D H S): "TH" is the ten of hearts.
// The art is one big index over one big suit, in the middle of the card: a small model sees the
// whole index in one of its patches, wherever the tables of the card games put the card.
#pragma once

#include "canvas.h"
#include "font.h"

#define RV_CARD_RANKS "A23456789TJQK"
#define RV_CARD_SUITS "CDHS"

typedef struct {
    int rank; // 1 (ace) .. 13 (king)
    int suit; // index into RV_CARD_SUITS
} rv_card;

/// Reads a card's name. Errors: RV_EARG.
rv_status rv_card_parse(rv_card *card, const char *name, size_t n, rv_err *e);

/// Draws the face of a card onto a new transparent canvas of w x h pixels. Errors: RV_EARG,
/// RV_ENOMEM.
rv_status rv_card_face(rv_canvas *c, rv_card card, int64_t w, int64_t h, rv_font *bold,
                       rv_font *sans, rv_err *e);

/// Draws the back, which all cards share. Errors: as rv_card_face.
rv_status rv_card_back(rv_canvas *c, int64_t w, int64_t h, rv_err *e);
