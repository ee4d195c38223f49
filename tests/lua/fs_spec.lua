local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"

describe("fs", function()
  local dir
  before_each(function() dir = assert(fs.tempdir("fs-spec")) end)
  after_each(function() fs.remove_tree(dir) end)

  it("writes, adds, cuts, copies, renames and reads bytes of any kind", function()
    local path, bytes = dir .. "/f", "a\0\255\n"
    assert.is_true(fs.write_atomic(path, bytes))
    assert.is_true(fs.append(path, "more"))
    assert.equal(bytes .. "more", fs.read_file(path))
    assert.is_true(fs.truncate(path, 2))
    assert.equal("a\0", fs.read_file(path))
    assert.is_true(fs.copy_file(path, dir .. "/g"))
    assert.is_true(fs.rename(dir .. "/g", dir .. "/h"))
    assert.same({ "f", "h" }, fs.list(dir))
    assert.is_true(fs.sync_dir(dir))
    assert.equal("", (fs.write_atomic(path, "") and fs.read_file(path)))
    assert.matches("^%d+ %d+", fs.read_file("/proc/self/statm")) -- a file that says it is empty
  end)

  it("writes to a device as it is, and puts no file in its place", function()
    assert.is_true(fs.is_stream("/dev/null"))
    assert.same({ nil, "cannot write /dev/full: No space left on device" }, { fs.write_atomic("/dev/full", "x") })
    assert.equal("other", fs.stat("/dev/full").type)
    assert.same({ nil, ("cannot write %s: Is a directory"):format(dir) }, { fs.write_atomic(dir, "x") })
    assert.is_true(fs.is_stream("/dev/stdout"))
    assert.is_false(fs.is_stream("/dev/shm/file"))
    assert.same({}, fs.list(dir))
  end)

  it("knows what is where", function()
    fs.write_atomic(dir .. "/f", "12345")
    local stat = fs.stat(dir .. "/f")
    assert.same({ "file", 5 }, { stat.type, stat.size })
    assert.is_true(math.abs(stat.mtime - host.time()) < 100)
    assert.equal("folder", fs.stat(dir).type)
    assert.is_true(fs.exists(dir .. "/f"))
    assert.is_false(fs.exists(dir .. "/nothing"))
    assert.equal(fs.realpath(dir), fs.realpath(dir .. "/../" .. dir:match("[^/]+$")))
    assert.equal("/", fs.cwd():sub(1, 1))
  end)

  it("makes and removes trees, and does not follow links out of them", function()
    fs.write_atomic(dir .. "/kept", "x")
    assert.is_true(fs.mkdirs(dir .. "/a/b/c"))
    assert.is_true(fs.mkdirs(dir .. "/a/b/c"))
    assert.is_true(os.execute(("ln -s .. %s/a/b/up"):format(dir)))
    assert.is_true(fs.remove_tree(dir .. "/a"))
    assert.is_true(fs.remove_tree(dir .. "/a"))
    assert.same({ "kept" }, fs.list(dir))
    assert.is_true(fs.mkdir(dir .. "/one"))
  end)

  it("answers nil and the reason where the system refuses", function()
    local gone = dir .. "/gone"
    fs.write_atomic(dir .. "/f", "x")
    local cases = {
      { "cannot read " .. gone .. ": No such file or directory", fs.read_file, gone },
      { "cannot read " .. dir .. ": Is a directory", fs.read_file, dir },
      { "cannot stat " .. gone .. ": No such file or directory", fs.stat, gone },
      { "cannot open folder " .. gone .. ": No such file or directory", fs.list, gone },
      { "cannot remove " .. gone .. ": No such file or directory", fs.remove, gone },
      { "cannot make folder " .. dir .. ": File exists", fs.mkdir, dir },
      { "cannot make folder " .. dir .. "/f: a file of that name is in the way", fs.mkdirs, dir .. "/f" },
      { ("cannot rename %s to %s/x: No such file or directory"):format(gone, dir), fs.rename, gone, dir .. "/x" },
      { "cannot cut " .. gone .. ": No such file or directory", fs.truncate, gone, 0 },
      { "cannot resolve " .. gone .. ": No such file or directory", fs.realpath, gone },
      { "cannot write /dev/full: No space left on device", fs.append, "/dev/full", "x" },
      { "cannot open " .. gone .. ": No such file or directory", fs.copy_file, gone, dir .. "/y" },
    }
    for _, case in ipairs(cases) do
      local value, err = case[2](case[3], case[4])
      assert.is_nil(value)
      assert.equal(case[1], err)
    end
    assert.same({ "f" }, fs.list(dir))
  end)

  it("raises on wrong arguments", function()
    assert.has_error(function() fs.read_file() end, "bad argument #1 to 'read_file' (string expected, got no value)")
    assert.has_error(function() fs.append(dir .. "/f") end, "bad argument #2 to 'append' (string expected, got no value)")
    assert.has_error(function() fs.truncate(dir .. "/f", -1) end,
      "bad argument #2 to 'truncate' (wanted a size of at least 0)")
  end)
end)

describe("host", function()
  it("measures time, memory and the machine", function()
    local before = host.clock()
    host.sleep(0.01)
    assert.is_true(host.clock() - before >= 0.009)
    assert.is_true(host.time() > 1.6e9)
    assert.is_true(host.cpus() >= 1)
    assert.is_true(host.peak_rss() > 1e6)
    assert.is_true(#host.hostname() > 0)
    local columns, rows = host.term_size()
    assert.is_true(columns > 0 and rows > 0)
  end)

  it("finds the nearest word, or none", function()
    local words = { "temperature", "top_k", "top_p" }
    assert.equal("temperature", host.nearest("temprature", words))
    assert.equal("top_k", host.nearest("topk", words))
    assert.is_nil(host.nearest("zzzzzz", words))
    assert.is_nil(host.nearest("x", {}))
  end)

  it("calls with a traceback", function()
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(host.call(function() return 1, nil, 3 end)))
    local ok, message = host.call(error, "boo")
    assert.is_false(ok)
    assert.matches("^boo\nstack traceback:", message)
  end)
end)
