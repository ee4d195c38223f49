-- tool_main.lua - what the tools of -m share: options, help, errors, exit statuses.
local explain = require "rl4vlm.explain"
local options = require "rl4vlm.options"

local M = {}

---Options that every tool of a model takes.
M.model_rows = {
  { "adapter", "text", "DIR", "LoRA adapter in PEFT's layout" },
  { "device", { "auto", "cpu" }, nil, "where to run (default auto)" },
  { "dtype", { "fp32", "bf16", "fp16" }, nil, "how weights are kept (default: fp32 below 1e9 parameters)" },
  { "base", { "none", "int8", "nf4" }, nil, "quantise the linear layers of decoder and tower" },
  { "threads", "integer", "N", "CPU threads (default: all)" },
}

---@class rl4vlm.Tool
---@field name string
---@field usage string   the words behind the name
---@field about string   one line
---@field rows table[]   options, see rl4vlm.options
---@field required? string[]  options that must be given
---@field check? fun(o: table): string?  what is wrong with the values
---@field run fun(o: table, model: string): integer?

local function usage_error(tool, message)
  io.stderr:write(("rl4vlm: %s: %s\nusage: rl4vlm -m %s %s\n"):format(tool.name, message, tool.name, tool.usage))
  return 2
end

local function check(tool, o)
  if #o ~= 1 then
    return #o == 0 and "which model? (a folder, a run, or a built-in model)"
      or ("one model, came %d: %s"):format(#o, table.concat(o, " "))
  end
  for _, name in ipairs(tool.required or {}) do
    if not o[name] then
      return ("--%s is needed"):format(name)
    end
  end
  return tool.check and tool.check(o)
end

---Runs a tool.
---@param tool rl4vlm.Tool
---@param args string[]
---@return integer status  0 done, 1 failed, 2 wrong usage
function M.run(tool, args)
  for _, word in ipairs(args) do
    if word == "-h" or word == "--help" then
      print(("usage: rl4vlm -m %s %s\n%s\n\n%s"):format(tool.name, tool.usage, tool.about, options.help(tool.rows)))
      return 0
    end
  end
  local o, err = options.parse(args, tool.rows)
  if o then
    err = check(tool, o)
  end
  if err then
    return usage_error(tool, err)
  end
  local ok, status = xpcall(tool.run, explain, o, o[1])
  if ok then
    return status or 0
  elseif type(status) ~= "string" or status:match("interrupted!") then
    error(status, 0)
  end
  io.stderr:write(("rl4vlm: %s: %s\n"):format(tool.name, status))
  return 1
end

return M
