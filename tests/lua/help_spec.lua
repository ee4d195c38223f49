local help = require "rl4vlm.help"

describe("help", function()
  it("finds a function of a C module in its stub", function()
    local found = help.find("fs.stat")
    assert.equal(1, #found)
    assert.equal("rl4vlm.fs.stat", found[1].name)
    assert.equal("(path)", found[1].call)
    assert.matches("^rl4vlm%.fs%.stat%(path%)\n  What is at `path`", help.text(found[1]))
    assert.matches("path +string", help.text(found[1]))
  end)

  it("finds functions of Lua modules, by the end of their name too", function()
    assert.equal("rl4vlm.options.parse", help.find("options.parse")[1].name)
    local names = {}
    for _, entry in ipairs(help.find("read_file")) do
      names[entry.name] = true
    end
    assert.is_true(names["rl4vlm.fs.read_file"])
    assert.same({}, help.find("no.such.thing"))
  end)

  it("has a text for every module", function()
    local entry = help.find("rl4vlm.options")[1]
    assert.matches("command line", entry.text)
  end)
end)
