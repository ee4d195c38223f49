-- Files of requests and replies: what a file that cannot be read says, what is left of replies that end early.
local fs = require "rl4vlm.fs"
local requests = require "rl4vlm.requests"

describe("a file of requests", function()
  it("says so when it cannot be read", function()
    local file = requests.open({}, { ["in"] = "." }, false)
    assert.has_error(function() file:next() end, "cannot read .: Is a directory")
    file:close()
  end)
end)

describe("a file of replies", function()
  local folder, path

  -- Writes replies of these indices, then fails with `err` (nil: commits). Gives the file that was written.
  local function write(indices, err)
    local file
    pcall(function()
      local out <close> = requests.replies(path)
      file = out
      for _, index in ipairs(indices) do
        out:put(index, { id = index })
      end
      if err then
        error(err, 0)
      end
      out:commit()
    end)
    return file
  end

  before_each(function()
    folder = assert(fs.tempdir("requests-spec"))
    path = folder .. "/a.jsonl"
  end)
  after_each(function()
    fs.remove_tree(folder)
  end)

  it("stands in the order of the requests", function()
    write { 2, 3, 1 }
    assert.equal('{"id":1}\n{"id":2}\n{"id":3}\n', (fs.read_file(path)))
    assert.same({ "a.jsonl" }, fs.list(folder))
  end)

  it("is dropped after an error", function()
    write({ 1, 2 }, "no memory")
    assert.same({}, fs.list(folder))
  end)

  it("keeps the replies so far after Ctrl-C, beside those of an earlier run", function()
    write { 1 }
    local file = write({ 1, 3, 2, 5 }, "x.lua:1: interrupted!")
    assert.equal(path .. ".partial", file.kept)
    assert.equal('{"id":1}\n{"id":2}\n{"id":3}\n', (fs.read_file(file.kept)))
    assert.equal('{"id":1}\n', (fs.read_file(path)))
  end)

  it("leaves nothing after Ctrl-C where there is no reply yet", function()
    assert.is_nil(write({ 2 }, "interrupted!").kept)
    assert.same({}, fs.list(folder))
  end)
end)
