-- adapter.lua - LoRA adapters in PEFT's layout: which linears have one, read and written.
--
-- A folder is adapter_config.json and adapter_model.safetensors. The tensors in the file decide which
-- modules have an adapter, whatever naming of the base model they were written for; new files carry
-- the names of transformers 5. Source: github.com/huggingface/peft, docs "Checkpoint format".
local fields = require "rl4vlm.config_fields"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local regex = require "rl4vlm.regex"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"

local M = {}

local config_file, weights_file = "adapter_config.json", "adapter_model.safetensors"

-- Linear layers of the decoder: what an adapter stands beside when nothing else is asked for.
M.default_targets = [[.*(language_model|text_model).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)]]

-- ---- which modules ----

local function is_linear(param)
  return param.linear and param.role:match("%.weight$") ~= nil
end

-- One entry of a list, or a regular expression, against one path of a module.
local function path_matches(rule, path)
  if type(rule) == "string" then
    return regex.full_match(rule, path)
  end
  for _, entry in ipairs(rule) do
    if path == entry or path:sub(-#entry - 1) == "." .. entry then
      return true
    end
  end
  return false
end

local function layer_allowed(layers, pattern, path)
  if layers == nil then
    return true
  end
  local names = type(pattern) == "table" and pattern or { pattern }
  local index
  if #names == 0 then
    index = path:match("%.[^.]*%.(%d+)%.")
  end
  for _, name in ipairs(names) do
    index = index or path:match("%." .. name:gsub("%p", "%%%0") .. "%.(%d+)%.")
  end
  for _, layer in ipairs(type(layers) == "table" and layers or { layers }) do
    if tonumber(index) == layer then
      return true
    end
  end
  return false
end

-- True when a rule holds for the module under any of its names.
local function any_path(paths, rule)
  for _, path in ipairs(paths) do
    if path_matches(rule, path) then
      return true
    end
  end
  return false
end

local function paths_of(family, role)
  local _, names = family.names(role)
  local paths = {}
  for i, name in ipairs(names) do
    paths[i] = name:gsub("%.weight$", "")
  end
  return paths
end

---The linear layers that PEFT's rules pick. A list entry is a module's path or its end after a dot; a
---string is a regular expression for the whole path, "all-linear" every linear but the head. A module
---may match under any of the names that its family has had.
---@param family table
---@param params table[]
---@param rules table  target_modules, exclude_modules, layers_to_transform, layers_pattern
---@return string[] roles
function M.targets(family, params, rules)
  local roles = {}
  for _, param in ipairs(params) do
    if is_linear(param) then
      local paths = paths_of(family, param.role)
      local wanted
      if rules.target_modules == "all-linear" then
        wanted = not param.role:match("^text%.head%.")
      else
        wanted = any_path(paths, rules.target_modules)
      end
      if wanted and not (rules.exclude_modules and any_path(paths, rules.exclude_modules))
        and layer_allowed(rules.layers_to_transform, rules.layers_pattern, paths[1]) then
        roles[#roles + 1] = param.role
      end
    end
  end
  return roles
end

-- The value that rank_pattern or alpha_pattern gives a module, or the general one.
local function pattern_value(pattern, paths, general)
  local keys = {}
  for key in pairs(pattern or {}) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    for _, path in ipairs(paths) do
      if regex.full_match("(.*\\.)?(" .. key .. ")", path) then
        return pattern[key]
      end
    end
  end
  return general
end

-- ---- reading ----

-- Settings that change what an adapter computes and are not computed here.
local refused = { "use_dora", "fan_in_fan_out", "use_qalora", "use_bdlora", "lora_bias",
  "target_parameters", "layer_replication", "trainable_token_indices", "alora_invocation_tokens",
  "megatron_config", "arrow_config", "kasa_config", "monteclora_config", "velora_config" }

local function is_set(value)
  return value ~= nil and value ~= false and not (type(value) == "table" and next(value) == nil)
end

local function check_config(c)
  c:expect("peft_type", "LORA")
  for _, key in ipairs(refused) do
    if is_set(c:get(key)) then
      c:fail(key, "nothing (it is not supported)", c:get(key))
    end
  end
  if c:get("bias", "none") ~= "none" then
    c:fail("bias", "none", c:get("bias"))
  end
  c:count("r", 8)
  c:number("lora_alpha", 8)
  for _, key in ipairs { "rank_pattern", "alpha_pattern" } do
    if type(c:get(key, {})) ~= "table" then
      c:fail(key, "an object", c:get(key))
    end
  end
end

---@class rl4vlm.Adapter
---@field dir string
---@field config table     adapter_config.json, decoded
---@field base string?     what it was trained on
---@field weights userdata? the open safetensors; nil for one made from nothing
---@field names table<string, string>  role of each adapter tensor -> its name in the file
---@field whole table<string, string>  roles whose whole tensors the adapter replaces -> name
---@field idle string[]?   tensors of the file beside layers that the model does not run

---Opens an adapter's folder and checks its settings.
---@param dir string
---@return rl4vlm.Adapter
function M.open(dir)
  local path = dir .. "/" .. config_file
  local text, err = fs.read_file(path)
  if not text then
    error(err, 0)
  end
  local config, why = json.decode(text)
  if type(config) ~= "table" then
    error(("%s: wanted a JSON object%s"):format(path, why and ": " .. why or ""), 0)
  end
  local c = fields.new(config, path)
  check_config(c)
  local base = c:get("base_model_name_or_path")
  if not fs.exists(dir .. "/" .. weights_file) then
    error(("%s: wanted %s, found none%s"):format(dir, weights_file,
      fs.exists(dir .. "/adapter_model.bin") and " (adapter_model.bin is a pickle and is not read)" or ""), 0)
  end
  return { dir = dir, config = config, fields = c, base = base,
    weights = safetensors.open(dir .. "/" .. weights_file) }
end

-- Module path in any naming -> role.
local function roles_by_path(family, params)
  local map = {}
  for _, param in ipairs(params) do
    if param.part ~= "value" and not param.role:match("%.lora_[ab]$") then
      local _, names = family.names(param.role)
      for _, name in ipairs(names) do
        map[name] = param
      end
    end
  end
  return map
end

-- Sorts the file's tensors: pairs[role] = {a = name, b = name}, whole[role] = name; others are unknown, or stand
-- beside layers that the model does not run.
local function sort_tensors(adapter, family, arch, params)
  local by_name, pairs_of, whole, unknown = roles_by_path(family, params), {}, {}, {}
  adapter.idle = {}
  for _, name in ipairs(adapter.weights:names()) do
    local path = name:gsub("^base_model%.model%.", "")
    local module, which = path:match("^(.*)%.lora_([AB])%.weight$")
    local param = by_name[module and module .. ".weight" or path]
    if param and module and is_linear(param) then
      pairs_of[param.role] = pairs_of[param.role] or {}
      pairs_of[param.role][which:lower()] = name
    elseif param and not module then
      whole[param.role] = name
    elseif family.unused((module or path:gsub("%.weight$", "")) .. ".weight", arch) then
      adapter.idle[#adapter.idle + 1] = name
    else
      unknown[#unknown + 1] = name
    end
  end
  if #unknown > 0 then
    error(("%s/%s: %d tensors fit no linear layer of the model, the first is %s: is it an adapter of another base?")
      :format(adapter.dir, weights_file, #unknown, unknown[1]), 0)
  end
  return pairs_of, whole
end

local function check_pair(adapter, family, param, pair)
  local where = ("%s/%s: %s"):format(adapter.dir, weights_file, pair.a or pair.b)
  if not (pair.a and pair.b) then
    error(where .. ": wanted both lora_A and lora_B", 0)
  end
  local a, b = adapter.weights:info(pair.a).shape, adapter.weights:info(pair.b).shape
  local c, paths = adapter.fields, paths_of(family, param.role)
  local r = pattern_value(c:get("rank_pattern"), paths, c:get("r", 8))
  if #a ~= 2 or #b ~= 2 or a[1] ~= r or b[2] ~= r or a[2] ~= param.shape[2] or b[1] ~= param.shape[1] then
    error(("%s: wanted A (%d, %d) and B (%d, %d), came A (%s) and B (%s)"):format(where, r, param.shape[2],
      param.shape[1], r, table.concat(a, ", "), table.concat(b, ", ")), 0)
  end
  local alpha = pattern_value(c:get("alpha_pattern"), paths, c:get("lora_alpha", 8))
  return r, alpha / (c:get("use_rslora") and math.sqrt(r) or r)
end

---Puts an opened adapter beside the model's layers; its values are set by M.fill.
---@param adapter rl4vlm.Adapter
---@param family table
---@param arch table
---@param core userdata
---@param train boolean
function M.attach(adapter, family, arch, core, train)
  local params = core:params()
  local pairs_of, whole = sort_tensors(adapter, family, arch, params)
  adapter.names, adapter.whole = {}, whole
  for _, param in ipairs(params) do
    local pair = pairs_of[param.role]
    if pair then
      local r, scale = check_pair(adapter, family, param, pair)
      core:lora_add(param.role, r, scale, train)
      adapter.names[param.role .. ".lora_a"], adapter.names[param.role .. ".lora_b"] = pair.a, pair.b
    end
  end
end

---Sets an attached adapter's values from its file.
function M.fill(adapter, core)
  for _, names in ipairs { adapter.names, adapter.whole } do
    for role, name in pairs(names) do
      core:set(role, adapter.weights:get(name))
    end
  end
end

-- ---- making and writing ----

---@class rl4vlm.lora.Options
---@field r integer
---@field alpha? number  default: r
---@field targets? string|string[]  PEFT's target_modules; default: the decoder's linears
---@field exclude? string|string[]
---@field layers? integer[]
---@field rslora? boolean
---@field seed? integer

---Puts fresh adapters beside the layers that the options name; M.begin sets their values.
---@param family table
---@param core userdata
---@param options rl4vlm.lora.Options
---@param base string  the base model's folder
---@return rl4vlm.Adapter
function M.create(family, core, options, base)
  local r, alpha = options.r, options.alpha or options.r
  if math.type(r) ~= "integer" or r < 1 then
    error(("lora: r: wanted a positive whole number, came %s"):format(tostring(r)), 0)
  end
  local roles = M.targets(family, core:params(), { target_modules = options.targets or M.default_targets,
    exclude_modules = options.exclude, layers_to_transform = options.layers })
  if #roles == 0 then
    error("lora: targets: no linear layer of the model matches", 0)
  end
  local names = {}
  for _, role in ipairs(roles) do
    core:lora_add(role, r, alpha / (options.rslora and math.sqrt(r) or r), true)
    local module = "base_model.model." .. family.module(role)
    names[role .. ".lora_a"], names[role .. ".lora_b"] =
      module .. ".lora_A.weight", module .. ".lora_B.weight"
  end
  base = fs.realpath(base) or base
  return { config = M.config(options, r, alpha, base), base = base, names = names, whole = {} }
end

---Begins fresh adapters: A uniform in +-1/sqrt(inputs), B zero.
function M.begin(adapter, core, seed)
  for _, param in ipairs(core:params()) do
    if adapter.names[param.role] then
      local a = param.role:match("%.lora_a$")
      core:set(param.role, slice.random(param.shape, a and "uniform" or "constant",
        a and param.shape[2] ^ -0.5 or 0, seed or 0, param.role))
    end
  end
end

---What adapter_config.json holds for fresh adapters.
function M.config(options, r, alpha, base)
  local null = json.null
  return { peft_type = "LORA", task_type = "CAUSAL_LM", base_model_name_or_path = base, revision = null,
    inference_mode = true, r = r, lora_alpha = alpha, lora_dropout = 0.0,
    target_modules = options.targets or M.default_targets, exclude_modules = options.exclude or null,
    bias = "none", fan_in_fan_out = false, init_lora_weights = true, modules_to_save = null,
    layers_to_transform = options.layers or null, layers_pattern = null,
    use_rslora = options.rslora or false, use_dora = false, lora_bias = false, auto_mapping = null,
    rank_pattern = {}, alpha_pattern = {} }
end

---Writes the adapter's two files into a folder.
---@param dir string
---@param adapter rl4vlm.Adapter
---@param core userdata
function M.save(dir, adapter, core)
  local tensors = {}
  for _, names in ipairs { adapter.names, adapter.whole } do
    for role, name in pairs(names) do
      tensors[name] = core:get(role)
    end
  end
  for _, name in ipairs(adapter.idle or {}) do
    tensors[name] = adapter.weights:get(name)
  end
  safetensors.write(dir .. "/" .. weights_file, tensors, { format = "pt" })
  local ok, err = fs.write_atomic(dir .. "/" .. config_file, json.pretty(adapter.config))
  if not ok then
    error(err, 0)
  end
end

return M
