-- placeholders.lua - image placeholders in prompts: written out as each family's processor does it.
--
-- In a prompt's text an image is one mark, the text of the image token. What stands for it in the ids hangs on the
-- image: as many image tokens as it has rows, in some families with text between them.
local M = {}

---The text that stands for an image in a prompt.
---@param model rl4vlm.Model
---@return string
function M.mark(model)
  return model.tokenizer:token(model.image_token) or "<image>"
end

---How often a mark stands in a text.
---@param text string
---@param mark string
---@return integer
function M.count(text, mark)
  local _, n = text:gsub((mark:gsub("%p", "%%%0")), "")
  return n
end

---Tokens of a prompt that stand for rows of its images.
---@param model table image_token
---@param ids integer[]
---@return integer
function M.rows(model, ids)
  local rows = 0
  for _, id in ipairs(ids) do
    rows = rows + (id == model.image_token and 1 or 0)
  end
  return rows
end

-- Ids of a text with marks in it; a mark that is no token of the vocabulary parts texts that are encoded one by one,
-- as LLaVA's authors did.
local function encode(model, text, mark)
  local tokenizer = model.tokenizer
  if tokenizer:id(mark) then
    return tokenizer:encode(text, { special = true })
  end
  local ids, from = {}, 1
  while true do
    local at, to = text:find(mark, from, true)
    local piece = tokenizer:encode(text:sub(from, (at or 0) - 1), { special = from == 1 })
    table.move(piece, 1, #piece, #ids + 1, ids)
    if not at then
      return ids
    end
    ids[#ids + 1], from = model.image_token, to + 1
  end
end

-- The text with each placeholder written out as the family writes an image, and the rows of every mark in it.
local function spelled(model, text, mark, images)
  local out, rows, from, found = {}, {}, 1, 0
  for at, to in function() return text:find(mark, from, true) end do
    found = found + 1
    out[#out + 1] = text:sub(from, at - 1)
    from = to + 1
    if images[found] then
      local written, marks, each = model.views:spell(images[found], mark)
      out[#out + 1] = written
      for _ = 1, marks do
        rows[#rows + 1] = each
      end
    end
  end
  if found ~= #images then
    error(("images: wanted %d, as often as the prompt has %s, came %d"):format(found, mark, #images), 0)
  end
  out[#out + 1] = text:sub(from)
  return table.concat(out), rows
end

-- A template may itself write the beginning of text that the tokenizer adds: once is enough.
local function begin_once(model, ids)
  if ids[1] and ids[1] == ids[2] and model.tokenizer:is_special(ids[1]) then
    table.remove(ids, 1)
  end
  return ids
end

---Ids of a prompt with marks in it.
---@param model rl4vlm.Model
---@param text string
---@param images rl4vlm.Image[]  as many as there are marks
---@return integer[]
function M.ids(model, text, images)
  local mark = M.mark(model)
  local written, rows = spelled(model, text, mark, images)
  local ids, seen = {}, 0
  for _, id in ipairs(begin_once(model, encode(model, written, mark))) do
    local n = 1
    if id == model.image_token then
      seen = seen + 1
      n = rows[seen]
    end
    for _ = 1, n do
      ids[#ids + 1] = id
    end
  end
  return ids
end

---Ids in which the family's sentinel stands once for each image, with the image tokens in its place.
---@param model rl4vlm.Model
---@param ids integer[]
---@param images rl4vlm.Image[]
---@return integer[]
function M.write_out(model, ids, images)
  local list, seen = {}, 0
  for _, id in ipairs(ids) do
    if id == model.family.sentinel then
      seen = seen + 1
      for _ = 1, images[seen] and model:rows(images[seen]) or 0 do
        list[#list + 1] = model.image_token
      end
    else
      list[#list + 1] = id
    end
  end
  return list
end

---The ids that features of images (and, in some families, videos) replace: they can't be drawn.
---@param model rl4vlm.Model
---@return integer[]
function M.banned(model)
  local list = {}
  for _, id in ipairs { model.image_token, model.config.video_token_id } do
    list[#list + 1] = math.type(id) == "integer" and id < model.arch.text.vocab and id or nil
  end
  return list
end

return M
