---@meta rl4vlm.line
---Lines typed at a terminal: edited with libedit where it is built in, plain elsewhere.
local M = {}

---True when lines are edited: libedit is built in, and stdin and stdout are a terminal.
---@return boolean
function M.editing() end

---Reads one line.
---@param prompt string
---@return string|false|nil text  nil at the end of input, false after Ctrl-C
function M.read(prompt) end

---Sets what TAB calls while a line is read.
---@param f fun(before: string, word: string): string[]
function M.completer(f) end

---Adds a line to the history.
---@param text string
function M.add(text) end

---Reads the history from a file.
---@param path string
---@return boolean done
function M.load(path) end

---Writes the history to a file.
---@param path string
---@return boolean done
function M.save(path) end

---Asks the terminal itself.
---@param question string  an escape sequence
---@param finish string  the character that ends the answer
---@param ms integer  how long to wait for each character
---@return string answer  "" when none comes
function M.ask(question, finish, ms) end

return M
