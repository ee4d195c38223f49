local image = require "rl4vlm.image"
local picture = require "rl4vlm.picture"

-- An image of two colours, red above blue.
local function flag(width, height)
  local half = width * height // 2
  return image.from_bytes(width, height, ("\255\0\0"):rep(half) .. ("\0\0\255"):rep(half))
end

describe("picture", function()
  it("draws half blocks, the upper pixel as colour and the lower as ground", function()
    local text = picture.text(flag(2, 2), "blocks", 10)
    assert.equal("\27[38;2;255;0;0m\27[48;2;0;0;255m▀\27[0m\n", text)
  end)

  it("keeps the shape: a cell is half as wide as high", function()
    local _, lines = picture.text(flag(300, 300), "blocks", 40):gsub("\n", "")
    assert.equal(20, lines)
  end)

  it("sends kitty a PNG in pieces of 4096 characters", function()
    local noise, stream = {}, require("rl4vlm.rng").new(1)
    for i = 1, 64 * 64 * 3 do
      noise[i] = string.char(stream:below(256))
    end
    local text = picture.text(image.from_bytes(64, 64, table.concat(noise)), "kitty", 10)
    local pieces, data = 0, {}
    for head, piece in text:gmatch("\27_G([^;]*);([^\27]*)\27\\") do
      pieces = pieces + 1
      data[pieces] = piece
      assert.is_true(#piece <= 4096)
      assert.equal(pieces == 1, head:find("f=100,a=T,c=10,r=5", 1, true) ~= nil)
    end
    assert.is_true(pieces > 1)
    assert.equal("iVBORw0KGgo", data[1]:sub(1, 11))
  end)

  it("counts runs in sixel", function()
    local text = picture.text(flag(4, 4), "sixel", 1)
    assert.matches('^\27Pq"1;1;10;20', text)
    assert.matches("#180!10~%$", text) -- pure red, six rows of ten columns
    assert.matches("#5!10~%$", text)
    assert.matches("\27\\\n$", text)
  end)

  it("shows the description where nothing can be drawn", function()
    assert.equal(tostring(flag(4, 4)) .. "\n", picture.text(flag(4, 4), "none"))
  end)

  it("asks the environment what the terminal can", function()
    local function kind(env)
      return picture.from_environment(function(name) return env[name] end)
    end
    assert.equal("kitty", kind { TERM = "xterm-kitty" })
    assert.equal("sixel", kind { TERM = "foot" })
    assert.equal("blocks", kind { TERM = "screen-256color", KITTY_WINDOW_ID = "1" })
    assert.equal("none", kind { TERM = "dumb" })
    assert.equal("sixel", kind { TERM = "dumb", RL4VLM_PICTURES = "sixel" })
    assert.is_nil(kind { TERM = "xterm-256color" })
  end)
end)
