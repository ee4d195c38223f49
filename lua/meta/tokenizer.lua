---@meta rl4vlm.tokenizer
---Text and token ids, by a checkpoint's tokenizer.json. Ids count from 0.
local M = {}

---@class rl4vlm.Tokenizer
local Tokenizer = {}

---@class rl4vlm.TokenStream
local Stream = {}

---Reads tokenizer.json in a folder; where there is none, tokenizer.model, else vocab.json with merges.txt,
---and the small files beside them. A part that we do not know is an error only where text is encoded
---or decoded.
---@param dir string
---@return rl4vlm.Tokenizer
function M.load(dir) end

---Reads the content of a tokenizer.json.
---@param json string
---@param name? string  stands in messages
---@return rl4vlm.Tokenizer
function M.parse(json, name) end

---Learns a byte-level vocabulary; rl4vlm.tokenizer_trainer is the way in.
---@param options table
---@return table
function M.train(options) end

---@param text string
---@param options? {special?: boolean}  with the template's tokens (BOS)
---@return integer[] ids
function Tokenizer:encode(text, options) end

---@param ids integer[]
---@param options? {skip_special?: boolean}
---@return string
function Tokenizer:decode(ids, options) end

---A decoder that takes ids one by one and never splits a character.
---@param options? {skip_special?: boolean}
---@return rl4vlm.TokenStream
function Tokenizer:stream(options) end

---The bytes that an id adds to a text; "" when it has no token.
---@param id integer
---@return string
function Tokenizer:token_bytes(id) end

---The id of a token as the file writes it.
---@param token string
---@return integer?
function Tokenizer:id(token) end

---The token as the file writes it.
---@param id integer
---@return string?
function Tokenizer:token(id) end

---True for added tokens that are marked special.
---@param id integer
---@return boolean
function Tokenizer:is_special(id) end

---One more than the largest id.
---@return integer
function Tokenizer:size() end

---The text that became complete.
---@param id integer
---@return string
function Stream:push(id) end

---The rest; what never became a character is U+FFFD.
---@return string
function Stream:finish() end

return M
