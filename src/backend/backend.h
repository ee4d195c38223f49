// backend.h - devices: memory, prepared weights and the table of operations of the VLM.
//
// One rv_backend per device kind fills this table (cpu/ now, a CUDA shared object later). The
// rules:
// - Device memory is named by rv_dev, an address that only the backend follows. The host reads
// results
//   through `download` and writes inputs through `upload`; a host pointer in a signature is marked
//   (host).
// - Every entry takes an rv_ctx: the stream, the scratch memory and the threads. Calls on one ctx
// run in
//   order; `sync` waits. No entry allocates: scratch is reserved before the first step with
//   `reserve`.
// - Weight matrices pass through `weight_prepare`: the order of elements in memory is the backend's
// business.
// - Activations are fp32, row-major, densely packed rows unless a stride is given. On a GPU
// `act_type` of
//   the ctx may make them bf16; on the CPU they are always fp32.
// - Gradients of parameters accumulate (+=); gradients of activations are written (=) unless said
// otherwise.
// - CPU guarantee: each output element is one chain of fused multiply-adds with k ascending, so a
// row's
//   result has the same bits whatever the number of rows, its place in the pack, the number of
//   threads and the instruction set (fp32). No split over k, no atomics.
// - Valid C11 and C++17. No globals: everything hangs on the ctx.
//
// Letters: M rows (tokens), N outputs, K inputs, H query heads, G key/value heads, D head width, V
// vocabulary.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RV_BACKEND_ABI 1

typedef enum {
    RV_F32,
    RV_BF16,
    RV_F16,
    RV_I32,
    RV_I64,
    RV_U8,
    RV_BOOL,
    RV_F64,
    RV_I8,
    RV_NF4, // 4 bits, of prepared weights alone
    RV_NTYPES
} rv_dtype;

/// Bytes of one element (0 for RV_NF4); the field's short name ("f32", "bf16", ...).
size_t rv_dtype_size(rv_dtype t);
const char *rv_dtype_name(rv_dtype t);

/// Conversions of single values, round to nearest even; NaN stays NaN.
float rv_bf16_to_f32(uint16_t x);
uint16_t rv_f32_to_bf16(float x);
float rv_f16_to_f32(uint16_t x);
uint16_t rv_f32_to_f16(float x);

/// Converts `n` host elements between F32, BF16, F16 and F64.
void rv_convert(void *dst, rv_dtype dt, const void *src, rv_dtype st, int64_t n);

// An address in device memory; {0} is "none".
typedef struct {
    uintptr_t addr;
} rv_dev;
static inline rv_dev rv_dev_at(rv_dev d, int64_t bytes) {
    rv_dev r = {d.addr + (uintptr_t)bytes};
    return r;
}
static inline bool rv_dev_none(rv_dev d) { return d.addr == 0; }

typedef struct rv_ctx rv_ctx; // opaque: stream, scratch, threads

typedef enum {
    RV_ACT_NONE,
    RV_ACT_GELU_ERF,
    RV_ACT_GELU_TANH,
    RV_ACT_QUICK_GELU,
    RV_ACT_SILU,
    RV_ACT_RELU
} rv_act;

// A prepared weight matrix (N, K). `store` is the type its elements are kept in; `round_x` says
// that the activations it meets are rounded to bf16 first (bf16 x bf16, fp32 sums). fp32: {F32,
// false}; 16-bit files kept as they are with fp32 arithmetic: {BF16|F16, false}; --dtype bf16:
// {BF16, true}. I8 and NF4 are quantised while they are prepared (row-wise int8, blocks of 64 in
// nf4), with fp32 arithmetic on the widened values; they are frozen: no master, no dW.
typedef struct {
    int64_t n, k;
    rv_dtype store;
    bool round_x;
    rv_dev fwd;       // backend's layout, memory owned by the caller; dX reads it too
    size_t fwd_bytes; // filled by weight_size
} rv_weight;

// LoRA beside a linear layer: y += scale * (x A^T) B^T, A (R, K), B (N, R), never merged.
typedef struct {
    const rv_weight *a, *b;
    float scale;
} rv_lora;

// A linear layer as one call: y = act(x W^T + bias [+ LoRA]) [+ residual].
typedef struct {
    const rv_weight *w;
    rv_dev bias; // (N) fp32 or none
    rv_act act;
    rv_dev pre;      // (M, N) or none: receives x W^T + bias + LoRA before `act`, for act_backward
    rv_dev residual; // (M, N) or none; may be y itself
    const rv_lora *lora; // or NULL
    rv_dev lora_h;       // (M, R): x A^T; written forward, read by lora_dw. Needed when lora is set
} rv_linear;

enum { RV_LINEARS = 3 }; // in one call, at the most

// Heads of an attention call. Query head j uses key/value head j / (n_head / n_kv).
typedef struct {
    int n_head, n_kv, head_dim;
    float scale;
    bool causal;
    int64_t window; // 0: none; else key j is visible to query i only if j > i - window
} rv_attn;

// The key/value cache: blocks of RV_KV_BLOCK tokens, any block for any sequence. The order of
// elements inside a block is the backend's business.
enum { RV_KV_BLOCK = 64 };

// Rows of one attention call on the cache: `n` queries of one sequence, rows row0.. of q, whose
// first query stands at position pos0; keys 0..pos0+n-1 lie in the blocks `table` (host;
// ceil((pos0+n)/64) entries).
typedef struct {
    int64_t row0, n, pos0;
    const int32_t *table;
} rv_attn_seq;

// How to draw one token from a row of logits; the order of transformers' processors.
typedef struct {
    float temperature; // 0: argmax, and log-probabilities of the untempered softmax
    int top_k;         // 0: off
    float top_p;       // 1: off
    float min_p;       // 0: off
    double u;          // uniform number in [0, 1)
    // Repetition penalty (Keskar et al. 2019): before the temperature, a positive logit of a seen
    // id is divided by it, a negative one multiplied. Off without seen ids.
    float penalty;
    const int32_t *seen; // (n_seen, host) ascending, no id twice
    int64_t n_seen;
} rv_sample;

typedef struct {
    int32_t id;
    float logp;          // under the full softmax at `temperature` (1 for argmax): log pi
    float filtered_logp; // under the distribution actually drawn from (0 for argmax)
} rv_drawn;

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    float grad_scale; // gradients are multiplied by it first (clipping)
    int64_t step;     // 1-based, for bias correction
} rv_adamw;

typedef struct rv_backend {
    uint32_t abi;     // RV_BACKEND_ABI
    const char *name; // "cpu", "cuda"

    // ---- device, memory ----
    /// Makes a context. `threads` 0: all CPUs of the affinity mask (CPU only). Errors: RV_ENOMEM,
    /// RV_EARG.
    rv_status (*ctx_new)(rv_ctx **out, int device, int threads, rv_err *e);
    void (*ctx_free)(rv_ctx *c);
    /// Grows the scratch memory to at least `bytes`; called while planning, never inside a step.
    rv_status (*reserve)(rv_ctx *c, size_t bytes, rv_err *e);
    int (*threads)(const rv_ctx *c);
    rv_status (*alloc)(rv_ctx *c, rv_dev *out, size_t bytes, rv_err *e); // 64-byte aligned, zeroed
    void (*free)(rv_ctx *c, rv_dev d);
    void (*upload)(rv_ctx *c, rv_dev dst, const void *src, size_t bytes); // src: host
    void (*download)(rv_ctx *c, void *dst, rv_dev src, size_t bytes);     // dst: host; waits
    void (*copy)(rv_ctx *c, rv_dev dst, rv_dev src, size_t bytes);
    void (*zero)(rv_ctx *c, rv_dev dst, size_t bytes);
    void (*sync)(rv_ctx *c);
    /// Bytes in use now and at the most, over all allocations of this ctx.
    void (*usage)(const rv_ctx *c, size_t *now, size_t *peak);

    // ---- weights ----
    /// Fills fwd_bytes from n, k, store, round_x.
    void (*weight_size)(rv_weight *w);
    /// Fills w->fwd from row-major (N, K) elements of type `t` (host).
    rv_status (*weight_prepare)(rv_ctx *c, rv_weight *w, const void *src, rv_dtype t, rv_err *e);
    /// Elements (fp32) of a master, gradient or optimiser-state buffer for w: N K rounded up to the
    /// backend's layout, padding zero and kept zero by every elementwise operation that maps 0 to
    /// 0.
    int64_t (*weight_elems)(const rv_weight *w);
    /// Moves fp32 elements between row-major (host) and a master/gradient buffer's order.
    void (*weight_pack)(rv_ctx *c, const rv_weight *w, rv_dev master, const float *src);
    void (*weight_unpack)(rv_ctx *c, const rv_weight *w, float *dst, rv_dev master);
    /// Refreshes w->fwd after the optimiser changed `master`, which with store F32 may be w->fwd
    /// itself.
    void (*weight_refresh)(rv_ctx *c, rv_weight *w, rv_dev master);
    /// Reads the prepared weight back as fp32 row-major (host): for saving where there is no
    /// master.
    void (*weight_read)(rv_ctx *c, const rv_weight *w, float *dst);

    // ---- linear layers ----
    /// y (M, N) from x (M, K); see rv_linear. y must not alias x.
    void (*linear)(rv_ctx *c, rv_dev y, rv_dev x, int64_t m, const rv_linear *l);
    /// `n` <= RV_LINEARS layers of the same input (q, k and v; gate and up): y[i] as `linear` gives
    /// it with l[i], bit for bit. No y is another layer's residual.
    void (*linears)(rv_ctx *c, const rv_dev *y, rv_dev x, int64_t m, const rv_linear *l, int n);
    /// dx (M, K) = dy W (+ LoRA: scale (dy B) A); adds to dx when `add`. lora_g (M, R) receives
    /// scale * dy B (needed with LoRA).
    void (*linear_dx)(rv_ctx *c, rv_dev dx, rv_dev dy, int64_t m, const rv_linear *l, rv_dev lora_g,
                      bool add);
    /// dw += dy^T x in the order of w's master buffer, rows ascending on top of what dw holds (so a
    /// split of the rows over calls gives the same bits); db (N) += column sums of dy unless none.
    /// With w->round_x both sides are rounded to bf16 and rows are taken two by two from the call's
    /// first, so there a split keeps the bits at even rows. dw none: only db.
    void (*linear_dw)(rv_ctx *c, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, int64_t m,
                      const rv_weight *w);
    /// da += lora_g^T x, db_ += scale dy^T lora_h; in the orders of a's and b's masters.
    void (*lora_dw)(rv_ctx *c, rv_dev da, rv_dev db, rv_dev dy, rv_dev x, rv_dev lora_g, int64_t m,
                    const rv_linear *l);

    // ---- norms: rows of width n; weight and bias (n) fp32 ----
    void (*rmsnorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, int64_t m, int64_t n, float eps);
    /// dx (M, n) += when add; dw += unless none. Statistics are recomputed from x.
    void (*rmsnorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev dy, rv_dev x, rv_dev w,
                             int64_t m, int64_t n, float eps, bool add);
    void (*layernorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, rv_dev b, int64_t m, int64_t n,
                      float eps);
    void (*layernorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x,
                               rv_dev w, int64_t m, int64_t n, float eps, bool add);

    // ---- elementwise ----
    /// y = act(x); dx = dy act'(x). `count` elements. y may be x, dx may be dy.
    void (*act)(rv_ctx *c, rv_dev y, rv_dev x, int64_t count, rv_act a);
    void (*act_backward)(rv_ctx *c, rv_dev dx, rv_dev dy, rv_dev x, int64_t count, rv_act a);
    /// y = silu(gate) * up; dgate, dup from dy.
    void (*swiglu)(rv_ctx *c, rv_dev y, rv_dev gate, rv_dev up, int64_t count);
    void (*swiglu_backward)(rv_ctx *c, rv_dev dgate, rv_dev dup, rv_dev dy, rv_dev gate, rv_dev up,
                            int64_t count);
    /// y += alpha x.
    void (*axpy)(rv_ctx *c, rv_dev y, rv_dev x, float alpha, int64_t count);
    void (*scale)(rv_ctx *c, rv_dev x, float alpha, int64_t count);
    /// Rotates x (M, heads, D), rows `stride` elements apart, in place, rotate-half pairs (i, i +
    /// D/2), by the angles whose cos and sin stand in cs (M, D/2, 2); `sign` -1 turns the other way
    /// (the backward pass).
    void (*rope)(rv_ctx *c, rv_dev x, int64_t stride, rv_dev cs, int64_t m, int heads, int head_dim,
                 float sign);

    // ---- rows ----
    /// y[i] = x[idx[i]]; idx (host) of m rows of width n. A negative index writes zeros.
    void (*gather_rows)(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n);
    /// y[idx[i]] += x[i], i ascending (repeated indices add in that order); negative indices are
    /// skipped.
    void (*scatter_add_rows)(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m,
                             int64_t n);
    /// y[idx[i]] = x[i]; indices distinct, negative ones skipped.
    void (*scatter_rows)(rv_ctx *c, rv_dev y, rv_dev x, const int32_t *idx, int64_t m, int64_t n);
    /// Rows of the embedding matrix `w` (V, n), a prepared weight: y[i] = W[ids[i]] (host ids;
    /// negative: zeros).
    void (*embed)(rv_ctx *c, rv_dev y, const rv_weight *w, const int32_t *ids, int64_t m);
    /// dw (order of w's master) += dy rows by id, i ascending; negative ids are skipped.
    void (*embed_backward)(rv_ctx *c, rv_dev dw, const rv_weight *w, rv_dev dy, const int32_t *ids,
                           int64_t m);

    // ---- attention: q, dq (rows, H, D) with row stride q_stride, k, v, dk, dv (rows, G, D) with
    // kv_stride, in elements; o, d_o (rows, H, D) dense; D <= 512 ----
    /// Scratch that attention and attention_backward need for the longest sequence `max_len`.
    size_t (*attention_scratch)(const rv_ctx *c, const rv_attn *a, int64_t max_len);
    /// Packed sequences: sequence s has rows cu[s] .. cu[s+1]-1 (host, n_seq + 1 entries). lse
    /// (rows, H) fp32 or none. Keys in blocks of 64 counted from each sequence's key 0, running
    /// maximum, masked keys add nothing. q_cu (host, or NULL: cu): only the last rows of each
    /// sequence are queries; they lie in rows q_cu[s] .. q_cu[s+1]-1 of q, o, lse, dq and d_o.
    void (*attention)(rv_ctx *c, rv_dev o, rv_dev lse, rv_dev q, rv_dev k, rv_dev v,
                      int64_t q_stride, int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                      int64_t n_seq, const rv_attn *a);
    void (*attention_backward)(rv_ctx *c, rv_dev dq, rv_dev dk, rv_dev dv, rv_dev d_o, rv_dev q,
                               rv_dev k, rv_dev v, rv_dev o, rv_dev lse, int64_t q_stride,
                               int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                               int64_t n_seq, const rv_attn *a);
    /// Bytes of one cache block (64 tokens, keys and values) of one layer.
    size_t (*kv_block_bytes)(const rv_attn *a);
    /// Writes rows of k, v into the cache: row i of sequence s goes to position pos0 + (i - row0).
    void (*kv_write)(rv_ctx *c, rv_dev pool, rv_dev k, rv_dev v, int64_t kv_stride,
                     const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a);
    /// Attention of new queries against the cache: bit-equal to `attention` over the whole
    /// sequence.
    void (*attention_cached)(rv_ctx *c, rv_dev o, rv_dev q, int64_t q_stride, rv_dev pool,
                             const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a);

    // ---- head ----
    /// Log-softmax statistics of logits (M, V) / temperature: for row i, logp[i] of id ids[i]
    /// (host; -1: 0) and entropy[i]; lse[i] kept for the backward pass. Any of logp, entropy, lse
    /// (M) may be none. The same routine serves the sampler, so recorded and scored
    /// log-probabilities have the same bits.
    void (*logprob)(rv_ctx *c, rv_dev logp, rv_dev entropy, rv_dev lse, rv_dev logits,
                    const int32_t *ids, int64_t m, int64_t v, float temperature);
    /// logits (in place) become the gradient of sum_i g_logp[i] logp[i] + g_entropy[i] entropy[i].
    void (*logprob_backward)(rv_ctx *c, rv_dev logits, rv_dev g_logp, rv_dev g_entropy, rv_dev lse,
                             rv_dev entropy, const int32_t *ids, int64_t m, int64_t v,
                             float temperature);
    /// Draws one id per row; `banned` (host, n_banned ids) can't be drawn but stay in the softmax.
    /// out: host. Errors: RV_ENUMERIC naming the first row that holds NaN.
    rv_status (*sample)(rv_ctx *c, rv_drawn *out, rv_dev logits, int64_t m, int64_t v,
                        const rv_sample *how, const int32_t *banned, int64_t n_banned, rv_err *e);

    // ---- optimiser ----
    /// Sum of squares in fp64, index order: *out (host) += sum x^2.
    void (*sum_squares)(rv_ctx *c, double *out, rv_dev x, int64_t count);
    /// One decoupled AdamW step on fp32 elements: w, m, v in place (Loshchilov & Hutter 2019,
    /// torch's order).
    void (*adamw)(rv_ctx *c, rv_dev w, rv_dev g, rv_dev m, rv_dev v, int64_t count,
                  const rv_adamw *how);
} rv_backend;

/// The CPU's table: always there.
const rv_backend *rv_backend_cpu(void);
/// The instruction set of that table: "base", "avx2", "avx512", "avx512bf16".
const char *rv_backend_cpu_isa(void);

/// The table of a device by name ("cpu", "cuda"); RV_EUNSUPPORTED when this program or machine has
/// none.
rv_status rv_backend_get(const rv_backend **out, const char *name, rv_err *e);

#ifdef __cplusplus
}
#endif
