// isa.h - the entries that are compiled once per instruction set.
#pragma once

#include "cpu.h"
#include "quant.h"
#include "vec.h"

void ISA(rv_linear)(rv_ctx *c, rv_dev y, rv_dev x, int64_t m, const rv_linear *l);
void ISA(rv_linears)(rv_ctx *c, const rv_dev *y, rv_dev x, int64_t m, const rv_linear *l, int n);
void ISA(rv_linear_dx)(rv_ctx *c, rv_dev dx, rv_dev dy, int64_t m, const rv_linear *l,
                       rv_dev lora_g, bool add);
void ISA(rv_linear_dw)(rv_ctx *c, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x, int64_t m,
                       const rv_weight *w);
void ISA(rv_lora_dw)(rv_ctx *c, rv_dev da, rv_dev db, rv_dev dy, rv_dev x, rv_dev lora_g, int64_t m,
                     const rv_linear *l);

/// Panels p .. p + panels - 1 of a product with a quantised weight.
void ISA(rv_quant_product)(const rv_quant_call *q, int64_t p, int64_t panels);

void ISA(rv_rmsnorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, int64_t m, int64_t n, float eps);
void ISA(rv_rmsnorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev dy, rv_dev x, rv_dev w,
                              int64_t m, int64_t n, float eps, bool add);
void ISA(rv_layernorm)(rv_ctx *c, rv_dev y, rv_dev x, rv_dev w, rv_dev b, int64_t m, int64_t n,
                       float eps);
void ISA(rv_layernorm_backward)(rv_ctx *c, rv_dev dx, rv_dev dw, rv_dev db, rv_dev dy, rv_dev x,
                                rv_dev w, int64_t m, int64_t n, float eps, bool add);

void ISA(rv_act_run)(rv_ctx *c, rv_dev y, rv_dev x, int64_t count, rv_act a);
void ISA(rv_act_backward)(rv_ctx *c, rv_dev dx, rv_dev dy, rv_dev x, int64_t count, rv_act a);
void ISA(rv_swiglu)(rv_ctx *c, rv_dev y, rv_dev gate, rv_dev up, int64_t count);
void ISA(rv_swiglu_backward)(rv_ctx *c, rv_dev dgate, rv_dev dup, rv_dev dy, rv_dev gate, rv_dev up,
                             int64_t count);
void ISA(rv_axpy)(rv_ctx *c, rv_dev y, rv_dev x, float alpha, int64_t count);
void ISA(rv_scale)(rv_ctx *c, rv_dev x, float alpha, int64_t count);
void ISA(rv_rope)(rv_ctx *c, rv_dev x, int64_t stride, rv_dev cs, int64_t m, int heads,
                  int head_dim, float sign);

size_t ISA(rv_attention_scratch)(const rv_ctx *c, const rv_attn *a, int64_t max_len);
void ISA(rv_attention)(rv_ctx *c, rv_dev o, rv_dev lse, rv_dev q, rv_dev k, rv_dev v,
                       int64_t q_stride, int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                       int64_t n_seq, const rv_attn *a);
void ISA(rv_attention_backward)(rv_ctx *c, rv_dev dq, rv_dev dk, rv_dev dv, rv_dev d_o, rv_dev q,
                                rv_dev k, rv_dev v, rv_dev o, rv_dev lse, int64_t q_stride,
                                int64_t kv_stride, const int32_t *cu, const int32_t *q_cu,
                                int64_t n_seq, const rv_attn *a);
size_t ISA(rv_kv_block_bytes)(const rv_attn *a);
void ISA(rv_kv_write)(rv_ctx *c, rv_dev pool, rv_dev k, rv_dev v, int64_t kv_stride,
                      const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a);
void ISA(rv_attention_cached)(rv_ctx *c, rv_dev o, rv_dev q, int64_t q_stride, rv_dev pool,
                              const rv_attn_seq *seqs, int64_t n_seq, const rv_attn *a);

void ISA(rv_logprob)(rv_ctx *c, rv_dev logp, rv_dev entropy, rv_dev lse, rv_dev logits,
                     const int32_t *ids, int64_t m, int64_t v, float temperature);
void ISA(rv_logprob_backward)(rv_ctx *c, rv_dev logits, rv_dev g_logp, rv_dev g_entropy, rv_dev lse,
                              rv_dev entropy, const int32_t *ids, int64_t m, int64_t v,
                              float temperature);
rv_status ISA(rv_sample_run)(rv_ctx *c, rv_drawn *out, rv_dev logits, int64_t m, int64_t v,
                             const rv_sample *how, const int32_t *banned, int64_t n_banned,
                             rv_err *e);

void ISA(rv_sum_squares)(rv_ctx *c, double *out, rv_dev x, int64_t count);
void ISA(rv_adamw_step)(rv_ctx *c, rv_dev w, rv_dev g, rv_dev m, rv_dev v, int64_t count,
                        const rv_adamw *how);

extern const rv_backend ISA(rv_cpu_table);
