-- fake.lua - a model and an environment without a network: the whole loop in milliseconds.
--
-- The model answers {"seen": N, "thoughts": "..", "action": "+"} byte by byte; only the byte of the
-- action is drawn, from a two-way softmax whose logit hangs on the prompt. Its gradient is written
-- by hand behind score's outputs, as the real model's is.
local fs = require "rl4vlm.fs"
local json = require "rl4vlm.json"
local micro_batch = require "rl4vlm.micro_batch"
local rng = require "rl4vlm.rng"
local safetensors = require "rl4vlm.safetensors"
local tensor = require "rl4vlm.tensor"

local M = {}

local EOS, STATES = 256, 6

local function state_of(ids)
  return ids[#ids] - 48 + 1
end

local function sign_of(answer)
  for i = #answer, 1, -1 do
    if answer[i] == 43 or answer[i] == 45 then
      return answer[i] == 43 and 1 or -1, i
    end
  end
end

local function log_sigmoid(x)
  return x > 0 and -math.log(1 + math.exp(-x)) or x - math.log(1 + math.exp(x))
end

local function fp32(x)
  return (("<f"):unpack(("<f"):pack(x)))
end

local Model = {}
Model.__index = Model

function Model.chat(_, messages)
  local parts, images = {}, {}
  for _, part in ipairs(messages[1].content) do
    if part.type == "image" then
      images[#images + 1] = part.image
    else
      parts[#parts + 1] = part.text
    end
  end
  return table.concat(parts), images
end

function Model.prompt(_, text, images)
  local ids = { text:byte(1, -1) }
  ids[#ids + 1] = images[1].state + 48
  return ids
end

-- Log-probability of each answer token.
function Model:logprobs(ids, answer, temperature)
  local list, sign, at = {}, sign_of(answer)
  for i = 1, #answer do
    list[i] = 0.0
  end
  if at then
    list[at] = fp32(log_sigmoid(sign * self.theta[state_of(ids)] / temperature))
  end
  return list
end

function Model:value(ids)
  return fp32(self.critic[state_of(ids)])
end

function Model:score(samples, o)
  local logprobs, values, offsets = {}, {}, { 0 }
  for i, sample in ipairs(samples) do
    local list = self:logprobs(sample.ids, sample.answer, o.temperature or 1)
    table.move(list, 1, #list, #logprobs + 1, logprobs)
    values[i], offsets[i + 1] = self:value(sample.ids), #logprobs
  end
  local out = { logprobs = tensor.new(logprobs, "f32"), values = tensor.new(values, "f32"), offsets = offsets }
  out.entropies = tensor.new(logprobs, "f32")
  if o.grad then
    out.logprobs:requires_grad_(true)
    out.values:requires_grad_(true)
    self.kept = self.kept or {}
    table.insert(self.kept, { out = out, samples = samples, temperature = o.temperature or 1 })
  end
  return out
end

-- Adds the chain rule from the outputs' gradients to the parameters.
function Model:add_gradients(kept, theta, critic)
  local dlogp, dvalue = M.grad(kept.out.logprobs), M.grad(kept.out.values)
  for i, sample in ipairs(kept.samples) do
    local sign, at = sign_of(sample.answer)
    local s = state_of(sample.ids)
    critic[s] = critic[s] + dvalue[i]
    if at then
      local x = sign * self.theta[s] / kept.temperature
      local slope = (1 - 1 / (1 + math.exp(-x))) * sign / kept.temperature
      theta[s] = theta[s] + dlogp[kept.out.offsets[i] + at] * slope
    end
  end
end

function Model:gradients()
  local theta, critic = {}, {}
  for i = 1, STATES do
    theta[i], critic[i] = 0.0, 0.0
  end
  for _, kept in ipairs(self.kept) do
    self:add_gradients(kept, theta, critic)
  end
  return theta, critic
end

function M.grad(x)
  return x.grad and x.grad:tolist() or tensor.zeros_like(x):tolist()
end

function Model:zero_grad()
  self.kept = {}
end

function Model:micro_batches(samples)
  return micro_batch.cut(self, samples)
end

function Model:use(name)
  self.used = name
end

function Model:save(dir)
  assert(fs.mkdirs(dir))
  assert(fs.write_atomic(dir .. "/model.json", json.encode { theta = self.theta, critic = self.critic }))
  assert(fs.write_atomic(dir .. "/config.json", "{}"))
end

local Optimizer = {}
Optimizer.__index = Optimizer

function Model:optimizer()
  return setmetatable({ model = self, moment = {}, steps = 0 }, Optimizer)
end

-- Gradient descent with momentum: a state that a checkpoint must keep.
function Optimizer:step(o)
  local theta, critic = self.model:gradients()
  local norm = 0.0
  self.steps = self.steps + 1
  for i = 1, STATES do
    norm = norm + theta[i] ^ 2 + critic[i] ^ 2
    self.moment[i] = 0.9 * (self.moment[i] or 0.0) + theta[i]
    self.model.theta[i] = self.model.theta[i] - o.lr * self.moment[i]
    self.model.critic[i] = self.model.critic[i] - (o.value_lr or o.lr) * critic[i]
  end
  return M.poison or math.sqrt(norm)
end

function Optimizer:save(path)
  safetensors.write(path, {}, { state = json.encode { moment = json.list(self.moment), steps = self.steps } })
end

function Optimizer:load(path)
  local saved = json.decode(safetensors.open(path):metadata("state"))
  self.moment, self.steps = saved.moment, saved.steps
end

local Generator = {}
Generator.__index = Generator

function Model:generator(o)
  return setmetatable({ model = self, slots = o.slots, queue = {} }, Generator)
end

function Generator:free()
  return self.slots - #self.queue
end

function Generator:busy()
  return #self.queue > 0
end

function Generator:submit(request)
  assert(#self.queue < self.slots, "no free slot")
  request.left = M.delay(request)
  table.insert(self.queue, request)
end

-- Answers take different numbers of steps, so slots finish out of order.
function Generator:step()
  local done, rest = {}, {}
  for _, request in ipairs(self.queue) do
    request.left = request.left - 1
    table.insert(request.left <= 0 and done or rest, request)
  end
  self.queue = rest
  local replies = {}
  for i, request in ipairs(done) do
    replies[i] = self.model:reply(request)
  end
  return replies
end

function M.delay(request)
  return (request.episode * 7 + request.step * 3) % 5 + 1
end

function Model:reply(request)
  local stream = rng.new(request.seed, "sample", request.episode, request.step)
  local x = self.theta[state_of(request.ids)]
  local up = x >= 0
  if request.temperature > 0 then
    up = stream:uniform() < 1 / (1 + math.exp(-x / request.temperature))
  end
  local text = ('{"seen": %d, "thoughts": "t", "action": "%s"}'):format(
    state_of(request.ids) - 1, up and "+" or "-")
  if stream:uniform() < M.noise then
    text = "?"
  end
  local answer = { text:byte(1, -1) }
  answer[#answer + 1] = EOS
  return {
    key = request.key,
    answer = answer,
    logprobs = self.logprobs(self, request.ids, answer, math.max(request.temperature, 1e-9)),
    value = self:value(request.ids),
    finish = "eos",
  }
end

---A model at its start, or as `dir` holds it.
function M.model(dir)
  local self = {
    theta = { -0.5, 0.3, -0.2, 0.1, 0.0, 0.2 },
    critic = { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 },
    eos = { EOS },
    max_rows = 4096,
    image_rows = 4096,
    arch = { text = { max_positions = 4096 } },
    tokenizer = {
      token_bytes = function(_, id)
        return id < 256 and string.char(id) or "</s>"
      end,
      encode = function(_, text)
        return { text:byte(1, -1) }
      end,
    },
  }
  local saved = dir and fs.read_file(dir .. "/model/model.json")
  if saved then
    saved = json.decode(saved)
    self.theta, self.critic = saved.theta, saved.critic
  end
  M.noise = 0.15
  return setmetatable(self, Model)
end

local Env = {}
Env.__index = Env

-- A walk on 0..5 to 5; each step costs nothing, the wall behind costs 1.
local function observe(self)
  local image = { state = self.at }
  function image.hash()
    return ("state%011d"):format(image.state)
  end
  function image.png()
    return "png " .. image.state
  end
  return { image = image, hint = "go up" }, { state = { at = self.at } }
end

function Env:reset(o)
  assert(o.seed and o.split and o.episode, "seed, split and episode are wanted")
  local split = ({ train = 0, eval = 1, demo = 2, user = 3 })[o.split]
  self.at = rng.new(o.seed, "env", split << 40 | o.episode):below(5)
  self.steps = 0
  return observe(self)
end

function Env:step(action)
  self.steps = self.steps + 1
  local before = self.at
  self.at = math.max(0, math.min(5, self.at + (action == "+" and 1 or -1)))
  local obs, info = observe(self)
  local reward = self.at == 5 and 1.0 or self.at <= before and -1.0 or 0.0
  return obs, reward, self.at == 5, self.steps >= 8, info
end

function Env.all_actions()
  return { "-", "+" }
end
Env.actions = Env.all_actions

function Env:expert()
  return { seen = self.at, thoughts = "up", action = "+" }
end

---Makes `envs.walk` known to require; `opaque`: without state and restore, so that a resumed run
---replays.
function M.install(opaque)
  package.loaded["envs.walk"] = {
    new = function()
      local self = setmetatable({}, Env)
      if not opaque then
        function self.state(env)
          return { at = env.at, steps = env.steps }
        end
        function self.restore(env, saved)
          env.at, env.steps = saved.at, saved.steps
          return observe(env)
        end
      end
      return self
    end,
  }
end

---A recipe for the walk.
function M.recipe(changes)
  local rl = require "rl4vlm"
  local r = rl.recipe {
    name = "walk",
    env = { "walk" },
    prompt = rl.prompt "Walk. {actions} {format} {image} {hint}",
    answer = rl.json_answer { "seen", "thoughts", "action", reads = { "seen" } },
    algorithm = rl.ppo { minibatch = 16, epochs = 2, clip = 0.2 },
    schedule = { env_steps = 192, rollout = 32, lr = 0.5, eval_every = 2, eval_episodes = 10 },
    slots = 4,
  }
  return changes and r:with(changes) or r
end

return M
