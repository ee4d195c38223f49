-- adapter.lua - LoRA adapters in PEFT's layout: read, made, written.
--
-- A folder is adapter_config.json and adapter_model.safetensors. The tensors in the file decide which
-- modules have an adapter, whatever naming of the base model they were written for; what is written
-- carries the names of transformers 5. Several adapters may stand side by side on one base, by number.
-- Source: github.com/huggingface/peft, docs "Checkpoint format".
local families = require "rl4vlm.families"
local fields = require "rl4vlm.config_fields"
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"
local targets = require "rl4vlm.adapter_targets"
local tensor_file = require "rl4vlm.tensor_file"

local M = {}

local config_file, weights_file = "adapter_config.json", "adapter_model.safetensors"

-- ---- reading ----

-- Settings that change what an adapter computes and are not computed here.
local refused = { "use_dora", "fan_in_fan_out", "use_qalora", "use_bdlora", "target_parameters",
  "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "megatron_config",
  "arrow_config", "kasa_config", "monteclora_config", "velora_config" }

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
---@field dir string?
---@field config table     adapter_config.json, decoded
---@field base string?     what it was trained on
---@field weights userdata? the open safetensors; nil for one made from nothing
---@field stored table<string, string>  role of each tensor -> its name in the file that was read
---@field names table<string, string>   role of each tensor -> its name in files that are written
---@field whole table<string, {own: integer[], file: integer[]}>  roles whose whole tensors the adapter replaces, with
---the shapes that these have in the model and in files
---@field trained boolean
---@field idle string[]?    tensors of the file beside layers that the model does not run

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

-- Parameters by every name that files have given them.
local function by_names(family, params)
  local map = {}
  for _, param in ipairs(params) do
    if param.part ~= "value" and not param.role:match("%.lora_") then
      local _, names = family.names(param.role)
      for _, name in ipairs(names) do
        map[name] = param
      end
    end
  end
  return map
end

local function add(problems, kind, text)
  problems[kind] = problems[kind] or {}
  table.insert(problems[kind], text)
end

local kind_of = { ["A.weight"] = "a", ["B.weight"] = "b", ["B.bias"] = "bias" }

-- Sorts the file's tensors: pairs_of[role] = {a =, b =, bias =}, whole[role], by name; others are unknown, or
-- stand beside layers that the model does not run.
local function sort_tensors(adapter, family, arch, params, problems)
  local by_name, pairs_of, whole = by_names(family, params), {}, {}
  adapter.idle = {}
  for _, name in ipairs(adapter.weights:names()) do
    local path = name:gsub("^base_model%.model%.", "")
    local module, which = path:match("^(.*)%.lora_([AB]%.%a+)$")
    local param = by_name[module and module .. ".weight" or path]
    if param and module and targets.is_linear(param) and kind_of[which] then
      pairs_of[param.role] = pairs_of[param.role] or {}
      pairs_of[param.role][kind_of[which]] = name
    elseif param and not module then
      whole[param.role] = name
    elseif family.unused((module or path:gsub("%.weight$", "")) .. ".weight", arch) then
      adapter.idle[#adapter.idle + 1] = name
    else
      add(problems, "no such layer", name)
    end
  end
  return pairs_of, whole
end

local function show(shape)
  return "(" .. table.concat(shape, ", ") .. ")"
end

-- Rank and scale of a pair whose shapes are right; nil when not.
local function check_pair(adapter, family, param, pair, problems)
  local c, info = adapter.fields, adapter.weights
  local bias = c:get("lora_bias") or false
  if not (pair.a and pair.b) or bias ~= (pair.bias ~= nil) then
    add(problems, "wanted lora_A and lora_B" .. (bias and " with a bias" or ""), pair.a or pair.b or pair.bias)
    return
  end
  local paths = targets.paths(family, param.role)
  local r = targets.pattern_value(c:get("rank_pattern"), paths, c:get("r", 8))
  local out, inputs = param.shape[1], param.shape[2]
  local a, b = show(info:info(pair.a).shape), show(info:info(pair.b).shape)
  if a ~= show { r, inputs } or b ~= show { out, r }
    or bias and show(info:info(pair.bias).shape) ~= show { out } then
    add(problems, "wrong shape", ("%s (wanted A %s and B %s, came A %s and B %s)"):format(pair.a,
      show { r, inputs }, show { out, r }, a, b))
    return
  end
  local alpha = targets.pattern_value(c:get("alpha_pattern"), paths, c:get("lora_alpha", 8))
  return { r = r, scale = alpha / (c:get("use_rslora") and math.sqrt(r) or r), bias = bias }
end

local function raise_problems(adapter, problems)
  local lines, kinds = {}, {}
  for kind in pairs(problems) do
    kinds[#kinds + 1] = kind
  end
  table.sort(kinds)
  for _, kind in ipairs(kinds) do
    local names = problems[kind]
    lines[#lines + 1] = ("%s (%d): %s%s"):format(kind, #names, table.concat(names, ", ", 1, math.min(#names, 4)),
      #names > 4 and ", ..." or "")
  end
  if #lines > 0 then
    error(("%s/%s: the adapter does not fit the model%s; %s"):format(adapter.dir, weights_file,
      adapter.base and " (it was made for " .. adapter.base .. ")" or "", table.concat(lines, "; ")), 0)
  end
end

---What an opened adapter holds for a model: specs[role] = {r =, scale =, bias =, names = {a =, b =, bias =}}
---of its pairs, and whole[role] = name of the tensors that replace the model's. Raises once, with all that
---does not fit.
---@param adapter rl4vlm.Adapter
---@param model {family: table, arch: table}
---@param params table[]
---@return table specs
---@return table whole
function M.match(adapter, model, params)
  local problems, specs, family = {}, {}, model.family
  local pairs_of, whole = sort_tensors(adapter, family, model.arch, params, problems)
  for _, param in ipairs(params) do
    local pair, name = pairs_of[param.role], whole[param.role]
    if pair then
      specs[param.role] = check_pair(adapter, family, param, pair, problems)
      if specs[param.role] then
        specs[param.role].names = pair
      end
    elseif name then
      local wanted, came = show(families.file_shape(model, param)), show(adapter.weights:info(name).shape)
      if wanted ~= came then
        add(problems, "wrong shape", ("%s (wanted %s, came %s)"):format(name, wanted, came))
      end
    end
  end
  raise_problems(adapter, problems)
  return specs, whole
end

-- ---- beside a model ----

local parts = { a = "lora_A.weight", b = "lora_B.weight", bias = "lora_B.bias" }

-- The role of a part of adapter `number` beside a weight.
local function role_of(role, part, number)
  return ("%s.lora_%s%s"):format(role, part, number > 1 and "." .. number - 1 or "")
end

local function written_name(family, role)
  return "base_model.model." .. family.module(role) .. (role:match("%.weight$") and ".weight" or "")
end

-- Puts one layer of an adapter there and notes its names.
local function put(adapter, family, core, role, spec)
  core:lora_add(adapter.number, role, { r = spec.r, scale = spec.scale, bias = spec.bias, train = adapter.trained })
  for part, ending in pairs(parts) do
    if part ~= "bias" or spec.bias then
      local key = role_of(role, part, adapter.number)
      adapter.names[key] = ("base_model.model.%s.%s"):format(family.module(role), ending)
      adapter.stored[key] = spec.names and spec.names[part]
    end
  end
end

local function put_whole(adapter, model, param, name)
  local role = param.role
  adapter.names[role], adapter.stored[role] = written_name(model.family, role), name
  adapter.whole[role] = { own = param.shape, file = families.file_shape(model, param) }
  if adapter.trained then
    model.core:train(role)
  end
end

-- Only the path that new files carry.
local function written_paths(family, role)
  return { (family.module(role)) }
end

-- Brings the settings that name modules to the names that are written, where they do not fit already.
local function fit_config(config, family, params, specs)
  local rules, given = {}, fields.new(config, config_file)
  for _, key in ipairs { "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern" } do
    rules[key] = given:get(key)
  end
  local picked, same, count = {}, rules.target_modules ~= nil, 0
  for _, role in ipairs(same and targets.pick(family, params, rules, written_paths) or {}) do
    picked[role] = true
    same = same and specs[role] ~= nil
  end
  local modules, ranks, alphas = {}, {}, {}
  for role, spec in pairs(specs) do
    local module = family.module(role)
    same, count = same and picked[role] or false, count + 1
    modules[#modules + 1], ranks[module] = module, spec.r
    alphas[module] = spec.scale * (given:get("use_rslora") and math.sqrt(spec.r) or spec.r)
  end
  if same then
    return
  end
  table.sort(modules)
  config.target_modules, config.exclude_modules = json.list(modules), json.null
  config.layers_to_transform, config.layers_pattern = json.null, json.null
  if next(given:get("rank_pattern", {})) or next(given:get("alpha_pattern", {})) then
    config.rank_pattern, config.alpha_pattern = ranks, alphas
  end
end

---Puts an opened adapter beside the model's layers; its values are set by M.fill.
---@param adapter rl4vlm.Adapter
---@param model {family: table, arch: table, core: userdata}
---@param number integer  from 1
---@param train boolean
function M.attach(adapter, model, number, train)
  local family, core = model.family, model.core
  local params = core:params()
  local specs, whole = M.match(adapter, model, params)
  adapter.number, adapter.trained = number, train
  adapter.names, adapter.stored, adapter.whole = {}, {}, {}
  if number > 1 and next(whole) then
    error(("%s: an adapter with whole modules of its own (%s) cannot stand beside another"):format(adapter.dir,
      (next(whole))), 0)
  end
  for _, param in ipairs(params) do
    if specs[param.role] then
      put(adapter, family, core, param.role, specs[param.role])
    elseif whole[param.role] then
      put_whole(adapter, model, param, whole[param.role])
    end
  end
  fit_config(adapter.config, family, params, specs)
end

---Sets an attached adapter's values from its file.
function M.fill(adapter, core)
  for role, name in pairs(adapter.stored) do
    local whole, values = adapter.whole[role], adapter.weights:get(name)
    core:set(role, whole and families.shaped(values, whole.own) or values)
  end
end

-- ---- making ----

---@class rl4vlm.lora.Options
---@field r integer
---@field alpha? number  default: r
---@field targets? string|string[]  PEFT's target_modules; default: the decoder's linears
---@field exclude? string|string[]
---@field layers? integer[]
---@field rank_pattern? table<string, integer>
---@field alpha_pattern? table<string, number>
---@field rslora? boolean  alpha over the root of the rank
---@field bias? boolean    a bias behind B
---@field save? string[]   whole modules that learn beside: PEFT's modules_to_save
---@field seed? integer

---Puts fresh adapters beside the layers that the options name; M.begin sets their values.
---@param model {family: table, arch: table, core: userdata, dir: string}
---@param options rl4vlm.lora.Options
---@return rl4vlm.Adapter
function M.create(model, options)
  local family, core = model.family, model.core
  local r, alpha = options.r, options.alpha or options.r
  if math.type(r) ~= "integer" or r < 1 then
    error(("lora: r: wanted a positive whole number, came %s"):format(tostring(r)), 0)
  end
  local params = core:params()
  local roles = targets.pick(family, params, { target_modules = options.targets or targets.default,
    exclude_modules = options.exclude, layers_to_transform = options.layers })
  if #roles == 0 then
    error("lora: targets: no linear layer of the model matches", 0)
  end
  local base = fs.realpath(model.dir) or model.dir
  local adapter = { config = M.config(options, r, alpha, base), base = base, number = 1, trained = true,
    names = {}, stored = {}, whole = {} }
  local specs = {}
  for _, role in ipairs(roles) do
    local paths = targets.paths(family, role)
    local own_r = targets.pattern_value(options.rank_pattern, paths, r)
    local own_alpha = targets.pattern_value(options.alpha_pattern, paths, alpha)
    specs[role] = { r = own_r, scale = own_alpha / (options.rslora and math.sqrt(own_r) or own_r),
      bias = options.bias or false }
    put(adapter, family, core, role, specs[role])
  end
  for _, param in ipairs(targets.whole(family, params, options.save or {})) do
    if not specs[param.role] then
      put_whole(adapter, model, param)
    end
  end
  fit_config(adapter.config, family, params, specs)
  return adapter
end

---Begins fresh adapters: A uniform in +-1/sqrt(inputs), B and its bias zero.
function M.begin(adapter, core, seed)
  for _, param in ipairs(core:params()) do
    if adapter.names[param.role] and not adapter.whole[param.role] then
      local a = param.role:match("%.lora_a$")
      core:set(param.role, slice.random(param.shape, a and "uniform" or "constant",
        a and param.shape[2] ^ -0.5 or 0, seed or 0, param.role))
    end
  end
end

local function or_null(value)
  return value == nil and json.null or value
end

---What adapter_config.json holds for fresh adapters.
function M.config(options, r, alpha, base)
  local null = json.null
  return { peft_type = "LORA", task_type = "CAUSAL_LM", base_model_name_or_path = base, revision = null,
    inference_mode = true, r = r, lora_alpha = alpha, lora_dropout = 0.0,
    target_modules = options.targets or targets.default, exclude_modules = or_null(options.exclude),
    bias = "none", fan_in_fan_out = false, init_lora_weights = true, modules_to_save = or_null(options.save),
    layers_to_transform = or_null(options.layers), layers_pattern = null,
    use_rslora = options.rslora or false, use_dora = false, lora_bias = options.bias or false,
    auto_mapping = null, rank_pattern = options.rank_pattern or {}, alpha_pattern = options.alpha_pattern or {} }
end

-- ---- writing ----

-- What its file of weights holds, and whose numbers each is: roles by name.
local function specs_of(adapter, core)
  local specs, roles = {}, {}
  for _, param in ipairs(core:params()) do
    local name, whole = adapter.names[param.role], adapter.whole[param.role]
    if name then
      specs[name] = { dtype = "F32", shape = whole and whole.file or param.shape }
      roles[name] = param.role
    end
  end
  for _, name in ipairs(adapter.idle or {}) do
    specs[name] = adapter.weights:info(name)
  end
  return specs, roles
end

---Writes the adapter's two files into a folder.
---@param dir string
---@param adapter rl4vlm.Adapter
---@param core userdata
function M.save(dir, adapter, core)
  local specs, roles = specs_of(adapter, core)
  tensor_file.write(dir .. "/" .. weights_file, specs, { format = "pt" }, function(name)
    local role = roles[name]
    return role and families.shaped(core:get(role), specs[name].shape) or adapter.weights:get(name)
  end)
  local ok, err = fs.write_atomic(dir .. "/" .. config_file, json.pretty(adapter.config))
  if not ok then
    error(err, 0)
  end
end

return M
