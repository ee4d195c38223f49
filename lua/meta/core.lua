---@meta rl4vlm.core
---The model of src/vlm, parameter by parameter: what rl4vlm.vlm is made of.
local M = {}

---@class rl4vlm.Core
local Core = {}

---Makes a model with all memory planned and taken; parameters are zero until set.
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

---Puts an adapter beside a linear layer.
---@param role string
---@param r integer
---@param scale number
---@param train? boolean
function Core:lora_add(role, r, scale, train) end

---Switches all adapters on or off.
---@param on boolean
function Core:lora_enable(on) end

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

---Scores samples; the outputs are one node on the tape.
---@param samples table[]
---@param options? table
---@return table outputs  logprobs, entropies, values, hidden, offsets
function Core:score(samples, options) end

---Untempered logits of every position.
---@param ids integer[]
---@param pixels? rl4vlm.Slice[]
---@return rl4vlm.Slice logits  (T, V)
function Core:logits(ids, pixels) end

---Frees the model now.
function Core:close() end

return M
