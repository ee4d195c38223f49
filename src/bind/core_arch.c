// core_arch.c - the tables that describe a model in Lua, as src/vlm/arch.h names their fields.
#include "core_arch.h"

#include <string.h>

typedef struct {
    lua_State *L;
    int table;        // index of the table being read
    const char *name; // of the table, for messages
} reader;

static int wrong(const reader *r, const char *key, const char *wanted) {
    return luaL_error(r->L, "%s.%s: wanted %s, came %s", r->name, key, wanted,
                      luaL_typename(r->L, -1));
}

static int integer(const reader *r, const char *key) {
    int ok = 1, kind = lua_getfield(r->L, r->table, key);
    lua_Integer x = kind == LUA_TNIL ? 0 : lua_tointegerx(r->L, -1, &ok);
    if (!ok || kind == LUA_TSTRING || x < INT32_MIN || x > INT32_MAX) {
        wrong(r, key, "an integer");
    }
    lua_pop(r->L, 1);
    return (int)x;
}

static float number(const reader *r, const char *key) {
    int kind = lua_getfield(r->L, r->table, key);
    if (kind != LUA_TNIL && kind != LUA_TNUMBER) {
        wrong(r, key, "a number");
    }
    lua_Number x = lua_tonumber(r->L, -1);
    lua_pop(r->L, 1);
    return (float)x;
}

static bool boolean(const reader *r, const char *key) {
    int kind = lua_getfield(r->L, r->table, key);
    if (kind != LUA_TNIL && kind != LUA_TBOOLEAN) {
        wrong(r, key, "a boolean");
    }
    bool x = lua_toboolean(r->L, -1);
    lua_pop(r->L, 1);
    return x;
}

// The number of a word in a NULL-ended list; a missing one is the first.
static int word(const reader *r, const char *key, const char *const *words) {
    lua_getfield(r->L, r->table, key);
    const char *w = lua_isnil(r->L, -1) ? words[0] : lua_tostring(r->L, -1);
    for (int i = 0; w && words[i]; i++) {
        if (strcmp(w, words[i]) == 0) {
            lua_pop(r->L, 1);
            return i;
        }
    }
    return luaL_error(r->L, "%s.%s: no such choice: '%s'", r->name, key, w ? w : "?");
}

static rv_act act(const reader *r) {
    static const char *const words[] = {"none", "gelu", "gelu_tanh", "quick_gelu",
                                        "silu", "relu", NULL};
    static const rv_act acts[] = {RV_ACT_NONE,       RV_ACT_GELU_ERF, RV_ACT_GELU_TANH,
                                  RV_ACT_QUICK_GELU, RV_ACT_SILU,     RV_ACT_RELU};
    return acts[word(r, "act", words)];
}

// Opens field `key` of the table at `table`; false (nothing pushed) when it is not there.
static bool open(reader *r, lua_State *L, int table, const char *key, const char *const *known) {
    int kind = lua_getfield(L, table, key);
    if (kind == LUA_TNIL) {
        lua_pop(L, 1);
        return false;
    }
    *r = (reader){L, lua_gettop(L), key};
    if (kind != LUA_TTABLE) {
        luaL_error(L, "%s: wanted a table, came %s", key, luaL_typename(L, -1));
    }
    rv_bind_check_keys(L, r->table, known);
    return true;
}

// The bits of field `key`: a list of layers from 0, or nil.
static uint64_t layers(const reader *r, const char *key) {
    uint64_t bits = 0;
    int kind = lua_getfield(r->L, r->table, key);
    if (kind != LUA_TNIL && kind != LUA_TTABLE) {
        wrong(r, key, "a list of layers");
    }
    for (lua_Integer i = 1; kind == LUA_TTABLE && i <= luaL_len(r->L, -1); i++) {
        int ok;
        lua_geti(r->L, -1, i);
        lua_Integer k = lua_tointegerx(r->L, -1, &ok);
        if (!ok || k < 0 || k >= RV_MAX_VISION_LAYERS) {
            luaL_error(r->L, "%s.%s[%I]: wanted a layer from 0 to %d, came %s", r->name, key, i,
                       RV_MAX_VISION_LAYERS - 1, luaL_tolstring(r->L, -1, NULL));
        }
        bits |= (uint64_t)1 << k;
        lua_pop(r->L, 1);
    }
    lua_pop(r->L, 1);
    return bits;
}

// An integer that is 1 where it is not given.
static int factor(const reader *r, const char *key) {
    bool given = lua_getfield(r->L, r->table, key) != LUA_TNIL;
    lua_pop(r->L, 1);
    return given ? integer(r, key) : 1;
}

static void read_vision(lua_State *L, int table, rv_arch_vision *v) {
    static const char *const known[] = {
        "image_size", "patch",     "temporal",   "merge",      "width", "layers",
        "heads",      "mlp",       "act",        "eps",        "rms",   "gated",
        "fused_qkv",  "positions", "rope_theta", "window",     "full",  "class_token",
        "patch_bias", "pre_norm",  "post_norm",  "drop_class", NULL};
    reader r;
    if (open(&r, L, table, "vision", known)) {
        *v = (rv_arch_vision){.image_size = integer(&r, "image_size"),
                              .patch = integer(&r, "patch"),
                              .temporal = factor(&r, "temporal"),
                              .merge = factor(&r, "merge"),
                              .width = integer(&r, "width"),
                              .layers = integer(&r, "layers"),
                              .heads = integer(&r, "heads"),
                              .mlp = integer(&r, "mlp"),
                              .act = act(&r),
                              .eps = number(&r, "eps"),
                              .rms = boolean(&r, "rms"),
                              .gated = boolean(&r, "gated"),
                              .fused_qkv = boolean(&r, "fused_qkv"),
                              .class_token = boolean(&r, "class_token"),
                              .patch_bias = boolean(&r, "patch_bias"),
                              .pre_norm = boolean(&r, "pre_norm"),
                              .post_norm = boolean(&r, "post_norm"),
                              .drop_class = boolean(&r, "drop_class"),
                              .positions = integer(&r, "positions"),
                              .rope_theta = number(&r, "rope_theta"),
                              .window = integer(&r, "window"),
                              .full = layers(&r, "full")};
        lua_pop(L, 1);
    }
}

static void read_connector(lua_State *L, int table, rv_arch_connector *c) {
    static const char *const known[] = {"norm", "eps",  "in",      "hidden", "out",
                                        "act",  "bias", "newline", NULL};
    static const char *const norms[] = {"none", "layer", "rms", NULL};
    reader r;
    if (open(&r, L, table, "connector", known)) {
        *c = (rv_arch_connector){.norm = (rv_norm_kind)word(&r, "norm", norms),
                                 .eps = number(&r, "eps"),
                                 .in = integer(&r, "in"),
                                 .hidden = integer(&r, "hidden"),
                                 .out = integer(&r, "out"),
                                 .act = act(&r),
                                 .bias = boolean(&r, "bias"),
                                 .newline = boolean(&r, "newline")};
        lua_pop(L, 1);
    }
}

// The three sizes of "mrope"; missing: zeros.
static void read_sections(const reader *r, int mrope[3]) {
    int kind = lua_getfield(r->L, r->table, "mrope");
    if (kind != LUA_TNIL && (kind != LUA_TTABLE || lua_rawlen(r->L, -1) != 3)) {
        wrong(r, "mrope", "three integers");
    }
    for (int i = 0; kind == LUA_TTABLE && i < 3; i++) {
        int ok;
        lua_rawgeti(r->L, -1, i + 1);
        lua_Integer x = lua_tointegerx(r->L, -1, &ok);
        if (!ok || x < 0 || x > INT32_MAX) {
            wrong(r, "mrope", "three integers");
        }
        mrope[i] = (int)x;
        lua_pop(r->L, 1);
    }
    lua_pop(r->L, 1);
}

static void read_text(lua_State *L, int table, rv_arch_text *t) {
    static const char *const known[] = {"vocab",
                                        "width",
                                        "layers",
                                        "heads",
                                        "kv_heads",
                                        "head_dim",
                                        "mlp",
                                        "act",
                                        "eps",
                                        "rope_theta",
                                        "rope",
                                        "rope_factor",
                                        "rope_low_freq",
                                        "rope_high_freq",
                                        "rope_fast",
                                        "rope_slow",
                                        "rope_attention",
                                        "rope_original_positions",
                                        "mrope",
                                        "qkv_bias",
                                        "o_bias",
                                        "mlp_bias",
                                        "head_bias",
                                        "tied",
                                        "window",
                                        "max_positions",
                                        NULL};
    static const char *const ropes[] = {"plain", "linear", "llama3", "yarn", NULL};
    reader r;
    if (!open(&r, L, table, "text", known)) {
        luaL_error(L, "text: wanted a table, came nil");
    }
    *t = (rv_arch_text){.vocab = integer(&r, "vocab"),
                        .width = integer(&r, "width"),
                        .layers = integer(&r, "layers"),
                        .heads = integer(&r, "heads"),
                        .kv_heads = integer(&r, "kv_heads"),
                        .head_dim = integer(&r, "head_dim"),
                        .mlp = integer(&r, "mlp"),
                        .act = act(&r),
                        .eps = number(&r, "eps"),
                        .rope_theta = number(&r, "rope_theta"),
                        .rope = (rv_rope_kind)word(&r, "rope", ropes),
                        .rope_factor = number(&r, "rope_factor"),
                        .rope_low_freq = number(&r, "rope_low_freq"),
                        .rope_high_freq = number(&r, "rope_high_freq"),
                        .rope_fast = number(&r, "rope_fast"),
                        .rope_slow = number(&r, "rope_slow"),
                        .rope_attention = number(&r, "rope_attention"),
                        .rope_original_positions = integer(&r, "rope_original_positions"),
                        .qkv_bias = boolean(&r, "qkv_bias"),
                        .o_bias = boolean(&r, "o_bias"),
                        .mlp_bias = boolean(&r, "mlp_bias"),
                        .head_bias = boolean(&r, "head_bias"),
                        .tied = boolean(&r, "tied"),
                        .window = integer(&r, "window"),
                        .max_positions = integer(&r, "max_positions")};
    read_sections(&r, t->mrope);
    lua_pop(L, 1);
}

void rv_core_read_arch(lua_State *L, int arg, rv_arch *a) {
    static const char *const known[] = {"vision",           "connector",     "text", "image_token",
                                        "max_view_patches", "max_view_rows", NULL};
    luaL_checktype(L, arg, LUA_TTABLE);
    rv_bind_check_keys(L, arg, known);
    *a = (rv_arch){0};
    reader r = {L, arg, "arch"};
    a->image_token = integer(&r, "image_token");
    a->max_view_patches = integer(&r, "max_view_patches");
    a->max_view_rows = integer(&r, "max_view_rows");
    read_vision(L, arg, &a->vision);
    read_connector(L, arg, &a->connector);
    read_text(L, arg, &a->text);
}

const char *const rv_core_parts[] = {"vision", "connector", "language", "head", "value", NULL};

static void read_train(lua_State *L, int table, bool train[RV_NPARTS]) {
    reader r;
    if (open(&r, L, table, "train", rv_core_parts)) {
        for (int i = 0; i < RV_NPARTS; i++) {
            train[i] = boolean(&r, rv_core_parts[i]);
        }
        lua_pop(L, 1);
    }
}

void rv_core_read_options(lua_State *L, int arg, rv_core_options *o) {
    static const char *const known[] = {
        "device",    "device_index", "threads",    "store",      "round_x",   "train", "value_head",
        "recompute", "max_rows",     "max_tokens", "image_rows", "kv_blocks", "base",  NULL};
    static const char *const bases[] = {"none", "int8", "nf4", NULL};
    static const rv_dtype base_types[] = {RV_F32, RV_I8, RV_NF4};
    static const char *const stores[] = {"F32", "BF16", "F16", NULL};
    static const rv_dtype types[] = {RV_F32, RV_BF16, RV_F16};
    if (lua_isnoneornil(L, arg)) {
        lua_settop(L, arg - 1);
        lua_newtable(L);
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    rv_bind_check_keys(L, arg, known);
    reader r = {L, arg, "options"};
    lua_getfield(L, arg, "device");
    // the string stays alive: it is a field of the table, or a constant
    o->device = lua_isnil(L, -1) ? "cpu" : luaL_checkstring(L, -1);
    lua_pop(L, 1);
    o->device_index = integer(&r, "device_index");
    o->threads = integer(&r, "threads");
    o->vlm = (rv_vlm_options){.store = types[word(&r, "store", stores)],
                              .round_x = boolean(&r, "round_x"),
                              .base = base_types[word(&r, "base", bases)],
                              .value_head = boolean(&r, "value_head"),
                              .recompute = boolean(&r, "recompute"),
                              .max_rows = integer(&r, "max_rows"),
                              .max_tokens = integer(&r, "max_tokens"),
                              .image_rows = integer(&r, "image_rows"),
                              .kv_blocks = integer(&r, "kv_blocks")};
    o->vlm.max_rows = o->vlm.max_rows ? o->vlm.max_rows : 2048;
    read_train(L, arg, o->vlm.train);
}
