---@meta rl4vlm.core
---The model of src/vlm, parameter by parameter: what rl4vlm.vlm is made of.
local M = {}

---@class rl4vlm.Core
local Core = {}

---Makes a model. Its memory, all of it, is taken by the first call that needs it, so adapters are added before
---parameters are set; those are zero until then.
---@param arch table  see src/vlm/arch.h; models/*.lua make it
---@param options? table  device, threads, store, train, ...
---@return rl4vlm.Core
function M.new(arch, options) end

---Bytes that such a model needs, by name; nothing is taken.
---@param arch table
---@param options? table
---@return table<string, integer>
function M.plan(arch, options) end

---Bytes by name, adapters included.
---@return table<string, integer>
function Core:plan() end

---The most bytes in use at once so far.
---@return integer
function Core:peak_bytes() end

---@return {role: string, part: string, shape: integer[], matrix: boolean, linear: boolean, trained: boolean}[]
function Core:params() end

---Sets a parameter, its gradient or its optimiser state.
---@param role string
---@param data rl4vlm.Slice
---@param of? "param"|"grad"|"m"|"v"
function Core:set(role, data, of) end

---@param role string
---@param of? "param"|"grad"|"m"|"v"
---@return rl4vlm.Slice
function Core:get(role, of) end

---Puts a layer of an adapter beside a linear layer; before any parameter is set.
---@param adapter integer  from 1
---@param role string
---@param o {r: integer, scale: number, bias?: boolean, train?: boolean}
function Core:lora_add(adapter, role, o) end

---Puts an adapter to use.
---@param adapter integer  0: the base model
function Core:lora_use(adapter) end

---Lets a single parameter learn; before any parameter is set.
---@param role string
function Core:train(role) end

---A number that changes whenever weights change.
---@return integer
function Core:epoch() end

---Sets all gradients to zero.
function Core:zero_grad() end

---Global norm of the trained gradients.
---@return number
function Core:grad_norm() end

---One AdamW step, gradients clipped to a global norm.
---@param options {lr: number, step: integer, value_lr?: number, beta1?: number, beta2?: number, eps?: number, weight_decay?: number, max_norm?: number}
---@return number norm  before clipping
function Core:adamw(options) end

---What the processor makes of one image: `tiles` grids of h x w patches.
---@class rl4vlm.core.View
---@field patches rl4vlm.Slice   F32 (tiles * h * w, K), in the tower's order
---@field tiles integer
---@field h integer
---@field w integer
---@field order? rl4vlm.Slice    I32 (rows): the feature row that each image token takes, -1: the newline row
---@field rows integer           image tokens
---@field key? string            16 bytes that name this view in all calls: its features may be remembered

---@class rl4vlm.core.Sample
---@field ids integer[]            prompt, image tokens in place; 0-based ids
---@field answer? integer[]
---@field images? rl4vlm.core.View[]  in the order of their tokens
---@field positions? integer[]     asks for other pairs than the answer's tokens: tokens, from 1, behind which
---@field targets? integer[]       these ids are looked at
---@field hidden? integer[]        positions of hidden states; default: the prompt's last

---Scores samples; the outputs are one node on the tape. `values` is the value at the prompt's last token, with
---`every_value` in front of each answer token; `value_grad` scales what enters the backbone.
---@param samples rl4vlm.core.Sample[]
---@param options? {temperature?: number, grad?: boolean, entropy?: boolean, values?: boolean, every_value?: boolean, hidden?: boolean, value_grad?: number}
---@return {logprobs: rl4vlm.Tensor, entropies?: rl4vlm.Tensor, values?: rl4vlm.Tensor, hidden?: rl4vlm.Tensor, offsets: integer[]}
function Core:score(samples, options) end

---Untempered logits of every position.
---@param ids integer[]
---@param images? rl4vlm.core.View[]
---@return rl4vlm.Slice logits  (T, V)
function Core:logits(ids, images) end

---Frees the model now.
function Core:close() end

return M
