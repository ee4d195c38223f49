-- usage.lua - what `rl4vlm -h` and `rl4vlm --version` print.

local cli = require "rl4vlm.cli"
local host = require "rl4vlm.host"
local tool = require "rl4vlm.tool"

local M = {}

local TEXT = [=[
rl4vlm - trains vision-language models by reinforcement learning

usage: rl4vlm [options] [script [args]]
       rl4vlm recipe.lua [verb] [options of the verb]
       rl4vlm [options] -m module [args]
       rl4vlm                              interactive; ? helps

A script is any Lua 5.4 program. One that returns a recipe is run as a recipe.

Options (those of the standalone lua, and -m, -h, --help, --version):
  -e stat                    run the string stat
  -i                         go interactive after the script
  -l mod, -l g=mod           require mod into global mod, or g
  -m module                  run a tool, or any installed Lua module, as a program
  -v                         print Lua's version
  -E                         ignore environment variables
  -W                         turn warnings on
  --                         end of options
  -                          run what stdin holds
  -h, --help                 print this text
  --version                  print the versions of the program, its backends and libraries

Verbs of a recipe: %s (the first where none is given). Their options:
%s

Tools: %s; rl4vlm -m TOOL -h says more.

Exit status: scripts as with lua; verbs and tools 0 done, 1 failed, 2 wrong usage, 130 stopped by
Ctrl-C after saving. A second Ctrl-C kills.

Recipes that come with the program: %s
]=]

---Prints the help.
function M.help()
  io.write(TEXT:format(table.concat(cli.verbs, ", "), cli.options_help(), table.concat(tool.names(), ", "),
    host.root .. "/recipes"))
end

---Prints the versions.
function M.versions()
  io.write(("rl4vlm %s\nbackends: %s\nlibraries: %s\n"):format(host.version, host.backends, host.libraries))
end

return M
