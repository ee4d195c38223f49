---@meta rl4vlm.arith
---A bounded evaluator of exact arithmetic, and a search for formulas.
local M = {}

---The value of a formula as a fraction; with "python" what Python's eval would say.
---@param text string
---@param rules? "exact"|"python"
---@return integer? numerator
---@return integer|string denominator  or what is wrong
---@return string? kind  "syntax", "zero", "overflow", "type" or "too long"
function M.eval(text, rules) end

---Whether the formula's value is the integer.
---@param text string
---@param target integer
---@param rules? "exact"|"python"
---@return boolean
function M.equals(text, target, rules) end

---A formula that reaches a target with each number used once.
---@param options {numbers: integer[], target: integer, prefix?: (integer|string)[], operators?: string, max_tokens?: integer, rules?: string}
---@return (integer|string)[]? tokens  nil: there is none
function M.solve(options) end

return M
