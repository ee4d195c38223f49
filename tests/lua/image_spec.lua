-- Images: pixels, files, Pillow's resize, broken files.
local hash = require "rl4vlm.hash"
local image = require "rl4vlm.image"
local rng = require "rl4vlm.rng"

local function raises(message, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.equal(message, (err:gsub("^[^ ]+:%d+: ", "")))
end

local function noise(w, h, seed)
  local r, bytes = rng.new(seed), {}
  for i = 1, w * h * 3 do
    bytes[i] = string.char(r:int(0, 255))
  end
  return image.from_bytes(w, h, table.concat(bytes))
end

-- Small files of every kind, with the digests of what Pillow reads (tests/golden/make_processor.py).
local function files()
  local f = assert(io.open "tests/golden/processor.json")
  local list = require("rl4vlm.json").decode(f:read "a").files
  f:close()
  for _, file in ipairs(list) do
    file.bytes = file.hex:gsub("..", function(two)
      return string.char(tonumber(two, 16))
    end)
  end
  return list
end

local function row(...)
  local bytes = {}
  for i, v in ipairs { ... } do
    bytes[i] = string.char(v):rep(3)
  end
  return image.from_bytes(#bytes, 1, table.concat(bytes))
end

local function values(img)
  local list = {}
  for x = 0, (img:size()) - 1 do
    list[x + 1] = (img:get(x, 0))
  end
  return list
end

describe("hash", function()
  it("is SHA-256", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", hash.sha256 "")
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hash.sha256 "abc")
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", hash.sha256(("a"):rep(1000000)))
    for n = 50, 70 do -- around a block's end: 64 digits, all different
      assert.equal(64, #hash.sha256(("x"):rep(n)))
      assert.not_equal(hash.sha256(("x"):rep(n)), hash.sha256(("x"):rep(n + 1)))
    end
  end)
end)

describe("an image", function()
  it("has pixels", function()
    local img = image.new(3, 2, { 1, 2, 3 })
    assert.same({ 3, 2 }, { img:size() })
    assert.equal(("\1\2\3"):rep(6), img:bytes())
    img:set(2, 1, { 9, 8, 7 })
    assert.same({ 9, 8, 7 }, { img:get(2, 1) })
    assert.same({ 1, 2, 3 }, { img:get(1, 1) })
    assert.equal("image 3x2", tostring(img))
    assert.equal(("\0"):rep(12), image.new(2, 2):bytes())
  end)

  it("is cut, copied and compared", function()
    local img = noise(7, 5, 1)
    local cut = img:crop(2, 1, 4, 3)
    assert.same({ 4, 3 }, { cut:size() })
    assert.same({ img:get(5, 3) }, { cut:get(3, 2) })
    local copy = img:copy()
    assert.is_true(copy == img)
    copy:set(0, 0, { (img:get(0, 0) + 1) % 256, 0, 0 })
    assert.is_false(copy == img)
    assert.is_false(img == cut)
  end)

  it("has a digest of size and pixels", function()
    local seen = {}
    local function add(img)
      local digest = img:hash()
      assert.equal(16, #digest)
      assert.is_nil(seen[digest])
      seen[digest] = true
    end
    for w = 1, 12 do
      for h = 1, 12 do
        add(image.new(w, h))
      end
    end
    for i = 0, 299 do
      local img = image.new(10, 10)
      img:set(i // 3 % 10, i // 30, { i % 3 == 0 and 1 or 0, i % 3 == 1 and 1 or 0, i % 3 == 2 and 1 or 0 })
      add(img)
    end
    assert.equal(noise(5, 5, 3):hash(), noise(5, 5, 3):hash())
  end)

  it("survives PNG", function()
    for i, size in ipairs { { 1, 1 }, { 1, 40 }, { 31, 7 }, { 64, 64 } } do
      local img = noise(size[1], size[2], i)
      assert.is_true(image.decode(img:png()) == img)
    end
    local flat = image.new(300, 300, { 0, 128, 255 })
    assert.is_true(image.decode(flat:png()) == flat)
    assert.is_true(#flat:png() < 3000)
    local path = os.tmpname()
    flat:save(path)
    assert.is_true(image.load(path) == flat)
    os.remove(path)
  end)

  it("is read from every kind of file as Pillow reads it", function()
    for _, file in ipairs(files()) do
      assert.equal(file.sha256, hash.sha256(image.decode(file.bytes, file.name):bytes()):sub(1, 16), file.name)
    end
    assert.equal(20, #files())
  end)

  it("has no alpha from a BMP's spare byte", function()
    local header = ("<I4I4I4I4i4i4I2I2I4I4I4I4I4I4"):pack(58, 0, 54, 40, 1, 1, 1, 32, 0, 0, 0, 0, 0, 0)
    assert.same({ 30, 20, 10 }, { image.decode("BM" .. header .. "\10\20\30\7"):get(0, 0) })
  end)

  it("is turned as EXIF says, when asked to", function()
    local img = image.new(3, 2)
    for i = 0, 5 do
      img:set(i % 3, i // 3, { i, i, i })
    end
    -- PNG with an eXIf chunk behind IHDR; the checksum is zlib's
    local function with(orientation, order, chunk_type)
      local tiff = order == "<" and "II*\0" or "MM\0*"
      tiff = tiff .. (order .. "I4I2I2I2I4I2I2I4"):pack(8, 1, 0x0112, 3, 1, orientation, 0, 0)
      local body, crc = (chunk_type or "eXIf") .. tiff, 0xFFFFFFFF
      for i = 1, #body do
        crc = crc ~ body:byte(i)
        for _ = 1, 8 do
          crc = crc >> 1 ~ (crc & 1) * 0xEDB88320
        end
      end
      local png = img:png()
      return png:sub(1, 33) .. (">I4"):pack(#tiff) .. body .. (">I4"):pack(crc ~ 0xFFFFFFFF) .. png:sub(34)
    end
    local upright = { "012345", "210543", "543210", "345012", "031425", "304152", "524130", "251403" }
    for orientation, want in ipairs(upright) do
      for _, order in ipairs { "<", ">" } do
        local file = with(orientation, order)
        local turned = image.decode(file, "x", { exif = true })
        assert.equal(want, (turned:bytes():gsub("(.)..", function(c) return c:byte() end)))
        assert.same(orientation > 4 and { 2, 3 } or { 3, 2 }, { turned:size() })
        assert.is_true(image.decode(file) == img)
      end
    end
    for _, file in ipairs { img:png(), with(0, "<"), with(9, ">"), with(6, "<", "aaAa") } do
      assert.is_true(image.decode(file, "x", { exif = true }) == img)
    end
    raises("bad argument #3 to 'decode' (unknown option 'exfi' (did you mean 'exif'?))", function()
      image.decode(img:png(), "x", { exfi = true })
    end)
  end)

  it("is resized as Pillow does it", function()
    local up, down = row(0, 100, 255, 30), row(0, 10, 20, 200, 255, 255, 0, 128)
    assert.same({ 0, 38, 127, 251, 145, 15 }, values(up:resize(6, 1)))
    assert.same({ 10, 199, 119 }, values(down:resize(3, 1, "bicubic")))
    assert.same({ 0, 24, 141, 255, 145, 5 }, values(up:resize(6, 1, "lanczos")))
    assert.same({ 2, 201, 123 }, values(down:resize(3, 1, "lanczos")))
    -- digests of Pillow 11.3's results on the same noise
    local pillow = {
      { "bicubic", 57, 31, "6adfe099564cdd7f" }, { "bicubic", 9, 90, "d2476a44012b6830" },
      { "lanczos", 20, 50, "62477e4c065d1f35" }, { "bilinear", 33, 11, "1431f51f8e08a0d5" },
      { "box", 15, 20, "52256c34da161ab7" }, { "hamming", 50, 12, "0b51a4c685505198" },
    }
    local img = noise(40, 30, 5)
    for _, p in ipairs(pillow) do
      assert.equal(p[4], hash.sha256(img:resize(p[2], p[3], p[1]):bytes()):sub(1, 16), p[1])
    end
    assert.is_true(img:resize(40, 30) == img)
  end)

  it("refuses wrong arguments", function()
    local img = image.new(4, 3)
    local limits = "wanted sides from 1 to 16384 and at most 67108864 pixels"
    raises("an image of 0 x 3 pixels: " .. limits, image.new, 0, 3)
    raises("an image of 4 x -1 pixels: " .. limits, image.new, 4, -1)
    raises("an image of 16384 x 16384 pixels: " .. limits, image.new, 16384, 16384)
    raises("an image of 9223372036854775807 x 2 pixels: " .. limits, image.new, math.maxinteger, 2)
    raises("bad argument #3 to 'new' (wanted a colour {r, g, b} of integers from 0 to 255)",
      function() image.new(1, 1, { 0, 256, 0 }) end)
    raises("wanted 36 bytes for 4 x 3 pixels, got 35", image.from_bytes, 4, 3, ("x"):rep(35))
    raises("crop of 4 x 3 pixels at (1, 0) leaves the image of 4 x 3", img.crop, img, 1, 0, 4, 3)
    raises("crop of 1 x 1 pixels at (9223372036854775807, 0) leaves the image of 4 x 3",
      img.crop, img, math.maxinteger, 0, 1, 1)
    raises("pixel (4, 0) is outside the image of 4 x 3", img.get, img, 4, 0)
    raises("pixel (0, -1) is outside the image of 4 x 3", img.set, img, 0, -1, { 0, 0, 0 })
    raises("cannot resize to 0 x 3: wanted sides from 1 to 16384", img.resize, img, 0, 3)
    raises("cannot resize to 3 x 20000: wanted sides from 1 to 16384", img.resize, img, 3, 20000)
    raises("bad argument #3 to 'resize' (invalid option 'cubic')", function() img:resize(2, 2, "cubic") end)
    raises("cannot open /no/such.png: No such file or directory", image.load, "/no/such.png")
    img:close()
    img:close()
    raises("calling 'size' on bad self (the image is closed)", function() img:size() end)
    assert.equal("image (closed)", tostring(img))
  end)
end)

describe("a broken image file", function()
  local png = noise(20, 20, 9):png()

  it("is refused with what is wrong", function()
    local cases = {
      { "", "x: empty: wanted a PNG, JPEG or BMP image" },
      { "hello", "x: unknown format: wanted a PNG, JPEG or BMP image" },
      { "GIF89a....", "x: a GIF image: wanted a PNG, JPEG or BMP image" },
      { "RIFF....WEBPVP8 ", "x: a WebP image: wanted a PNG, JPEG or BMP image" },
      { "II*\0....", "x: a TIFF image: wanted a PNG, JPEG or BMP image" },
      { png:sub(1, 8), "x: truncated PNG: no IEND chunk in its 8 bytes" },
      { png:sub(1, -13), ("x: truncated PNG: no IEND chunk in its %d bytes"):format(#png - 12) },
      { png:sub(1, 100), ("x: truncated PNG: chunk IDAT at byte 33 wants %d bytes, 55 are left"):format(#png - 57) },
      { png:sub(1, 20) .. "\7" .. png:sub(22), "x: damaged PNG: wrong checksum of chunk IHDR at byte 8" },
      { "\xFF\xD8\xFF\xE0\0\4ab\xFF\xDA\0\2abc", "x: bad JPEG: Invalid JPEG file structure: SOS before SOF" },
      { "\xFF\xD8\xFF\xE0\0\4abc", "x: truncated JPEG: no end marker in its 9 bytes" },
      { "\xFF\xD8\xFF\xE0\0\4abcdef", "x: truncated JPEG: no end marker in its 12 bytes" },
      { "\xFF\xD8\xFF\xC4\0\x13\0" .. ("\xFF"):rep(16) .. "\xFF\xD9", "x: bad JPEG: Bogus Huffman table definition" },
      { "BM", "x: truncated or old BMP: wanted a header of 54 bytes" },
      { "BM" .. ("<I4I4I4I4i4i4I2I2I4I4I4I4I4I4"):pack(0, 0, 54, 40, 10, 10, 1, 24, 0, 0, 0, 0, 0, 0),
        "x: truncated BMP: wanted 374 bytes, found 54" },
      { "BM" .. ("<I4I4I4I4i4i4I2I2I4I4I4I4I4I4"):pack(0, 0, 54, 40, 0, 10, 1, 24, 0, 0, 0, 0, 0, 0),
        "x: a BMP of 0 x 10 pixels: wanted sides from 1 to 16384" },
    }
    for _, case in ipairs(cases) do
      raises(case[2], image.decode, case[1], "x")
    end
  end)

  it("is refused when the data of a JPEG are torn or damaged", function()
    for _, file in ipairs(files()) do
      local bytes, kind = file.bytes, file.name:match "%.jpeg$" and (file.name:find "progressive" and "\xC2" or "\xC0")
      local at = kind and bytes:find("\xFF" .. kind, 1, true)
      local function put(offset, with, message)
        raises("x: " .. message, image.decode, bytes:sub(1, at + offset - 1) .. with .. bytes:sub(at + offset + #with), "x")
      end
      if at then
        local n, scan = #bytes, bytes:find("\xFF\xDA", 1, true)
        for _, left in ipairs { 5, at, at + 9, scan + 4, scan + 20, n - 8, n - 2, n - 1 } do
          raises(("x: truncated JPEG: no end marker in its %d bytes"):format(left), image.decode, bytes:sub(1, left), "x")
        end
        raises("x: bad JPEG: Corrupt JPEG data: premature end of data segment", image.decode,
          bytes:sub(1, scan + 20) .. "\xFF\xD9", "x")
        put(1, "\xC9", "a JPEG with arithmetic coding: wanted Huffman's")
        put(4, "\12", "bad JPEG: Unsupported JPEG data precision 12")
        put(5, "\x50\0\x50\0", "a JPEG of 20480 x 20480 pixels: wanted sides from 1 to 16384")
        put(5, "\x40\0\x40\0", "a JPEG of 16384 x 16384 pixels: wanted at most 67108864 pixels")
      end
    end
  end)

  it("is refused when a JPEG asks for scans without end", function()
    for _, file in ipairs(files()) do
      if file.name:find("progressive", 1, true) then
        local first = file.bytes:find("\xFF\xDA\0\8\1", 1, true) -- the first scan of one channel
        local behind = file.bytes:find("\xFF[\xC4\xDA]", first + 2)
        local scan = file.bytes:sub(first, first + 8) .. "\0" .. file.bytes:sub(first + 10, behind - 1)
        local function with(n)
          return file.bytes:sub(1, first - 1) .. scan:rep(n) .. "\xFF\xD9"
        end
        assert.same({ image.decode(file.bytes):size() }, { image.decode(with(100)):size() })
        raises("x: bad JPEG: more than 500 scans", image.decode, with(600), "x")
      end
    end
  end)

  it("is read when a JPEG has stray bytes where no pixel is", function()
    for _, file in ipairs(files()) do
      if file.name:match "%.jpeg$" then
        local bytes = file.bytes
        local padded = bytes:sub(1, -3) .. "\0\0\0" .. bytes:sub(-2) .. "behind the end"
        assert.is_true(image.decode(padded) == image.decode(bytes))
      end
    end
  end)

  it("never crashes, however it is broken", function()
    local r = rng.new(13)
    local header = ("<I4I4I4I4i4i4I2I2I4I4I4I4I4I4"):pack(0, 0, 54, 40, 9, 5, 1, 24, 0, 0, 0, 0, 0, 0)
    local bmp = "BM" .. header .. ("abcd"):rep(60)
    local jpeg = "\xFF\xD8\xFF\xE0\0\4ab\xFF\xC0\0\x11\8\0\8\0\8\3\1\x22\0\2\x11\1\3\x11\1" ..
      "\xFF\xDA\0\2abc\xFF\xD9"
    assert.same({ 9, 5 }, { image.decode(bmp):size() })
    local seeds = { bmp, png, jpeg }
    for _, file in ipairs(files()) do
      seeds[#seeds + 1] = file.bytes
    end
    for i = 1, 4000 do
      local bytes = seeds[i % #seeds + 1]
      for _ = 1, r:int(1, 6) do
        local at = r:int(1, #bytes)
        bytes = bytes:sub(1, at - 1) .. string.char(r:int(0, 255)) .. bytes:sub(at + r:int(0, 2))
      end
      pcall(image.decode, bytes)
    end
  end)

  it("is kept as runs where that is small, and comes back whole", function()
    local drawn, grains = image.new(60, 40, { 1, 2, 3 }), {}
    drawn:set(7, 9, { 200, 100, 50 })
    local r = rng.new(5)
    for i = 1, 20 * 10 * 3 do
      grains[i] = string.char(r:int(0, 255))
    end
    local grain = image.from_bytes(20, 10, table.concat(grains))
    local digest, bytes = drawn:hash(), drawn:bytes()
    drawn:pack()
    grain:pack()
    assert.is_true(drawn:is_packed())
    assert.is_false(grain:is_packed()) -- noise has no runs
    assert.same({ 60, 40, digest }, { drawn:size(), select(2, drawn:size()), drawn:hash() })
    assert.is_true(drawn:is_packed())
    assert.equal("image 60x40", tostring(drawn))
    assert.equal(bytes, drawn:bytes())
    assert.is_false(drawn:is_packed())
    drawn:pack()
    assert.same({ 200, 100, 50 }, { drawn:get(7, 9) })
    drawn:pack()
    assert.is_true(drawn == image.from_bytes(60, 40, bytes))
    drawn:pack()
    drawn:close()
    assert.has_error(function() drawn:pack() end)
  end)
end)
