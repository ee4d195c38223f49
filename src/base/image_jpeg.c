// image_jpeg.c - JPEG files, decoded by libjpeg-turbo and shown as Pillow shows them.
//
// The library's defaults are Pillow's settings: the accurate integer transform, chroma enlarged by
// triangles. It warns where a file is torn or damaged and makes something up; here that is an
// error.
#include <setjmp.h>
#include <stdio.h> // jpeglib.h wants it

#include <jpeglib.h>

#include <jerror.h>

#include "image_source.h"

// Whoever asks for more scans wants to keep us busy: each of them goes over the whole image.
#define MAX_SCANS 500

// All that changes while a file is read.
typedef struct {
    struct jpeg_decompress_struct j;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf end;
    const rv_image_source *source;
    rv_image *out;
    rv_status status;
    rv_err *e;
} reader;

// Ends the reading.
static _Noreturn void leave(reader *r, rv_status status) {
    r->status = status;
    longjmp(r->end, 1);
}

static void want(reader *r, rv_status status) {
    if (status != RV_OK) {
        leave(r, status);
    }
}

// ---- what the library calls ----

static _Noreturn void on_error(j_common_ptr j) {
    reader *r = j->client_data;
    const rv_image_source *s = r->source;
    if (j->err->msg_code == JWRN_JPEG_EOF) {
        leave(r, RV_FAIL(r->e, RV_EFORMAT, "%s: truncated JPEG: no end marker in its %zu bytes",
                         s->name, s->n));
    }
    char why[JMSG_LENGTH_MAX];
    j->err->format_message(j, why);
    leave(r, RV_FAIL(r->e, j->err->msg_code == JERR_OUT_OF_MEMORY ? RV_ENOMEM : RV_EFORMAT,
                     "%s: bad JPEG: %s", s->name, why));
}

// Warnings have a level below zero. Three of them are about no pixel: padding between segments, an
// unknown version of JFIF and an unknown transform in Adobe's segment.
static void on_message(j_common_ptr j, int level) {
    int code = j->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_JFIF_MAJOR &&
        code != JWRN_ADOBE_XFORM) {
        on_error(j);
    }
}

static void on_progress(j_common_ptr j) {
    reader *r = j->client_data;
    if (r->j.input_scan_number > MAX_SCANS) {
        leave(r, RV_FAIL(r->e, RV_EFORMAT, "%s: bad JPEG: more than %d scans", r->source->name,
                         MAX_SCANS));
    }
}

// ---- header and pixels ----

static void read_header(reader *r) {
    const rv_image_source *s = r->source;
    jpeg_create_decompress(&r->j);
    r->j.progress = &r->progress;
    jpeg_mem_src(&r->j, s->p, s->n);
    jpeg_read_header(&r->j, TRUE);
    want(r, rv_image_check_size(s, "JPEG", r->j.image_width, r->j.image_height, r->e));
    if (r->j.arith_code) { // not every build of the library can
        leave(r, RV_FAIL(r->e, RV_EFORMAT, "%s: a JPEG with arithmetic coding: wanted Huffman's",
                         s->name));
    }
}

// A stored, inverted ink over black: Pillow's conversion (Convert.c).
static uint8_t ink(int stored, int black) {
    int x = (255 - stored) * black + 128;
    return (uint8_t)(black - (((x >> 8) + x) >> 8));
}

static void from_cmyk(uint8_t *rgb, const uint8_t *cmyk, int w) {
    for (int x = 0; x < w; x++, rgb += 3, cmyk += 4) {
        for (int c = 0; c < 3; c++) {
            rgb[c] = ink(cmyk[c], cmyk[3]);
        }
    }
}

static void read_pixels(reader *r) {
    struct jpeg_decompress_struct *j = &r->j;
    bool cmyk = j->num_components == 4;
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(j);
    rv_status status = rv_image_new(r->out, j->output_width, j->output_height, NULL, r->e);
    if (status != RV_OK) {
        rv_err_context(r->e, "%s", r->source->name);
        leave(r, status);
    }
    JSAMPARRAY inks = NULL; // freed with the library's other memory
    if (cmyk) {
        inks = j->mem->alloc_sarray((j_common_ptr)j, JPOOL_IMAGE, 4 * j->output_width, 1);
    }
    while (j->output_scanline < j->output_height) {
        uint8_t *rgb = rv_image_at(r->out, 0, (int)j->output_scanline);
        jpeg_read_scanlines(j, cmyk ? inks : &rgb, 1);
        if (cmyk) {
            from_cmyk(rgb, inks[0], r->out->w);
        }
    }
    jpeg_finish_decompress(j); // wants the end marker
}

// Here so that the reader is no local of the function that calls setjmp.
static void read_file(reader *r) {
    if (setjmp(r->end) == 0) {
        read_header(r);
        read_pixels(r);
    } else {
        rv_image_free(r->out);
    }
    jpeg_destroy_decompress(&r->j);
}

rv_status rv_image_jpeg(rv_image *out, const rv_image_source *s, rv_err *e) {
    *out = (rv_image){0, 0, NULL};
    reader r = {.source = s, .out = out, .status = RV_OK, .e = e};
    r.j.err = jpeg_std_error(&r.errors);
    r.j.client_data = &r;
    r.errors.error_exit = on_error;
    r.errors.emit_message = on_message;
    r.progress.progress_monitor = on_progress;
    read_file(&r);
    return r.status;
}
