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

-- Which option helps most.
local function advice(plan, options)
  local lines = {}
  if options.store == "F32" then
    lines[#lines + 1] = "--dtype bf16 halves the weights"
  end
  if not options.base and not options.train.language then
    lines[#lines + 1] = "--base int8 or nf4 shrinks frozen layers"
  end
  if (plan.kv_cache or 0) > plan.total / 10 then
    lines[#lines + 1] = "fewer slots or tokens shrink the cache"
  end
  if (plan.optimizer or 0) > 0 then
    lines[#lines + 1] = "LoRA shrinks gradients and optimiser"
  end
  if (plan.activations or 0) > plan.total / 10 then
    lines[#lines + 1] = options.recompute and "a smaller max_rows shrinks activations"
      or "recompute shrinks activations"
  end
  return #lines > 0 and "; " .. table.concat(lines, ", ") or ""
end

---Raises when the plan does not fit into memory, naming by how much and what helps.
---@param plan table    bytes by name, `total`
---@param options table those of core.new
function M.check(plan, options)
  local free = M.available()
  if free and plan.total > free then
    local parts = {}
    for _, name in ipairs { "weights", "gradients", "optimizer", "activations", "kv_cache", "scratch" } do
      parts[#parts + 1] = name .. " " .. M.show(plan[name] or 0)
    end
    error(("the model needs %s, %s more than is free (%s)%s"):format(M.show(plan.total),
      M.show(plan.total - free), table.concat(parts, ", "), advice(plan, options)), 0)
  end
end

return M
