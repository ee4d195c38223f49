---@meta rl4vlm.arith
---Arithmetic in text, within fixed bounds: nothing hangs, failures are typed.
local M = {}

---Evaluates an expression. Rules "exact" (default): whole numbers, `+ - * / ( )` and signs, as
---fractions. Rules "python": what Python's eval gives, with `//` and `**`; integers beyond 127 bits
---are an overflow.
---@param text string  at most 4096 bytes
---@param rules? "exact"|"python"
---@return number? value  exact: the numerator
---@return integer|string denominator_or_message
---@return "syntax"|"zero"|"overflow"|"type"|"too long"? kind
function M.eval(text, rules) end

---Whether the text evaluates to the integer, without tolerance; false for what is no expression.
---@param text string
---@param target integer
---@param rules? "exact"|"python"
---@return boolean
function M.equals(text, target, rules) end

---@class rl4vlm.arith.Solve
---@field numbers integer[]  still to be used, once each; 1..100, at most six with the prefix's
---@field target integer
---@field prefix? string[]  tokens that stand already
---@field operators? string  those that may be used (default "+-*/("; "(" brings ")")
---@field max_tokens? integer  of the continuation (default 20)
---@field rules? "exact"|"python"

---The shortest continuation of the prefix that uses all numbers and hits the target; among the
---shortest the first, with small numbers before large and `+ - * /` in this order. Nil when none.
---@param task rl4vlm.arith.Solve
---@return string[]? tokens
function M.solve(task) end

return M
