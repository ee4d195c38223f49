-- vlm.lua - a vision-language model: load it, prompt it, score, generate, train, save.
--
-- The numbers are rl4vlm.core's; this file puts files, tokenizer, images and adapters around them.
-- Token ids are data and count from 0.
local adapter = require "rl4vlm.adapter"
local chat_template = require "rl4vlm.chat_template"
local checkpoint = require "rl4vlm.checkpoint"
local core = require "rl4vlm.core"
local fs = require "rl4vlm.fs"
local generation = require "rl4vlm.generation"
local memory = require "rl4vlm.memory"
local micro_batch = require "rl4vlm.micro_batch"
local model_name = require "rl4vlm.model_name"
local optimizer = require "rl4vlm.optimizer"
local placeholders = require "rl4vlm.placeholders"
local processor = require "rl4vlm.processor"
local sizes = require "rl4vlm.sizes"
local suggest = require "rl4vlm.suggest"
local tensor = require "rl4vlm.tensor"
local tokenizer = require "rl4vlm.tokenizer"
local value_head = require "rl4vlm.value_head"
local views = require "rl4vlm.views"

local M = {}

---@class rl4vlm.Model
---@field tokenizer rl4vlm.Tokenizer
---@field views rl4vlm.Views    what becomes of images
---@field config table          config.json
---@field arch table            the numbers of the model (src/vlm/arch.h)
---@field eos integer[]         ids that end an answer
---@field image_token integer   id that stands for one row of an image
---@field dir string            folder that it was loaded from
---@field template? string      a chat template that stands above the checkpoint's
local Model = { __name = "rl4vlm.Model" }
Model.__index = Model

---@class rl4vlm.vlm.Options
---@field device? "auto"|"cpu"|"cuda"  default "auto"
---@field threads? integer             0: all
---@field dtype? "fp32"|"bf16"|"fp16"  default: fp32 below a billion parameters, else as the files
---@field base? "none"|"int8"|"nf4"    how the frozen linear layers of decoder and tower are kept
---@field adapter? string              folder of a LoRA adapter
---@field reference? string            folder of a second one, frozen: model:use("reference")
---@field lora? rl4vlm.lora.Options    a fresh adapter
---@field train? string[]              parts whose weights learn: vision, connector, language, head
---@field train_adapter? boolean       the loaded adapter learns
---@field value_head? boolean
---@field slots? integer               requests that generation runs at the same time
---@field max_tokens? integer          prompt and answer of one sequence
---@field max_rows? integer            rows of one micro-batch
---@field batch? table                of an update: samples, tokens of a usual one, image_share, split (sizes.lua)
---@field image_bytes? integer         of views that are held at the same time, for the plan (default: the slots')
---@field recompute? boolean           keep only layer inputs for the backward pass
---@field seed? integer                of what begins at random
---@field template? string             a chat template that stands above the checkpoint's
---@field image? rl4vlm.views.Options  changes of the image processor (load only)
local known_options = { "device", "threads", "dtype", "base", "adapter", "reference", "lora", "train", "train_adapter",
  "value_head", "slots", "max_tokens", "max_rows", "batch", "recompute", "image_bytes",
  "seed", "template", "image" }

local function check_options(options, known)
  local set = {}
  for _, name in ipairs(known) do
    set[name] = true
  end
  for name in pairs(options) do
    if not set[name] then
      error(suggest.unknown("option", name, known), 3)
    end
  end
end

local stores = { fp32 = { store = "F32", round_x = false }, bf16 = { store = "BF16", round_x = true },
  fp16 = { store = "F16", round_x = false } }

-- Numbers of an option table that count something, and the least of each.
local counts = { slots = 0, max_tokens = 2, max_rows = 1, threads = 0, image_bytes = 0 }

local function check_counts(options)
  for name, least in pairs(counts) do
    local value = options[name]
    if value ~= nil and not (math.type(value) == "integer" and value >= least) then
      error(("%s: wanted a whole number from %d, came %s"):format(name, least, tostring(value)), 0)
    end
  end
end

-- How weights are kept: what is asked for, else fp32 for small models and 16 bits for large ones.
local function pick_dtype(dtype, source)
  if dtype then
    if not stores[dtype] then
      error(("dtype: wanted fp32, bf16 or fp16, came %s"):format(tostring(dtype)), 0)
    end
    return dtype
  end
  local size = source:size()
  local elements = source.elements or size.elements
  if elements < 1e9 then
    return "fp32"
  end
  return (size.dtypes.F16 or 0) > (size.dtypes.BF16 or 0) and "fp16" or "bf16"
end

-- A quantised base does not learn itself.
local function check_base(base, parts)
  if base ~= nil and base ~= "none" and base ~= "int8" and base ~= "nf4" then
    error(("base: wanted none, int8 or nf4, came %s"):format(tostring(base)), 0)
  end
  for _, part in ipairs(base and base ~= "none" and parts or {}) do
    if part == "language" then
      error(("base %s: the language part's weights are frozen, but train names them: learn an adapter beside "
        .. "them (lora.r = 16), or leave out the base"):format(base), 0)
    end
  end
end

-- What core.new wants to know, the longest sequence, and the model's numbers for such.
local function core_options(self, options)
  check_counts(options)
  check_base(options.base, options.train)
  local source, train = self.source, {}
  for _, part in ipairs(options.train or {}) do
    train[part] = true
  end
  local learns = options.train ~= nil or options.lora ~= nil or options.train_adapter or false
  train.value = learns and options.value_head or nil
  local max_tokens = options.max_tokens or math.min(source.arch.text.max_positions, 2048)
  local kind = stores[pick_dtype(options.dtype, source)]
  local o = {
    device = options.device ~= "auto" and options.device or nil, threads = options.threads,
    store = kind.store, round_x = kind.round_x, base = options.base, train = train, value_head = options.value_head,
    recompute = options.recompute, max_rows = options.max_rows or learns and max_tokens or math.max(max_tokens, 1024),
    max_tokens = max_tokens, kv_blocks = sizes.cache_blocks(options.slots or 0, max_tokens, source.arch.text),
  }
  local arch = self:arch_for(max_tokens)
  if learns and not options.max_rows then
    o.max_rows = sizes.rows(arch, o, options.batch)
  end
  o.image_rows = sizes.image_rows(o.max_rows, max_tokens, (options.batch or {}).image_share)
  return o, max_tokens, arch
end

-- A model's core that takes no memory yet, with what its plan hangs on.
local function make_core(self, options)
  local o, max_tokens, arch = core_options(self, options)
  local slots = options.slots or 0
  return { core = core.new(arch, o), arch = arch, slots = slots, max_tokens = max_tokens, max_rows = o.max_rows,
    image_rows = math.max(o.image_rows or o.max_rows, arch.max_view_rows or 0), kv_blocks = o.kv_blocks,
    image_bytes = options.image_bytes or slots * sizes.view_bytes(arch) }
end

local function check_fits(self, options, made)
  local plan, free = sizes.count(made), memory.available()
  if free and plan.total > free then
    local ok, lines = pcall(sizes.advice, self, options, plan.total, free)
    memory.refuse(plan, free, ok and lines or {})
  end
end

-- Puts adapters beside the base: "adapter", a loaded or fresh one, and "reference".
local function attach(self, options, opened)
  if options.lora and opened then
    error(("lora: a fresh adapter cannot begin on top of %s: merge that into its base first (rl4vlm -m merge)")
      :format(opened.dir), 0)
  elseif opened then
    adapter.attach(opened, self, 1, options.train_adapter or false)
    self.adapter = opened
  elseif options.lora then
    self.adapter = adapter.create(self, options.lora)
  end
  self.adapters = { adapter = self.adapter }
  if options.reference then
    self.adapters.reference = adapter.open(model_name.resolve(options.reference))
    adapter.attach(self.adapters.reference, self, 2, false)
  end
end

-- Sets every number: weights, adapter, value head.
local function fill(self, options, init)
  self.source:load(self.core, options.seed, init)
  local a = self.adapter
  if a and not a.weights then
    adapter.begin(a, self.core, options.lora.seed or options.seed)
  end
  for _, loaded in pairs(self.adapters) do
    adapter.fill(loaded, self.core)
  end
  for role in pairs(a and a.whole or {}) do
    self.source.changed[role] = true
  end
  if options.value_head then
    local params = self.core:params()
    local there = a and a.dir and value_head.load(a.dir, self.core, params)
      or value_head.load(self.dir, self.core, params)
    if not there then
      value_head.begin(self.core, params, options.seed)
    end
  end
end

-- The model around an opened (or fresh) checkpoint, without its numbers.
local function describe(source, opened, image_options)
  local self = setmetatable({ dir = source.dir, source = source, family = source.family,
    config = source.config, arch = source.arch, eos = source.eos, opened_adapter = opened,
    image_token = source.arch.image_token, views = views.new(source, image_options) }, Model)
  return self
end

-- Takes the memory and sets every number.
local function start(self, options, init)
  local source = self.source
  self.template = options.template or self.template
  local made = make_core(self, options)
  self.max_tokens, self.kv_blocks, self.max_rows = made.max_tokens, made.kv_blocks, made.max_rows
  self.slots, self.image_rows, self.sized = options.slots, made.image_rows, made
  self.base = options.base ~= "none" and options.base or nil
  self.core = made.core
  source:match(self.core:params())
  source:hold_companions()
  attach(self, options, self.opened_adapter)
  check_fits(self, options, made)
  fill(self, options, init)
  return self
end

-- The tokenizer is opened when it is first needed: requests in ids run without it.
function Model.__index(self, key)
  if key == "tokenizer" then
    local value = tokenizer.load(self.dir)
    rawset(self, key, value)
    return value
  end
  return Model[key]
end

---Opens a model's files without taking memory for its numbers: config, prompts and pixels work.
---@param name string  a folder in Hugging Face's layout, a run, a run's checkpoint, or a built-in model
---@param adapter_name? string  folder of a LoRA adapter
---@param options? {config_only?: boolean, image?: rl4vlm.views.Options}  config_only: a folder without weights will
---do, it can't be started
---@return rl4vlm.Model
function M.open(name, adapter_name, options)
  options = options or {}
  check_options(options, { "config_only", "image" })
  local dir = model_name.resolve(name)
  local opened = adapter_name and adapter.open(model_name.resolve_adapter(adapter_name))
  if not fs.exists(dir .. "/config.json") then
    opened = opened or adapter.open(dir)
    dir = model_name.base_of(dir, opened.base)
  end
  return describe(checkpoint.open(dir, options.config_only), opened, options.image)
end

---The numbers of the model with the largest view that sequences of `max_tokens` can hold.
---@param max_tokens integer
---@return table arch
function Model:arch_for(max_tokens)
  local arch = {}
  for key, value in pairs(self.arch) do
    arch[key] = value
  end
  arch.max_view_patches, arch.max_view_rows = self.views:most(max_tokens)
  return arch
end

---Bytes that the model would take with these options, by what they are for; nothing is taken. `program` is
---what this process holds already.
---@param options rl4vlm.vlm.Options
---@return table  bytes by name, `total`
---@return integer max_rows
function Model:plan_for(options)
  check_options(options, known_options)
  local made = make_core(self, options)
  local probe <close> = made.core
  attach({ core = probe, family = self.family, arch = self.arch, dir = self.dir }, options, self.opened_adapter)
  local plan = sizes.count(made)
  plan.program = memory.resident()
  plan.total = plan.total + plan.program
  return plan, made.max_rows
end

---The same, with what the activations come to in a kept and in a recomputed form: `activations_kept` and
---`activations_recomputed`, for the same rows. Equal where nothing learns.
---@param options rl4vlm.vlm.Options
---@return table
function Model:plans_for(options)
  local plan, rows = self:plan_for(options)
  for _, recompute in ipairs { false, true } do
    local other = {}
    for key, value in pairs(options) do
      other[key] = value
    end
    other.recompute, other.max_rows = recompute, rows
    plan[recompute and "activations_recomputed" or "activations_kept"] = self:plan_for(other).activations
  end
  return plan
end

---How weights are kept: what is asked for, or the default.
---@param dtype? string
---@return "fp32"|"bf16"|"fp16"
function Model:dtype_for(dtype)
  return pick_dtype(dtype, self.source)
end

---Loads the numbers of an opened model.
---@param options? rl4vlm.vlm.Options
---@return rl4vlm.Model self
function Model:start(options)
  options = options or {}
  check_options(options, known_options)
  return start(self, options)
end

---Loads a model.
---@param name string  as for open
---@param options? rl4vlm.vlm.Options
---@return rl4vlm.Model
function M.load(name, options)
  options = options or {}
  check_options(options, known_options)
  return start(M.open(name, options.adapter, { image = options.image }), options)
end

local new_options = { "config", "files", "init", table.unpack(known_options) }

---Makes a model from nothing: every tensor begins at random, from streams that hang on the seed and the
---tensor's role alone.
---
---`config` is what config.json will hold; `files` a folder with tokenizer and processor files;
---`init(role, shape)` may return "normal"|"uniform"|"constant" and a scale, a slice with the values, or
---nothing for the family's rule.
---@param options table  config, files, init, and those of load
---@return rl4vlm.Model
function M.new(options)
  check_options(options, new_options)
  return start(describe(checkpoint.fresh(options.config, options.files), nil, options.image), options, options.init)
end

-- ---- prompts and images ----

---Ids of a prompt with the family's image placeholder in it, each written out as the family's processor does it.
---@param text string
---@param images? table  list of images; their number must be that of the placeholders
---@return integer[]
function Model:prompt(text, images)
  local ids = placeholders.ids(self, text, images or {})
  for _, image in ipairs(images or {}) do
    image:pack() -- a rollout holds hundreds of them
  end
  return ids
end

---The text of an answer without special tokens; nil where the tokenizer has a part that we do not know, so
---that requests in ids run all the same.
---@param ids integer[]
---@return string?
function Model:text(ids)
  local ok, text = pcall(function()
    return self.tokenizer:decode(ids, { skip_special = true })
  end)
  return ok and text or nil
end

---Writes messages as a prompt with the checkpoint's chat template (or the one that `template` holds), and the
---generation prompt behind it.
---@param messages table[]  Hugging Face's list form: {role =, content = TEXT or list of
---{type = "text", text =} and {type = "image", image =}}
---@return string text
---@return table images  what stood under `image` (or path, url), in the order of the placeholders
function Model:chat(messages)
  if not self.chat_format then
    self.chat_format = chat_template.open(self.dir, self.family.chat_template, self.template)
  end
  local text, items = self.chat_format:write(messages)
  local mark = placeholders.mark(self)
  local found = placeholders.count(text, mark)
  if found ~= #items then
    error(("%s: wrote %d times %s, but the messages have %d images"):format(self.chat_format.template.name, found, mark,
      #items), 0)
  end
  local images = {}
  for i, item in ipairs(items) do
    images[i] = item.image or item.path or item.url or item
  end
  return text, images
end

---Tokens that an image takes in a prompt.
---@param image rl4vlm.Image
---@return integer
function Model:rows(image)
  return self.views:layout(image).rows
end

---What the tower sees of an image: patches and what the features' order hangs on; kept by the image's hash.
---@param image rl4vlm.Image
---@return table view
function Model:view(image)
  return self.views:view(image)
end

local function views_of(self, images)
  local list = {}
  for i, image in ipairs(images or {}) do
    list[i] = self:view(image)
  end
  return list
end

-- ---- scoring and learning ----

---Scores answers.
---
---A sample is {ids = prompt, answer = ids, images = {...}}. Options: temperature (default 1), grad (keep for
---backward), values, every_value, entropy, hidden, value_grad. The outputs are tensors: logprobs and
---entropies (A) of all answers behind one another, values (N), hidden; and offsets: sample i owns
---offsets[i] + 1 .. offsets[i + 1].
---@param samples table[]
---@param options? table
---@return table
function Model:score(samples, options)
  local batch = {}
  for i, sample in ipairs(samples) do
    batch[i] = { ids = sample.ids, answer = sample.answer, images = views_of(self, sample.images) }
  end
  return self.core:score(batch, options)
end

---The untempered logits (T, V) behind every token of a sequence.
---@return userdata slice
function Model:logits(ids, images)
  return self.core:logits(ids, views_of(self, images))
end

---Cuts samples into parts that are each scored and differentiated in one piece, their gradients adding up.
---@param samples table[]
---@return table[][]
function Model:micro_batches(samples)
  return micro_batch.cut(self, samples)
end

---A generator: requests in, replies out, as they finish.
---@param options? rl4vlm.generation.Options
---@return rl4vlm.Generator
function Model:generator(options)
  return generation.new(self, options)
end

---Drops all gradients.
function Model:zero_grad()
  self.core:zero_grad()
end

---Puts an adapter to use: "adapter" (a new model uses it), "reference", or nil, the base model alone.
---@param name "adapter"|"reference"|nil
function Model:use(name)
  local used = name and self.adapters[name]
  if name and not used then
    error(("the model has no adapter '%s'"):format(tostring(name)), 2)
  end
  self.core:lora_use(used and used.number or 0)
end

---Bytes by what they are for.
---@return table
function Model:plan()
  return sizes.count(self.sized)
end

---The most bytes in use at once so far.
---@return integer
function Model:peak_bytes()
  return self.core:peak_bytes()
end

---Frees the model's memory at once.
function Model:close()
  self.core:close()
end
Model.__close = Model.close

---An AdamW optimiser over the model's trained parameters.
---@param options? table  beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0
---@return rl4vlm.Optimizer
function Model:optimizer(options)
  return optimizer.new(self, options)
end

-- ---- saving ----

---Writes the whole model as a folder in Hugging Face's layout, with the value head beside it. The folder
---appears complete or not at all. Adapters are not merged: save_adapter writes them.
---@param dir string
---@param options? {dtype: "F32"|"BF16"|"F16"}  of the tensors; default: each as it came
function Model:save(dir, options)
  options = options or {}
  check_options(options, { "dtype" })
  if self.base then
    error(("the base is kept in %s, which is no whole model to write: save_adapter writes what was learned")
      :format(self.base), 2)
  end
  checkpoint.write_folder(dir, function(temporary)
    self.source:write_companions(temporary)
    self.source:write_weights(temporary, self.core, options.dtype)
    value_head.save(temporary, self.core, self.core:params())
  end)
end

---Writes the adapter as a folder in PEFT's layout, with the value head beside it.
---@param dir string
function Model:save_adapter(dir)
  if not self.adapter then
    error("the model has no adapter to save", 2)
  end
  checkpoint.write_folder(dir, function(temporary)
    adapter.save(temporary, self.adapter, self.core)
    value_head.save(temporary, self.core, self.core:params())
  end)
end

-- ---- parts by themselves ----

---@class rl4vlm.ImageProcessor
local ImageProcessor = {}
ImageProcessor.__index = ImageProcessor

---The array that the vision tower sees of an image, in the shape of transformers' pixel_values: (3, H, W),
---(tiles, 3, H, W) of families that cut images, (patches, numbers) of Qwen2-VL's.
---@param image rl4vlm.Image
---@return rl4vlm.Tensor
function ImageProcessor:pixels(image)
  local pixels = self.raw:pixels(image)
  return tensor.from_bytes(pixels:data(), pixels:shape())
end

---The image processor of a model's folder.
---@param dir string
---@return rl4vlm.ImageProcessor
function M.processor(dir)
  return setmetatable({ raw = processor.load(dir) }, ImageProcessor)
end

return M
