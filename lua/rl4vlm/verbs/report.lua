-- verbs/report.lua - `report DIR`: a run's report.html, with other runs' curves beside it.
local report = require "rl4vlm.report"
local run = require "rl4vlm.run"

local M = {}

---@param call rl4vlm.Call
function M.run(call)
  call:only { "compare" }
  local dir = call.values[2]
  if not dir then
    call.usage("report wants a run's folder: report DIR")
  end
  local others = {}
  for i, other in ipairs(call.values.compare or {}) do
    others[i] = run.open(other)
  end
  local path = report.write(run.open(dir), others)
  call:result({ verb = "report", report = path }, function()
    return path .. "\n"
  end)
end

return M
