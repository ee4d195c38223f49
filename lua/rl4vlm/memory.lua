-- memory.lua - does a model fit? Asked before anything large is taken.
local M = {}

local function first_number(path, pattern)
  local file = io.open(path)
  if not file then
    return nil
  end
  local text = file:read("a")
  file:close()
  return tonumber(text:match(pattern))
end

---Bytes that this process may still take: free memory, or less where a control group limits it.
---@return number? bytes  nil where the system does not say
function M.available()
  local kib = first_number("/proc/meminfo", "MemAvailable:%s*(%d+)")
  local free = kib and kib * 1024
  local limit = first_number("/sys/fs/cgroup/memory.max", "^(%d+)")
  local used = first_number("/sys/fs/cgroup/memory.current", "^(%d+)")
  if limit and used then
    free = math.min(free or math.huge, limit - used)
  end
  return free
end

---Bytes for people.
---@param bytes number
---@return string
function M.show(bytes)
  local units = { "bytes", "KiB", "MiB", "GiB", "TiB" }
  local i = 1
  while bytes >= 1024 and i < #units do
    bytes, i = bytes / 1024, i + 1
  end
  return (i == 1 and "%d %s" or "%.1f %s"):format(bytes, units[i])
end

---What memory goes to, in the order in which it is told.
M.names = { "weights", "adapters", "gradients", "optimizer", "activations", "kv_cache", "generation", "scratch",
  "host", "images", "saving", "program", "reference" }

---Bytes that this process holds now.
---@return integer
function M.resident()
  local pages = first_number("/proc/self/statm", "^%d+ (%d+)")
  return pages and pages * 4096 or 0
end

---A plan in words: its parts, without those that are nothing.
---@param plan table
---@return string
function M.words(plan)
  local words = {}
  for _, name in ipairs(M.names) do
    if (plan[name] or 0) > 0 then
      words[#words + 1] = name .. " " .. M.show(plan[name])
    end
  end
  return table.concat(words, ", ")
end

---Raises that a plan does not fit, by how much, and what helps.
---@param plan table      bytes by name, `total`
---@param free number     bytes
---@param advice string[]
function M.refuse(plan, free, advice)
  local lines = { ("the model needs %s, %s more than is free (%s)"):format(M.show(plan.total),
    M.show(plan.total - free), M.words(plan)), table.unpack(advice) }
  error(table.concat(lines, "\n  "), 0)
end

return M
