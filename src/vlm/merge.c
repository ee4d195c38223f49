// merge.c - an adapter added into the weight that it stands beside: a linear layer whose rows are
// those of B and whose weight is A turned around, on top of what the weight holds.
#include "merge.h"

#include <stdlib.h>

#include "backend.h"
#include "mem.h"

typedef struct {
    const rv_backend *be;
    rv_ctx *c;
    rv_weight turned; // (k, r): A turned around
    rv_dev x, y;
} job;

static rv_status fill(job *j, const rv_merge *m, float *turned, rv_err *e) {
    for (int64_t i = 0; i < m->k; i++) {
        for (int64_t t = 0; t < m->r; t++) {
            turned[i * m->r + t] = m->scale * m->a[t * m->k + i];
        }
    }
    j->turned = (rv_weight){.n = m->k, .k = m->r, .store = RV_F32};
    j->be->weight_size(&j->turned);
    RV_TRY(j->be->alloc(j->c, &j->turned.fwd, j->turned.fwd_bytes, e));
    RV_TRY(j->be->weight_prepare(j->c, &j->turned, turned, RV_F32, e));
    RV_TRY(j->be->alloc(j->c, &j->x, (size_t)(m->n * m->r) * sizeof(float), e));
    RV_TRY(j->be->alloc(j->c, &j->y, (size_t)(m->n * m->k) * sizeof(float), e));
    j->be->upload(j->c, j->x, m->b, (size_t)(m->n * m->r) * sizeof(float));
    j->be->upload(j->c, j->y, m->w, (size_t)(m->n * m->k) * sizeof(float));
    return RV_OK;
}

rv_status rv_lora_merge(const rv_merge *m, rv_err *e) {
    job j = {.be = rv_backend_cpu()};
    float *turned = rv_calloc(m->k * m->r, sizeof *turned);
    rv_status s = turned ? j.be->ctx_new(&j.c, 0, 0, e) : RV_FAIL(e, RV_ENOMEM, "out of memory");
    if (s == RV_OK) {
        s = fill(&j, m, turned, e);
    }
    if (s == RV_OK) {
        j.be->linear(j.c, j.y, j.x, m->n, &(rv_linear){.w = &j.turned, .residual = j.y});
        j.be->download(j.c, m->w, j.y, (size_t)(m->n * m->k) * sizeof(float));
    }
    if (j.c) {
        j.be->free(j.c, j.turned.fwd);
        j.be->free(j.c, j.x);
        j.be->free(j.c, j.y);
        j.be->ctx_free(j.c);
    }
    free(turned);
    return s;
}
