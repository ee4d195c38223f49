-- LLaVA in its authors' layout: made from a checkpoint in transformers', it must be the same model.
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local placeholders = require "rl4vlm.placeholders"
local safetensors = require "rl4vlm.safetensors"
local slice = require "rl4vlm.slice"
local vlm = require "rl4vlm.vlm"

local root = "tests/golden/families/"
local original = root .. "next"
local prefixes = { { "^vision_tower%.", "model.vision_tower.vision_tower." },
  { "^multi_modal_projector%.linear_1", "model.mm_projector.0" },
  { "^multi_modal_projector%.linear_2", "model.mm_projector.2" }, { "^image_newline", "model.image_newline" },
  { "^language_model%.model%.", "model." }, { "^language_model%.", "" } }

local function renamed(name)
  for _, pair in ipairs(prefixes) do
    local new, n = name:gsub(pair[1], pair[2])
    if n > 0 then
      return new
    end
  end
end

-- The first rows of a matrix.
local function cut(x, rows)
  local width = x:shape()[2]
  return slice.new { dtype = x:dtype(), shape = { rows, width }, data = x:data():sub(1, rows * width * 2) }
end

local function encode(path, value)
  assert(fs.write_atomic(path, json.encode(value)))
end

-- Writes the model without the rows of <image> and <pad>, its tower in the files or in a folder beside them.
local function write(dir, apart)
  local config = json.decode(fs.read_file(original .. "/config.json"))
  local tokens = json.decode(fs.read_file(original .. "/tokenizer.json"))
  local file, base = safetensors.open(original .. "/model.safetensors"), config.image_token_index
  local own, tower = {}, {}
  for _, name in ipairs(file:names()) do
    local x, new = file:get(name), renamed(name)
    if name:match("embed_tokens") or name:match("lm_head") then
      x = cut(x, base)
    end
    local inside = new:match("^model%.vision_tower%.vision_tower%.(.*)$")
    if apart and inside then
      tower[inside] = x
    else
      own[new] = x
    end
  end
  for i = #tokens.added_tokens, 1, -1 do
    if tokens.added_tokens[i].id >= base then
      table.remove(tokens.added_tokens, i)
    end
  end
  local t = config.text_config
  t.model_type, t.vocab_size, t.mm_vision_tower, t.mm_hidden_size = "llava_mistral", base, "openai/clip", 20
  t.mm_projector_type, t.mm_vision_select_layer, t.mm_vision_select_feature = "mlp2x_gelu", -2, "patch"
  t.mm_patch_merge_type, t.image_aspect_ratio, t.mm_use_im_start_end = "spatial_unpad", "anyres", false
  t.image_grid_pinpoints = {}
  for i, pair in ipairs(config.image_grid_pinpoints) do
    t.image_grid_pinpoints[i] = { pair[2], pair[1] }
  end
  assert(fs.mkdirs(dir .. "/vision_tower"))
  encode(dir .. "/config.json", t)
  encode(dir .. "/tokenizer.json", tokens)
  encode(dir .. "/vision_tower/config.json", { model_type = "clip", vision_config = config.vision_config })
  safetensors.write(dir .. "/model.safetensors", own)
  if apart then
    tower["text_model.embeddings.position_ids"] = slice.new { dtype = "I64", shape = { 1 }, data = ("\0"):rep(8) }
    safetensors.write(dir .. "/vision_tower/model.safetensors", tower)
  end
end

describe("LLaVA in its authors' layout", function()
  local dir
  local images, index = {}, json.decode(fs.read_file(original .. "/golden.json"))
  for i, name in ipairs(index.prompts[2].images) do
    images[i] = image.load(root .. "images/" .. name .. ".png")
  end
  local text = index.prompts[2].text

  before_each(function() dir = assert(fs.tempdir()) end)
  after_each(function() fs.remove_tree(dir) end)

  -- The logits of the second golden prompt, without columns from `columns` on.
  local function logits(model, columns)
    local ids = model:prompt(text, images)
    local all, width, list = model:logits(ids, images):list(), model.arch.text.vocab, {}
    for row = 0, #ids - 1 do
      table.move(all, row * width + 1, row * width + columns, #list + 1, list)
    end
    return ids, list
  end

  it("is the same model, its tower in the files or beside them, saved and read again", function()
    local theirs <close> = vlm.load(original, { threads = 1, max_tokens = 300 })
    local base = theirs.image_token
    local ids, wanted = logits(theirs, base)
    for _, apart in ipairs { false, true } do
      write(dir, apart)
      local ours <close> = vlm.load(dir, { threads = 1, max_tokens = 300 })
      assert.equal("llava_mistral", ours.family.name)
      assert.equal(base, ours.arch.text.vocab)
      local our_ids, our_logits = logits(ours, base)
      assert.same(ids, our_ids)
      assert.equal(2 + ours:rows(images[1]), #placeholders.write_out(ours, { 1, -200, 5 }, images))
      assert.same(wanted, our_logits)
      ours:save(dir .. "/saved")
      assert(fs.mkdirs(dir .. "/saved/vision_tower"))
      assert(fs.write_atomic(dir .. "/saved/vision_tower/config.json", fs.read_file(dir .. "/vision_tower/config.json")))
      local again <close> = vlm.load(dir .. "/saved", { threads = 1, max_tokens = 300 })
      assert.same(wanted, select(2, logits(again, base)))
    end
  end)

  it("says what is missing", function()
    write(dir, true)
    fs.remove_tree(dir .. "/vision_tower")
    local ok, err = pcall(vlm.load, dir)
    assert.is_false(ok)
    assert.equal(dir .. "/config.json: mm_vision_tower: wanted its tensors in the files, or its folder (with "
      .. 'config.json) as vision_tower beside them, came "openai/clip"', err)
  end)

  it("sees one view of an image where anyres is off", function()
    local single <close> = vlm.load(original, { threads = 1, max_tokens = 300, image = { anyres = false } })
    for _, picture in ipairs(images) do
      assert.equal(16, single:rows(picture))
      assert.is_nil(single:view(picture).order)
    end
    assert.equal(3 * 16, #single:prompt("<image><image><image>", images) - 1)
  end)
end)
