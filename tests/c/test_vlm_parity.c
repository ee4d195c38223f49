// The model against transformers' golden values, where $RL4VLM_PARITY names the folder that holds
// checkpoints/ and golden/; skipped (and said so) where it does not.
#include "file.h"
#include "safetensors.h"
#include "vlm_tiny.h"

#define NAME "open-llava-1.5"

enum { SIDE = 56, PATCH = 14, ACROSS = SIDE / PATCH, PATCHES = ACROSS * ACROSS, IMAGES = 4 };

static const char *folder;

static void need_folder(void) {
    if (!folder) {
        skip();
    }
}

static rv_arch llava_arch(void) {
    rv_arch a = tiny_arch(); // LLaVA-1.5 as well: the sizes differ
    a.vision.image_size = SIDE;
    a.vision.patch = PATCH;
    a.vision.positions = ACROSS;
    a.vision.width = a.connector.in = 40;
    a.vision.heads = 5;
    a.vision.mlp = 72;
    a.connector.hidden = a.connector.out = a.text.width = 72;
    a.text.vocab = 576;
    a.text.heads = a.text.kv_heads = 6;
    a.text.head_dim = 12;
    a.text.mlp = 104;
    a.text.max_positions = 4096;
    a.image_token = 519;
    a.max_view_patches = a.max_view_rows = PATCHES;
    return a;
}

static rv_safetensors *open_file(const char *format, int k) {
    char path[512], name[128];
    rv_err e = {0};
    rv_safetensors *f;
    snprintf(name, sizeof name, format, k);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(rv_safetensors_open(&f, path, &e), &e);
    return f;
}

// Replaces `from` at the first place in `s` by `to`.
static void replace(char *s, size_t size, const char *from, const char *to) {
    char *at = strstr(s, from), rest[256];
    if (at) {
        snprintf(rest, sizeof rest, "%s", at + strlen(from));
        snprintf(at, size - (size_t)(at - s), "%s%s", to, rest);
    }
}

// The name in the checkpoint's files of a role.
static void file_name(char *s, size_t size, const char *role) {
    static const char *const pairs[][2] = {
        {"vision.class", "vision.embeddings.class_embedding"},
        {"vision.patch", "vision.embeddings.patch_embedding"},
        {"vision.position", "vision.embeddings.position_embedding.weight"},
        {"vision.pre_norm", "vision.pre_layrnorm"},
        {"vision.layers", "vision.encoder.layers"},
        {"vision.", "vision_tower.vision_model."},
        {"connector.0", "multi_modal_projector.linear_1"},
        {"connector.1", "multi_modal_projector.linear_2"},
        {"text.head", "language_model.lm_head"},
        {"text.embed", "text.embed_tokens"},
        {"text.", "language_model.model."},
        {".q.", ".self_attn.q_proj."},
        {".k.", ".self_attn.k_proj."},
        {".v.", ".self_attn.v_proj."},
        {".gate.", ".mlp.gate_proj."},
        {".up.", ".mlp.up_proj."},
        {".down.", ".mlp.down_proj."},
        {".fc", ".mlp.fc"},
    };
    bool vision = strncmp(role, "vision", 6) == 0;
    snprintf(s, size, "%s", role);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        replace(s, size, pairs[i][0], pairs[i][1]);
    }
    replace(s, size, ".o.", vision ? ".self_attn.out_proj." : ".self_attn.o_proj.");
    replace(s, size, "norm1", vision ? "layer_norm1" : "input_layernorm");
    replace(s, size, "norm2", vision ? "layer_norm2" : "post_attention_layernorm");
}

static tiny load(const rv_vlm_options *o, void (*prepare)(rv_vlm *)) {
    rv_arch a = llava_arch();
    rv_err e = {0};
    tiny t = {.be = rv_backend_cpu()};
    must(t.be->ctx_new(&t.ctx, 0, 1, &e), &e);
    must(rv_vlm_new(&t.m, t.be, t.ctx, &a, o, &e), &e);
    if (prepare) {
        prepare(t.m);
    }
    rv_safetensors *f = open_file("checkpoints/" NAME "/model.safetensors.index.json", 0);
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        const rv_param_info *p = rv_vlm_param(t.m, i);
        char name[256];
        file_name(name, sizeof name, p->role);
        const rv_safetensor *x = rv_safetensors_find(f, name);
        if (!x && !strstr(p->role, "lora")) {
            fail_msg("no %s for %s", name, p->role);
        }
        if (x) {
            assert_int_equal((int64_t)(x->bytes / rv_dtype_size(x->type)), tiny_count(p));
            must(rv_vlm_param_set(t.m, i, RV_OF_PARAM, x->data, x->type, &e), &e);
        }
    }
    rv_safetensors_close(f);
    return t;
}

static rv_vlm_options llava_options(void) {
    rv_vlm_options o = tiny_options();
    o.value_head = false;
    o.train[RV_PART_VALUE] = false;
    return o;
}

// One golden prompt: a sequence of prompt and answer, every row asked.
typedef struct {
    rv_safetensors *f;
    rv_batch b;
    int32_t ids[256], cu[2], row[256], id[256];
    int64_t prompt, answer, rows;
    const float *logits, *logprobs, *weights;
    rv_view images[IMAGES];
    float patches[IMAGES][3 * SIDE * SIDE];
} golden;

static const rv_safetensor *part(const golden *g, const char *name) {
    const rv_safetensor *x = rv_safetensors_find(g->f, name);
    return x;
}

static int64_t ids_of(const rv_safetensor *x, int32_t *out) {
    int64_t n = (int64_t)(x->bytes / rv_dtype_size(x->type));
    for (int64_t i = 0; i < n; i++) {
        int64_t wide;
        memcpy(&wide, (const char *)x->data + i * 8, 8);
        out[i] = (int32_t)wide;
    }
    assert_int_equal(x->type, RV_I64);
    return n;
}

// Pixels (n, 3, SIDE, SIDE) as views.
static void cut_images(golden *g, const float *pixels, int64_t n) {
    assert_true(n <= IMAGES);
    for (int64_t i = 0; i < n; i++) {
        float *to = g->patches[i];
        for (int p = 0; p < PATCHES; p++) {
            for (int k = 0; k < 3 * PATCH; k++, to += PATCH) { // (channel, row)
                int row = p / ACROSS * PATCH + k % PATCH;
                const float *from = pixels + ((i * 3 + k / PATCH) * SIDE + row) * SIDE;
                memcpy(to, from + p % ACROSS * PATCH, PATCH * sizeof *to);
            }
        }
        g->images[i] = (rv_view){g->patches[i], 1, ACROSS, ACROSS, NULL, PATCHES, {0}};
    }
}

static golden *golden_open(int k) {
    golden *g = calloc(1, sizeof *g);
    g->f = open_file("golden/" NAME "/p%d.safetensors", k);
    g->prompt = ids_of(part(g, "input_ids"), g->ids);
    g->answer = ids_of(part(g, "answer_ids"), g->ids + g->prompt);
    g->rows = g->prompt + g->answer;
    g->cu[1] = (int32_t)g->rows;
    for (int32_t i = 0; i < g->rows; i++) {
        g->row[i] = i;
        g->id[i] = i + 1 < g->rows ? g->ids[i + 1] : -1;
    }
    const rv_safetensor *pixels = part(g, "pixel_values");
    if (pixels) {
        cut_images(g, pixels->data, pixels->dim[0]);
    }
    g->logits = part(g, "logits")->data;
    g->logprobs = part(g, "logprobs")->data;
    g->weights = part(g, "weights")->data;
    g->b = (rv_batch){.ids = g->ids,
                      .cu = g->cu,
                      .n = 1,
                      .images = g->images,
                      .n_images = pixels ? pixels->dim[0] : 0,
                      .ask_row = g->row,
                      .ask_id = g->id,
                      .n_ask = g->rows,
                      .temperature = 1};
    return g;
}

static void golden_close(golden *g) {
    rv_safetensors_close(g->f);
    free(g);
}

static double largest(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    }
    return most;
}

static double apart(const float *a, const float *b, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = d > most || isnan(d) ? d : most;
    }
    return most;
}

static void logits_match(void **state) {
    (void)state;
    need_folder();
    rv_vlm_options o = llava_options();
    tiny t = load(&o, NULL);
    for (int k = 0; k < 5; k++) {
        golden *g = golden_open(k);
        float *logits = calloc((size_t)g->rows * 576, sizeof *logits), logp[256];
        rv_err e = {0};
        must(rv_vlm_score(t.m, &g->b, false, &(rv_scores){.logits = logits, .logp = logp}, &e), &e);
        double d = apart(logits, g->logits, g->rows * 576);
        double limit = 2e-5 * largest(g->logits, g->rows * 576) + 1e-4;
        double dp = apart(logp + g->prompt - 1, g->logprobs, g->answer);
        print_message("p%d logits %.2g (limit %.2g), log-probabilities %.2g\n", k, d, limit, dp);
        assert_true(d <= limit && dp <= 2e-4);
        free(logits);
        golden_close(g);
    }
    tiny_free(&t);
}

// Adds the gradient of the golden loss of one prompt; returns the loss.
static double add_gradient(tiny *t, int k) {
    golden *g = golden_open(k);
    float up[256] = {0}, logp[256];
    double loss = 0;
    rv_err e = {0};
    must(rv_vlm_score(t->m, &g->b, true, &(rv_scores){.logp = logp}, &e), &e);
    for (int64_t i = 0; i < g->answer; i++) {
        up[g->prompt - 1 + i] = -g->weights[i];
        loss -= (double)g->weights[i] * (double)logp[g->prompt - 1 + i];
    }
    must(rv_vlm_backward(t->m, &(rv_scores){.logp = up}, 1, &e), &e);
    golden_close(g);
    return loss;
}

static double norm_of(const float *x, const float *minus, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (minus ? (double)minus[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

static void compare_gradients(const tiny *t, rv_safetensors *f,
                              void (*name_of)(char *, size_t, const char *), const char *prefix) {
    double big = 0, worst = 0;
    char name[256], full[300];
    for (int64_t i = 0; i < rv_safetensors_count(f); i++) {
        const rv_safetensor *x = rv_safetensors_at(f, i);
        if (strncmp(x->name, prefix, strlen(prefix)) == 0) {
            double n = norm_of(x->data, NULL, (int64_t)(x->bytes / 4));
            big = n > big ? n : big;
        }
    }
    int compared = 0;
    for (int64_t i = 0; i < rv_vlm_param_count(t->m); i++) {
        const rv_param_info *p = rv_vlm_param(t->m, i);
        if (!p->trained) {
            continue;
        }
        name_of(name, sizeof name, p->role);
        snprintf(full, sizeof full, "%s%s", prefix, name);
        const rv_safetensor *x = rv_safetensors_find(f, full);
        if (!x) {
            fail_msg("no golden gradient %s", full);
        }
        float *got = tiny_get(t, i, RV_OF_GRAD);
        double own = norm_of(x->data, NULL, tiny_count(p));
        if (own > 1e-5 * big) {
            double d = norm_of(got, x->data, tiny_count(p)) / own;
            worst = d > worst ? d : worst;
        } else { // attention key biases: no gradient, only rounding, on either side
            assert_true(norm_of(got, NULL, tiny_count(p)) <= 1e-7 * big);
        }
        compared++;
        free(got);
    }
    print_message("%d gradients, worst relative %.2g\n", compared, worst);
    assert_true(worst <= 1e-4 && compared > 0);
}

static void gradients_match(void **state) {
    (void)state;
    need_folder();
    for (int all = 0; all < 2; all++) {
        rv_vlm_options o = llava_options();
        o.recompute = all;
        tiny t = load(&o, NULL);
        for (int k = 0; k < 5; k++) {
            if (all || k == 1) {
                add_gradient(&t, k);
            }
        }
        rv_safetensors *f = open_file(all ? "golden/" NAME "/grad_all.safetensors"
                                          : "golden/" NAME "/grad_p1.safetensors",
                                      0);
        compare_gradients(&t, f, file_name, "");
        rv_safetensors_close(f);
        tiny_free(&t);
    }
}

// After AdamW's first step: elements with a clear gradient to 1e-6, the others within 2 lr.
static double compare_step(const float *got, const float *want, const float *grad, int64_t n) {
    double worst = 0, most = largest(grad, n);
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        bool clear = fabs((double)grad[i]) > 1e-4 * most;
        double over = d / (clear ? 1e-6 : 2e-3);
        worst = over > worst ? over : worst;
    }
    return worst;
}

static void adamw_matches(void **state) {
    (void)state;
    need_folder();
    static const double losses[] = {11.349342346191406, 10.743156433105469, 8.24237060546875,
                                    12.407938003540039, 2.9128541946411133};
    rv_vlm_options o = llava_options();
    tiny t = load(&o, NULL);
    for (int k = 0; k < 5; k++) {
        add_gradient(&t, k);
    }
    rv_err e = {0};
    rv_adamw how = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1};
    rv_safetensors *f = open_file("golden/" NAME "/adamw.safetensors", 0);
    rv_safetensors *grads = open_file("golden/" NAME "/grad_all.safetensors", 0);
    uint64_t epoch = rv_vlm_epoch(t.m);
    must(rv_vlm_adamw(t.m, &how, 0, &e), &e);
    assert_true(rv_vlm_epoch(t.m) != epoch);
    double worst = 0;
    double big = 0;
    for (int64_t i = 0; i < rv_safetensors_count(grads); i++) {
        const rv_safetensor *x = rv_safetensors_at(grads, i);
        double most = largest(x->data, (int64_t)(x->bytes / 4));
        big = most > big ? most : big;
    }
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        const rv_param_info *p = rv_vlm_param(t.m, i);
        char name[256];
        file_name(name, sizeof name, p->role);
        const float *want = rv_safetensors_find(f, name)->data;
        const float *grad = rv_safetensors_find(grads, name)->data;
        float *got = tiny_get(&t, i, RV_OF_PARAM);
        if (largest(grad, tiny_count(p)) > 1e-6 * big) { // k biases have no gradient but noise
            double d = compare_step(got, want, grad, tiny_count(p));
            worst = d > worst ? d : worst;
        }
        free(got);
    }
    print_message("AdamW: worst difference %.2g of the limit\n", worst);
    assert_true(worst <= 1);
    for (int k = 0; k < 5; k++) {
        double loss = add_gradient(&t, k);
        assert_true(fabs(loss - losses[k]) <= 1e-3 * losses[k]);
    }
    rv_safetensors_close(f);
    rv_safetensors_close(grads);
    tiny_free(&t);
}

// ---- the adapter ----

static void adapter_name(char *s, size_t size, const char *role) {
    file_name(s, size, role);
    replace(s, size, "language_model.model.", "base_model.model.model.language_model.");
    replace(s, size, ".weight.lora_a", ".lora_A.weight");
    replace(s, size, ".weight.lora_b", ".lora_B.weight");
}

static void add_llava_adapters(rv_vlm *m) {
    rv_err e = {0};
    for (int64_t i = 0, n = rv_vlm_param_count(m); i < n; i++) {
        const rv_param_info *p = rv_vlm_param(m, i);
        if (p->linear && p->part == RV_PART_LANGUAGE) {
            must(rv_vlm_lora_add(m, 0, i, &(rv_lora_spec){.r = 4, .scale = 2, .train = true}, &e),
                 &e);
        }
    }
}

static void adapter_matches(void **state) {
    (void)state;
    need_folder();
    rv_vlm_options o = llava_options();
    memset(o.train, 0, sizeof o.train);
    tiny t = load(&o, add_llava_adapters);
    rv_err e = {0};
    rv_safetensors *f = open_file("golden/" NAME "/lora/adapter_model.safetensors", 0);
    for (int64_t i = 0; i < rv_vlm_param_count(t.m); i++) {
        const rv_param_info *p = rv_vlm_param(t.m, i);
        char name[256];
        if (strstr(p->role, ".lora_")) {
            adapter_name(name, sizeof name, p->role);
            const rv_safetensor *x = rv_safetensors_find(f, name);
            if (!x) {
                fail_msg("no %s", name);
            }
            must(rv_vlm_param_set(t.m, i, RV_OF_PARAM, x->data, x->type, &e), &e);
        }
    }
    rv_safetensors_close(f);
    f = open_file("golden/" NAME "/lora.safetensors", 0);
    for (int k = 0; k < 5; k++) {
        golden *g = golden_open(k);
        float logp[256];
        char name[32];
        must(rv_vlm_score(t.m, &g->b, false, &(rv_scores){.logp = logp}, &e), &e);
        snprintf(name, sizeof name, "p%d.logprobs", k);
        const rv_safetensor *want = rv_safetensors_find(f, name);
        double d = apart(logp + g->prompt - 1, want->data, g->answer);
        print_message("p%d adapted log-probabilities %.2g\n", k, d);
        assert_true(d <= 2e-4);
        golden_close(g);
        add_gradient(&t, k);
    }
    compare_gradients(&t, f, adapter_name, "grad.");
    rv_safetensors_close(f);
    tiny_free(&t);
}

// Greedy tokens through the cache: the prompt in two chunks, then one token at a time.
static void greedy_tokens_match(void **state) {
    (void)state;
    need_folder();
    rv_vlm_options o = llava_options();
    tiny t = load(&o, NULL);
    rv_err e = {0};
    rv_dev features, logits;
    must(t.be->alloc(t.ctx, &features, 2 * 16 * 72 * 4, &e), &e);
    must(t.be->alloc(t.ctx, &logits, 576 * 4, &e), &e);
    for (int k = 0; k < 5; k++) {
        golden *g = golden_open(k);
        int32_t feature[256], want[32], row = 0, table[] = {5, 0, 9};
        const int32_t banned[] = {519};
        for (int64_t i = 0; i < g->prompt; i++) {
            feature[i] = g->ids[i] == 519 ? row++ : -1;
        }
        assert_int_equal(ids_of(part(g, "greedy"), want), 32);
        must(rv_vlm_encode(t.m, features, g->b.images, g->b.n_images, &e), &e);
        rv_extend x = {g->ids, feature, 20, 0, table, NULL};
        must(rv_vlm_extend(t.m, (rv_dev){0}, (rv_dev){0}, features, &x, 1, &e), &e);
        x = (rv_extend){g->ids + 20, feature + 20, g->prompt - 20, 20, table, NULL};
        for (int64_t i = 0; i < 32; i++) {
            rv_drawn drawn;
            must(rv_vlm_extend(t.m, logits, (rv_dev){0}, features, &x, 1, &e), &e);
            must(t.be->sample(t.ctx, &drawn, logits, 1, 576, &(rv_sample){.top_p = 1}, banned, 1,
                              &e),
                 &e);
            assert_int_equal(drawn.id, want[i]);
            x = (rv_extend){&want[i], NULL, 1, g->prompt + i, table, NULL};
        }
        golden_close(g);
    }
    t.be->free(t.ctx, features);
    t.be->free(t.ctx, logits);
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_match),        cmocka_unit_test(gradients_match),
        cmocka_unit_test(adamw_matches),       cmocka_unit_test(adapter_matches),
        cmocka_unit_test(greedy_tokens_match),
    };
    folder = getenv("RL4VLM_PARITY");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
