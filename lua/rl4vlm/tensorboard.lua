-- tensorboard.lua - event files: scalars and texts in TFRecord frames, encoded by hand.
local fs = require "rl4vlm.fs"
local host = require "rl4vlm.host"
local json = require "rl4vlm.json"

local M = {}

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do
    c = c & 1 == 1 and c >> 1 ~ 0x82F63B78 or c >> 1
  end
  crc_table[i] = c
end

---CRC-32C (Castagnoli) of bytes.
---@param bytes string
---@return integer
function M.crc32c(bytes)
  local c = 0xFFFFFFFF
  for i = 1, #bytes do
    c = c >> 8 ~ crc_table[(c ~ bytes:byte(i)) & 0xFF]
  end
  return c ~ 0xFFFFFFFF
end

---The CRC as records hold it: rotated and shifted, so that a CRC of CRCs stays sound.
function M.masked(bytes)
  local c = M.crc32c(bytes)
  return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF
end

---One record: length, its CRC, the bytes, their CRC.
---@param bytes string
---@return string
function M.record(bytes)
  local length = ("<I8"):pack(#bytes)
  return length .. ("<I4"):pack(M.masked(length)) .. bytes .. ("<I4"):pack(M.masked(bytes))
end

local function varint(x)
  local parts = {}
  repeat
    local low = x & 0x7F
    x = x >> 7
    parts[#parts + 1] = string.char(x ~= 0 and low | 0x80 or low)
  until x == 0
  return table.concat(parts)
end

local function bytes_field(number, bytes)
  return varint(number << 3 | 2) .. varint(#bytes) .. bytes
end

local function int_field(number, x)
  return varint(number << 3) .. varint(x)
end

local function event(time, step, rest)
  return ("\x09" .. ("<d"):pack(time)) .. (step and step ~= 0 and int_field(2, step) or "") .. rest
end

-- Summary.Value with its plugin's name and data class.
local function value(tag, plugin, class, tensor)
  local metadata = bytes_field(1, bytes_field(1, plugin)) .. int_field(4, class)
  return bytes_field(5, bytes_field(1, bytes_field(1, tag) .. bytes_field(9, metadata)
    .. bytes_field(8, tensor)))
end

---The first event of a file.
function M.version(time)
  return M.record(event(time, nil, bytes_field(3, "brain.Event:2")))
end

---One scalar.
---@param time number seconds since 1970
---@param step integer
---@param tag string
---@param x number
---@return string record
function M.scalar(time, step, tag, x)
  local tensor = int_field(1, 1) .. bytes_field(2, "") .. bytes_field(5, ("<f"):pack(x))
  return M.record(event(time, step, value(tag, "scalars", 1, tensor)))
end

---One text (Markdown).
function M.text(time, step, tag, text)
  local shape = bytes_field(2, int_field(1, 1))
  local tensor = int_field(1, 7) .. bytes_field(2, shape) .. bytes_field(8, json.utf8(text))
  return M.record(event(time, step, value(tag, "text", 2, tensor)))
end

local function scalars(time, line)
  local names, parts = {}, {}
  for key, x in pairs(line) do
    if type(x) == "number" and key ~= "update" then
      names[#names + 1] = key
    end
  end
  table.sort(names)
  for i, key in ipairs(names) do
    parts[i] = M.scalar(time, line.update, key, line[key])
  end
  return table.concat(parts)
end

local Writer = {}
Writer.__index = Writer

---Opens the event file of a run. Files of the run before a resume are replaced by one that begins
---with the metrics that still hold.
---@param dir string
---@param lines table[] metrics so far
---@return rl4vlm.EventWriter
function M.open(dir, lines)
  for _, name in ipairs(fs.list(dir) or {}) do
    if name:find("^events%.out%.tfevents%.") then
      fs.remove(dir .. "/" .. name)
    end
  end
  local time = host.time()
  local path = ("%s/events.out.tfevents.%010d.%s.%d.0"):format(dir, math.floor(time), host.hostname(),
    host.pid())
  local parts = { M.version(time) }
  for _, line in ipairs(lines) do
    parts[#parts + 1] = scalars(time, line)
  end
  assert(fs.append(path, table.concat(parts)))
  return setmetatable({ path = path }, Writer)
end

---Adds every number of a line of metrics, at its update.
---@param line table
function Writer:add(line)
  assert(fs.append(self.path, scalars(host.time(), line)))
end

return M
