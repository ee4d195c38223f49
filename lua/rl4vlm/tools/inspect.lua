-- inspect.lua - rl4vlm -m inspect: what a model is, and what it needs to run and to learn.
local core = require "rl4vlm.core"
local json = require "rl4vlm.json"
local memory = require "rl4vlm.memory"
local tool_main = require "rl4vlm.tool_main"
local vlm = require "rl4vlm.vlm"

local M = {}

local tool = {
  name = "inspect",
  usage = "MODEL [--adapter DIR] [--json] [options]",
  about = "Prints a model's configuration, its parameters, and the bytes for inference, LoRA and full training.",
  rows = {
    { "json", "flag", nil, "one JSON object" },
    { "slots", "integer", "N", "requests that generation runs at the same time (default 16)" },
    { "max-tokens", "integer", "N", "prompt and answer of one request (default 1024, at most the positions)" },
    table.unpack(tool_main.model_rows),
  },
}

function tool.check(o)
  return tool_main.within(o, "slots", 1, tool_main.MOST_SLOTS) or tool_main.within(o, "max-tokens", 1, 1 << 30)
end

local parts = { "vision", "connector", "language", "head" }

local function elements(shape)
  local n = 1
  for _, d in ipairs(shape) do
    n = n * d
  end
  return n
end

-- Parameters that run, by part; `total` counts everything in the files.
local function count(model, params)
  local by_part, used = {}, 0
  for _, part in ipairs(parts) do
    by_part[part] = 0
  end
  for _, param in ipairs(params) do
    local n = elements(param.shape)
    by_part[param.part] = (by_part[param.part] or 0) + n
    used = used + n
  end
  by_part.total, by_part.used = model.source.weights and model.source:size().elements or nil, used
  return by_part
end

local function adapter_elements(model)
  local opened, n = model.opened_adapter, 0
  for _, name in ipairs(opened and opened.weights:names() or {}) do
    n = n + elements(opened.weights:info(name).shape)
  end
  return opened and n or nil
end

-- Bytes for three uses, as they would be measured: running it, learning its adapter (or LoRA of rank
-- 128 on the decoder), learning everything.
local function plans(model, o)
  pcall(function() return model.tokenizer end) -- the program holds it when it runs
  local uses = {
    inference = {},
    lora = model.opened_adapter and { train_adapter = true, value_head = true }
      or { lora = { r = 128 }, value_head = true },
    full = { train = parts, value_head = true },
  }
  local result = {}
  for use, options in pairs(uses) do
    options.device, options.dtype, options.threads = o.device, o.dtype, o.threads
    options.base = use ~= "full" and o.base or nil -- a quantised base does not learn
    options.slots, options.max_tokens = o.slots, o["max-tokens"]
    options.batch = { tokens = o["max-tokens"], split = true } -- as updates run
    result[use] = model:plans_for(options)
  end
  return result
end

local function describe(model, o, name)
  local arch = model:arch_for(o["max-tokens"])
  local probe = core.new(arch, {})
  local params = probe:params()
  model.source:match(params)
  local size, parameters = model.source:size(), count(model, params)
  model.source.elements = parameters.total or parameters.used
  local result = { model = name, dir = model.dir, family = model.family.name, arch = arch,
    eos = json.list(model.eos), parameters = parameters, adapter_parameters = adapter_elements(model),
    stored = { bytes = size.bytes, dtypes = size.dtypes }, dtype = model:dtype_for(o.dtype),
    base = o.base or "none", slots = o.slots, max_tokens = o["max-tokens"], bytes = plans(model, o) }
  probe:close()
  return result
end

local function commas(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local function print_arch(label, fields, names)
  local words = {}
  for _, name in ipairs(names) do
    local value = fields[name]
    if value then
      words[#words + 1] = ("%s %s"):format(name, type(value) == "table" and table.concat(value, " ") or tostring(value))
    end
  end
  print(("%-11s %s"):format(label, table.concat(words, ", ")))
end

local function print_text(d)
  print(("%-11s %s (%s)"):format("model", d.model, d.dir))
  print_arch("vision", d.arch.vision, { "image_size", "patch", "merge", "width", "layers", "heads", "mlp", "act",
    "window", "full" })
  print_arch("connector", d.arch.connector, { "in", "hidden", "out", "act", "newline" })
  print_arch("text", d.arch.text, { "vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp", "rope",
    "rope_theta", "mrope", "tied", "window", "max_positions" })
  print(("%-11s token %d, at most %d rows; end of sequence %s"):format("image", d.arch.image_token,
    d.arch.max_view_rows, table.concat(d.eos, ", ")))
  local p = d.parameters
  print(("%-11s %s in the files, %s run: vision %s, connector %s, language %s, head %s"):format("parameters",
    p.total and commas(p.total) or "none", commas(p.used), commas(p.vision), commas(p.connector),
    commas(p.language), commas(p.head)))
  if d.adapter_parameters then
    print(("%-11s %s parameters"):format("adapter", commas(d.adapter_parameters)))
  end
  print(("%-11s %s at %s, %d slots of %d tokens:"):format("memory", memory.show(d.stored.bytes) .. " stored; kept",
    d.base == "none" and d.dtype or ("%s, linear layers %s (full: %s)"):format(d.dtype, d.base, d.dtype), d.slots,
    d.max_tokens))
  for _, use in ipairs { "inference", "lora", "full" } do
    local b = d.bytes[use]
    print(("  %-9s %s (%s)"):format(use, memory.show(b.total), memory.words(b)))
    if b.activations_recomputed < b.activations then
      print(("  %-9s %s with recompute (activations %s)"):format("", memory.show(b.total - b.activations
        + b.activations_recomputed), memory.show(b.activations_recomputed)))
    end
  end
end

function tool.run(o, name)
  local model = vlm.open(name, o.adapter, { config_only = true })
  o.slots = o.slots or 16
  local most = model.arch.text.max_positions
  o["max-tokens"] = o["max-tokens"] or math.min(1024, most)
  if o["max-tokens"] > most then
    tool_main.usage(("--max-tokens wants at most the model's %d positions, got %d"):format(most, o["max-tokens"]))
  end
  local description = describe(model, o, name)
  if o.json then
    print(json.encode(description))
  else
    print_text(description)
  end
end

---@param args string[]
---@return integer status
function M.main(args)
  return tool_main.run(tool, args)
end

return M
