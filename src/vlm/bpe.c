#include "bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "intr.h"
#include "json.h"
#include "mem.h"
#include "unicode.h"

struct rv_merge {
    uint64_t pair; // left id << 32 | right id; EMPTY: free slot
    uint32_t rank;
    int32_t id; // what the pair becomes
};
#define EMPTY UINT64_MAX

struct rv_symbol {
    int32_t id; // -1: merged into its left neighbour
    int32_t prev, next;
};

struct rv_heap_entry {
    uint64_t key; // rank << 32 | position: lowest rank first, then leftmost
    int32_t id;
};

// A direct-mapped cache: natural text repeats its words, and most words are short.
enum { CACHE_SLOTS = 1 << 13, CACHE_TEXT = 26, CACHE_IDS = 9 };
struct rv_bpe_cache {
    uint8_t n_text, n_ids; // n_text 0: free
    char text[CACHE_TEXT];
    int32_t ids[CACHE_IDS];
};

void rv_ids_add(rv_ids *ids, int32_t id) {
    if (ids->n == ids->cap && !ids->failed) {
        int64_t cap = ids->cap * 2 + 64;
        int32_t *p = rv_realloc(ids->p, cap, sizeof *p);
        ids->failed = !p;
        ids->p = p ? p : ids->p;
        ids->cap = p ? cap : ids->cap;
    }
    if (!ids->failed) {
        ids->p[ids->n++] = id;
    }
}

void rv_ids_free(rv_ids *ids) {
    free(ids->p);
    *ids = (rv_ids){0};
}

// ---- the merge table ----

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static struct rv_merge *find_merge(const rv_bpe *b, uint64_t pair) {
    uint64_t mask = (uint64_t)b->n_merge_slots - 1, h = pair * 0x9E3779B97F4A7C15u;
    uint64_t i = (h ^ h >> 32) & mask;
    while (b->merge[i].pair != pair && b->merge[i].pair != EMPTY) {
        i = (i + 1) & mask;
    }
    return &b->merge[i];
}

// The two halves of a merge: ["a", "b"], or "a b" with one space.
static bool merge_halves(const json_t *entry, const char *half[2], size_t n[2]) {
    if (json_is_array(entry) && json_array_size(entry) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *s = json_array_get(entry, i);
            half[i] = json_string_value(s);
            n[i] = json_string_length(s);
        }
        return half[0] && half[1];
    }
    const char *s = json_string_value(entry), *end = s + json_string_length(entry);
    const char *space = s ? memchr(s, ' ', (size_t)(end - s)) : NULL;
    if (!space || memchr(space + 1, ' ', (size_t)(end - space - 1))) {
        return false;
    }
    half[0] = s;
    n[0] = (size_t)(space - s);
    half[1] = space + 1;
    n[1] = (size_t)(end - space - 1);
    return true;
}

static rv_status read_merge(rv_bpe *b, const json_t *entry, size_t i, uint32_t rank, rv_err *e) {
    const char *half[2];
    size_t n[2];
    if (!merge_halves(entry, half, n)) {
        return RV_FAIL(e, RV_EFORMAT, "model.merges[%zu]: wanted \"a b\" or [\"a\", \"b\"]", i);
    }
    b->scratch.n = 0;
    rv_bytes_add(&b->scratch, half[0], n[0]);
    rv_bytes_add(&b->scratch, half[1], n[1]);
    if (b->scratch.failed) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory while reading merges");
    }
    int32_t left = rv_vocab_find(b->vocab, half[0], n[0]);
    int32_t right = rv_vocab_find(b->vocab, half[1], n[1]);
    int32_t both = rv_vocab_find(b->vocab, b->scratch.p ? b->scratch.p : "", b->scratch.n);
    if (left < 0 || right < 0 || both < 0) {
        const char *bad = left < 0 ? half[0] : right < 0 ? half[1] : b->scratch.p;
        size_t n_bad = left < 0 ? n[0] : right < 0 ? n[1] : b->scratch.n;
        return RV_FAIL(e, RV_EFORMAT, "model.merges[%zu]: token \"%.*s\" is not in the vocabulary",
                       i, (int)(n_bad < 80 ? n_bad : 80), bad ? bad : "");
    }
    struct rv_merge *m = find_merge(b, pair_of(left, right));
    *m = (struct rv_merge){pair_of(left, right), rank, both};
    return RV_OK;
}

static rv_status read_merges(rv_bpe *b, const json_t *merges, rv_err *e) {
    if (!json_is_array(merges)) {
        return RV_FAIL(e, RV_EFORMAT, "model.merges: wanted a list");
    }
    size_t n = json_array_size(merges), i;
    b->n_merge_slots = 16;
    while (b->n_merge_slots < (int64_t)(n + n / 2)) {
        b->n_merge_slots *= 2;
    }
    b->merge = rv_calloc(b->n_merge_slots, sizeof *b->merge);
    if (!b->merge) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for %zu merges", n);
    }
    for (int64_t k = 0; k < b->n_merge_slots; k++) {
        b->merge[k].pair = EMPTY;
    }
    const json_t *entry;
    uint32_t rank = 0;
    json_array_foreach(merges, i, entry) {
        const char *s = json_string_value(entry);
        if (s && strncmp(s, "#version", 8) == 0) {
            continue;
        }
        RV_TRY(read_merge(b, entry, i, rank++, e));
    }
    return RV_OK;
}

// ---- reading ----

// Options that this program does not have; each is fine when absent, null, empty or zero.
static rv_status check_options(const json_t *model, rv_err *e) {
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    RV_TRY(rv_json_string(model, "type", &type, e));
    if (strcmp(type, "BPE") != 0) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "tokenizer model \"%s\" is not known; BPE is", type);
    }
    RV_TRY(rv_json_string(model, "continuing_subword_prefix", &prefix, e));
    RV_TRY(rv_json_string(model, "end_of_word_suffix", &suffix, e));
    RV_TRY(rv_json_number(model, "dropout", &dropout, e));
    if (*prefix || *suffix || dropout != 0) {
        return RV_FAIL(e, RV_EUNSUPPORTED, "BPE with %s is not supported",
                       *prefix   ? "\"continuing_subword_prefix\""
                       : *suffix ? "\"end_of_word_suffix\""
                                 : "\"dropout\"");
    }
    return RV_OK;
}

static void find_byte_tokens(rv_bpe *b) {
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        b->fallback_id[i] = rv_vocab_find(b->vocab, text, 6);
        size_t n = rv_utf8_put(text, rv_byte_char((uint8_t)i));
        b->byte_id[i] = rv_vocab_find(b->vocab, text, n);
    }
}

// True when a piece can be cut into parts that are encoded by themselves: when what an unknown
// character becomes hangs on nothing around it, and takes part in no merge.
static bool parts_alone(const rv_bpe *b) {
    bool bytes = true, fallback = b->byte_fallback;
    for (int i = 0; i < 256; i++) {
        bytes = bytes && b->byte_id[i] >= 0;
        fallback = fallback && b->fallback_id[i] >= 0;
    }
    if (b->ignore_merges || b->byte_level) {
        return bytes && !b->ignore_merges;
    }
    return fallback || (!b->byte_fallback && b->unk >= 0 && !b->fuse_unk);
}

// True for the unknown token, and for a byte's where characters become those.
static bool is_unknown(const rv_bpe *b, int32_t id) {
    size_t n;
    const char *token = rv_vocab_text(b->vocab, id, &n);
    return id == b->unk || (b->byte_fallback && n == 6 && memcmp(token, "<0x", 3) == 0);
}

// Adds what a merge makes to the seams; false when it is not written in bytes.
static bool add_bytes(rv_bpe *b, const char *token, size_t n) {
    b->scratch.n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        i += rv_utf8_read(token + i, n - i, &cp);
        int byte = rv_char_byte(cp);
        if (byte < 0) {
            return false;
        }
        char c = (char)byte;
        rv_bytes_add(&b->scratch, &c, 1);
    }
    rv_seams_add_bytes(&b->seams, (const uint8_t *)b->scratch.p, b->scratch.n);
    return !b->scratch.failed;
}

rv_status rv_bpe_cut_pieces(rv_bpe *b, rv_err *e) {
    b->cuts = parts_alone(b);
    bool room = !b->cuts || !b->byte_level || rv_seams_reserve_bytes(&b->seams, b->vocab->text.n);
    for (int64_t i = 0; room && b->cuts && i < b->n_merge_slots; i++) {
        const struct rv_merge *m = &b->merge[i];
        if (m->pair == EMPTY) {
            continue;
        }
        size_t n;
        const char *token = rv_vocab_text(b->vocab, m->id, &n);
        if (b->byte_level) {
            b->cuts = add_bytes(b, token, n);
        } else {
            room = rv_seams_add(&b->seams, token, n);
            b->cuts = !is_unknown(b, (int32_t)(m->pair >> 32)) && !is_unknown(b, (int32_t)m->pair);
        }
    }
    return room ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory for the pairs of a vocabulary");
}

rv_status rv_bpe_read(rv_bpe *b, const json_t *model, const rv_vocab *vocab, rv_err *e) {
    *b = (rv_bpe){.vocab = vocab, .unk = -1};
    RV_TRY(check_options(model, e));
    RV_TRY(rv_json_bool(model, "byte_fallback", &b->byte_fallback, e));
    RV_TRY(rv_json_bool(model, "fuse_unk", &b->fuse_unk, e));
    RV_TRY(rv_json_bool(model, "ignore_merges", &b->ignore_merges, e));
    const char *unk = NULL;
    RV_TRY(rv_json_string(model, "unk_token", &unk, e));
    if (unk) {
        b->unk = rv_vocab_find(vocab, unk, strlen(unk));
        if (b->unk < 0) {
            return RV_FAIL(e, RV_EFORMAT, "model.unk_token: \"%s\" is not in the vocabulary", unk);
        }
    }
    find_byte_tokens(b);
    return read_merges(b, json_object_get(model, "merges"), e);
}

void rv_bpe_free(rv_bpe *b) {
    free(b->merge);
    rv_seams_free(&b->seams);
    free(b->cache);
    free(b->symbol);
    free(b->heap);
    rv_bytes_free(&b->scratch);
    *b = (rv_bpe){0};
}

// ---- the heap of possible merges ----

static void heap_push(rv_bpe *b, struct rv_heap_entry x) {
    int64_t i = b->heap_n++;
    for (; i > 0 && x.key < b->heap[(i - 1) / 2].key; i = (i - 1) / 2) {
        b->heap[i] = b->heap[(i - 1) / 2];
    }
    b->heap[i] = x;
}

static struct rv_heap_entry heap_pop(rv_bpe *b) {
    struct rv_heap_entry top = b->heap[0], last = b->heap[--b->heap_n];
    int64_t i = 0;
    for (int64_t child = 1; child < b->heap_n; child = 2 * i + 1) {
        child += child + 1 < b->heap_n && b->heap[child + 1].key < b->heap[child].key;
        if (last.key <= b->heap[child].key) {
            break;
        }
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

// Pushes the merge of symbol `at` and its right neighbour, if there is one.
static void push_pair(rv_bpe *b, int32_t at) {
    int32_t next = at < 0 ? -1 : b->symbol[at].next;
    if (next < 0) {
        return;
    }
    const struct rv_merge *m = find_merge(b, pair_of(b->symbol[at].id, b->symbol[next].id));
    if (m->pair != EMPTY) {
        heap_push(b, (struct rv_heap_entry){(uint64_t)m->rank << 32 | (uint32_t)at, m->id});
    }
}

static rv_status merge_all(rv_bpe *b, int32_t n, rv_err *e) {
    b->heap_n = 0;
    for (int32_t i = 0; i < n; i++) {
        push_pair(b, i);
    }
    for (uint32_t step = 1; b->heap_n > 0; step++) {
        struct rv_heap_entry top = heap_pop(b);
        int32_t at = (int32_t)(uint32_t)top.key, right = b->symbol[at].next;
        if (b->symbol[at].id < 0 || right < 0) {
            continue;
        }
        // The pair may have changed since it was pushed; what it becomes decides, as in the
        // original.
        const struct rv_merge *m = find_merge(b, pair_of(b->symbol[at].id, b->symbol[right].id));
        if (m->pair == EMPTY || m->id != top.id) {
            continue;
        }
        int32_t after = b->symbol[right].next;
        b->symbol[at].id = top.id;
        b->symbol[at].next = after;
        b->symbol[right].id = -1;
        if (after >= 0) {
            b->symbol[after].prev = at;
        }
        push_pair(b, b->symbol[at].prev);
        push_pair(b, at);
        if (step % 65536 == 0 && rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted while encoding text");
        }
    }
    return RV_OK;
}

// ---- symbols ----

static void add_symbol(rv_bpe *b, int32_t *n, int32_t id) {
    b->symbol[*n] = (struct rv_symbol){id, *n - 1, -1};
    if (*n > 0) {
        b->symbol[*n - 1].next = *n;
    }
    (*n)++;
}

// An unknown character: its bytes, or `unk` (held back while it may still grow).
static void add_unknown(rv_bpe *b, int32_t *n, const char *c, size_t len, bool *pending) {
    bool bytes = b->byte_fallback;
    for (size_t i = 0; i < len; i++) {
        bytes = bytes && b->fallback_id[(uint8_t)c[i]] >= 0;
    }
    if (bytes) {
        for (size_t i = 0; i < len; i++) {
            add_symbol(b, n, b->fallback_id[(uint8_t)c[i]]);
        }
    } else if (b->unk >= 0) {
        if (*pending && !b->fuse_unk) {
            add_symbol(b, n, b->unk);
        }
        *pending = true;
    }
}

// Splits a piece into symbols; returns their number. There is room for one symbol per byte and
// more.
static int32_t make_symbols(rv_bpe *b, const char *piece, size_t n) {
    int32_t count = 0;
    bool pending = false; // an `unk` not written yet
    for (size_t i = 0, len = 1; i < n; i += len) {
        uint32_t cp = 0;
        char mapped[4];
        const char *c = piece + i;
        size_t n_char = len = b->byte_level ? 1 : rv_utf8_read(piece + i, n - i, &cp);
        int32_t id = b->byte_level ? b->byte_id[(uint8_t)*c] : rv_vocab_find(b->vocab, c, len);
        if (id < 0) {
            if (b->byte_level) {
                n_char = rv_utf8_put(mapped, rv_byte_char((uint8_t)*c));
                c = mapped;
            }
            add_unknown(b, &count, c, n_char, &pending);
            continue;
        }
        if (pending) {
            add_symbol(b, &count, b->unk);
            pending = false;
        }
        add_symbol(b, &count, id);
    }
    if (pending) {
        add_symbol(b, &count, b->unk);
    }
    return count;
}

// Scratch for a piece of n bytes: an unknown byte of a byte-level piece can become two symbols.
static rv_status reserve(rv_bpe *b, size_t n, rv_err *e) {
    int64_t symbols = 2 * (int64_t)n + 1;
    if (symbols > b->symbol_cap) {
        int64_t cap = symbols + symbols / 2;
        struct rv_symbol *s = rv_realloc(b->symbol, cap, sizeof *s);
        b->symbol = s ? s : b->symbol;
        // Every symbol is pushed once, and every merge pushes two pairs.
        struct rv_heap_entry *h = s ? rv_realloc(b->heap, 3 * cap, sizeof *h) : NULL;
        if (!h) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory for a piece of %zu bytes", n);
        }
        b->heap = h;
        b->heap_cap = 3 * cap;
        b->symbol_cap = cap;
    }
    return RV_OK;
}

// ---- encoding ----

// The token that is the whole piece, or -1.
static int32_t whole_piece(rv_bpe *b, const char *piece, size_t n) {
    if (n > b->vocab->longest) {
        return -1;
    }
    if (!b->byte_level) {
        return rv_vocab_find(b->vocab, piece, n);
    }
    b->scratch.n = 0;
    for (size_t i = 0; i < n; i++) {
        char c[4];
        rv_bytes_add(&b->scratch, c, rv_utf8_put(c, rv_byte_char((uint8_t)piece[i])));
    }
    return b->scratch.failed ? -1 : rv_vocab_find(b->vocab, b->scratch.p, b->scratch.n);
}

static struct rv_bpe_cache *cache_slot(rv_bpe *b, const char *piece, size_t n) {
    if (n > CACHE_TEXT) {
        return NULL;
    }
    if (!b->cache) {
        b->cache = rv_calloc(CACHE_SLOTS, sizeof *b->cache);
    }
    return b->cache ? &b->cache[rv_hash_bytes(piece, n) % CACHE_SLOTS] : NULL;
}

static void cache_fill(struct rv_bpe_cache *c, const char *piece, size_t n, const int32_t *ids,
                       int64_t n_ids) {
    if (c && n_ids <= CACHE_IDS) {
        c->n_text = (uint8_t)n;
        c->n_ids = (uint8_t)n_ids;
        memcpy(c->text, piece, n);
        memcpy(c->ids, ids, (size_t)n_ids * sizeof *ids);
    }
}

static rv_status encode_part(rv_bpe *b, const char *piece, size_t n, rv_ids *out, rv_err *e) {
    struct rv_bpe_cache *c = cache_slot(b, piece, n);
    if (c && c->n_text == n && memcmp(c->text, piece, n) == 0) {
        for (int i = 0; i < c->n_ids; i++) {
            rv_ids_add(out, c->ids[i]);
        }
        return RV_OK;
    }
    int64_t before = out->n;
    int32_t whole = b->ignore_merges ? whole_piece(b, piece, n) : -1;
    if (whole >= 0) {
        rv_ids_add(out, whole);
    } else {
        RV_TRY(reserve(b, n, e));
        int32_t count = make_symbols(b, piece, n);
        RV_TRY(merge_all(b, count, e));
        for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = b->symbol[i].next) {
            rv_ids_add(out, b->symbol[i].id);
        }
    }
    if (out->failed) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for token ids");
    }
    if (out->n > before) {
        cache_fill(c, piece, n, out->p + before, out->n - before);
    }
    return RV_OK;
}

// The length of the part at the front of a piece. A piece of bytes that the cache can hold is
// looked up as a whole, when it begins like a word: scripts without blanks come in clauses, which
// repeat only in parts.
static size_t next_part(const rv_bpe *b, const char *piece, size_t n) {
    if (!b->cuts || (b->byte_level && n <= CACHE_TEXT && (uint8_t)piece[0] < 0x80)) {
        return n;
    }
    return b->byte_level ? rv_seams_cut_bytes(&b->seams, (const uint8_t *)piece, n)
                         : rv_seams_cut(&b->seams, piece, n);
}

rv_status rv_bpe_encode(rv_bpe *b, const char *piece, size_t n, rv_ids *out, rv_err *e) {
    uint32_t parts = 0;
    for (size_t at = 0, len; at < n; at += len) {
        len = next_part(b, piece + at, n - at);
        RV_TRY(encode_part(b, piece + at, len, out, e));
        if (++parts % 65536 == 0 && rv_interrupted()) {
            return RV_FAIL(e, RV_EINTERRUPT, "interrupted while encoding text");
        }
    }
    return RV_OK;
}
