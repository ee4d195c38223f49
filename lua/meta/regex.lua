---@meta rl4vlm.regex
---Perl's regular expressions (PCRE2), for files whose formats contain them.
local M = {}

---Whether all of the text matches. A match that takes too many steps is given up, with an error.
---@param pattern string
---@param text string
---@return boolean
function M.full_match(pattern, text) end

return M
