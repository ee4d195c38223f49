---@meta rl4vlm.fs
---Files and folders. What the file system refuses gives nil and a message with path and reason.
local M = {}

---True when something is at `path`.
---@param path string
---@return boolean
function M.exists(path) end

---@class rl4vlm.fs.Stat
---@field type "file"|"folder"|"other"
---@field size integer  bytes
---@field mtime number  seconds since 1970
---@field inode integer

---What is at `path` (links are followed).
---@param path string
---@return rl4vlm.fs.Stat?
---@return string? err
function M.stat(path) end

---Makes one folder; fails when something of that name is there, so it can claim a name.
---@param path string
---@return true?
---@return string? err
function M.mkdir(path) end

---Makes a folder and its parents; one that is there already is fine.
---@param path string
---@return true?
---@return string? err
function M.mkdirs(path) end

---Names in a folder, sorted by bytes.
---@param path string
---@return string[]?
---@return string? err
function M.list(path) end

---Renames, over an existing file if there is one.
---@param from string
---@param to string
---@return true?
---@return string? err
function M.rename(from, to) end

---True for a pipe or a device (/dev/stdout): it can only be written to as it is.
---@param path string
---@return boolean
function M.is_stream(path) end

---Removes a file or an empty folder.
---@param path string
---@return true?
---@return string? err
function M.remove(path) end

---Removes a file or a folder with all that is in it; links are not followed. Nothing there is fine.
---@param path string
---@return true?
---@return string? err
function M.remove_tree(path) end

---All bytes of a file.
---@param path string
---@return string?
---@return string? err
function M.read_file(path) end

---Writes a file so that a reader sees the old content or the new, never a part: temporary name,
---sync, rename.
---@param path string
---@param bytes string
---@return true?
---@return string? err
function M.write_atomic(path, bytes) end

---Adds to the end of a file (made when missing) and returns when it is on the disk. A write that
---fails half-way (full disk) is taken back.
---@param path string
---@param bytes string
---@return true?
---@return string? err
function M.append(path, bytes) end

---Cuts a file to `size` bytes.
---@param path string
---@param size integer
---@return true?
---@return string? err
function M.truncate(path, size) end

---Waits until a folder's entries are on the disk (after renames in it).
---@param path string
---@return true?
---@return string? err
function M.sync_dir(path) end

---The absolute path without links, `.` and `..`.
---@param path string
---@return string?
---@return string? err
function M.realpath(path) end

---The working directory.
---@return string?
---@return string? err
function M.cwd() end

---Copies a file; atomic as write_atomic.
---@param from string
---@param to string
---@return true?
---@return string? err
function M.copy_file(from, to) end

---Makes a fresh folder under $TMPDIR that only this user can read.
---@param prefix? string  of its name (default "rl4vlm")
---@return string?
---@return string? err
function M.tempdir(prefix) end

return M
