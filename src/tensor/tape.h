// tape.h - the reverse-mode tape: a graph of counted nodes, one for each recorded operation.
//
// A tensor that needs a gradient points to the node that made it; a leaf (requires_grad) has a node
// of its own that holds the accumulated gradient. Nodes keep what their backward pass reads as
// aliases without a node, so the graph has no cycles: dropping the last tensor of a graph frees it.
// Gradients are fp32 whatever the dtype of the tensor. The rv_tape itself is what the operations of
// one program share: table of operations, grad mode, memory counters. It outlives its tensors.
#pragma once

#include "ops.h"

struct rv_tape {
    const rv_tensor_ops *ops;
    bool grad;         // record; false inside no_grad and while a backward pass runs
    bool walking;      // a backward pass runs
    size_t bytes;      // held by live buffers now
    size_t peak;       // the most ever held
    size_t fresh;      // allocated since the host last looked (it sets 0): for garbage collectors
    size_t fail_after; // tests: allocations still allowed when not 0 (1: the next one fails)
    /// Called when memory runs out, before the one retry; may be NULL.
    void (*pressure)(void *ctx);
    void *pressure_ctx;
};

rv_tape rv_tape_make(const rv_tensor_ops *ops);

/// Host memory for the tape's own records, subject to `fail_after`. Zeroed; freed with free().
void *rv_tape_calloc(rv_tape *t, size_t n, size_t size);

/// True when `x` needs a gradient and the tape records.
bool rv_tape_wants(const rv_tensor *x);

enum { RV_NODE_SAVED = 3 };

typedef struct {
    int ndim;
    int64_t dim[RV_MAXDIM];
} rv_shape;

// What the backward function of a recorded operation sees. It fills out[i] where want[i], with a
// gradient that has the shape of input i or broadcasts from it (it is summed down); NULL means
// zero.
typedef struct {
    rv_tape *tape;
    rv_tensor *g;            // fp32 gradient of the output
    rv_tensor *const *saved; // as saved; NULL where not
    const int64_t *arg;      // the operation's own numbers
    const double *param;     //
    int n_in;
    const rv_shape *in; // the inputs' shapes
    const bool *want;
    rv_tensor **out;
} rv_grad;
typedef rv_status (*rv_grad_fn)(rv_grad *g, rv_err *e);

// An operation to be recorded: what rv_tape_record copies into the node. `saved` are borrowed.
typedef struct {
    const char *name;
    rv_grad_fn backward;
    rv_tensor *saved[RV_NODE_SAVED];
    int64_t arg[4];
    double param[2];
} rv_record;

/// Makes `out` (without a node yet) the result of an operation on `inputs`; does nothing when none
/// of them wants a gradient. Errors: RV_ENOMEM (the caller frees `out`).
rv_status rv_tape_record(rv_tensor *out, rv_tensor *const *inputs, int n_in, const rv_record *r,
                         rv_err *e);

/// A foreign operation: `backward` gets the gradients of all its outputs at once, when all are
/// complete (contiguous fp32 of the output's shape, NULL for those that nothing depends on), and
/// fills grad_in for inputs that need one (it owns what it puts there until it returns RV_OK).
/// `free_fn` (may be NULL) runs exactly once, after the backward pass or when the graph is dropped
/// without one. With n_in 0 the outputs always need a gradient. When the tape does not record, or
/// no input needs a gradient, free_fn runs at once. On failure ctx stays the caller's.
/// Errors: RV_EARG (no outputs, an output already on the tape), RV_ETYPE, RV_ENOMEM.
typedef rv_status (*rv_backward_fn)(void *ctx, rv_tensor *const *grad_out, rv_tensor **grad_in,
                                    rv_err *e);
rv_status rv_tape_custom(rv_tensor *const *outputs, int n_out, rv_tensor *const *inputs, int n_in,
                         rv_backward_fn backward, void *ctx, void (*free_fn)(void *), rv_err *e);

/// Makes `t` a leaf that accumulates a gradient (or, with on false, no longer one).
/// Errors: RV_ETYPE (not a floating type), RV_EARG (the result of an operation).
rv_status rv_tape_requires_grad(rv_tensor *t, bool on, rv_err *e);
bool rv_tape_is_leaf(const rv_tensor *t);

/// The leaf's gradient (borrowed), or NULL.
rv_tensor *rv_tape_leaf_grad(const rv_tensor *t);
/// Drops the leaf's gradient.
void rv_tape_zero_grad(rv_tensor *t);

/// Walks the graph from `loss` and adds to the gradient of every leaf. `seed` (loss's shape) may be
/// NULL for a loss of one element: 1. The graph is spent afterwards, also when it fails halfway.
/// Errors: RV_EARG, RV_ESHAPE, those of the nodes.
rv_status rv_tape_backward(rv_tensor *loss, rv_tensor *seed, rv_err *e);

/// Checks that the elements of `t` may be overwritten now, naming `op` in the error.
rv_status rv_tape_check_write(const rv_tensor *t, const char *op, rv_err *e);

void rv_node_ref(rv_node *n);
void rv_node_free(rv_node *n); // drops a reference; accepts NULL
