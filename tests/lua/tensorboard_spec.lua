local tensorboard = require "rl4vlm.tensorboard"

local function hex(bytes)
  return (bytes:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end))
end

describe("tensorboard", function()
  it("computes CRC-32C", function()
    assert.equal(0xe3069283, tensorboard.crc32c("123456789"))
    assert.equal(0xc78ab0e5, tensorboard.masked("123456789"))
    assert.equal(0x8a9136aa, tensorboard.crc32c(("\0"):rep(32)))
    assert.equal(0x62a8ab43, tensorboard.crc32c(("\xff"):rep(32)))
  end)
  it("writes the records that other readers know", function()
    assert.equal("1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
      hex(tensorboard.version(1.5)))
    assert.equal("300000000000000095f5d05f09000000000000f83f10072a230a210a046c6f73734a0d0a090a0773"
      .. "63616c6172732001420a080112002a040000803e4762b804", hex(tensorboard.scalar(1.5, 7, "loss", 0.25)))
    assert.equal("2c00000000000000f4aecc4509000000000000f83f10012a1f0a1d0a01744a0a0a060a04746578742002"
      .. "420c0807120412020801420268" .. "6956a18d2e", hex(tensorboard.text(1.5, 1, "t", "hi")))
  end)
end)
