-- verbs/eval.lua - `eval`: how good a model is on held-out episodes, with intervals.
local evaluation = require "rl4vlm.eval"
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local load = require "rl4vlm.load"
local manifest = require "rl4vlm.manifest"
local plain = require "rl4vlm.plain"

local M = {}

-- What decides the figures of an episode: results of another evaluation are not reused.
local function identity(settings)
  local data = plain.of(settings)
  local hashes = manifest.new("eval", settings, {}).hashes
  return json.decode(json.encode {
    env = data.env,
    prompt = data.prompt,
    answer = data.answer,
    fallback = data.fallback,
    sampling = data.sampling,
    temperature = settings.eval.temperature,
    dtype = data.dtype,
    base = data.base,
    model = settings.model,
    adapter = settings.adapter,
    model_hash = hashes.model,
    seed = settings.seed,
  })
end

local function refuse_run(dir)
  if fs.exists(dir .. "/manifest.json") and not fs.exists(dir .. "/eval.json") then
    error(("%s: holds a run; give the evaluation a folder of its own"):format(dir), 0)
  end
end

-- Episodes that a folder holds from a stopped evaluation.
local function known_episodes(dir, mine, force)
  assert(fs.mkdirs(dir))
  local path, list = dir .. "/eval.json", dir .. "/episodes.jsonl"
  local before = fs.read_file(path)
  before = before and json.decode(before)
  local different = before and plain.differences(before, mine) or {}
  if #different > 0 and not force then
    error(("%s: holds another evaluation, with other %s (--force begins anew)")
      :format(dir, table.concat(different, ", ")), 0)
  end
  local known = {}
  if before and #different == 0 then
    local text = fs.read_file(list) or ""
    local whole = text:match("^.*\n") or ""
    if #whole < #text then
      assert(fs.truncate(list, #whole)) -- a line that was cut off would swallow the next
    end
    for line in whole:gmatch("([^\n]*)\n") do
      local result = json.decode(line)
      if result then
        known[result.episode] = result
      end
    end
  else
    assert(fs.write_atomic(list, ""))
  end
  assert(fs.write_atomic(path, json.pretty(mine)))
  return known
end

local function text_of(r)
  local function figure(x)
    return type(x) == "number" and ("%.4g"):format(x) or "-"
  end
  return ([[
%s (%s rules), %s, temperature %s, %d held-out episodes
success     %s  [%s, %s]
return      %s +- %s
steps       %s
invalid     %s
read right  %s
%d steps in %.1f s
]]):format(r.task, r.rules, r.model, figure(r.temperature), r.episodes, figure(r.success_rate),
    figure(r.success_ci95[1]), figure(r.success_ci95[2]), figure(r.return_mean), figure(r.return_sem),
    figure(r.steps_mean), figure(r.invalid_rate), figure(r.read_right_rate), r.env_steps, r.seconds)
end

---@param call rl4vlm.Call
function M.run(call)
  call:only { "model", "adapter", "out", "seed", "episodes", "slots", "threads", "device", "temperature",
    "dtype", "base", "set", "force" }
  local settings = call:settings(call.recipe)
  local out, known = call.values.out, nil
  if out then
    call.checked(refuse_run, out)
    known = known_episodes(out, identity(settings), call.values.force)
  end
  local slots = call.values.slots or call.one_slot and 1 or 16
  call:check_slots(slots)
  slots = math.min(slots, settings.eval.episodes)
  local model = load.model(settings, settings.model, { train = false, slots = slots, value_head = false })
  local start = host.clock()
  local summary = evaluation.run(settings, model, {
    episodes = settings.eval.episodes,
    temperature = settings.eval.temperature,
    slots = slots,
    known = known,
    on_episode = function(result, _, count)
      if out then
        assert(fs.append(out .. "/episodes.jsonl", json.encode(result) .. "\n"))
      end
      call.progress:show("episode %d/%d", count, settings.eval.episodes)
    end,
  })
  summary.task, summary.rules = settings.env.name, settings.env.rules
  summary.model, summary.seed = settings.model, settings.seed
  summary.temperature = settings.eval.temperature
  summary.seconds = host.clock() - start
  call:result(summary, function()
    return text_of(summary)
  end)
end

return M
