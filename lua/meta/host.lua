---@meta rl4vlm.host
---The machine, the clock, the program's own place, and Ctrl-C.
local M = {}

---@type string  the program's version
M.version = ""

---@type string  libraries in the program, with their versions
M.libraries = ""

---@type string  devices that this program can compute on here
M.backends = ""

---@type string  path of the running program
M.exe = ""

---@type string  folder with lua/, envs/, recipes/ and models/; "" when not found
M.root = ""

---Seconds of a clock that never jumps.
---@return number
function M.clock() end

---Seconds since 1970.
---@return number
function M.time() end

---Waits; Ctrl-C ends it early.
---@param seconds number
function M.sleep(seconds) end

---@return integer
function M.pid() end

---@return string
function M.hostname() end

---True when the stream is a terminal.
---@param stream? "stdin"|"stdout"|"stderr"  default "stdout"
---@return boolean
function M.isatty(stream) end

---Size of the terminal; 80, 24 where none answers.
---@return integer columns
---@return integer rows
function M.term_size() end

---CPUs that this process may run on.
---@return integer
function M.cpus() end

---Bytes of memory that this process held at the most.
---@return integer
function M.peak_rss() end

---Calls `f` as the prompt does: Ctrl-C ends it, and an error gets a traceback.
---@param f function
---@return boolean ok
---@return any ...  results, or the message
function M.call(f, ...) end

---The word of `list` most like `word`, or nil where none is near: for "did you mean".
---@param word string
---@param list string[]
---@return string?
function M.nearest(word, list) end

---True since Ctrl-C came.
---@return boolean
function M.interrupted() end

---Forgets a Ctrl-C that was handled. A second Ctrl-C still kills.
function M.clear_interrupt() end

---While on, Ctrl-C raises no Lua error: long C calls return, and the loop asks interrupted() where it
---can stop and save. While off (the default), it raises an error that ends in "interrupted!".
---@param on boolean
---@return boolean before
function M.defer_interrupt(on) end

return M
