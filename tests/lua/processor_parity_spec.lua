-- What transformers' image processors make of real files, where the folder of their answers is given:
-- RL4VLM_PARITY/preprocess.
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local hash = require "rl4vlm.hash"
local processor = require "rl4vlm.processor"
local safetensors = require "rl4vlm.safetensors"

local clip = { image_mean = { 0.48145466, 0.4578275, 0.40821073 }, image_std = { 0.26862954, 0.26130258, 0.27577711 } }
local half = { image_mean = { 0.5, 0.5, 0.5 }, image_std = { 0.5, 0.5, 0.5 } }

local function with(values, fields)
  for key, value in pairs(values) do
    fields[key] = value
  end
  return fields
end

local families = {
  ["llava-1.5"] = with(clip, { image_processor_type = "CLIPImageProcessor", resample = 3,
    size = { shortest_edge = 336 }, crop_size = { height = 336, width = 336 } }),
  ["llava-1.5-pad"] = with(clip, { image_processor_type = "LlavaImageProcessor", do_pad = true, resample = 3,
    size = { shortest_edge = 336 }, crop_size = { height = 336, width = 336 } }),
  ["llava-next"] = with(clip, { image_processor_type = "LlavaNextImageProcessor", do_pad = true, resample = 3,
    size = { shortest_edge = 336 }, crop_size = { height = 336, width = 336 },
    image_grid_pinpoints = { { 336, 672 }, { 672, 336 }, { 672, 672 }, { 1008, 336 }, { 336, 1008 } } }),
  ["qwen2-vl"] = with(clip, { image_processor_type = "Qwen2VLImageProcessor", min_pixels = 3136,
    max_pixels = 12845056, patch_size = 14, temporal_patch_size = 2, merge_size = 2 }),
  ["qwen2-vl-small"] = with(clip, { image_processor_type = "Qwen2VLImageProcessor", min_pixels = 3136,
    max_pixels = 128 * 28 * 28, patch_size = 14, temporal_patch_size = 2, merge_size = 2 }),
  ["smolvlm"] = with(half, { image_processor_type = "Idefics3ImageProcessor", resample = 1,
    size = { longest_edge = 2048 }, max_image_size = { longest_edge = 512 }, do_image_splitting = true }),
  ["smolvlm-unsplit"] = with(half, { image_processor_type = "SmolVLMImageProcessor", resample = 1,
    size = { longest_edge = 2048 }, max_image_size = { longest_edge = 512 }, do_image_splitting = false }),
}

local folder = os.getenv "RL4VLM_PARITY"

-- Pillow cuts 16-bit grey off at 255; here it gives its high byte.
local function check(p, name, im, want)
  local ok, got = pcall(p.pixels, p, im)
  assert.equal(not want.error, ok, name)
  if not ok then
    assert.is_truthy(got:find "at most 200 : 1", got)
    return
  end
  local shape = got:shape()
  if #shape == #want.shape - 1 then -- one image of a batch
    table.insert(shape, 1, 1)
  end
  assert.same(want.shape, shape, name)
  local bytes = got:data()
  if name:find "grey16" then
    return
  elseif #bytes < 16e6 or name:find "300x300" or name:find "exif6" then
    assert.equal(want.sha256, hash.sha256(bytes), name)
  else -- digests of hundreds of megabytes take long: some numbers of each
    for i, value in ipairs(want.sample) do
      assert.equal(value, (("<f"):unpack(bytes, (i - 1) * want.sample_step * 4 + 1)), name)
    end
  end
end

local function read_json(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return json.decode(text)
end

describe("on real files", function()
  if not folder then
    pending "the processors equal transformers' (RL4VLM_PARITY names the folder of the answers)"
    return
  end
  local index = read_json(folder .. "/preprocess/index.json")
  local images = {}
  for name, want in pairs(index.decoded) do
    if not want.error and not name:find "%.gif$" then
      local file, exif = name:gsub("%+exif_transpose$", "")
      images[name] = image.load(folder .. "/preprocess/images/" .. file, { exif = exif == 1 })
    end
  end

  it("files hold what Pillow reads", function()
    local opaque, count = { RGB = true, L = true, ["1"] = true, CMYK = true }, 0 -- there alpha is dropped
    for name, im in pairs(images) do
      if opaque[index.decoded[name].mode] then
        assert.equal(index.decoded[name].rgb_sha256, hash.sha256(im:bytes()), name)
        count = count + 1
      end
    end
    assert.equal(29, count)
  end)

  for family, config in pairs(families) do
    it(family .. " sees what transformers sees", function()
      local p, count = processor.parse(json.encode(config)), 0
      for name, im in pairs(images) do
        check(p, name, im, index.families[family][name])
        count = count + 1
      end
      assert.equal(35, count)
    end)
  end

  it("makes the pixels of the golden prompts from the checkpoints' own files", function()
    local count = 0
    for _, name in ipairs { "llava-1.5", "llava-next", "qwen2-vl", "qwen2.5-vl", "smolvlm" } do
      local p, golden = processor.load(folder .. "/checkpoints/open-" .. name), folder .. "/golden/open-" .. name
      for _, prompt in ipairs(read_json(golden .. "/index.json").prompts) do
        local parts = {}
        for i, picture in ipairs(prompt.images) do
          parts[i] = p:pixels(image.load(("%s/images/%s.png"):format(golden, picture))):data()
        end
        if parts[1] then
          assert.is_true(safetensors.open(golden .. "/" .. prompt.file):get("pixel_values"):data() == table.concat(parts))
          count = count + 1
        end
      end
    end
    assert.equal(20, count)
  end)

  it("refuses broken and foreign files by name", function()
    for _, name in ipairs { "truncated.png", "empty.png", "gif_60x70.gif" } do
      local ok, err = pcall(image.load, folder .. "/preprocess/images/" .. name)
      assert.is_false(ok)
      assert.is_truthy(err:find(name, 1, true))
    end
  end)
end)
