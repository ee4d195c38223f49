// tensor_print.c - rl4vlm.tensor: tensors as text, in the field's form.
//
//     tensor([[1.0000, 2.5000],
//             [3.0000, 4.0000]])
//
// Above 1000 elements each dim shows its first and last three. The dtype is named unless it is what
// a list of such numbers gives (f32, i64, bool).
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bind_tensor.h"
#include "elementwise.h"

enum { EDGE = 3, SUMMARY = 1000, LINE = 80 };

typedef struct {
    const rv_tensor *x;
    const float *f; // all elements, or NULL
    const int64_t *i;
    bool summary;
    int width, decimals;
    bool whole, scientific;
} printer;

static int format_one(const printer *p, int64_t at, char *s, size_t n) {
    if (!p->f) {
        return p->x->type == RV_BOOL ? snprintf(s, n, "%s", p->i[at] ? "true" : "false")
                                     : snprintf(s, n, "%lld", (long long)p->i[at]);
    }
    double v = (double)p->f[at];
    if (!isfinite(v)) {
        return snprintf(s, n, "%s", v != v ? "nan" : v > 0 ? "inf" : "-inf");
    }
    if (p->scientific) {
        return snprintf(s, n, "%.4e", v);
    }
    return p->whole ? snprintf(s, n, "%.0f.", v) : snprintf(s, n, "%.4f", v);
}

// True for positions of dim d that a summary leaves out.
static bool skipped(const printer *p, int d, int64_t j) {
    return p->summary && p->x->dim[d] > 2 * EDGE && j >= EDGE && j < p->x->dim[d] - EDGE;
}

// Calls `visit` for each element shown below dim d.
static void each_shown(printer *p, int d, int64_t at, void (*visit)(printer *, int64_t)) {
    if (d == p->x->ndim) {
        visit(p, at);
        return;
    }
    for (int64_t j = 0; j < p->x->dim[d]; j++) {
        if (skipped(p, d, j)) {
            j = p->x->dim[d] - EDGE;
        }
        each_shown(p, d + 1, at * p->x->dim[d] + j, visit);
    }
}

typedef struct {
    printer p;
    double least, most; // magnitudes of finite elements that are not 0
} survey;

static void look(printer *p, int64_t at) {
    survey *s = (survey *)p;
    double v = p->f ? fabs((double)p->f[at]) : 0;
    if (!p->f || !isfinite(v)) {
        return;
    }
    p->whole = p->whole && v == floor(v);
    if (v > 0) {
        s->least = v < s->least ? v : s->least;
        s->most = v > s->most ? v : s->most;
    }
}

static void widen(printer *p, int64_t at) {
    char s[64];
    int n = format_one(p, at, s, sizeof s);
    p->width = n > p->width ? n : p->width;
}

static void indent(luaL_Buffer *b, int n) {
    for (int i = 0; i < n; i++) {
        luaL_addchar(b, ' ');
    }
}

static void add_level(luaL_Buffer *b, const printer *p, int d, int64_t at) {
    if (d == p->x->ndim) {
        char s[64];
        int n = format_one(p, at, s, sizeof s);
        indent(b, p->width - n);
        luaL_addstring(b, s);
        return;
    }
    bool last = d == p->x->ndim - 1;
    int left = (int)strlen("tensor(") + d + 1, column = left, per = p->width + 2;
    luaL_addchar(b, '[');
    for (int64_t j = 0; j < p->x->dim[d]; j++) {
        if (j > 0) {
            luaL_addchar(b, ',');
            if (last && column + per <= LINE) {
                luaL_addchar(b, ' ');
            } else {
                for (int k = last ? 1 : p->x->ndim - 1 - d; k > 0; k--) {
                    luaL_addchar(b, '\n');
                }
                indent(b, left);
                column = left;
            }
        }
        if (skipped(p, d, j)) {
            luaL_addstring(b, "...");
            column += 5;
            j = p->x->dim[d] - EDGE - 1;
        } else {
            add_level(b, p, d + 1, at * p->x->dim[d] + j);
            column += per;
        }
    }
    luaL_addchar(b, ']');
}

static int print_tostring(lua_State *L) {
    rv_tensor **h = luaL_checkudata(L, 1, RV_TENSOR_MT);
    if (!*h) {
        lua_pushliteral(L, "tensor (closed)");
        return 1;
    }
    rv_tensor *x = *h;
    bool floats = rv_dtype_is_float(x->type);
    int64_t n = rv_tensor_numel(x);
    rv_tensor **wide = rv_bind_tensor_push(L);
    void *v = lua_newuserdatauv(L, (size_t)n * 8 + 1, 0);
    rv_err e;
    if (rv_tensor_to(wide, x, floats ? RV_F32 : RV_I64, &e) != RV_OK ||
        rv_tensor_read(*wide, v, &e) != RV_OK) {
        return rv_bind_raise(L, &e);
    }
    survey s = {.p = {.x = x, .f = floats ? v : NULL, .i = v, .summary = n > SUMMARY}};
    s.p.whole = floats;
    s.least = INFINITY;
    each_shown(&s.p, 0, 0, look);
    s.p.scientific = floats && s.most > 0 &&
                     (s.most / s.least > 1000 || s.most > 1e8 || s.least < 1e-4) &&
                     !(s.p.whole && s.most < 1e8);
    each_shown(&s.p, 0, 0, widen);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, "tensor(");
    add_level(&b, &s.p, 0, 0);
    if (n == 0 && x->ndim != 1) {
        lua_pushfstring(L, ", size=%s", rv_tensor_shape_str(x).s);
        luaL_addvalue(&b);
    }
    if (x->type != RV_F32 && x->type != RV_I64 && x->type != RV_BOOL) {
        luaL_addstring(&b, ", dtype=");
        luaL_addstring(&b, rv_dtype_name(x->type));
    }
    if (x->node) {
        luaL_addstring(&b, rv_tape_is_leaf(x) ? ", requires_grad=true" : ", on the tape");
    }
    luaL_addchar(&b, ')');
    luaL_pushresult(&b);
    return 1;
}

void rv_bind_tensor_print(lua_State *L) {
    lua_pushcfunction(L, print_tostring);
    lua_setfield(L, 3, "__tostring");
}
