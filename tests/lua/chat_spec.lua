-- Messages to prompts: the checkpoint's template, what it is given, and what is refused.
local chat_template = require "rl4vlm.chat_template"
local fs = require "rl4vlm.fs"
local image = require "rl4vlm.image"
local json = require "rl4vlm.json"
local safetensors = require "rl4vlm.safetensors"
local vlm = require "rl4vlm.vlm"

local dir

local function write(name, object)
  assert(fs.write_atomic(dir .. "/" .. name, type(object) == "string" and object or json.encode(object)))
end

local function says(content)
  return { { role = "user", content = content } }
end

describe("a chat template", function()
  before_each(function()
    dir = fs.tempdir "chat"
  end)
  after_each(function()
    fs.remove_tree(dir)
  end)

  it("is looked for in three files, then in the family", function()
    local function text()
      return (chat_template.open(dir, "family"):write(says "x"))
    end
    assert.equal("family", text())
    write("tokenizer_config.json", { chat_template = "tokenizer" })
    assert.equal("tokenizer", text())
    write("chat_template.json", { chat_template = "json" })
    assert.equal("json", text())
    write("chat_template.jinja", "jinja")
    assert.equal("jinja", text())
    assert.equal("mine", chat_template.open(dir, "family", "mine"):write(says "x"))
  end)

  it("is the default one of several", function()
    write("tokenizer_config.json", { chat_template = { { name = "tools", template = "t" }, { name = "default", template = "d" } } })
    assert.equal("d", chat_template.open(dir):write(says "x"))
    write("tokenizer_config.json", { chat_template = { { name = "tools", template = "t" }, { name = "rag", template = "d" } } })
    assert.error_matches(function()
      chat_template.open(dir)
    end, "tokenizer_config.json: chat_template: wanted one named default, came rag, tools", 1, true)
  end)

  it("knows the tokens that have names", function()
    write("special_tokens_map.json", { bos_token = { content = "<old>" }, pad_token = "<pad>" })
    write("tokenizer_config.json", { bos_token = "<s>", eos_token = { content = "</s>" }, unk_token = json.null,
      chat_template = "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}" })
    assert.equal("<s>hi</s><pad>False", chat_template.open(dir):write(says "hi"))
  end)

  it("gets contents as it reads them, and gives the images", function()
    local parts = says { { type = "image", image = "a" }, { type = "text", text = "b" } }
    local lists = chat_template.open(dir, "{% for p in messages[0].content %}{{ p.type }}:{{ p.text }};{% endfor %}")
    local text, images = lists:write(parts)
    assert.equal("image:;text:b;", text)
    assert.equal("a", images[1].image)
    assert.equal("text:x;", lists:write(says "x"))
    local both = chat_template.open(dir, "{% if messages[0].content is string %}{{ messages[0].content + '!' }}{% else %}"
      .. "{% for p in messages[0].content %}{{ p.type }};{% endfor %}{% endif %}")
    assert.equal("x!", both:write(says "x"))
    assert.equal("image;text;", both:write(parts))
    local plain = chat_template.open(dir, "{{ messages[0].content }}")
    assert.equal("x", plain:write(says "x"))
    assert.equal("ab", plain:write(says { { type = "text", text = "a" }, { type = "text", text = "b" } }))
  end)

  it("sees what transformers gives it", function()
    local open = chat_template.open
    assert.equal("TrueNoneNone", open(dir, "{{ add_generation_prompt }}{{ tools }}{{ documents }}"):write(says "x"))
    assert.equal("1", open(dir, "{{ messages[0] | length }}"):write { { role = "user", content = json.null } })
  end)

  it("that is not there, or wrong, is one clear error", function()
    local function refused(message, family, messages)
      local ok, err = pcall(function()
        return chat_template.open(dir, family):write(messages or says "x")
      end)
      assert.is_false(ok)
      assert.equal(dir .. message, err)
    end
    refused ": no chat template: write the prompt as text, or give a prompt.template"
    write("chat_template.json", { chat_template = "a\n{% include 'b' %}" })
    refused("/chat_template.json: line 2, column 4: the tag 'include' is not supported: prompt.template can give another")
    write("chat_template.json", { chat_template = "{{ raise_exception('No system turns!') }}" })
    refused "/chat_template.json: line 1, column 19: No system turns!"
    write("chat_template.json", { chat_template = "{{ messages | groupby('role') }}" })
    refused "/chat_template.json: line 1, column 15: the filter 'groupby' is not supported"
  end)
end)

-- The kit's checkpoints: templates as published, prompts and ids as transformers writes them.
local kit = os.getenv "RL4VLM_PARITY"

-- Messages of the index; images are read from `folder`.
local function given(messages, folder)
  local list = {}
  for i, message in ipairs(messages) do
    list[i] = { role = message[1], content = message[2] }
    for _, part in ipairs(message[2]) do
      part.image = part.type == "image" and image.load(("%s/images/%s.png"):format(folder, part.name)) or nil
    end
  end
  return list
end

local function integers(slice)
  local list = {}
  for at = 1, #slice:data(), 8 do
    list[#list + 1] = ("<i8"):unpack(slice:data(), at)
  end
  return list
end

describe("the chat template of", function()
  for _, name in ipairs { "open-llava-1.5", "open-llava-next", "open-qwen2-vl", "open-qwen2.5-vl", "open-smolvlm" } do
    local golden_dir = ("%s/golden/%s"):format(kit, name)
    local index = kit and fs.read_file(golden_dir .. "/index.json")
    if not index then
      pending(name .. " (RL4VLM_PARITY names the kit)")
    else
      it(name .. " writes the prompts of transformers, and their ids come out", function()
        local model = vlm.open(("%s/checkpoints/%s"):format(kit, name))
        for _, prompt in ipairs(json.decode(index).prompts) do
          local text, images = model:chat(given(prompt.messages, golden_dir))
          assert.equal(prompt.text, text)
          assert.equal(#prompt.images, #images)
          local wanted = safetensors.open(golden_dir .. "/" .. prompt.file):get("input_ids")
          assert.same(integers(wanted), model:prompt(text, images))
        end
      end)
    end
  end
end)
