-- progress.lua - what a person sees while it runs: lines on stderr, one of them live on a terminal.
local host = require "rl4vlm.host"

local M = {}

local Progress = {}
Progress.__index = Progress

---@param quiet? boolean say nothing
---@return rl4vlm.Progress
function M.new(quiet)
  return setmetatable({ quiet = quiet, live = host.isatty("stderr"), open = false, last = 0.0 }, Progress)
end

---Prints a line that stays.
---@param format string
function Progress:say(format, ...)
  if not self.quiet then
    local clear = self.open and "\r\27[K" or ""
    io.stderr:write(clear, format:format(...), "\n")
    self.open = false
  end
end

---Replaces the live line, at most ten times a second; nothing where stderr is no terminal.
---@param format string
function Progress:show(format, ...)
  local now = host.clock()
  if self.live and not self.quiet and now - self.last > 0.1 then
    io.stderr:write("\r\27[K", format:format(...))
    self.open, self.last = true, now
  end
end

---How a figure looks in a table: three digits, a dash where there is none.
---@param x any
---@return string
function M.figure(x)
  if type(x) ~= "number" then
    return "-"
  end
  return math.abs(x) >= 100 and ("%.0f"):format(x) or ("%.3f"):format(x)
end

return M
