-- merge.lua - rl4vlm -m merge: an adapter merged into its base, as a whole model.
local fs = require "rl4vlm.fs"
local merge = require "rl4vlm.merge"
local tool_main = require "rl4vlm.tool_main"
local vlm = require "rl4vlm.vlm"

local M = {}

local types = { fp32 = "F32", bf16 = "BF16", fp16 = "F16" }

local tool = {
  name = "merge",
  usage = "MODEL [--adapter DIR] --out DIR [--dtype fp32|bf16|fp16]",
  about = "Writes MODEL with its LoRA adapter merged, in the layout that the base came in. MODEL may be the\n"
    .. "adapter itself, which names its base.",
  required = { "out" },
  rows = {
    { "adapter", "text", "DIR", "LoRA adapter in PEFT's layout, or a run that learned one" },
    { "out", "text", "DIR", "folder to write; one that is there is refused" },
    { "dtype", { "fp32", "bf16", "fp16" }, nil, "of the tensors (default: each as it came)" },
  },
}

function tool.run(o, name)
  local model = vlm.open(name, o.adapter)
  if not model.opened_adapter then
    error(("%s: a model without an adapter: --adapter names one"):format(name), 0)
  elseif fs.exists(o.out) then
    error(("%s: is there already"):format(o.out), 0)
  end
  merge.write(model, o.out, types[o.dtype])
end

---@param args string[]
---@return integer status
function M.main(args)
  return tool_main.run(tool, args)
end

return M
