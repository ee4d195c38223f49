"""The peer of `make bench`: PyTorch and transformers on the same weights, the same prompts and the same threads.

  python tests/bench/peer_torch.py MODEL_FOLDER [--threads N] [--dtype fp32|bf16] [--prompt N]

Reads names of measurements from its input, a line each, takes each once, and prints a JSON object a figure and a line with
a full stop. One thread is timed by its processor seconds, several by the wall. Three users are played:
  transformers  generate(), as its documentation shows it
  careful       a hand-written loop: batched prefill, static KV cache, scaled_dot_product_attention, only the rows that are
                needed reach the head, batched updates without padding waste (all sequences have one length here)
  reference     the reference implementation's way: batch-1 generate, scoring padded to 512 answer tokens, minibatch-1 updates
Names: transformers, loop (generation and decode), update, iteration, reference, memory.
"""
import argparse, contextlib, json, resource, sys, time
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

SLOTS, ANSWER, EPOCHS = 16, 64, 4


def report(name, value, unit, **more):
    print(json.dumps({"name": name, "value": value, "unit": unit, **more}), flush=True)


class Loop:
    """LLaVA's forward written by hand on the module's own weights, with a static cache."""

    def __init__(self, model, clock):
        self.clock = clock
        self.m, c = model, model.config.text_config
        self.h, self.kv = c.num_attention_heads, c.num_key_value_heads or c.num_attention_heads
        self.d = c.hidden_size // self.h
        self.lm = model.model.language_model
        self.image_token = model.config.image_token_id
        theta = getattr(c, "rope_theta", None) or c.rope_parameters["rope_theta"]
        inv = theta ** (-torch.arange(0, self.d, 2).float() / self.d)
        a = torch.outer(torch.arange(1024).float(), inv)
        self.cos, self.sin = torch.cat([a, a], -1).cos(), torch.cat([a, a], -1).sin()

    def rope(self, x, p0):
        n = x.shape[2]
        cos, sin = self.cos[p0 : p0 + n].to(x.dtype), self.sin[p0 : p0 + n].to(x.dtype)
        half = self.d // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def embed(self, ids, pixels):
        x = self.lm.embed_tokens(ids)
        f = self.m.get_image_features(pixel_values=pixels)
        f = getattr(f, "pooler_output", f)
        f = torch.cat(list(f)) if isinstance(f, (tuple, list)) else f.reshape(-1, x.shape[-1])
        return x.masked_scatter((ids == self.image_token).unsqueeze(-1), f.to(x.dtype))

    def layers(self, x, cache, p0):
        b, n, _ = x.shape
        for i, layer in enumerate(self.lm.layers):
            y, at = layer.input_layernorm(x), layer.self_attn
            q = self.rope(at.q_proj(y).view(b, n, self.h, self.d).transpose(1, 2), p0)
            k = self.rope(at.k_proj(y).view(b, n, self.kv, self.d).transpose(1, 2), p0)
            v = at.v_proj(y).view(b, n, self.kv, self.d).transpose(1, 2)
            if cache is not None:
                cache[i][0][:, :, p0 : p0 + n], cache[i][1][:, :, p0 : p0 + n] = k, v
                k, v = cache[i][0][:, :, : p0 + n], cache[i][1][:, :, : p0 + n]
            o = F.scaled_dot_product_attention(q, k, v, is_causal=n > 1, enable_gqa=self.h != self.kv)
            x = x + at.o_proj(o.transpose(1, 2).reshape(b, n, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.lm.norm(x)

    def generate(self, ids, pixels, new, temperature=0.2):
        b, t = ids.shape
        dt = self.lm.embed_tokens.weight.dtype
        cache = [[torch.empty(b, self.kv, t + new, self.d, dtype=dt) for _ in "kv"] for _ in self.lm.layers]
        hidden = self.layers(self.embed(ids, pixels), cache, 0)[:, -1]
        out, logps = [], []
        started = self.clock()
        for step in range(new):
            lp = F.log_softmax(self.m.lm_head(hidden).float() / temperature, -1)
            token = torch.multinomial(lp.exp(), 1)
            out.append(token)
            logps.append(lp.gather(1, token))
            if step + 1 < new:
                hidden = self.layers(self.lm.embed_tokens(token), cache, t + step)[:, -1]
        self.decode_seconds = self.clock() - started
        return torch.cat(out, 1), torch.cat(logps, 1)

    def score(self, ids, pixels, answer, temperature=0.2):
        x = self.layers(self.embed(torch.cat([ids, answer], 1), pixels), None, 0)
        n = answer.shape[1]
        rows = x[:, -n - 1 : -1]
        lp = F.log_softmax(self.m.lm_head(rows).float() / temperature, -1)
        return lp.gather(2, answer.unsqueeze(-1)).squeeze(-1), x[:, -n - 1]


def data(model, n, prompt, image_tokens, seed=0):
    g = torch.Generator().manual_seed(seed)
    size = model.config.vision_config.image_size
    ids = torch.randint(4, 390, (n, prompt), generator=g)
    ids[:, 10 : 10 + image_tokens] = model.config.image_token_id
    return ids, torch.randn(n, 3, size, size, generator=g)


def ppo_step(model, optimizer, score, samples, value_head, context):
    ids, pixels, answer, old = samples
    with context():
        lp, h = score(ids, pixels, answer)
        ratio = (lp.sum(1) - old).exp()
        adv = torch.linspace(-1, 1, len(ratio))
        policy = -torch.minimum(ratio * adv, ratio.clamp(0.9, 1.1) * adv).mean()
        loss = policy + 0.5 * (value_head(h.float()).squeeze(-1) - adv).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def padded_score(model, ids, pixels, answer):
    """Reference way: one sequence padded to 512 answer positions, logits of every position."""
    pad = F.pad(answer, (0, 512 - answer.shape[1]), value=0)
    out = model(input_ids=torch.cat([ids, pad], 1), pixel_values=pixels, output_hidden_states=True)
    t, n = ids.shape[1], answer.shape[1]
    lp = F.log_softmax(out.logits.float() / 0.2, -1)[:, t - 1 : t - 1 + n]
    return lp.gather(2, answer.unsqueeze(-1)).squeeze(-1), out.hidden_states[-1][:, t - 1]


class Peer:
    """One measurement a method; the figures' names are what table.lua asks for."""

    def __init__(self, a):
        self.clock = time.process_time if a.threads == 1 else time.perf_counter
        self.tag = {"dtype": a.dtype, "threads": a.threads}
        self.bf16 = a.dtype == "bf16"
        self.model = AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.float32)
        # generation in bf16 runs on bf16 weights, updates under autocast with fp32 masters: what PyTorch users do
        self.autocast = (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if self.bf16 else contextlib.nullcontext
        c = self.model.config
        rows, width = (c.vision_config.image_size // c.vision_config.patch_size) ** 2, c.text_config.hidden_size
        self.head = torch.nn.Sequential(torch.nn.Linear(width, width // 4), torch.nn.ReLU(),
                                        torch.nn.Linear(width // 4, width // 8), torch.nn.ReLU(), torch.nn.Linear(width // 8, 1))
        self.ids, self.pixels = data(self.model, SLOTS, a.prompt, rows)
        self.answer = torch.randint(4, 390, (SLOTS, ANSWER))
        self.generator = self.model
        if self.bf16:
            self.generator = AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.bfloat16)
        self.gen_loop, self.loop = Loop(self.generator, self.clock), Loop(self.model, self.clock)
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), *self.head.parameters()], lr=1e-5)

    def rate(self, name, count, unit, f):
        started = self.clock()
        f()
        report(name, count / (self.clock() - started), unit, **self.tag)

    def step(self, score, samples):
        ppo_step(self.model, self.optimizer, score, samples, self.head, self.autocast)

    def hf_generate(self, model, ids, pixels):
        return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, do_sample=True, temperature=0.2,
                              top_k=0, max_new_tokens=ANSWER, min_new_tokens=ANSWER, pad_token_id=0)

    def transformers(self):
        px = self.pixels.to(next(self.generator.parameters()).dtype)
        with torch.no_grad():
            self.rate("generate/transformers", SLOTS * ANSWER, "tokens/s", lambda: self.hf_generate(self.generator, self.ids, px))

    def generate(self, loop):
        with torch.no_grad():
            return loop.generate(self.ids, self.pixels.to(loop.lm.embed_tokens.weight.dtype), ANSWER)

    def hand_written(self):
        self.rate("generate/hand-written", SLOTS * ANSWER, "tokens/s", lambda: self.generate(self.gen_loop))
        report("decode/hand-written", SLOTS * (ANSWER - 1) / self.gen_loop.decode_seconds, "tokens/s", **self.tag)

    def update(self):
        samples = (self.ids, self.pixels, self.answer, torch.zeros(SLOTS))
        self.rate("update/batched", SLOTS, "samples/s", lambda: self.step(self.loop.score, samples))

    def iteration(self):
        def run():
            out, lp = self.generate(self.loop)
            for _ in range(EPOCHS):
                self.step(self.loop.score, (self.ids, self.pixels, out, lp.sum(1)))

        self.rate("iteration/careful", SLOTS, "env-steps/s", run)

    def reference(self):
        score = lambda *s: padded_score(self.model, *s)

        def run():
            one, px = self.ids[:1], self.pixels[:1]  # every environment step costs the same
            with torch.no_grad():
                out = self.hf_generate(self.model, one, px)[:, one.shape[1] :]
                lp, _ = score(one, px, out)
            for _ in range(EPOCHS):
                self.step(score, (one, px, out, lp.sum(1)))

        self.rate("iteration/reference", 1, "env-steps/s", run)

    def memory(self):
        report("memory/peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "bytes", **self.tag)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--dtype", default="fp32")
    ap.add_argument("--prompt", type=int, default=209)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    peer = Peer(a)
    for line in sys.stdin:
        getattr(peer, {"loop": "hand_written"}.get(line.strip(), line.strip()))()
        print(".", flush=True)


if __name__ == "__main__":
    main()
