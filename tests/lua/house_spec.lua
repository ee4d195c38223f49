-- The rules of the house that a machine can check.
local fs = require "rl4vlm.fs"
local help = require "rl4vlm.help"
local host = require "rl4vlm.host"

-- All files under `folder` whose name matches `pattern`.
local function files(folder, pattern, out)
  out = out or {}
  for _, name in ipairs(fs.list(folder) or {}) do
    local path = folder .. "/" .. name
    if fs.stat(path).type == "folder" then
      files(path, pattern, out)
    elseif name:match(pattern) then
      out[#out + 1] = path
    end
  end
  return out
end

local function read(path)
  return assert(fs.read_file(path))
end

local function sources()
  local all = files("src", "%.[ch]$")
  for _, folder in ipairs { "lua", "envs", "recipes", "models" } do
    files(folder, "%.lua$", all)
  end
  return all
end

describe("the house", function()
  it("includes lua.h only in src/bind and main.c", function()
    for _, path in ipairs(files("src", "%.[ch]$")) do
      local allowed = path:match("^src/bind/") or path == "src/main.c"
      for header in read(path):gmatch('#include%s*[<"]([^>"]+)[>"]') do
        assert.is_truthy(allowed or not (header:match("^lua") or header == "lauxlib.h"), path .. " includes " .. header)
      end
    end
  end)

  it("names every source file in docs/ARCHITECTURE.md", function()
    local map, missing = read("docs/ARCHITECTURE.md"), {}
    for _, path in ipairs(sources()) do
      local name = path:match("([^/]+)%.%w+$")
      if not map:find(name, 1, true) then
        missing[#missing + 1] = path
      end
    end
    assert.same({}, missing)
  end)

  it("has a stub that names the same functions for each module written in C", function()
    for name in pairs(package.preload) do
      local short = name:match("^rl4vlm%.(.+)$")
      if short then
        local path = "lua/meta/" .. short:gsub("%.", "/") .. ".lua"
        assert.is_true(fs.exists(path), "no " .. path)
        local stub, module = dofile(path), require(name)
        for key in pairs(module) do
          assert.is_not_nil(stub[key], ("%s does not name %s.%s"):format(path, name, key))
        end
        for key in pairs(stub) do
          assert.is_true(module[key] ~= nil or key == "__types", ("%s names %s.%s, which is not there"):format(path, name, key))
        end
      end
    end
  end)

  it("has help on every function written in C", function()
    local missing = {}
    for name in pairs(package.preload) do
      if name:match("^rl4vlm%.") then
        for key, value in pairs(require(name)) do
          if type(value) == "function" and #help.find(name .. "." .. key) == 0 then
            missing[#missing + 1] = name .. "." .. key
          end
        end
      end
    end
    table.sort(missing)
    assert.same({}, missing)
  end)

  it("has every verb, option and tool in the man page", function()
    local page = read("docs/rl4vlm.1"):gsub("\\%-", "-")
    local cli = require "rl4vlm.cli"
    for _, verb in ipairs(cli.verbs) do
      assert.is_truthy(page:find(".B " .. verb .. "\n", 1, true), verb)
    end
    for option in cli.options_help():gmatch("%-%-[%w-]+") do
      assert.is_truthy(page:find(option, 1, true), option)
    end
    for _, tool in ipairs(require("rl4vlm.tool").names()) do
      assert.is_truthy(page:find("-m " .. tool, 1, true), tool)
    end
  end)

  it("speaks of itself alone", function()
    local words = { "/wo" .. "rk/", "TO" .. "DO", "FIX" .. "ME", "XX" .. "X:", "../sha" .. "red" }
    local all = sources()
    files("tests", "%.[%w]+$", all)
    files("docs", "%.md$", all)
    all[#all + 1] = "README.md"
    all[#all + 1] = "Makefile"
    for _, path in ipairs(all) do
      local text = read(path)
      for _, word in ipairs(words) do
        assert.is_nil(text:find(word, 1, true), path .. " says " .. word)
      end
    end
  end)

  it("runs from its own tree", function()
    assert.equal(fs.cwd(), host.root)
  end)
end)
