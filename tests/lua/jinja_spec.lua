-- Chat templates against Jinja's own answers (tests/golden/templates.json), and what is refused.
local fs = require "rl4vlm.fs"
local jinja = require "rl4vlm.jinja"
local json = require "rl4vlm.json"

local golden = json.decode(fs.read_file "tests/golden/templates.json")
golden.variables.scalars.e = json.list {} -- which JSON's reader takes for an object

local function render(source, variables)
  local template, err = jinja.compile(source, "t")
  if not template then
    return nil, err
  end
  return template:render(variables or {})
end

describe("a template", function()
  for i, case in ipairs(golden.cases) do
    local source, name, wanted = table.unpack(case, 1, 3)
    it(("case %d: %.40s"):format(i, source:gsub("%s+", " ")), function()
      local text, err = render(source, golden.variables[name])
      if wanted == json.null then
        assert.is_nil(text, source)
        assert.is_truthy(err:find("^t: line %d+, column %d+: "), err)
      else
        assert.equal(wanted, text, source .. "\n" .. tostring(err))
      end
    end)
  end
end)

describe("an error of a template", function()
  local function refused(source, message, variables)
    local text, err = render(source, variables)
    assert.is_nil(text)
    assert.equal("t: " .. message, err)
  end

  it("names what is not supported, and where", function()
    refused("a\n  {% include 'x' %}", "line 2, column 6: the tag 'include' is not supported")
    refused("{% nope %}", "line 1, column 4: unknown tag 'nope'")
    refused("{{ a | groupby('x') }}", "line 1, column 8: the filter 'groupby' is not supported")
    refused("{{ 1 is filter }}", "line 1, column 9: the test 'filter' is not supported")
    refused("é{{ 'a'.encode() }}", "line 1, column 8: the method str.encode() is not supported")
    refused("{% for x in y recursive %}{% endfor %}", "line 1, column 15: a for loop that is recursive is not supported")
    refused("{{ f(*a) }}", "line 1, column 6: arguments with * are not supported")
    refused("{{ '%s' % 1 }}", "line 1, column 9: formatting a text with % is not supported")
    refused("{{ strftime_now('%Y') }}",
      "line 1, column 16: strftime_now() is not supported: a prompt must not hang on the date")
    refused("{{ 'É' | lower }}", "line 1, column 10: lower of 'É': letters outside ASCII are not supported")
    refused("{{ 99999999999999999999 }}", "line 1, column 4: the number 99999999999999999999 is not supported")
    refused("{{ 9223372036854775807 + 1 }}", "line 1, column 24: an integer beyond 64 bits is not supported")
  end)

  it("names what is wrong, and where", function()
    refused("{% if a %}\n{{ foo bar }}", "line 2, column 8: wanted '}}', got 'bar'")
    refused("{% if a %}", "line 1, column 4: the block 'if' does not end")
    refused("{{ 'a }}", "line 1, column 4: a string that does not end")
    refused("{{ a", "line 1, column 3: a tag that does not end with }}")
    refused("{{ x.y }}", "line 1, column 5: 'x' is undefined")
    refused("{{ m.y.z }}", "line 1, column 7: 'dict object' has no attribute 'y'", { m = { a = 1 } })
    refused("{{ 1 + 'a' }}", "line 1, column 6: unsupported operand types for +: 'int' and 'str'")
    refused("{{ 'a'.split(x=1) }}", "line 1, column 13: split() has no argument 'x'")
    refused("{{ [1].append(2) }}", "line 1, column 7: list.append() changes its object, which templates may not")
    refused("{{ raise_exception('no ' ~ 'way') }}", "line 1, column 19: no way")
    refused("\xff", "the template is not UTF-8")
    refused("{{ x }}", "line 1, column 1: a text that is not UTF-8", { x = "\xff" })
  end)

  it("comes before a template runs away", function()
    local much = "more than 4000000 steps: the template does not end, or writes too much"
    local function stops(source, what)
      local text, err = render(source)
      assert.is_nil(text)
      assert.is_truthy(err:find(what or much, 1, true), err)
    end
    local r = "{% for x in range(99999) %}"
    stops(r .. r .. "{% endfor %}{% endfor %}")
    stops("{{ 'x' * 999999999 }}")
    stops("{{ [1] * 999999999 }}")
    stops("{% set x = 'aaaaaaaa' * 999999 %}{{ x.replace('a', x) }}")
    stops("{% set ns = namespace(x='a') %}" .. r .. "{% set ns.x = ns.x ~ ns.x %}{% endfor %}")
    stops("{% set ns = namespace(x=[1]) %}" .. r .. "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "values nested deeper than 100")
    stops("{{ range(9999999) }}", "range(): more than 100000 items")
    stops("{{ 'x'.center(9999999999) }}")
    stops("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros nested deeper than 100")
    stops("{{ " .. ("("):rep(300) .. "1" .. (")"):rep(300) .. " }}", "nested deeper than 100")
    stops("{{ " .. ("-"):rep(300) .. "1 }}", "nested deeper than 100")
    stops(("{% if 1 %}"):rep(300), "nested deeper than 100")
  end)

  it("is all that a broken template gives", function()
    local rng = require("rl4vlm.rng").new(3)
    local bits = { "{{", "}}", "{%", "%}", "{#", "-", "(", ")", "[", "]", "{", "}", "|", ".", ",", "'", "\\", " if ", " for ", " in ",
      " is ", "endif", "loop", "9", "1.5", "none", "~", "**", "//", "%", "\xff", "é", "\n", "=", ":", "e", "[::-1]", "|list", "()", "*" }
    for _ = 1, 1500 do
      local case = rng:choice(golden.cases)
      local source = case[1]
      for _ = 1, rng:int(1, 4) do
        local at = rng:int(1, #source + 1)
        source = source:sub(1, at - 1) .. rng:choice(bits) .. source:sub(at + rng:int(0, 4))
      end
      local text, err = render(source, golden.variables[case[2]])
      assert.is_true(type(text) == "string" or err:find("^t: ") ~= nil, source)
    end
  end)
end)
