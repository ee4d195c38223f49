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
