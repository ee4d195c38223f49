-- checkpoint.lua - model folders in Hugging Face's layout: what is in one, into a model, out of a model.
--
-- A folder is config.json, tokenizer and processor files, and safetensors (one file or shards). The
-- family's descriptor (models/FAMILY.lua) says what the tensors are called. What is written has the
-- same files, names, types and shards as what was read, and appears whole or not at all.
local families = require "rl4vlm.families"
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"
local tensor_file = require "rl4vlm.tensor_file"
local tower_files = require "rl4vlm.tower_files"

local M = {}

---@class rl4vlm.Checkpoint
---@field dir string
---@field config table       config.json, decoded
---@field config_text string as it lies in the folder
---@field family table       the descriptor
---@field arch table         the fields of src/vlm/arch.h
---@field eos integer[]      ids that end an answer
---@field generation table   generation_config.json, {} where there is none
---@field weights userdata?  the open safetensors; nil for a model made from nothing
---@field name_of table<string, string>  role to the tensor's name in the files
---@field changed table<string, boolean>  roles whose values may differ from the files'
local Checkpoint = {}
Checkpoint.__index = Checkpoint

-- ---- reading ----

local function read_json(path)
  local text, err = fs.read_file(path)
  if not text then
    error(err, 0)
  end
  local value, why = json.decode(text)
  if type(value) ~= "table" then
    error(("%s: wanted a JSON object%s"):format(path, why and ": " .. why or ""), 0)
  end
  return value, text
end

local function optional_json(path)
  return fs.exists(path) and read_json(path) or {}
end

local function list_of_ids(value, where)
  if value == nil or value == json.null then
    return nil
  end
  local list = type(value) == "table" and value or { value }
  for _, id in ipairs(list) do
    if math.type(id) ~= "integer" or id < 0 then
      error(("%s: eos_token_id: wanted an id or a list of ids, came %s"):format(where, tostring(id)), 0)
    end
  end
  return #list > 0 and list or nil
end

-- The ids that end an answer: of generation_config.json, else of config.json, else Llama's 2.
local function eos_of(dir, generation, config)
  local text = type(config.text_config) == "table" and config.text_config or {}
  return list_of_ids(generation.eos_token_id, dir .. "/generation_config.json")
    or list_of_ids(config.eos_token_id, dir .. "/config.json")
    or list_of_ids(text.eos_token_id, dir .. "/config.json: text_config") or { 2 }
end

-- Reads pickles without running code from them, and writes all their tensors as one file.
local convert = [[python -c "import glob, torch, safetensors.torch as s
t = {}
for f in sorted(glob.glob('%s/*.%s')): t.update(torch.load(f, map_location='cpu', weights_only=True))
s.save_file({k: v.clone() for k, v in t.items()}, '%s/model.safetensors', {'format': 'pt'})"]]

local function refuse_other_weights(dir)
  for _, name in ipairs(fs.list(dir) or {}) do
    local kind = name:match("%.(bin)$") or name:match("%.(pth?)$") or name:match("%.(ckpt)$")
    if kind then
      error(("%s holds %s, a pickle, which is not read because reading one can run code from it. Convert it once:\n%s")
        :format(dir, name, convert:format(dir, kind, dir)), 0)
    end
  end
  error(("%s: wanted model.safetensors or model.safetensors.index.json, found neither"):format(dir), 0)
end

local function open_weights(dir, optional)
  for _, name in ipairs { "model.safetensors.index.json", "model.safetensors" } do
    local path = dir .. "/" .. name
    if fs.exists(path) then
      return safetensors.open(path), name:match("index") ~= nil
    end
  end
  return not optional and refuse_other_weights(dir) or nil
end

-- The vision tower's folder in the model's, where there is one: its config.json; its tensors join files without them.
local function join_tower(self)
  local prefix, dir = self.family.tower_prefix, self.dir .. "/vision_tower"
  if not prefix or not fs.exists(dir .. "/config.json") then
    return nil
  end
  if self.weights and not self.weights:info(prefix .. "vision_model.embeddings.class_embedding") then
    self.weights = tower_files.join(self.weights, (open_weights(dir)), prefix)
  end
  return (read_json(dir .. "/config.json"))
end

---Reads everything of a folder but the numbers. Raises, naming the file and what is wrong with it.
---@param dir string
---@param config_only? boolean  a folder without weights will do
---@return rl4vlm.Checkpoint
function M.open(dir, config_only)
  if not fs.exists(dir .. "/config.json") then
    error(("%s: wanted a model's folder with config.json in it"):format(dir), 0)
  end
  local self = setmetatable({ dir = dir }, Checkpoint)
  local where = dir .. "/config.json"
  self.config, self.config_text = read_json(where)
  self.family = families.of(self.config, where)
  self.weights, self.sharded = open_weights(dir, config_only)
  local tower = join_tower(self)
  self.arch = self.family.arch(self.config, where, self.weights and function(name)
    return self.weights:info(name) ~= nil
  end, tower)
  self.generation = optional_json(dir .. "/generation_config.json")
  self.eos = eos_of(dir, self.generation, self.config)
  return self
end

---A checkpoint that has no weights yet.
---@param config table  as config.json holds it
---@param dir string    folder with the tokenizer's and processor's files
---@return rl4vlm.Checkpoint
function M.fresh(config, dir)
  local self = setmetatable({ dir = dir, config = config }, Checkpoint)
  self.config_text = json.pretty(config)
  self.family = families.of(config, "config")
  self.arch = self.family.arch(config, "config")
  self.generation = optional_json(dir .. "/generation_config.json")
  self.eos = eos_of(dir, self.generation, config)
  return self
end

local function same(a, b)
  return table.concat(a, ",") == table.concat(b, ",")
end

local function show(shape)
  return "(" .. table.concat(shape, ", ") .. ")"
end

local readable = { F32 = true, F16 = true, BF16 = true, F64 = true }

-- The name of a role's tensor: which order of names a part has is settled by its first tensor found.
local function pick_name(self, role, order)
  local part, names = self.family.names(role)
  if not self.weights then
    return names[1]
  end
  if not order[part] then
    for k, name in ipairs(names) do
      if self.weights:info(name) then
        order[part] = k
        break
      end
    end
  end
  return names[order[part] or 1]
end

local function add(problems, kind, text)
  problems[kind] = problems[kind] or {}
  table.insert(problems[kind], text)
end

local function check_tensor(self, problems, name, wanted)
  local info = self.weights:info(name)
  if not info then
    add(problems, "missing", name)
  elseif not same(info.shape, wanted) then
    add(problems, "wrong shape", ("%s (wanted %s, came %s)"):format(name, show(wanted), show(info.shape)))
  elseif not readable[info.dtype] then
    add(problems, "wrong type", ("%s (wanted F32, F16 or BF16, came %s)"):format(name, info.dtype))
  end
end

local function raise_problems(self, problems)
  local lines = {}
  for _, kind in ipairs { "missing", "wrong shape", "wrong type", "unknown" } do
    local list = problems[kind]
    if list then
      local shown = table.concat(list, ", ", 1, math.min(#list, 8))
      lines[#lines + 1] = ("%s (%d): %s%s"):format(kind, #list, shown, #list > 8 and ", ..." or "")
    end
  end
  if #lines > 0 then
    error(("%s: the tensors are not those of its config.json; %s"):format(self.dir, table.concat(lines, "; ")), 0)
  end
end

---Finds the tensor of each parameter. Raises once, with all that is missing, unknown or wrong.
---@param params table[]  as core's m:params() gives them; value head and adapters are left alone
function Checkpoint:match(params)
  local order, used, problems = {}, {}, {}
  self.name_of, self.shape_of, self.file_shape_of, self.changed = {}, {}, {}, {}
  for _, param in ipairs(params) do
    local role = param.role
    if param.part ~= "value" and not role:match("%.lora_") then
      local name = pick_name(self, role, order)
      self.name_of[role], self.shape_of[role], used[name] = name, param.shape, role
      self.file_shape_of[role] = families.file_shape(self, param)
      self.changed[role] = param.trained or not self.weights
      if self.weights then
        check_tensor(self, problems, name, self.file_shape_of[role])
      end
    end
  end
  self.role_of = used
  for _, name in ipairs(self.weights and self.weights:names() or {}) do
    if not used[name] and not self.family.unused(name, self.arch) then
      add(problems, "unknown", name)
    end
  end
  raise_problems(self, problems)
end

-- How a role's tensor begins in a model made from nothing: a distribution, and its standard deviation or value.
local function fresh_rule(role, shape)
  if role:match("norm%d?%.weight$") then
    return "constant", 1
  elseif role:match("%.bias$") then
    return "constant", 0
  elseif role == "vision.class" or role == "vision.position" or role == "connector.newline" then
    return "normal", shape[#shape] ^ -0.5
  end
  return "normal", 0.02
end

-- The first value of a tensor: what `init` says, else the rule.
local function initial(role, shape, seed, init)
  local kind, scale
  if init then
    kind, scale = init(role, shape)
  end
  if kind == nil then
    kind, scale = fresh_rule(role, shape)
  end
  return type(kind) == "userdata" and kind or slice.random(shape, kind, scale, seed or 0, role)
end

-- Names of the tensors that the model has, file by file.
local function in_file_order(self)
  local names, file = {}, {}
  for name in pairs(self.role_of) do
    names[#names + 1], file[name] = name, self.weights:info(name).file
  end
  table.sort(names, function(a, b)
    return file[a] < file[b] or file[a] == file[b] and a < b
  end)
  return names
end

---Sets every parameter of `core` from the files, or as a fresh model begins.
---@param core userdata
---@param seed? integer  of a fresh model
---@param init? fun(role: string, shape: integer[]): string|userdata|nil, number?  nil: the rule of all models
function Checkpoint:load(core, seed, init)
  if self.weights then
    for _, name in ipairs(in_file_order(self)) do
      local role = self.role_of[name]
      core:set(role, families.shaped(self.weights:get(name), self.shape_of[role]))
      self.weights:drop(name) -- the mapped file and its copy are never resident at once
    end
    return
  end
  for role, shape in pairs(self.shape_of) do
    core:set(role, initial(role, shape, seed, init))
  end
end

---Bytes and elements of the weights by type.
---@return table  {elements =, bytes =, dtypes = {F16 = elements, ...}}
function Checkpoint:size()
  local sum = { elements = 0, bytes = 0, dtypes = {} }
  for _, name in ipairs(self.weights and self.weights:names() or {}) do
    local info, n = self.weights:info(name), 1
    for _, d in ipairs(info.shape) do
      n = n * d
    end
    sum.elements, sum.bytes = sum.elements + n, sum.bytes + info.bytes
    sum.dtypes[info.dtype] = (sum.dtypes[info.dtype] or 0) + n
  end
  return sum
end

-- ---- writing ----

---Bytes of one file, from which on a model is written in shards (transformers' default of its 4.x line).
M.shard_bytes = 5e9

-- What is written: every tensor of the files (or of a fresh model) by name.
local function specs_of(self, dtype)
  local specs = {}
  if self.weights then
    for _, name in ipairs(self.weights:names()) do
      local info = self.weights:info(name)
      local file = info.file:match("[^/]+$")
      specs[name] = { dtype = self.role_of[name] and dtype or info.dtype, shape = info.shape,
        file = self.sharded and file or nil, bytes = info.bytes }
    end
  else
    for role, name in pairs(self.name_of) do
      specs[name] = { dtype = dtype or "F32", shape = self.file_shape_of[role] }
    end
  end
  for _, spec in pairs(specs) do
    spec.bytes = self.role_of and tensor_file.bytes(spec) or spec.bytes
  end
  return specs
end

-- Spreads names over files: the shards they came in, else as many as the limit asks for.
local function files_of(specs)
  local names, total, files = {}, 0, {}
  for name, spec in pairs(specs) do
    names[#names + 1] = name
    total = total + spec.bytes
  end
  table.sort(names)
  local count, used = 1, 0
  for _, name in ipairs(names) do
    local spec = specs[name]
    if not spec.file then
      if used > 0 and used + spec.bytes > M.shard_bytes then
        count, used = count + 1, 0
      end
      used, spec.shard = used + spec.bytes, count
    end
  end
  for _, name in ipairs(names) do
    local spec = specs[name]
    local file = spec.file or count == 1 and "model.safetensors"
      or ("model-%05d-of-%05d.safetensors"):format(spec.shard, count)
    files[file] = files[file] or {}
    files[file][name] = { dtype = spec.dtype, shape = spec.shape }
  end
  return files, total
end

local function write_tensors(self, core, path, specs)
  tensor_file.write(path, specs, { format = "pt" }, function(name)
    local role = self.role_of[name]
    local values = role and self.changed[role] and core:get(role) or self.weights:get(name)
    return values:dtype() == specs[name].dtype and values or values:convert(specs[name].dtype)
  end)
end

local function check(ok, err)
  if not ok then
    error(err, 0)
  end
  return ok
end

-- The files beside the weights that make a folder complete.
local companions = {}
for _, name in ipairs { "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
  "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "preprocessor_config.json",
  "processor_config.json", "chat_template.json", "chat_template.jinja", "README.md" } do
  companions[name] = true
end

local function is_companion(name)
  return companions[name] or name:match("^LICENSE") or name:match("^NOTICE")
end

---Keeps the companions' contents: a run that went on from its own checkpoint drops that folder in time,
---and still writes whole ones.
function Checkpoint:hold_companions()
  self.companions = {}
  for _, name in ipairs(fs.list(self.dir) or {}) do
    local stat = is_companion(name) and fs.stat(self.dir .. "/" .. name)
    if stat and stat.type == "file" then
      self.companions[name] = check(fs.read_file(self.dir .. "/" .. name))
    end
  end
end

---Writes tokenizer, processor and generation files as they were, and config.json.
function Checkpoint:write_companions(dir)
  check(fs.write_atomic(dir .. "/config.json", self.config_text))
  for name, bytes in pairs(self.companions) do
    check(fs.write_atomic(dir .. "/" .. name, bytes))
  end
end

---Writes all tensors of the model into a folder.
---@param dir string
---@param core userdata
---@param dtype? "F32"|"BF16"|"F16"  of the model's tensors; nil: each as it came
function Checkpoint:write_weights(dir, core, dtype)
  local files, total = files_of(specs_of(self, dtype))
  local map, several = {}, next(files, next(files)) ~= nil or self.sharded
  for file, specs in pairs(files) do
    write_tensors(self, core, dir .. "/" .. file, specs)
    for name in pairs(specs) do
      map[name] = file
    end
  end
  if several then
    check(fs.write_atomic(dir .. "/model.safetensors.index.json",
      json.pretty { metadata = { total_size = math.tointeger(total) }, weight_map = map }))
  end
end

---Runs `write(temporary folder)` and puts the folder in place of `dir`: it is complete or not there.
---@param dir string
---@param write fun(temporary: string)
function M.write_folder(dir, write)
  local temporary, old = ("%s.tmp.%d"):format(dir, host.pid()), ("%s.old.%d"):format(dir, host.pid())
  check(fs.remove_tree(temporary))
  check(fs.mkdirs(temporary))
  local ok, err = xpcall(write, function(message)
    return message
  end, temporary)
  if not ok then
    fs.remove_tree(temporary)
    error(err, 0)
  end
  check(fs.sync_dir(temporary))
  if fs.exists(dir) then
    check(fs.rename(dir, old))
  end
  local moved, why = fs.rename(temporary, dir)
  if not moved then
    fs.rename(old, dir)
    fs.remove_tree(temporary)
    error(why, 0)
  end
  fs.remove_tree(old)
  check(fs.sync_dir(dir:match("^(.*)/[^/]+/?$") or "."))
end

return M
