package.path = "tests/lua/?.lua;" .. package.path
local fs = require "rl4vlm.fs"
local report = require "rl4vlm.report"
local run = require "rl4vlm.run"

describe("the report", function()
  it("knows base64", function()
    assert.equal("", report.base64 "")
    assert.equal("Zg==", report.base64 "f")
    assert.equal("Zm8=", report.base64 "fo")
    assert.equal("Zm9vYmFy", report.base64 "foobar")
    assert.equal("AP/+", report.base64 "\0\255\254")
  end)

  it("holds curves and episodes in one file, text made harmless", function()
    local work = assert(fs.tempdir("report_spec"))
    finally(function()
      fs.remove_tree(work)
    end)
    local folder = run.create(work .. "/a", { recipe = { name = "<b>" } })
    folder:add("metrics.jsonl", { update = 1, env_steps = 8, ["episode/success_rate"] = 0.25 })
    folder:add("metrics.jsonl", { update = 2, env_steps = 16, ["episode/success_rate"] = 0.5 })
    assert(fs.mkdirs(work .. "/a/images"))
    assert(fs.write_atomic(work .. "/a/images/x.png", "png bytes"))
    folder:add("episodes.jsonl", {
      split = "train", update = 1, episode = 3, ["return"] = -1, success = false,
      steps = { {
        image = "images/x.png", prompt = "a < b", answer = "<script>\xff", action = "+", status = "illegal",
        reason = "no", reward = -1,
      } },
    })
    local text = fs.read_file(report.write(folder, { folder }))
    assert.is_truthy(text:find("<polyline", 1, true))
    assert.is_truthy(text:find("data:image/png;base64," .. report.base64 "png bytes", 1, true))
    assert.is_truthy(text:find("&lt;script&gt;\u{FFFD}", 1, true))
    assert.is_nil(text:find("<script", 1, true))
    assert.is_nil(text:find("https?://"))
  end)

  it("of a run without metrics is a report too", function()
    local work = assert(fs.tempdir("report_spec"))
    finally(function()
      fs.remove_tree(work)
    end)
    assert.is_string(report.text(run.create(work .. "/a", { recipe = {} }), {}))
  end)
end)
