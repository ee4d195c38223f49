-- The program as its users start it: options, scripts, recipes, tools, Ctrl-C.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"

local work

-- Writes a file into the scratch folder; returns its path.
local function file(name, text)
  local path = work .. "/" .. name
  assert(fs.mkdirs(path:match("^(.*)/")))
  assert(fs.write_atomic(path, text))
  return path
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- Runs the program. Returns stdout, stderr and the exit status. `options`: stdin, env, and dir.
local function run(args, options)
  options = options or {}
  local words = { quote(host.exe) }
  for i, word in ipairs(args) do
    words[i + 1] = quote(word)
  end
  local input = options.stdin and file("stdin", options.stdin) or "/dev/null"
  local command = ("cd %s; unset LUA_INIT LUA_INIT_5_4; %s timeout -s KILL 60 %s <%s >%s/out 2>%s/err"):format(
    quote(options.dir or "."), options.env or "", table.concat(words, " "), input, work, work)
  local _, _, status = os.execute(command)
  return fs.read_file(work .. "/out"), fs.read_file(work .. "/err"), status
end

-- A recipe file: `body` stands before the recipe is returned.
local function recipe(name, body)
  return file(name, body .. '\nreturn setmetatable({ name = "r" }, { __name = "rl4vlm.recipe" })\n')
end

-- The host runs recipes through rl4vlm.cli; this one stands in for it.
local function cli(body)
  file("cli/rl4vlm/cli.lua", "local M = {}\nfunction M.run(recipe, args)\n" .. body .. "\nend\nreturn M\n")
  local loader = ("package.preload['rl4vlm.cli'] = loadfile('%s/cli/rl4vlm/cli.lua')"):format(work)
  return loader
end

setup(function()
  work = assert(fs.tempdir("host-spec"))
end)

teardown(function()
  fs.remove_tree(work)
end)

describe("a script's name", function()
  it("finds our recipes from any working directory, behind files that are there", function()
    assert(fs.mkdirs(work .. "/empty"))
    local out = run({ "recipes/numberline.lua", "describe" }, { dir = work .. "/empty" })
    assert.matches("numberline", out)
    file("nearer/recipes/numberline.lua", "print(arg[0], ...)")
    assert.equal("recipes/numberline.lua\tx\n",
      (run({ "recipes/numberline.lua", "x" }, { dir = work .. "/nearer" })))
    local _, err, status = run({ "recipes/nothing.lua" }, { dir = work .. "/empty" })
    assert.equal("rl4vlm: cannot open recipes/nothing.lua: No such file or directory\n", err)
    assert.equal(1, status)
  end)
end)

describe("the program as lua", function()
  it("gives scripts arg, with what stands before them at negative indices, and ...", function()
    local script = file("args.lua", "print(arg[-2], arg[-1], arg[0], arg[1], #arg, ...)")
    assert.equal(("-W\t--\t%s\ta\t2\ta\tb c\n"):format(script), (run { "-W", "--", script, "a", "b c" }))
  end)

  it("runs -e, -l and -W in their order", function()
    assert.equal("1\n3.0\n", (run { "-e", "x = 1 print(x)", "-l", "m=math", "-e", "print(m.floor(3.5) + 0.0)" }))
    local _, err = run { "-e", "warn('not yet')", "-W", "-e", "warn('now')" }
    assert.equal("Lua warning: now\n", err)
  end)

  it("reads stdin, as a script and as -", function()
    assert.equal("hi\n", (run({}, { stdin = "print('hi')" })))
    assert.equal("x\ty\n", (run({ "-", "x", "y" }, { stdin = "print(...)" })))
    local status = function(words, text)
      return (select(3, run(words, { stdin = text })))
    end
    assert.same({ 0, 1, 3 }, { status({}, "error('x')"), status({ "-" }, "error('x')"), status({}, "os.exit(3)") })
  end)

  it("skips a first line that begins with #", function()
    assert.equal("ok\n", (run { file("bang.lua", "#!/usr/bin/env rl4vlm\nprint('ok')") }))
  end)

  it("obeys LUA_INIT, and -E does not", function()
    assert.equal("init\n", (run({ "-e", "" }, { env = "LUA_INIT=\"print('init')\"" })))
    assert.equal("", (run({ "-E", "-e", "" }, { env = "LUA_INIT=\"print('init')\"" })))
    assert.equal("b\n", (run({ "-e", "" }, { env = "LUA_INIT='print(1)' LUA_INIT_5_4=\"print('b')\"" })))
  end)

  it("reports errors with a traceback that names the script's lines", function()
    local script = file("bad.lua", "local function f()\n  error('boo')\nend\nf()\n")
    local out, err, status = run { script }
    assert.equal("", out)
    assert.equal(1, status)
    assert.matches("^rl4vlm: .*bad.lua:2: boo\nstack traceback:", err)
    assert.matches("bad.lua:4: in main chunk", err)
  end)

  it("shows error objects by __tostring or by their kind", function()
    local _, err = run { "-e", "error(setmetatable({}, { __tostring = function() return 'me' end }))" }
    assert.equal("rl4vlm: me\n", err)
    _, err = run { "-e", "error({})" }
    assert.matches("^rl4vlm: %(error object is a table value%)", err)
  end)

  it("ends with os.exit's status, and closes the state when asked", function()
    local script = "setmetatable({}, { __gc = function() print('gc') end }) os.exit(%s)"
    local out, _, status = run { "-e", script:format("7, true") }
    assert.same({ "gc\n", 7 }, { out, status })
    out, _, status = run { "-e", script:format("false") }
    assert.same({ "", 1 }, { out, status })
  end)

  it("refuses unknown options with the nearest right one", function()
    local _, err, status = run { "--verison" }
    assert.equal(1, status)
    assert.matches("^rl4vlm: unrecognized option '%-%-verison' %(did you mean '%-%-version'%?%)\nusage:", err)
    _, err = run { "-e" }
    assert.matches("^rl4vlm: '%-e' needs argument\n", err)
    _, err, status = run { "nosuch.lua" }
    assert.same({ "rl4vlm: cannot open nosuch.lua: No such file or directory\n", 1 }, { err, status })
  end)

  it("lets a plain script use globals as it likes", function()
    local script = file("globals.lua", [[
      a = b; print(getmetatable(_G) == nil or true, a)
      function later() return undeclared end
      setmetatable(_G, nil)
      print(later())]])
    assert.equal("true\tnil\nnil\n", (run { script }))
    local strict = file("strict.lua", "setmetatable(_G, { __index = function(_, k) error('own ' .. k) end })\nprint(pcall(load 'x = y'))")
    assert.matches("false\t.*own y", (run { strict }))
    local _, err = run({ "-i", file("kept.lua", "x = y") },
      { stdin = "io.stderr:write(tostring(getmetatable(_G)), '\\n')" })
    assert.equal("nil\n", err)
  end)
end)

describe("our files", function()
  it("are found from any folder, and modules beside the script first", function()
    file("mine/envs/points24.lua", "return 'mine'")
    local script = file("mine/s.lua", "print(type(require 'rl4vlm.pretty'), require 'envs.points24')")
    assert.equal(("table\tmine\t%s/mine/envs/points24.lua\n"):format(work), (run({ script }, { dir = "/" })))
    assert.equal("table\n", (run({ "-e", "print(type((require 'rl4vlm.options')))" }, { dir = "/" })))
  end)

  it("may be elsewhere by RL4VLM_ROOT, but not with -E", function()
    file("root/lua/rl4vlm/here.lua", "return 'here'")
    local code, env = "print((require 'rl4vlm.here'))", "RL4VLM_ROOT=" .. work .. "/root"
    assert.equal("here\n", (run({ "-e", code }, { env = env })))
    assert.equal(1, (select(3, run({ "-E", "-e", code }, { env = env }))))
  end)
end)

describe("a recipe", function()
  it("is run by its verb with the words after it", function()
    local out, err, status = run { "-e", cli "print(recipe.name, table.concat(args, ' ')) return 2", recipe("r.lua", ""),
      "eval", "--json" }
    assert.same({ "r\teval --json\n", "", 2 }, { out, err, status })
  end)

  it("may not use undeclared globals while it loads", function()
    local out, err, status = run { "-e", cli "print 'ran' return 0",
      recipe("u.lua", "helper = 1\nlocal x = lambd\nlocal y = lambd") }
    assert.same({ "", 1 }, { out, status })
    assert.equal(("rl4vlm: %s/u.lua:1: undeclared global 'helper' is assigned\n  %s/u.lua:2: undeclared global 'lambd' is read\n")
      :format(work, work), err)
  end)

  it("nor later", function()
    local out = run { "-e", cli "print(pcall(load('return nothing', '=later'))) print(pcall(load('nothing = 1', '=later'))) return 0",
      recipe("l.lua", "") }
    assert.equal("false\tlater:1: undeclared global 'nothing' is read\nfalse\tlater:1: undeclared global 'nothing' is assigned\n", out)
  end)

  it("is left alone by -i", function()
    local out = run({ "-e", cli "print 'ran'", "-i", recipe("i.lua", "") }, { stdin = "_.name" })
    assert.matches("> r\n", out)
    assert.is_nil(out:find("ran", 1, true))
  end)

  it("fails with a traceback when its verb raises", function()
    local _, err, status = run { "-e", cli "error('verb fails')", recipe("e.lua", "") }
    assert.equal(1, status)
    assert.matches("^rl4vlm: .*verb fails\nstack traceback:", err)
  end)
end)

describe("-m", function()
  it("runs a module's main with the arguments, whose result is the exit status", function()
    file("mods/mymod.lua", "return { main = function(args) print(#args, args[1], arg[0], arg[1]) return 3 end }")
    local out, _, status = run({ "-m", "mymod", "--x", "y" }, { dir = work .. "/mods" })
    assert.same({ "2\t--x\tmymod\t--x\n", 3 }, { out, status })
  end)

  it("runs a module without main by loading it", function()
    file("mods/plain.lua", "print('loaded', arg[1])")
    assert.equal("loaded\tz\n", (run({ "-m", "plain", "z" }, { dir = work .. "/mods" })))
  end)

  it("refuses an unknown name", function()
    local _, err, status = run { "-m", "nosuchmodule" }
    assert.equal(2, status)
    assert.matches("^rl4vlm: no module 'nosuchmodule'", err)
  end)
end)

describe("a limit of file sizes", function()
  it("is an error that says so, and nothing half-written stays", function()
    local path = work .. "/limited"
    local out = run({ "-e", ("print(require('rl4vlm.fs').write_atomic('%s', ('x'):rep(1 << 20)))"):format(path) },
      { env = "ulimit -f 64;" })
    assert.equal(("nil\tcannot write %s: File too large\n"):format(path), out)
    for _, name in ipairs(fs.list(work)) do
      assert.is_nil(name:match("^limited"), name)
    end
  end)
end)

describe("Ctrl-C", function()
  -- Sends SIGINT to itself (os.execute would ignore it); the hook runs before the next line.
  local interrupt = "io.popen('kill -INT ' .. require('rl4vlm.host').pid()):close() "

  it("ends a plain script as lua does", function()
    local out, err, status = run { "-e", "local ok = pcall(function() " .. interrupt .. "while true do end end) print(ok) "
      .. "error('interrupted!', 0)" }
    assert.same({ "false\n", 1 }, { out, status })
    assert.matches("^rl4vlm: interrupted!\n", err)
  end)

  it("stops a product of large matrices inside", function()
    local _, err, status = run { "-e", "io.popen('(sleep 0.2; kill -INT ' .. require('rl4vlm.host').pid() .. ') &'):close() "
      .. "local x = require('rl4vlm.tensor').zeros(2500, 2500) x:matmul(x)" }
    assert.equal(1, status)
    assert.matches("^rl4vlm: interrupted!\n", err) -- without a line: not when the product had ended
  end)

  it("ends a verb with 130", function()
    local _, err, status = run { "-e", cli(interrupt .. "while true do end"), recipe("c.lua", "") }
    assert.same({ "rl4vlm: interrupted\n", 130 }, { err, status })
  end)

  it("only sets a flag while deferred, and is forgotten when cleared", function()
    local out, _, status = run { "-e", cli([[
      local host = require "rl4vlm.host"
      assert(host.defer_interrupt(true) == false)
      ]] .. interrupt .. [[
      print(host.interrupted())
      host.clear_interrupt()
      print(host.interrupted())
      return 130]]), recipe("d.lua", "") }
    assert.same({ "true\nfalse\n", 130 }, { out, status })
  end)

  it("kills at the second time", function()
    local _, _, status = run { "-e", cli("require('rl4vlm.host').defer_interrupt(true) " .. interrupt .. interrupt
      .. "print 'alive'"), recipe("k.lua", "") }
    assert.is_true(status == 2 or status == 130, tostring(status))
    assert.equal("", (fs.read_file(work .. "/out")))
  end)
end)

describe("-h and --version", function()
  it("print and do nothing else", function()
    local out, err, status = run { "-h" }
    assert.same({ "", 0 }, { err, status })
    assert.matches("^rl4vlm %- ", out)
    local _
    out, _, status = run { "--version", "nosuch.lua" }
    assert.equal(0, status)
    assert.matches("^rl4vlm " .. host.version:gsub("%.", "%%."), out)
  end)
end)
