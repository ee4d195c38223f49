-- statements.lua - what the statements of a template do: print, branch, loop, set.
local call = require "rl4vlm.jinja.call"
local evaluate = require "rl4vlm.jinja.evaluate"
local limits = require "rl4vlm.jinja.limits"
local loop = require "rl4vlm.jinja.loop"
local value = require "rl4vlm.jinja.value"

local M = {}

local exec = {}
local eval = evaluate.value

local function write(state, s)
  limits.spend_text(#s)
  state.out[#state.out + 1] = s
end

---Runs a body.
---@param state rl4vlm.jinja.State
---@param body table
---@return "break"|"continue"|nil signal  what ended it early
function M.run(state, body)
  for _, node in ipairs(body) do
    limits.spend(1)
    state.at = node.at
    local signal = exec[node.kind](state, node)
    if signal then
      return signal
    end
  end
end

-- Runs a body with names of its own.
local function inside(state, body, vars)
  local outer = state.scope
  state.scope = { vars = vars or {}, outer = outer }
  local signal = M.run(state, body)
  state.scope = outer
  return signal
end

-- The text that a body writes, in names of its own.
local function captured(state, body, vars)
  local out = state.out
  state.out = {}
  inside(state, body, vars)
  local s = table.concat(state.out)
  state.out = out
  return s
end

local function filtered(state, filters, s)
  if not filters then
    return s
  end
  local outer = state.captured
  state.captured = s
  local v = eval(state, filters)
  state.captured = outer
  return v
end

local function assign(state, target, v)
  if target.kind == "name" then
    state.scope.vars[target.name] = v
    return
  elseif target.kind == "field" then
    local space = evaluate.lookup(state, target.name)
    if value.kind(space) ~= "namespace" then
      limits.fail("cannot assign attribute on non-namespace object '%s'", target.name)
    end
    value.dict_set(space.fields, target.field, v)
    return
  end
  local items = value.items(v)
  if #items ~= #target.items then
    limits.fail("wanted %d values to unpack, got %d", #target.items, #items)
  end
  for i, name in ipairs(target.items) do
    assign(state, name, items[i])
  end
end

-- ---- the statements ----

function exec.data(state, node)
  write(state, node.text)
end

function exec.print(state, node)
  local v = eval(state, node.value)
  state.at = node.at
  write(state, value.str(v))
end

function exec.scope(state, node)
  return inside(state, node.body)
end

exec["if"] = function(state, node)
  for _, branch in ipairs(node.branches) do
    if value.truth(eval(state, branch.test)) then
      return M.run(state, branch.body)
    end
  end
  return node.otherwise and M.run(state, node.otherwise)
end

-- Items that pass the loop's own `if`, which sees the loop's names.
local function passing(state, node, items)
  local list, outer = {}, state.scope
  for _, item in ipairs(items) do
    state.scope = { vars = {}, outer = outer }
    assign(state, node.target, item)
    if value.truth(eval(state, node.filter)) then
      list[#list + 1] = item
    end
  end
  state.scope = outer
  return list
end

exec["for"] = function(state, node)
  local over = eval(state, node.over)
  state.at = node.at
  local items = value.items(over)
  local this = loop.new(node.filter and passing(state, node, items) or items)
  local outer, whole = state.scope, false
  for i, item in ipairs(this.items) do
    this.at = i
    state.scope = { vars = { loop = this }, outer = outer }
    assign(state, node.target, item)
    local signal = M.run(state, node.body)
    whole = whole or not signal
    if signal == "break" then
      break
    end
  end
  state.scope = outer
  if node.otherwise and not whole then -- Jinja's else: no round came to its end
    return inside(state, node.otherwise)
  end
end

exec["break"] = function()
  return "break"
end

exec.continue = function()
  return "continue"
end

function exec.set(state, node)
  local v = eval(state, node.value)
  state.at = node.at
  assign(state, node.target, v)
end

function exec.capture(state, node)
  assign(state, node.target, filtered(state, node.filters, captured(state, node.body)))
end

function exec.filtered(state, node)
  write(state, value.str(filtered(state, node.filters, captured(state, node.body))))
end

exec["with"] = function(state, node)
  local vars = {}
  for i, target in ipairs(node.targets) do
    vars[target.name] = eval(state, node.values[i])
  end
  return inside(state, node.body, vars)
end

-- Sets the parameters of a macro's body; a default sees the parameters before it.
local function set_parameters(state, node, given)
  local vars = state.scope.vars
  for i, name in ipairs(node.names) do
    local v, default = given[i], node.defaults[i]
    if v == nil then
      v = default and eval(state, default) or value.undefined(name)
    end
    vars[name] = v
  end
end

function exec.macro(state, node)
  local home, name = state.scope, node.name .. "()"
  local signature = call.define(table.concat(node.names, " "), function(_, ...)
    return { ... }
  end)
  local function run(caller, args, named)
    local scope = caller.scope
    caller.depth = caller.depth + 1
    if caller.depth > limits.depth then
      limits.fail("macros nested deeper than %d", limits.depth)
    end
    caller.scope = { vars = {}, outer = home }
    set_parameters(caller, node, call.invoke(signature, name, nil, args, named))
    local s = captured(caller, node.body)
    caller.scope, caller.depth = scope, caller.depth - 1
    return s
  end
  state.scope.vars[node.name] = value.new("function", { name = name, run = run })
end

return M
