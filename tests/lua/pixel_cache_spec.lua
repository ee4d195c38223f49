local pixel_cache = require "rl4vlm.pixel_cache"

local function picture(name)
  return { hash = function() return name end }
end

describe("the cache of pixels", function()
  it("makes each image once", function()
    local made = 0
    local pixels = pixel_cache.new(function()
      made = made + 1
      return {}, 10
    end)
    local first = pixels(picture "a")
    assert.equal(first, pixels(picture "a"))
    pixels(picture "b")
    assert.equal(2, made)
  end)

  it("keeps what is asked for and forgets the rest", function()
    local made = {}
    local pixels = pixel_cache.new(function(image)
      made[image.hash()] = (made[image.hash()] or 0) + 1
      return {}, 90 * 1024 * 1024
    end)
    for i = 1, 5 do
      pixels(picture "kept")
      pixels(picture(tostring(i)))
    end
    assert.equal(1, made.kept)
    pixels(picture "1")
    assert.equal(2, made["1"])
  end)

  it("holds little, but the last images whatever their size", function()
    local MIB = 1024 * 1024
    assert.equal(3 * MIB, pixel_cache.bytes(3 * MIB, MIB))
    assert.equal(8 * MIB, pixel_cache.bytes(500 * MIB, MIB))
    assert.equal(180 * MIB, pixel_cache.bytes(500 * MIB, 90 * MIB))
  end)
end)
