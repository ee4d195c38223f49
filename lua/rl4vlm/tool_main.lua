-- tool_main.lua - what the tools of -m share: options, help, errors, exit statuses, files of requests.
local explain = require "rl4vlm.explain"
local fs = require "rl4vlm.fs"
local model_name = require "rl4vlm.model_name"
local options = require "rl4vlm.options"
local requests = require "rl4vlm.requests"
local vlm = require "rl4vlm.vlm"

local M = {}

---Options that every tool of a model takes.
M.model_rows = {
  { "adapter", "text", "DIR", "LoRA adapter in PEFT's layout" },
  { "device", { "auto", "cpu" }, nil, "where to run (default auto)" },
  { "dtype", { "fp32", "bf16", "fp16" }, nil, "how weights are kept (default: fp32 below 1e9 parameters)" },
  { "base", { "none", "int8", "nf4" }, nil, "quantise the linear layers of decoder and tower" },
  { "threads", "integer", "N", "CPU threads (default: all)" },
}

---The options of a tool that answers a file of requests, with those of its own.
---@param own table[]
---@return table[]
function M.request_rows(own)
  local rows = { { "in", "text", "FILE", "requests, a JSON object a line" },
    { "out", "text", "FILE", "replies, in the order of the requests" },
    { "exif", "flag", nil, "turn images as their EXIF orientation says (transformers does not)" } }
  table.move(own, 1, #own, #rows + 1, rows)
  return table.move(M.model_rows, 1, #M.model_rows, #rows + 1, rows)
end

---Slots that a generator can have.
M.MOST_SLOTS = 1024

---What is wrong with the number of an option, or nil.
---@param o table
---@param name string
---@param least number
---@param most number
---@return string?
function M.within(o, name, least, most)
  local value = o[name]
  if value and not (value >= least and value <= most) then
    return ("--%s wants a number from %.10g to %.10g, got %s"):format(name, least, most, tostring(value))
  end
end

-- What is wrong where two options name one file.
local function same_file(o)
  local taken = {}
  for _, name in ipairs { "in", "out", "logits", "grads" } do
    local path = o[name]
    if path and not fs.is_stream(path) then
      local stat = fs.stat(path)
      local file = stat and ("%d %.9f"):format(stat.inode, stat.mtime) or path
      if taken[file] then
        return ("--%s wants a file of its own, got that of --%s: %s"):format(name, taken[file], path)
      end
      taken[file] = name
    end
  end
end

---Answers a file of requests. `survey(model, o)` checks every line and gives the options to start the model
---with (nil: there is nothing to do) and what else `answer(model, o, out, ...)` wants to know, which writes the
---replies. They appear whole or not at all; after Ctrl-C those so far do in a file beside, `o.replies.kept`.
---@param o table
---@param name string
---@param survey fun(model: rl4vlm.Model, o: table): table?, ...
---@param answer fun(model: rl4vlm.Model, o: table, out: rl4vlm.ReplyFile, ...)
function M.answer(o, name, survey, answer)
  local model = vlm.open(name, o.adapter)
  local known = table.pack(survey(model, o))
  local out <close> = requests.replies(o.out)
  o.replies = out
  local start = known[1]
  if start then
    start.device, start.dtype, start.base, start.threads = o.device, o.dtype, o.base, o.threads
    model:start(start)
    answer(model, o, out, table.unpack(known, 2, known.n))
  end
  out:commit()
end

---An error by the user's words, which `run` answers with the usage and status 2.
---@param message string
function M.usage(message)
  error({ usage = message }, 0)
end

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

-- What is wrong with a name.
local function is_wrong(resolve, name)
  local ok, err = pcall(resolve, name)
  return not ok and err or nil
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
  return tool.check and tool.check(o) or M.within(o, "threads", 0, 1024) or same_file(o)
    or is_wrong(model_name.resolve, o[1]) or o.adapter and is_wrong(model_name.resolve_adapter, o.adapter)
end

---Runs a tool.
---@param tool rl4vlm.Tool
---@param args string[]
---@return integer status  0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C
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
  elseif type(status) == "table" and status.usage then
    return usage_error(tool, status.usage)
  elseif type(status) ~= "string" then
    error(status, 0)
  elseif status:match("interrupted!") then
    local kept = o.replies and o.replies.kept
    io.stderr:write(("rl4vlm: %s: stopped by Ctrl-C%s\n"):format(tool.name,
      kept and "; the replies so far are in " .. kept or ""))
    return 130
  end
  io.stderr:write(("rl4vlm: %s: %s\n"):format(tool.name, status))
  return 1
end

return M
