-- report.lua - a run as one HTML file that needs nothing beside it: curves, and a few episodes.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"

local M = {}

local CURVES = {
  "sft/loss", "val/success_rate", "episode/success_rate", "episode/reward/mean", "episode/read_right_rate",
  "episode/invalid_rate", "response_length/mean", "actor/ppo_kl", "actor/pg_clipfrac", "actor/grad_norm",
  "actor/lr", "critic/vf_loss", "critic/vf_explained_var",
}
local COLOURS = { "#1f6f8b", "#c8553d", "#588b3a", "#7a5195", "#b98b00" }
local WIDTH, HEIGHT, MARGIN = 320, 150, 26

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function html(text)
  return (json.utf8(tostring(text)):gsub('[&<>"]', entities))
end

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

---Base64 of bytes.
---@param bytes string
---@return string
function M.base64(bytes)
  local padded = bytes .. ("\0"):rep(-#bytes % 3)
  local text = padded:gsub("...", function(three)
    local a, b, c = three:byte(1, 3)
    local n, out = a << 16 | b << 8 | c, {}
    for i = 1, 4 do
      local k = (n >> (24 - 6 * i)) & 63
      out[i] = alphabet:sub(k + 1, k + 1)
    end
    return table.concat(out)
  end)
  local fill = -#bytes % 3
  return text:sub(1, #text - fill) .. ("="):rep(fill)
end

-- The points of one metric of one run: environment steps against value.
local function points(lines, key)
  local list = {}
  for _, line in ipairs(lines) do
    if type(line[key]) == "number" then
      list[#list + 1] = { line.env_steps or line.update, line[key] }
    end
  end
  return list
end

local function bounds(series)
  local x1, y0, y1 = 1, math.huge, -math.huge
  for _, list in ipairs(series) do
    for _, p in ipairs(list) do
      x1, y0, y1 = math.max(x1, p[1]), math.min(y0, p[2]), math.max(y1, p[2])
    end
  end
  if y0 == y1 then
    y0, y1 = y0 - 0.5, y1 + 0.5
  end
  return x1, y0, y1
end

-- One chart with a line for each run; "" where no run has the figure.
local function chart(key, runs)
  local series, any = {}, false
  for i, lines in ipairs(runs) do
    series[i] = points(lines, key)
    any = any or #series[i] > 0
  end
  if not any then
    return ""
  end
  local x1, y0, y1 = bounds(series)
  local parts = { ('<figure><figcaption>%s</figcaption><svg viewBox="0 0 %d %d" role="img" '
    .. 'aria-label="%s">'):format(html(key), WIDTH, HEIGHT, html(key)) }
  for i, list in ipairs(series) do
    local path, dots, colour = {}, {}, COLOURS[(i - 1) % #COLOURS + 1]
    for j, p in ipairs(list) do
      local x = MARGIN + p[1] / x1 * (WIDTH - 2 * MARGIN)
      local y = HEIGHT - MARGIN - (p[2] - y0) / (y1 - y0) * (HEIGHT - 2 * MARGIN)
      path[j] = ("%.1f,%.1f"):format(x, y)
      dots[j] = ('<circle cx="%.1f" cy="%.1f" r="2" fill="%s"><title>%d: %.5g</title></circle>')
        :format(x, y, colour, p[1], p[2])
    end
    parts[#parts + 1] = ('<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>%s')
      :format(colour, table.concat(path, " "), table.concat(dots))
  end
  parts[#parts + 1] = ('<text x="2" y="%d">%.4g</text><text x="2" y="%d">%.4g</text>'
    .. '<text x="%d" y="%d" text-anchor="end">%d steps</text></svg></figure>'):format(
    HEIGHT - MARGIN, y0, MARGIN, y1, WIDTH - 2, HEIGHT - 6, x1)
  return table.concat(parts)
end

local function picture(run, name)
  local bytes = fs.read_file(run:path(name))
  return bytes and ('<img alt="frame" src="data:image/png;base64,%s">'):format(M.base64(bytes)) or ""
end

local function episode(run, e)
  local parts = { ("<details><summary>%s episode %d, update %d: return %.4g, %s</summary>"):format(
    html(e.split), e.episode & (1 << 40) - 1, e.update, e["return"], e.success and "success" or "failure") }
  for i, step in ipairs(e.steps) do
    local note = step.status == "ok" and "" or (" (%s: %s)"):format(step.status, tostring(step.reason))
    parts[#parts + 1] = ('<div class="step">%s<div><h4>step %d</h4><pre class="prompt">%s</pre>'
      .. "<pre>%s</pre><p>action <b>%s</b>%s, reward %.4g</p></div></div>"):format(
      picture(run, step.image), i, html(step.prompt), html(step.answer), html(step.action), html(note),
      step.reward)
  end
  return table.concat(parts) .. "</details>"
end

-- The last few episodes of each split.
local function chosen(list, count)
  local taken, seen = {}, {}
  for i = #list, 1, -1 do
    local split = list[i].split
    seen[split] = (seen[split] or 0) + 1
    if seen[split] <= count then
      table.insert(taken, 1, list[i])
    end
  end
  return taken
end

local STYLE = [[
body{font:15px/1.5 system-ui,sans-serif;max-width:1050px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}figure{display:inline-block;margin:.5em;width:320px}figcaption{font-weight:600}
svg{width:100%;background:#fafafa;border:1px solid #ddd}svg text{font-size:10px;fill:#555}
.step{display:flex;gap:1em;margin:1em 0}.step img{width:200px;height:200px;image-rendering:auto}
pre{white-space:pre-wrap;background:#f4f4f4;padding:.5em;margin:.3em 0;max-width:760px}
.prompt{color:#666}details{margin:.5em 0}summary{cursor:pointer}h4{margin:0}
.key{display:inline-block;width:1em;height:.6em;margin:0 .4em}
]]

local function legend(runs)
  if #runs < 2 then
    return ""
  end
  local parts = {}
  for i, run in ipairs(runs) do
    parts[i] = ('<span class="key" style="background:%s"></span>%s'):format(
      COLOURS[(i - 1) % #COLOURS + 1], html(run.dir))
  end
  return "<p>" .. table.concat(parts, " ") .. "</p>"
end

---The report's text.
---@param run rl4vlm.Run
---@param others rl4vlm.Run[] runs to show beside
---@return string
function M.text(run, others)
  local runs, lines = { run }, {}
  table.move(others, 1, #others, 2, runs)
  for i, r in ipairs(runs) do
    lines[i] = r:figures()
  end
  local parts = { ('<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>%s</title><style>%s'
    .. "</style>\n<h1>%s</h1>%s"):format(html(run.dir), STYLE, html(run.dir), legend(runs)) }
  for _, key in ipairs(CURVES) do
    parts[#parts + 1] = chart(key, lines)
  end
  parts[#parts + 1] = "<h2>Episodes</h2>"
  for _, e in ipairs(chosen(run:lines("episodes.jsonl"), 3)) do
    parts[#parts + 1] = episode(run, e)
  end
  parts[#parts + 1] = ("<h2>Recipe</h2><pre>%s</pre></html>\n"):format(
    html(json.pretty(run.manifest.recipe)))
  return table.concat(parts, "\n")
end

---Writes report.html into the run's folder.
---@param run rl4vlm.Run
---@param others? rl4vlm.Run[]
---@return string path
function M.write(run, others)
  local path = run:path("report.html")
  assert(fs.write_atomic(path, M.text(run, others or {})))
  return path
end

return M
