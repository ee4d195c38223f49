-- The built-in model is made by a script of its own: its stages run to their end, and what they leave is a model.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"

describe("models/make_cardling.lua", function()
  it("makes a model that plays", function()
    local work = assert(fs.tempdir("make_cardling_spec"))
    local function command(words)
      local ok = os.execute(("%s %s >%s/log 2>&1"):format(host.exe, words, work))
      assert.is_true(ok, fs.read_file(work .. "/log"))
    end
    command(("models/make_cardling.lua --scale 0.0001 --threads 1 --out %s/made"):format(work))
    command(("recipes/points24.lua eval --model %s/made --episodes 1 --set sampling.max_new_tokens=4"):format(work))
    fs.remove_tree(work)
  end)
end)
