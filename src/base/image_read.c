// image_read.c - images from files: which format; PNG and BMP. (JPEG: image_jpeg.c)
//
// stb_image decodes, but it forgives much: it skips checksums and reads zeros past the end of a
// torn file. So the structure of the file is checked first, which also gives messages that name the
// place.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "image_source.h"

// No single buffer of a decoder is larger than this: a small file cannot unpack to the whole
// memory.
#define MAX_BUFFER ((size_t)1 << 30)

static void *limited_realloc(void *p, size_t n) { return n > MAX_BUFFER ? NULL : realloc(p, n); }

#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_MALLOC(n)      limited_realloc(NULL, (n))
#define STBI_REALLOC(p, n)  limited_realloc((p), (n))
#define STBI_FREE(p)        free(p)
#define STBI_MAX_DIMENSIONS RV_IMAGE_MAX_SIDE
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
// stb declares more than it defines under these settings; gcc says so at the end of the file.
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>

static uint32_t be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t le32(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

// CRC-32 of PNG chunks (ISO 3309), four bits at a time: the table fits in a cache line.
static uint32_t crc32(const uint8_t *p, size_t n) {
    static const uint32_t table[16] = {0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC,
                                       0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
                                       0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
                                       0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        c = c >> 4 ^ table[c & 15];
        c = c >> 4 ^ table[c & 15];
    }
    return ~c;
}

rv_status rv_image_check_size(const rv_image_source *s, const char *format, int64_t w, int64_t h,
                              rv_err *e) {
    if (w < 1 || h < 1 || w > RV_IMAGE_MAX_SIDE || h > RV_IMAGE_MAX_SIDE) {
        return RV_FAIL(e, RV_EFORMAT, "%s: a %s of %lld x %lld pixels: wanted sides from 1 to %d",
                       s->name, format, (long long)w, (long long)h, RV_IMAGE_MAX_SIDE);
    }
    if (w * h > RV_IMAGE_MAX_PIXELS) {
        return RV_FAIL(e, RV_EFORMAT, "%s: a %s of %lld x %lld pixels: wanted at most %d pixels",
                       s->name, format, (long long)w, (long long)h, RV_IMAGE_MAX_PIXELS);
    }
    return RV_OK;
}

// Walks the chunks of a PNG up to IEND: all lengths inside the file, all checksums right.
static rv_status check_png(const rv_image_source *s, rv_err *e) {
    size_t at = 8;
    for (;;) {
        if (s->n - at < 12) {
            return RV_FAIL(e, RV_EFORMAT, "%s: truncated PNG: no IEND chunk in its %zu bytes",
                           s->name, s->n);
        }
        size_t len = be32(s->p + at);
        char type[5] = {0};
        for (int i = 0; i < 4; i++) {
            uint8_t c = s->p[at + 4 + (size_t)i];
            type[i] = (char)(c > 32 && c < 127 ? c : '?');
        }
        if (len > s->n - at - 12) {
            return RV_FAIL(e, RV_EFORMAT,
                           "%s: truncated PNG: chunk %s at byte %zu wants %zu bytes, %zu are left",
                           s->name, type, at, len, s->n - at - 12);
        }
        if (crc32(s->p + at + 4, len + 4) != be32(s->p + at + 8 + len)) {
            return RV_FAIL(e, RV_EFORMAT, "%s: damaged PNG: wrong checksum of chunk %s at byte %zu",
                           s->name, type, at);
        }
        if (strcmp(type, "IEND") == 0) {
            return RV_OK;
        }
        if (strcmp(type, "IHDR") == 0 && len >= 8) {
            RV_TRY(rv_image_check_size(s, "PNG", be32(s->p + at + 8), be32(s->p + at + 12), e));
        }
        at += len + 12;
    }
}

// Wants all uncompressed rows of a BMP inside the file.
static rv_status check_bmp(const rv_image_source *s, rv_err *e) {
    if (s->n < 54 || le32(s->p + 14) < 40) {
        return RV_FAIL(e, RV_EFORMAT, "%s: truncated or old BMP: wanted a header of 54 bytes",
                       s->name);
    }
    uint64_t start = le32(s->p + 10), bits = le32(s->p + 28) & 0xFFFF;
    int64_t w = (int32_t)le32(s->p + 18), h = (int32_t)le32(s->p + 22);
    h = h < 0 ? -h : h;
    RV_TRY(rv_image_check_size(s, "BMP", w, h, e));
    uint64_t need = start + ((uint64_t)w * bits + 31) / 32 * 4 * (uint64_t)h;
    if (need > s->n) {
        return RV_FAIL(e, RV_EFORMAT, "%s: truncated BMP: wanted %llu bytes, found %zu", s->name,
                       (unsigned long long)need, s->n);
    }
    return RV_OK;
}

static bool starts(const rv_image_source *s, const char *magic, size_t n) {
    return s->n >= n && memcmp(s->p, magic, n) == 0;
}

// A format that is known but not read, by its first bytes; NULL when there is no telling.
static const char *foreign(const rv_image_source *s) {
    return starts(s, "GIF8", 4)                                                     ? "a GIF image"
           : starts(s, "RIFF", 4) && s->n >= 12 && memcmp(s->p + 8, "WEBP", 4) == 0 ? "a WebP image"
           : starts(s, "II*\0", 4) || starts(s, "MM\0*", 4)                         ? "a TIFF image"
           : starts(s, "8BPS", 4)                           ? "a Photoshop file"
           : starts(s, "%PDF", 4)                           ? "a PDF file"
           : s->n >= 12 && memcmp(s->p + 4, "ftyp", 4) == 0 ? "an AVIF, HEIC or MP4 file"
                                                            : NULL;
}

static rv_status check_format(const rv_image_source *s, const char **format, rv_err *e) {
    if (s->n == 0) {
        return RV_FAIL(e, RV_EFORMAT, "%s: empty: wanted a PNG, JPEG or BMP image", s->name);
    }
    if (s->n > INT_MAX) {
        return RV_FAIL(e, RV_EFORMAT, "%s: %zu bytes are too many for an image", s->name, s->n);
    }
    if (starts(s, "\x89PNG\r\n\x1a\n", 8)) {
        *format = "PNG";
        return check_png(s, e);
    }
    if (starts(s, "\xff\xd8\xff", 3)) {
        *format = "JPEG"; // checks itself
        return RV_OK;
    }
    if (starts(s, "BM", 2)) {
        *format = "BMP";
        return check_bmp(s, e);
    }
    const char *other = foreign(s);
    return RV_FAIL(e, RV_EFORMAT, "%s: %s: wanted a PNG, JPEG or BMP image", s->name,
                   other ? other : "unknown format");
}

// A BMP of 32 bits without masks has no alpha, whatever stb_image makes of the fourth byte.
static bool has_spare_byte(const rv_image_source *s) {
    return starts(s, "BM", 2) && (le32(s->p + 28) & 0xFFFF) == 32 && le32(s->p + 30) == 0;
}

// Composites one channel on white as Pillow's alpha_composite does: 7 extra bits, then a rounded
// division by 255.
static uint8_t on_white(uint32_t c, uint32_t alpha) {
    uint32_t x = (c * alpha + 255 * (255 - alpha) + 128) << 7;
    return (uint8_t)(((x >> 8) + x) >> 15);
}

static void flatten(rv_image *out, const uint8_t *src, int channels) {
    int64_t n = (int64_t)out->w * out->h;
    if (channels == 3) {
        memcpy(out->px, src, (size_t)n * 3);
        return;
    }
    for (int64_t i = 0; i < n; i++, src += channels) {
        for (int c = 0; c < 3; c++) {
            uint8_t v = src[channels < 3 ? 0 : c];
            out->px[3 * i + c] = channels % 2 ? v : on_white(v, src[channels - 1]);
        }
    }
}

// Decodes a PNG or BMP file whose structure is checked.
static rv_status decode(rv_image *out, const rv_image_source *s, const char *format, rv_err *e) {
    int w = 0, h = 0, channels = 0, wanted = has_spare_byte(s) ? 3 : 0;
    uint8_t *px = stbi_load_from_memory(s->p, (int)s->n, &w, &h, &channels, wanted);
    if (!px) {
        return RV_FAIL(e, RV_EFORMAT, "%s: bad %s: %s", s->name, format, stbi_failure_reason());
    }
    rv_status st = rv_image_new(out, w, h, NULL, e);
    if (st == RV_OK) {
        flatten(out, px, wanted ? wanted : channels);
    } else {
        rv_err_context(e, "%s", s->name);
    }
    stbi_image_free(px);
    return st;
}

rv_status rv_image_decode(rv_image *out, const void *bytes, size_t n, const char *name, bool exif,
                          rv_err *e) {
    *out = (rv_image){0, 0, NULL};
    rv_image_source s = {bytes, n, name};
    const char *format = NULL;
    RV_TRY(check_format(&s, &format, e));
    if (strcmp(format, "JPEG") == 0) {
        RV_TRY(rv_image_jpeg(out, &s, e));
    } else {
        RV_TRY(decode(out, &s, format, e));
    }
    return exif ? rv_image_orient(out, rv_image_orientation(bytes, n), e) : RV_OK;
}

rv_status rv_image_load(rv_image *out, const char *path, bool exif, rv_err *e) {
    *out = (rv_image){0, 0, NULL};
    rv_map m;
    RV_TRY(rv_map_open(&m, path, e));
    rv_status s = rv_image_decode(out, m.data, m.size, path, exif, e);
    rv_map_close(&m);
    return s;
}
