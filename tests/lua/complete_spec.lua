local complete = require "rl4vlm.complete"

describe("complete.words", function()
  lazy_setup(function()
    _G.rv_words = setmetatable({ alpha = 1, [1] = 2, ["not a name"] = 3, __hidden = 4,
      deep = { inner = print } }, { __index = { base = 5 } })
  end)
  lazy_teardown(function()
    _G.rv_words = nil
  end)

  it("offers globals, keywords and paths of fields", function()
    assert.same({ "rv_words" }, complete.words("x = ", "rv_w"))
    assert.same({ "while" }, complete.words("", "whi"))
    assert.same({ "rv_words.alpha", "rv_words.base", "rv_words.deep" }, complete.words("", "rv_words."))
    assert.same({ "rv_words.deep.inner(" }, complete.words("", "rv_words.deep."))
    assert.same({ "rv_words.__hidden" }, complete.words("", "rv_words.__"))
    assert.same({}, complete.words("", "rv_words.alpha.x"))
    assert.same({}, complete.words("", "no.such"))
  end)

  it("offers methods after a colon", function()
    _G.rv_words.method = function() end
    assert.same({ "rv_words:method(" }, complete.words("", "rv_words:"))
    _G.rv_words.method = nil
  end)

  it("never runs a metamethod", function()
    _G.rv_trap = setmetatable({}, { __index = function() error("called") end })
    assert.same({}, complete.words("", "rv_trap.x."))
    _G.rv_trap = nil
  end)

  it("offers our modules at the prompt, loaded or not", function()
    assert.same({}, complete.words("", "rl4vlm.pre"))
    _G.rl4vlm = { tensor = {} }
    assert.same({ "rl4vlm.pretty" }, complete.words("", "rl4vlm.pre"))
    assert.same({ "rl4vlm.tensor", "rl4vlm.tensor_file", "rl4vlm.tensorboard" }, complete.words("", "rl4vlm.tensor"))
    _G.rl4vlm = nil
  end)

  it("offers modules after require and files in other strings", function()
    assert.same({ "rl4vlm.pretty" }, complete.words('require "', "rl4vlm.pre"))
    assert.same({ "rl4vlm.fs" }, complete.words("local f = require('", "rl4vlm.fs"))
    assert.same({ "tests/lua/complete_spec.lua" }, complete.words('io.open("', "tests/lua/comp"))
    assert.same({ "lua/complete_spec.lua" }, complete.words('io.open("tests/', "lua/comp"))
  end)
end)
