-- generation_settings.lua - how the generate tool draws: options first, then, where asked for,
-- generation_config.json with transformers' defaults.
local fields = require "rl4vlm.config_fields"

local M = {}

-- What generation_config.json asks for. Absent: no sampling; with do_sample top_k is 50.
local function from_config(model)
  local c = fields.new(model.source.generation, model.dir .. "/generation_config.json")
  for name, neutral in pairs { typical_p = 1, no_repeat_ngram_size = 0, num_beams = 1 } do
    local value = c:get(name) or neutral
    if value ~= neutral then
      c:fail(name, tostring(neutral) .. " (others are not supported)", value)
    end
  end
  local penalty = c:get("repetition_penalty") or 1
  if type(penalty) ~= "number" or penalty <= 0 then
    c:fail("repetition_penalty", "a positive number", penalty)
  elseif not c:flag("do_sample", false) then
    return { temperature = 0, repetition_penalty = penalty }
  end
  -- transformers 5 writes null for what it takes its defaults for
  return { temperature = c:get("temperature") or 1, top_k = c:get("top_k") or 50, top_p = c:get("top_p") or 1,
    min_p = c:get("min_p") or 0, repetition_penalty = penalty }
end

---@param model rl4vlm.Model
---@param o table  the tool's options
---@return table settings  of a request
function M.read(model, o)
  local config = o["generation-config"] and from_config(model) or {}
  return {
    temperature = o.temperature or config.temperature or 1,
    top_k = o["top-k"] or config.top_k,
    top_p = o["top-p"] or config.top_p,
    min_p = o["min-p"] or config.min_p,
    repetition_penalty = o["repetition-penalty"] or config.repetition_penalty,
    max_new_tokens = o["max-new-tokens"],
    seed = o.seed or 0,
    stop = o.stop,
    eos = o["ignore-eos"] and {} or model.eos,
  }
end

return M
