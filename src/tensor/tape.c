#include "tape.h"

#include <stdlib.h>
#include <string.h>

#include "elementwise.h"
#include "reduce.h"

typedef struct {
    rv_node *node; // NULL: the input needs no gradient
    int slot;
} edge;

struct rv_node {
    rv_tape *tape;
    int refs, n_in, n_out;
    const char *name;
    rv_grad_fn backward; // a recorded operation
    rv_tensor *saved[RV_NODE_SAVED];
    int64_t arg[4];
    double param[2];
    rv_backward_fn foreign; // a foreign operation
    void (*free_ctx)(void *);
    void *ctx;
    rv_tensor *grad; // a leaf's accumulated gradient
    bool spent;      // a backward pass went through it
    // the backward pass's own
    bool seen;
    int64_t pending; // uses of its outputs whose gradients have not come yet
    rv_node *next;   // list of nodes to be freed
    // arrays behind the struct
    edge *in;
    rv_shape *in_shape;
    rv_tensor **out_grad;
    rv_shape *out_shape;
};

rv_tape rv_tape_make(const rv_tensor_ops *ops) {
    rv_tape t = {.ops = ops, .grad = true};
    return t;
}

void *rv_tape_calloc(rv_tape *t, size_t n, size_t size) {
    if (t->fail_after && --t->fail_after == 0) {
        t->fail_after = 1;
        return NULL;
    }
    return calloc(n ? n : 1, size);
}

bool rv_tape_wants(const rv_tensor *x) { return x->node && x->buf->tape->grad; }

// ---- nodes ----

static rv_node *node_new(rv_tape *tape, const char *name, int n_in, int n_out) {
    size_t bytes = sizeof(rv_node) + (size_t)n_in * (sizeof(edge) + sizeof(rv_shape)) +
                   (size_t)n_out * (sizeof(rv_tensor *) + sizeof(rv_shape));
    rv_node *n = rv_tape_calloc(tape, 1, bytes);
    if (!n) {
        return NULL;
    }
    n->tape = tape;
    n->refs = 1;
    n->name = name;
    n->n_in = n_in;
    n->n_out = n_out;
    n->in_shape = (rv_shape *)(n + 1);
    n->out_shape = n->in_shape + n_in;
    n->in = (edge *)(n->out_shape + n_out);
    n->out_grad = (rv_tensor **)(n->in + n_in);
    return n;
}

static rv_shape shape_of(const rv_tensor *t) {
    rv_shape s = {t->ndim, {0}};
    memcpy(s.dim, t->dim, (size_t)t->ndim * sizeof s.dim[0]);
    return s;
}

static void node_connect(rv_node *n, rv_tensor *const *inputs) {
    for (int i = 0; i < n->n_in; i++) {
        n->in[i] = (edge){inputs[i]->node, inputs[i]->slot};
        n->in_shape[i] = shape_of(inputs[i]);
        if (inputs[i]->node) {
            rv_node_ref(inputs[i]->node);
        }
    }
}

static void node_attach(rv_node *n, rv_tensor *out, int slot) {
    rv_node_ref(n);
    out->node = n;
    out->slot = slot;
    n->out_shape[slot] = shape_of(out);
}

// Drops what only the backward pass needs.
static void node_release(rv_node *n) {
    for (int i = 0; i < RV_NODE_SAVED; i++) {
        if (n->saved[i]) {
            n->saved[i]->buf->saved--;
            rv_tensor_free(n->saved[i]);
            n->saved[i] = NULL;
        }
    }
    if (n->foreign) {
        void (*free_ctx)(void *) = n->free_ctx;
        n->free_ctx = NULL;
        if (free_ctx) {
            free_ctx(n->ctx);
        }
        n->ctx = NULL;
    }
}

void rv_node_ref(rv_node *n) { n->refs++; }

// Graphs can be long chains, so freeing walks a list instead of recursing.
void rv_node_free(rv_node *n) {
    if (!n || --n->refs > 0) {
        return;
    }
    n->next = NULL;
    while (n) {
        rv_node *rest = n->next;
        node_release(n);
        for (int i = 0; i < n->n_in; i++) {
            rv_node *up = n->in[i].node;
            if (up && --up->refs == 0) {
                up->next = rest;
                rest = up;
            }
        }
        for (int i = 0; i < n->n_out; i++) {
            rv_tensor_free(n->out_grad[i]);
        }
        rv_tensor_free(n->grad);
        free(n);
        n = rest;
    }
}

// ---- recording ----

rv_status rv_tape_record(rv_tensor *out, rv_tensor *const *inputs, int n_in, const rv_record *r,
                         rv_err *e) {
    rv_tape *tape = out->buf->tape;
    bool wanted = false;
    for (int i = 0; i < n_in; i++) {
        wanted = wanted || rv_tape_wants(inputs[i]);
    }
    if (!wanted) {
        return RV_OK;
    }
    rv_node *n = node_new(tape, r->name, n_in, 1);
    rv_status s = n ? RV_OK : RV_FAIL(e, RV_ENOMEM, "out of memory for the tape (%s)", r->name);
    for (int i = 0; i < RV_NODE_SAVED && s == RV_OK; i++) {
        if (r->saved[i]) {
            s = rv_tensor_alias(&n->saved[i], r->saved[i], e);
            n->saved[i] ? n->saved[i]->buf->saved++ : 0;
        }
    }
    if (s == RV_OK) {
        n->backward = r->backward;
        memcpy(n->arg, r->arg, sizeof n->arg);
        memcpy(n->param, r->param, sizeof n->param);
        node_connect(n, inputs);
        node_attach(n, out, 0);
    }
    rv_node_free(n); // `out` holds it now
    return s;
}

rv_status rv_tape_custom(rv_tensor *const *outputs, int n_out, rv_tensor *const *inputs, int n_in,
                         rv_backward_fn backward, void *ctx, void (*free_fn)(void *), rv_err *e) {
    if (n_out < 1) {
        return RV_FAIL(e, RV_EARG, "custom: wanted at least one output");
    }
    rv_tape *tape = outputs[0]->buf->tape;
    bool wanted = n_in == 0 && tape->grad;
    for (int i = 0; i < n_in; i++) {
        wanted = wanted || rv_tape_wants(inputs[i]);
    }
    for (int i = 0; i < n_out; i++) {
        if (outputs[i]->node) {
            return RV_FAIL(e, RV_EARG, "custom: output %d already has a place on the tape", i + 1);
        }
        if (!rv_dtype_is_float(outputs[i]->type)) {
            return RV_FAIL(e, RV_ETYPE, "custom: output %d is %s; only f32 and bf16 have gradients",
                           i + 1, rv_dtype_name(outputs[i]->type));
        }
    }
    if (!wanted) {
        if (free_fn) {
            free_fn(ctx);
        }
        return RV_OK;
    }
    rv_node *n = node_new(tape, "custom", n_in, n_out);
    if (!n) {
        return RV_FAIL(e, RV_ENOMEM, "out of memory for the tape (custom)");
    }
    n->foreign = backward;
    n->free_ctx = free_fn;
    n->ctx = ctx;
    node_connect(n, inputs);
    for (int i = 0; i < n_out; i++) {
        node_attach(n, outputs[i], i);
    }
    rv_node_free(n);
    return RV_OK;
}

// ---- leaves ----

bool rv_tape_is_leaf(const rv_tensor *t) {
    return t->node && !t->node->backward && !t->node->foreign;
}

rv_status rv_tape_requires_grad(rv_tensor *t, bool on, rv_err *e) {
    if (t->node && !rv_tape_is_leaf(t)) {
        return on ? RV_OK
                  : RV_FAIL(e, RV_EARG,
                            "requires_grad_: only a leaf can stop needing a gradient; "
                            "use detach on the result of an operation");
    }
    if (!on) {
        rv_node_free(t->node);
        t->node = NULL;
        return RV_OK;
    }
    if (!rv_dtype_is_float(t->type)) {
        return RV_FAIL(e, RV_ETYPE, "requires_grad_: only f32 and bf16 have gradients, got %s",
                       rv_dtype_name(t->type));
    }
    if (!t->node) {
        rv_node *n = node_new(t->buf->tape, "leaf", 0, 1);
        if (!n) {
            return RV_FAIL(e, RV_ENOMEM, "out of memory for the tape (leaf)");
        }
        node_attach(n, t, 0);
        rv_node_free(n);
    }
    return RV_OK;
}

rv_tensor *rv_tape_leaf_grad(const rv_tensor *t) {
    return rv_tape_is_leaf(t) ? t->node->grad : NULL;
}

void rv_tape_zero_grad(rv_tensor *t) {
    if (rv_tape_is_leaf(t)) {
        rv_tensor_free(t->node->grad);
        t->node->grad = NULL;
    }
}

rv_status rv_tape_check_write(const rv_tensor *t, const char *op, rv_err *e) {
    if (t->buf->saved > 0) {
        return RV_FAIL(e, RV_EARG, "%s: the backward pass still needs these elements (clone first)",
                       op);
    }
    if (t->node && (t->buf->tape->grad || !rv_tape_is_leaf(t))) {
        return RV_FAIL(e, RV_EARG, "%s: cannot write into a tensor that requires a gradient (%s)",
                       op,
                       rv_tape_is_leaf(t) ? "inside no_grad it can" : "detach or clone it first");
    }
    return RV_OK;
}

// ---- the backward pass ----

typedef struct {
    rv_node **at; // all nodes reached, each with a reference
    int64_t n, cap;
} node_list;

static rv_status list_add(node_list *l, rv_tape *tape, rv_node *n, rv_err *e) {
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 64;
        rv_node **at = rv_tape_calloc(tape, (size_t)cap, sizeof *at);
        if (!at) {
            return RV_FAIL(e, RV_ENOMEM, "backward: out of memory for %lld nodes", (long long)cap);
        }
        if (l->n) {
            memcpy(at, l->at, (size_t)l->n * sizeof *at);
        }
        free(l->at);
        l->at = at;
        l->cap = cap;
    }
    rv_node_ref(n);
    n->seen = true;
    l->at[l->n++] = n;
    return RV_OK;
}

// Lists every node under `root` and counts the uses of each.
static rv_status reach(node_list *l, rv_tape *tape, rv_node *root, rv_err *e) {
    RV_TRY(list_add(l, tape, root, e));
    for (int64_t i = 0; i < l->n; i++) {
        rv_node *n = l->at[i];
        if (n->spent) {
            return RV_FAIL(e, RV_EARG,
                           "backward: the graph was already walked (%s); compute the "
                           "loss again",
                           n->name);
        }
        for (int k = 0; k < n->n_in; k++) {
            rv_node *up = n->in[k].node;
            if (up && !up->seen) {
                RV_TRY(list_add(l, tape, up, e));
            }
            if (up) {
                up->pending++;
            }
        }
    }
    return RV_OK;
}

// Adds `g` (taken) to *sum.
static rv_status accumulate(rv_tensor **sum, rv_tensor *g, rv_err *e) {
    if (!*sum) {
        *sum = g;
        return RV_OK;
    }
    rv_tensor *total = NULL;
    rv_status s = rv_tensor_binary(&total, RV_MAP_ADD, *sum, g, e);
    rv_tensor_free(g);
    if (s == RV_OK) {
        rv_tensor_free(*sum);
        *sum = total;
    }
    return s;
}

// A leaf owns its gradient alone: users may write into it.
static rv_status leaf_accumulate(rv_node *leaf, rv_err *e) {
    rv_tensor *g = leaf->out_grad[0];
    if (!g) {
        return RV_OK;
    }
    if (!leaf->grad && g->refs == 1 && g->buf->refs == 1 && rv_tensor_contiguous(g)) {
        leaf->grad = g;
        leaf->out_grad[0] = NULL;
        return RV_OK;
    }
    rv_tensor *own = NULL;
    RV_TRY(leaf->grad ? rv_tensor_binary(&own, RV_MAP_ADD, leaf->grad, g, e)
                      : rv_tensor_clone(&own, g, e));
    rv_tensor_free(leaf->grad);
    leaf->grad = own;
    return RV_OK;
}

static rv_status run_recorded(rv_node *n, const bool *want, rv_tensor **in, rv_err *e) {
    rv_grad g = {n->tape, n->out_grad[0], n->saved, n->arg, n->param,
                 n->n_in, n->in_shape,    want,     in};
    return n->backward(&g, e);
}

static rv_status run_foreign(rv_node *n, rv_tensor **in, rv_err *e) {
    for (int i = 0; i < n->n_out; i++) {
        if (n->out_grad[i] && !rv_tensor_contiguous(n->out_grad[i])) {
            rv_tensor *c = NULL;
            RV_TRY(rv_tensor_clone(&c, n->out_grad[i], e));
            rv_tensor_free(n->out_grad[i]);
            n->out_grad[i] = c;
        }
    }
    return n->foreign(n->ctx, n->out_grad, in, e);
}

// Sends the gradient of input k of `n` (taken) up its edge, fp32 and summed down to its shape.
static rv_status send(rv_node *n, int k, rv_tensor *g, rv_err *e) {
    edge up = n->in[k];
    rv_tensor *fit = NULL;
    rv_status s = rv_tensor_sum_to(&fit, g, n->in_shape[k].ndim, n->in_shape[k].dim, n->name, e);
    rv_tensor_free(g);
    RV_TRY(s);
    if (fit->type != RV_F32) {
        rv_tensor *f = NULL;
        s = rv_tensor_to(&f, fit, RV_F32, e);
        rv_tensor_free(fit);
        RV_TRY(s);
        fit = f;
    }
    return accumulate(&up.node->out_grad[up.slot], fit, e);
}

static rv_status run_node(rv_node *n, rv_err *e) {
    bool any = false;
    for (int i = 0; i < n->n_out; i++) {
        any = any || n->out_grad[i];
    }
    if (!any) {
        return RV_OK;
    }
    rv_tensor **in = rv_tape_calloc(n->tape, (size_t)n->n_in, sizeof *in + sizeof(bool));
    if (!in) {
        return RV_FAIL(e, RV_ENOMEM, "backward: out of memory (%s)", n->name);
    }
    bool *want = (bool *)(in + n->n_in);
    for (int i = 0; i < n->n_in; i++) {
        want[i] = n->in[i].node != NULL;
    }
    rv_status s = n->foreign ? run_foreign(n, in, e) : run_recorded(n, want, in, e);
    for (int i = 0; i < n->n_in; i++) {
        if (in[i] && s == RV_OK && want[i]) {
            s = send(n, i, in[i], e);
        } else {
            rv_tensor_free(in[i]);
        }
    }
    free(in);
    return s;
}

// Runs one ready node, then drops what it kept.
static rv_status finish_node(rv_node *n, rv_err *e) {
    bool leaf = !n->backward && !n->foreign;
    rv_status s = leaf ? leaf_accumulate(n, e) : run_node(n, e);
    for (int i = 0; i < n->n_out; i++) {
        rv_tensor_free(n->out_grad[i]);
        n->out_grad[i] = NULL;
    }
    return s;
}

// Runs nodes whose uses are all done, from the root. The order depends on the graph alone.
static rv_status walk(rv_node *root, rv_err *e) {
    rv_node *ready = root;
    root->next = NULL;
    while (ready) {
        rv_node *n = ready;
        ready = n->next;
        RV_TRY(finish_node(n, e));
        for (int k = n->n_in - 1; k >= 0; k--) {
            rv_node *up = n->in[k].node;
            if (up && --up->pending == 0) {
                up->next = ready;
                ready = up;
            }
        }
    }
    return RV_OK;
}

// Takes the graph apart: operations are spent, their memory and edges dropped.
static void spend(node_list *l, bool ran) {
    for (int64_t i = 0; i < l->n; i++) {
        rv_node *n = l->at[i];
        n->seen = false;
        n->pending = 0;
        if (!ran || (!n->backward && !n->foreign)) {
            continue;
        }
        n->spent = true;
        node_release(n);
        for (int k = 0; k < n->n_in; k++) {
            rv_node_free(n->in[k].node);
            n->in[k].node = NULL;
        }
    }
    for (int64_t i = 0; i < l->n; i++) {
        rv_node *n = l->at[i];
        for (int k = 0; k < n->n_out; k++) {
            rv_tensor_free(n->out_grad[k]);
            n->out_grad[k] = NULL;
        }
        rv_node_free(n);
    }
    free(l->at);
}

static rv_status make_seed(rv_tensor **out, rv_tensor *loss, rv_tensor *seed, rv_err *e) {
    if (!seed) {
        if (rv_tensor_numel(loss) != 1) {
            return RV_FAIL(e, RV_ESHAPE,
                           "backward: the loss has shape %s; reduce it to one element or give the "
                           "gradient of its elements",
                           rv_tensor_shape_str(loss).s);
        }
        return rv_tensor_full(out, loss->buf->tape, RV_F32, loss->ndim, loss->dim, 1, e);
    }
    if (!rv_tensor_same_shape(loss, seed)) {
        return RV_FAIL(e, RV_ESHAPE, "backward: the loss has shape %s, its gradient %s",
                       rv_tensor_shape_str(loss).s, rv_tensor_shape_str(seed).s);
    }
    return rv_tensor_to(out, seed, RV_F32, e);
}

rv_status rv_tape_backward(rv_tensor *loss, rv_tensor *seed, rv_err *e) {
    rv_tape *tape = loss->buf->tape;
    if (tape->walking) {
        return RV_FAIL(e, RV_EARG, "backward: called from inside a backward pass");
    }
    if (!loss->node) {
        return RV_FAIL(e, RV_EARG,
                       "backward: the loss depends on nothing that requires a gradient");
    }
    bool grad = tape->grad;
    tape->grad = false;
    tape->walking = true;
    rv_tensor *g = NULL;
    node_list reached = {0};
    rv_status s = make_seed(&g, loss, seed, e);
    bool ran = false;
    if (s == RV_OK) {
        s = reach(&reached, tape, loss->node, e);
    }
    if (s == RV_OK) {
        ran = true;
        loss->node->out_grad[loss->slot] = g;
        g = NULL;
        s = walk(loss->node, e);
    }
    rv_tensor_free(g);
    spend(&reached, ran);
    tape->grad = grad;
    tape->walking = false;
    return s;
}
