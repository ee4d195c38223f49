-- Image preprocessing: against transformers' answers (tests/golden/processor.json), the order of patches,
-- options, and what is refused.
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local hash = require "rl4vlm.hash"
local processor = require "rl4vlm.processor"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local golden = json.decode(read "tests/golden/processor.json")

local function config(name)
  for _, run in ipairs(golden.runs) do
    if run.name == name then
      return json.decode(json.encode(run.config))
    end
  end
end

local function make(fields, options)
  return processor.parse(json.encode(fields), options)
end

-- The picture of tests/golden/make_processor.py.
local function picture(w, h)
  local bytes, n = {}, 0
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      for c = 0, 2 do
        n = n + 1
        bytes[n] = string.char(((x * (3 + c) + y * (5 - c)) // 2 + 90 * ((x // 7 + y // (4 + c)) % 2)
          + (x * x * 31 + y * y * 17 + x * y * c) % 23) % 256)
      end
    end
  end
  return image.from_bytes(w, h, table.concat(bytes))
end

local pictures = {}
local function cached(w, h)
  local key = w .. "x" .. h
  pictures[key] = pictures[key] or picture(w, h)
  return pictures[key]
end

local function raises(message, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.equal(message, (err:gsub("^[^ ]+:%d+: ", "")))
end

describe("the processor equals transformers'", function()
  for _, run in ipairs(golden.runs) do
    it(run.name, function()
      local p = make(run.config)
      for _, want in ipairs(run.images) do
        local w, h, digest = table.unpack(want)
        local pixels = p:pixels(cached(w, h))
        local shape = pixels:shape()
        if #shape == #want - 4 then -- one image of a batch
          table.insert(shape, 1, 1)
        end
        assert.same(table.move(want, 4, #want, 1, {}), shape)
        assert.equal(digest, hash.sha256(pixels:data()):sub(1, 16), ("%d x %d"):format(w, h))
      end
    end)
  end

  -- What make_processor.py folds into one number.
  local facts = {
    Qwen2VLImageProcessor = function(l) return l.h * 14, l.w * 14 end,
    LlavaNextImageProcessor = function(l) return l.best_height, l.best_width end,
    Idefics3ImageProcessor = function(l) return l.grid_rows or 0, l.grid_cols or 0 end,
  }
  for _, case in ipairs(golden.layouts) do
    it("in 3835 sizes, " .. case.name, function()
      local p, sum, count = make(case.config, { patch = case.name:find "idefics3" and 4 or 14 }), 0, 0
      for w = 1, 2399, 37 do
        for h = 1, 2399, 41 do
          if case.name ~= "qwen2-vl" or math.max(w, h) <= 200 * math.min(w, h) then
            local a, b = facts[case.config.image_processor_type](p:layout(w, h))
            sum = ((sum * 1000003 + a + 1) % 2147483647 * 1000003 + b + 1) % 2147483647
            count = count + 1
          end
        end
      end
      assert.equal(case.fold, sum)
      assert.is_true(count > 3000)
    end)
  end
end)

describe("a view", function()
  -- The number of `pixels` (tiles, 3, H, W) that stands at column k of row r of the patches.
  local function place(v, pixels, p, t, m, r, k)
    local shape = pixels:shape()
    local H, W = shape[#shape - 1], shape[#shape]
    local tile, n = r // (v.h * v.w), r % (v.h * v.w)
    local block, inside = n // (m * m), n % (m * m)
    local i, j = block // (v.w // m) * m + inside // m, block % (v.w // m) * m + inside % m
    local c, y, x = k // (t * p * p), k % (p * p) // p, k % p
    return ((tile * 3 + c) * H + i * p + y) * W + j * p + x
  end

  local function check(fields, img, p, t, m)
    local made = make(fields, { patch = p, temporal = t, merge = m })
    local v, pixels = made:view(img), made:pixels(img)
    local list, plain = v.patches:list(), pixels:list()
    local K = 3 * t * p * p
    assert.same({ v.tiles * v.h * v.w, K }, v.patches:shape())
    assert.equal(#plain * t, #list)
    for at = 0, #list - 1, 7 do
      assert.equal(plain[place(v, pixels, p, t, m, at // K, at % K) + 1], list[at + 1])
    end
    return v
  end

  it("holds the pixels in the tower's order", function()
    local v = check(config "clip", cached(97, 131), 14, 1, 1)
    assert.same({ 97, 131, 1, 4, 4 }, { v.width, v.height, v.tiles, v.h, v.w })
    assert.is_nil(v.grid_rows)
    v = check(config "clip, box", cached(97, 131), 7, 2, 2)
    assert.same({ 1, 4, 10 }, { v.tiles, v.h, v.w })
    v = check(config "llava-next", cached(97, 131), 7, 1, 2)
    assert.same({ 5, 8, 8, 2, 2, 112, 112 },
      { v.tiles, v.h, v.w, v.grid_rows, v.grid_cols, v.best_width, v.best_height })
    v = check(config "idefics3", cached(131, 97), 8, 1, 4)
    assert.same({ 13, 4, 4, 3, 4, 128, 96 },
      { v.tiles, v.h, v.w, v.grid_rows, v.grid_cols, v.best_width, v.best_height })
  end)

  it("of Qwen2-VL is transformers' pixel_values", function()
    local p = make(config "qwen2-vl", { patch = 14, merge = 2 })
    local v = p:view(cached(71, 69))
    assert.same({ 1, 4, 6 }, { v.tiles, v.h, v.w })
    assert.equal(p:pixels(cached(71, 69)):data(), v.patches:data())
  end)

  it("is planned without an image", function()
    local p = make(config "llava-next", { patch = 14 })
    local want = p:view(cached(33, 333))
    want.patches = nil
    assert.same(want, p:layout(33, 333))
    assert.equal(5 * 16, p:most_patches())
    assert.equal(17 * 16, make(config "idefics3", { patch = 8 }):most_patches())
    assert.equal(16, make(config "smolvlm, whole", { patch = 8 }):most_patches())
    assert.is_nil(make({ image_processor_type = "CLIPImageProcessor", do_center_crop = false }, { patch = 14 })
      :most_patches())
  end)

  it("has never more patches than announced", function()
    for _, bounds in ipairs { { 3136, 3136 }, { 50000, 50000 }, { 3136, 47040 }, { 1, 12000 } } do
      local p = make(config "qwen2-vl", { min_pixels = bounds[1], max_pixels = bounds[2] })
      local most = p:most_patches()
      for i = 1, 200 do
        for _, size in ipairs { { i, 1 }, { 1, i }, { i * 80, 81 }, { 80, i * 79 }, { 10, 10 * i }, { 3 * i, 1000 } } do
          if math.max(size[1], size[2]) <= 200 * math.min(size[1], size[2]) then
            local l = p:layout(size[1], size[2])
            assert.is_true(l.h * l.w <= most)
          end
        end
      end
    end
    local tiles = config "idefics3"
    tiles.max_image_size.longest_edge = 27
    for edge = 1, 120 do
      local p = make(tiles, { patch = 3, longest_edge = edge })
      local most = p:most_patches()
      for _, size in ipairs { { 9, 9 }, { 97, 101 }, { 101, 97 }, { 1, 50 }, { 50, 1 }, { 40, 39 } } do
        local l = p:layout(size[1], size[2])
        assert.is_true(l.tiles * l.h * l.w <= most, edge)
      end
    end
  end)
end)

describe("an option of the processor", function()
  it("changes the file's pipeline", function()
    local img = cached(131, 97)
    local function same(a, b)
      assert.equal(a:pixels(img):data(), b:pixels(img):data())
    end
    local next_file = config "llava-next"
    same(make(next_file, { anyres = false }), make(config "clip"))
    same(make(config "clip", { anyres = false }), make(config "clip"))
    same(make(config "clip", { pad = true }), make(config "llava, padded"))
    same(make(next_file, { anyres = false, pad = true }), make(config "llava, padded"))
    same(make(config "idefics3", { splitting = false }), make(config "smolvlm, whole"))
    same(make(config "smolvlm, whole", { splitting = true }), make(config "idefics3"))
    local edge = config "idefics3"
    edge.size.longest_edge = 70
    same(make(config "idefics3", { longest_edge = 70 }), make(edge))
    local qwen = config "qwen2-vl"
    qwen.min_pixels, qwen.max_pixels = 100, 9000
    same(make(config "qwen2-vl", { min_pixels = 100, max_pixels = 9000 }), make(qwen))
  end)

  it("is refused where it means nothing", function()
    local name = "preprocessor_config.json: "
    raises(name .. 'option "splitting": CLIPImageProcessor takes patch, temporal, merge, max_patches, pad and anyres',
      make, config "clip", { splitting = true })
    raises(name .. 'option "pad": LlavaNextImageProcessor takes patch, temporal, merge, max_patches and anyres',
      make, config "llava-next", { pad = true })
    raises(name .. '"patch": wanted an integer, got a string', make, config "clip", { patch = {} })
    raises(name .. '"splitting": wanted true or false, got a number', make, config "idefics3", { splitting = 1 })
    raises(name .. '"merge_size": is 2, but the vision tower\'s is 3', make, config "qwen2-vl", { merge = 3 })
    local ok, err = pcall(make, config "clip", { pach = 14 })
    assert.is_false(ok)
    assert.is_truthy(err:find("unknown option 'pach' (did you mean 'patch'?)", 1, true))
  end)
end)

describe("an image that does not fit", function()
  it("is refused before it is made", function()
    local function refused(message, fields, options, w, h)
      raises(message, function() make(fields, options):layout(w, h) end)
    end
    local qwen = config "qwen2-vl"
    refused("an image of 700 x 3 pixels: wanted sides of at most 200 : 1", qwen, {}, 700, 3)
    refused("an image of 0 x 3 pixels: wanted sides from 1 to 16384", qwen, {}, 0, 3)
    refused("an image of 3 x 16385 pixels: wanted sides from 1 to 16384", qwen, {}, 3, 16385)
    refused("an image of 300 x 300 pixels becomes 196 patches (1 of 14 x 14): wanted at most 195", qwen,
      { max_patches = 195 }, 300, 300)
    refused("an image of 100 x 50 pixels becomes 48 patches (3 of 4 x 4): wanted at most 47", config "llava-next",
      { patch = 14, max_patches = 47 }, 100, 50)
    refused("an image of 50 x 60 pixels becomes 50 x 60: wanted multiples of 28 (patches of 14, merged 2 x 2)",
      { image_processor_type = "Qwen2VLImageProcessor", do_resize = false }, {}, 50, 60)
    refused("an image of 5 x 6 pixels becomes 56 x 56: wanted multiples of 16 (patches of 16, merged 1 x 1)",
      config "clip", { patch = 16 }, 5, 6)
    refused("an image of 16384 x 1 pixels becomes 1 of 8192000 x 500: wanted from 1 to 67108864 pixels",
      { image_processor_type = "CLIPImageProcessor", do_center_crop = false, size = { shortest_edge = 500 } },
      { patch = 500 }, 16384, 1)
    raises('the processor was loaded without the option "patch": it makes pixels, not patches', function()
      make(config "clip"):view(cached(5, 199))
    end)
  end)
end)

describe("a processor's file", function()
  local folder

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(require("rl4vlm.fs").mkdirs(folder))
  end)
  teardown(function()
    os.remove(folder .. "/preprocessor_config.json")
    os.remove(folder .. "/processor_config.json")
    os.remove(folder)
  end)

  local function write(name, content)
    local f = assert(io.open(folder .. "/" .. name, "w"))
    f:write(type(content) == "table" and json.encode(content) or content)
    f:close()
  end

  local function with(content)
    write("preprocessor_config.json", content)
    return processor.load(folder)
  end

  it("may lie inside processor_config.json", function()
    write("processor_config.json", { image_processor = config "idefics3", image_seq_len = 64 })
    local a = processor.load(folder):pixels(cached(28, 28)):data()
    os.remove(folder .. "/processor_config.json")
    assert.equal(with(config "idefics3"):pixels(cached(28, 28)):data(), a)
    os.remove(folder .. "/preprocessor_config.json")
  end)

  it("is known by its keys where it names no type, and by older names", function()
    for _, name in ipairs { "clip", "llava-next", "qwen2-vl", "smolvlm, whole" } do
      local fields = config(name)
      local want = make(fields):pixels(cached(97, 131)):data()
      fields.image_processor_type = nil
      assert.equal(want, make(fields):pixels(cached(97, 131)):data())
    end
    local clip, qwen = config "clip", config "qwen2-vl"
    clip.image_processor_type, clip.feature_extractor_type = nil, "CLIPFeatureExtractor"
    qwen.image_processor_type = "Qwen2_5_VLImageProcessor"
    assert.same({ 3, 56, 56 }, make(clip):pixels(cached(5, 199)):shape())
    assert.same({ 16, 1176 }, make(qwen):pixels(cached(28, 28)):shape())
    qwen.image_processor_type = "Qwen2VLImageProcessorFast"
    assert.same({ 16, 1176 }, make(qwen):pixels(cached(28, 28)):shape())
  end)

  it("is refused with file and key where it is wrong", function()
    local known = "CLIPImageProcessor, LlavaImageProcessor, SiglipImageProcessor, LlavaNextImageProcessor, " ..
      "Qwen2VLImageProcessor, Idefics3ImageProcessor and SmolVLMImageProcessor"
    local clip, next_type, qwen, idefics3 = "CLIPImageProcessor", "LlavaNextImageProcessor", "Qwen2VLImageProcessor",
      "Idefics3ImageProcessor"
    local cases = {
      { "Qwen9ImageProcessor", {}, 'image processor type "Qwen9ImageProcessor" is not known; known are ' .. known },
      { nil, {}, "image processor type (not given) is not known; known are " .. known },
      { clip, { size = { height = 3 } },
        '"size": wanted an integer, {"shortest_edge"}, {"longest_edge"} or {"height", "width"}' },
      { clip, { size = { shortest_edge = "a" } }, '"size": "shortest_edge": wanted an integer, got a string' },
      { clip, { size = { shortest_edge = 3, height = 4, width = 5 } },
        '"size": wanted "shortest_edge" or "height" and "width", got both' },
      { clip, { size = { longest_edge = 3 } }, '"size": CLIPImageProcessor takes no "longest_edge"' },
      { clip, { crop_size = 0 }, '"crop_size": wanted an integer from 1 to 16384, got 0' },
      { clip, { resample = 0 }, '"resample": code 0 (nearest) is not supported' },
      { clip, { resample = 9 }, '"resample": wanted an integer from 0 to 5, got 9' },
      { clip, { image_mean = { 1, 2 } }, '"image_mean": wanted three numbers' },
      { clip, { image_std = { 1, 0, 1 } }, '"image_std": wanted numbers other than 0' },
      { clip, { do_resize = 1 }, '"do_resize": wanted true or false, got a number' },
      { next_type, { size = 336 },
        '"size" and "crop_size": wanted the same square, got 336 x 336 and 224 x 224' },
      { next_type, { size = 336, crop_size = 336, image_grid_pinpoints = {} },
        '"image_grid_pinpoints": wanted a list of 1 to 64 pairs' },
      { next_type, { size = 336, crop_size = 336, image_grid_pinpoints = { { 336 } } },
        '"image_grid_pinpoints": wanted pairs [height, width] of integers' },
      { next_type, { size = 336, crop_size = 336, image_grid_pinpoints = { { 336, 700 } } },
        '"image_grid_pinpoints": [336, 700] is not made of tiles of 336 x 336' },
      { qwen, { size = { shortest_edge = 3 } },
        '"size": wanted {"shortest_edge", "longest_edge"}, the least and the most pixels' },
      { qwen, { min_pixels = 5000, max_pixels = 4000 }, '"min_pixels" 5000 is above "max_pixels" 4000' },
      { qwen, { patch_size = 0 }, '"patch_size": wanted an integer from 1 to 1024, got 0' },
      { idefics3, { size = { height = 3, width = 3 } }, '"size": wanted {"longest_edge"}' },
      { idefics3, { max_image_size = 364 }, '"max_image_size": wanted {"longest_edge"}' },
      { idefics3, { do_image_splitting = "no" }, '"do_image_splitting": wanted true or false, got a string' },
    }
    for _, case in ipairs(cases) do
      case[2].image_processor_type = case[1]
      raises(folder .. "/preprocessor_config.json: " .. case[3], with, next(case[2]) and case[2] or "{}")
    end
    raises(folder .. "/preprocessor_config.json:1:1: not JSON: string or '}' expected near end of file", with, "{")
    raises("cannot open /no/such/preprocessor_config.json: No such file or directory", processor.load, "/no/such")
  end)
end)

describe("the CLIP pipeline", function()
  it("sees long strips without making all of them", function()
    local p = make { image_processor_type = "CLIPImageProcessorFast", size = 336, crop_size = 336 }
    assert.same({ 3, 336, 336 }, p:pixels(image.new(16000, 3)):shape())
  end)
end)
