// The vision towers and connectors against a plain computation in double precision.
//
// It follows the definitions patch by patch: which window a patch lies in, which bucket of
// positions, which angles, instead of moving rows about.
#include "vlm_grad.h"
#include "vlm_views.h"

enum { MAX_WIDTH = 64, MAX_TILE = 65 };

typedef struct {
    tiny *t;
    const rv_arch *a;
    int64_t n; // rows of the tile at hand
    double x[MAX_TILE][MAX_WIDTH];
    int row[MAX_TILE], col[MAX_TILE];
} reference;

static float *weights(const reference *r, const char *prefix, const char *name) {
    char role[96];
    snprintf(role, sizeof role, "%s%s", prefix, name);
    int64_t i = rv_vlm_param_find(r->t->m, role);
    return i < 0 ? NULL : tiny_get(r->t, i, RV_OF_PARAM);
}

// y (n, out) = x (n, in) W^T + b for rows `stride` apart.
static void linear(const reference *r, const char *role, double *y, const double *x, int64_t n,
                   int64_t in, int64_t out) {
    float *w = weights(r, role, ".weight"), *b = weights(r, role, ".bias");
    assert_non_null(w);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? (double)b[o] : 0;
            for (int64_t k = 0; k < in; k++) {
                sum += (double)w[o * in + k] * x[i * in + k];
            }
            y[i * out + o] = sum;
        }
    }
    free(w);
    free(b);
}

// The norm of one row; without a bias RMSNorm.
static void norm(const reference *r, const char *role, double *y, const double *x, int64_t n,
                 double eps) {
    float *w = weights(r, role, ".weight"), *b = weights(r, role, ".bias");
    double mean = 0, square = 0;
    for (int64_t k = 0; b && k < n; k++) {
        mean += x[k] / (double)n;
    }
    for (int64_t k = 0; k < n; k++) {
        square += (x[k] - mean) * (x[k] - mean) / (double)n;
    }
    for (int64_t k = 0; k < n; k++) {
        y[k] = (x[k] - mean) / sqrt(square + eps) * (double)w[k] + (b ? (double)b[k] : 0);
    }
    free(w);
    free(b);
}

static double act(rv_act a, double x) {
    switch (a) {
    case RV_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case RV_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case RV_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case RV_ACT_SILU:
        return x / (1 + exp(-x));
    default:
        return x;
    }
}

// How many boundaries j / side, j = 1 .. side - 1, lie at or below i / n.
static int bucket(int i, int n, int side) {
    int count = 0;
    for (int j = 1; j < side; j++) {
        count += j * n <= i * side;
    }
    return count;
}

// Embeds a tile's patches; rows are the class row and the patches in the order they come in.
static void embed(reference *r, const rv_view *v, int64_t tile) {
    const rv_arch_vision *c = &r->a->vision;
    int64_t k = rv_patch_numbers(r->a), width = c->width, patches = v->h * v->w;
    int m = c->merge, at = 0;
    float *class = weights(r, "vision.class", ""), *position = weights(r, "vision.position", "");
    r->n = patches + c->class_token;
    for (int64_t i = 0; i < width && class; i++) {
        r->x[0][i] = (double)class[i] + (double)position[i];
    }
    at += c->class_token;
    for (int y = 0; y < v->h; y += m) {
        for (int x = 0; x < v->w; x += m) {
            for (int in = 0; in < m * m; in++, at++) {
                r->row[at] = y + in / m;
                r->col[at] = x + in % m;
            }
        }
    }
    for (int64_t i = c->class_token; i < r->n; i++) {
        double patch[VIEW_NUMBERS];
        for (int64_t j = 0; j < k; j++) {
            patch[j] = (double)v->patches[(tile * patches + i - c->class_token) * k + j];
        }
        linear(r, "vision.patch", r->x[i], patch, 1, k, width);
        int place = c->positions ? bucket(r->row[i], v->h, c->positions) * c->positions +
                                       bucket(r->col[i], v->w, c->positions) + c->class_token
                                 : 0;
        for (int64_t j = 0; j < width && position; j++) {
            r->x[i][j] += (double)position[place * width + j];
        }
    }
    for (int64_t i = 0; i < r->n && c->pre_norm; i++) {
        norm(r, "vision.pre_norm", r->x[i], r->x[i], width, (double)c->eps);
    }
    free(class);
    free(position);
}

// Turns a head of D numbers: of the pairs (i, i + D/2) the first half by the row, the others by the
// column.
static void turn(const reference *r, double *x, int64_t i) {
    const rv_arch_vision *c = &r->a->vision;
    int d = c->width / c->heads;
    for (int k = 0; k < d / 2 && c->rope_theta > 0; k++) {
        int of = k % (d / 4), place = k < d / 4 ? r->row[i] : r->col[i];
        double angle = place * pow((double)c->rope_theta, -2.0 * of / (d / 2));
        double p = x[k], q = x[k + d / 2];
        x[k] = p * cos(angle) - q * sin(angle);
        x[k + d / 2] = q * cos(angle) + p * sin(angle);
    }
}

static bool sees(const reference *r, int layer, int64_t i, int64_t j) {
    const rv_arch_vision *c = &r->a->vision;
    int side = c->window * c->merge;
    return !c->window || (c->full >> layer & 1) ||
           (r->row[i] / side == r->row[j] / side && r->col[i] / side == r->col[j] / side);
}

// q, k, v (3, n, width) of normalised rows.
static void project(const reference *r, const char *layer, const double *x, double *qkv) {
    const rv_arch_vision *c = &r->a->vision;
    static const char *const names[] = {"q", "k", "v"};
    int64_t w = c->width;
    char role[64];
    if (!c->fused_qkv) {
        for (int k = 0; k < 3; k++) {
            snprintf(role, sizeof role, "%s%s", layer, names[k]);
            linear(r, role, qkv + k * r->n * w, x, r->n, w, w);
        }
        return;
    }
    static double rows[MAX_TILE * 3 * MAX_WIDTH];
    snprintf(role, sizeof role, "%sqkv", layer);
    linear(r, role, rows, x, r->n, w, 3 * w);
    for (int64_t i = 0; i < r->n; i++) {
        for (int64_t k = 0; k < 3; k++) {
            memcpy(qkv + (k * r->n + i) * w, rows + (3 * i + k) * w, (size_t)w * sizeof *qkv);
        }
    }
}

// One head of one query.
static void attend(const reference *r, int layer, int64_t i, int64_t at, const double *qkv,
                   double *o) {
    const rv_arch_vision *c = &r->a->vision;
    int64_t w = c->width, d = w / c->heads;
    double weight[MAX_TILE], sum = 0;
    for (int64_t j = 0; j < r->n; j++) {
        double dot = 0;
        for (int64_t k = 0; k < d; k++) {
            dot += qkv[i * w + at + k] * qkv[(r->n + j) * w + at + k];
        }
        weight[j] = sees(r, layer, i, j) ? exp(dot / sqrt((double)d)) : 0;
        sum += weight[j];
    }
    for (int64_t k = 0; k < d; k++) {
        o[i * w + at + k] = 0;
        for (int64_t j = 0; j < r->n; j++) {
            o[i * w + at + k] += weight[j] / sum * qkv[(2 * r->n + j) * w + at + k];
        }
    }
}

static void add(reference *r, const double *y) {
    int64_t w = r->a->vision.width;
    for (int64_t i = 0; i < r->n * w; i++) {
        r->x[i / w][i % w] += y[i];
    }
}

static void norm_rows(const reference *r, const char *layer, const char *name, double *y) {
    char role[64];
    snprintf(role, sizeof role, "%s%s", layer, name);
    for (int64_t i = 0; i < r->n; i++) {
        norm(r, role, y + i * r->a->vision.width, r->x[i], r->a->vision.width,
             (double)r->a->vision.eps);
    }
}

static void block(reference *r, int layer) {
    const rv_arch_vision *c = &r->a->vision;
    static double n[MAX_TILE * MAX_WIDTH], qkv[3 * MAX_TILE * MAX_WIDTH], o[MAX_TILE * MAX_WIDTH];
    static double up[MAX_TILE * MAX_WIDTH], gate[MAX_TILE * MAX_WIDTH];
    int64_t w = c->width, d = w / c->heads;
    char name[32], role[64];
    snprintf(name, sizeof name, "vision.layers.%d.", layer);
    norm_rows(r, name, "norm1", n);
    project(r, name, n, qkv);
    for (int64_t i = 0; i < 2 * r->n; i++) {
        for (int64_t h = 0; h < c->heads; h++) {
            turn(r, qkv + i * w + h * d, i % r->n);
        }
    }
    for (int64_t i = 0; i < r->n * c->heads; i++) {
        attend(r, layer, i / c->heads, i % c->heads * d, qkv, o);
    }
    snprintf(role, sizeof role, "%so", name);
    linear(r, role, n, o, r->n, w, w);
    add(r, n);
    norm_rows(r, name, "norm2", n);
    snprintf(role, sizeof role, "%s%s", name, c->gated ? "up" : "fc1");
    linear(r, role, up, n, r->n, w, c->mlp);
    snprintf(role, sizeof role, "%sgate", name);
    if (c->gated) {
        linear(r, role, gate, n, r->n, w, c->mlp);
    }
    for (int64_t i = 0; i < r->n * c->mlp; i++) {
        up[i] = c->gated ? act(c->act, gate[i]) * up[i] : act(c->act, up[i]);
    }
    snprintf(role, sizeof role, "%s%s", name, c->gated ? "down" : "fc2");
    linear(r, role, n, up, r->n, c->mlp, w);
    add(r, n);
}

// The connector's row of the tile's feature `f`.
static void connect(reference *r, int64_t f, double *out) {
    const rv_arch_connector *c = &r->a->connector;
    const rv_arch_vision *v = &r->a->vision;
    int64_t each = v->merge * v->merge, w = v->width;
    double in[4 * MAX_WIDTH], hidden[MAX_WIDTH];
    for (int64_t k = 0; k < each; k++) {
        const double *x = r->x[v->drop_class + f * each + k];
        if (c->norm == RV_NORM_NONE) {
            memcpy(in + k * w, x, (size_t)w * sizeof *in);
        } else {
            norm(r, "connector.norm", in + k * w, x, w, (double)c->eps);
        }
    }
    linear(r, "connector.0", c->hidden ? hidden : out, in, 1, c->in,
           c->hidden ? c->hidden : c->out);
    if (c->hidden) {
        for (int64_t k = 0; k < c->hidden; k++) {
            hidden[k] = act(c->act, hidden[k]);
        }
        linear(r, "connector.1", out, hidden, 1, c->hidden, c->out);
    }
}

// The features (rows, 16) of a view.
static void see(reference *r, const rv_view *v, double *out) {
    const rv_arch_vision *c = &r->a->vision;
    static double all[8 * MAX_TILE][16];
    int64_t n = 0, each = rv_view_features(r->a, v) / v->tiles;
    float *newline = weights(r, "connector.newline", "");
    for (int64_t tile = 0; tile < v->tiles; tile++) {
        embed(r, v, tile);
        for (int i = 0; i < c->layers; i++) {
            block(r, i);
        }
        for (int64_t i = 0; i < r->n && c->post_norm; i++) {
            norm(r, "vision.post_norm", r->x[i], r->x[i], c->width, (double)c->eps);
        }
        for (int64_t f = 0; f < each; f++) {
            connect(r, f, all[n++]);
        }
    }
    for (int64_t i = 0; i < v->rows; i++) {
        int64_t from = v->order ? v->order[i] : i;
        for (int k = 0; k < 16; k++) {
            out[i * 16 + k] = from < 0 ? (double)newline[k] : all[from][k];
        }
    }
    free(newline);
}

static void features_match_the_definitions(void **state) {
    (void)state;
    for (int kind = 0; kind < N_TOWERS; kind++) {
        rv_arch a = views_arch(kind);
        rv_vlm_options o = tiny_options();
        tiny t = tiny_new(&a, &o, 1, NULL);
        views_batch *b = views_batch_new(&a, kind, 4);
        static reference r;
        static double want[VIEW_ROWS * 16];
        static float got[VIEWS * VIEW_ROWS * 16];
        rv_dev features;
        rv_err e = {0};
        double worst = 0, largest = 0;
        r = (reference){.t = &t, .a = &a};
        must(t.be->alloc(t.ctx, &features, sizeof got, &e), &e);
        must(rv_vlm_encode(t.m, features, b->images, VIEWS, &e), &e);
        t.be->download(t.ctx, got, features, sizeof got);
        for (int64_t i = 0, at = 0; i < VIEWS; i++) {
            see(&r, &b->images[i], want);
            for (int64_t k = 0; k < b->images[i].rows * 16; k++, at++) {
                worst = fmax(worst, fabs(want[k] - (double)got[at]));
                largest = fmax(largest, fabs(want[k]));
            }
        }
        print_message("features up to %.3g, apart by %.2g\n", largest, worst);
        assert_true(worst <= 2e-6 * largest);
        t.be->free(t.ctx, features);
        free(b);
        tiny_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_match_the_definitions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
