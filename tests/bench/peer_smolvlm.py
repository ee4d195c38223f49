"""PyTorch, transformers and peft beside us on a checkpoint that tests/bench/smolvlm.lua made.

  python tests/bench/peer_smolvlm.py FOLDER [--dtype fp32|bf16] [--threads N] [--what decode,image,update] [--slots 1,16]

Prints one JSON object a line; the same loads as smolvlm.lua. Decoding is a hand-written loop over the modules' own
weights with a static cache and scaled_dot_product_attention: faster than generate(). The update is peft's LoRA on the
decoder's linear layers; only the answer's rows reach the head, the tower runs without gradients.
"""
import argparse, json, os, time
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

IMAGE_TOKEN, IMAGE_ROWS, HEAD = 49190, 64, 64
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Loop:
    def __init__(self, model, context, slots, steps):
        self.lm, self.head = model.model.text_model, model.lm_head
        c = model.config.text_config
        self.h, self.kv = c.num_attention_heads, c.num_key_value_heads
        inv = 100000.0 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
        a = torch.outer(torch.arange(context + steps).float(), inv)
        kind = self.head.weight.dtype
        self.cos, self.sin = torch.cat([a, a], -1).cos().to(kind), torch.cat([a, a], -1).sin().to(kind)
        self.cache = [[torch.zeros(slots, self.kv, context + steps, HEAD, dtype=kind) for _ in "kv"] for _ in self.lm.layers]

    def rope(self, x, p, n):
        half = HEAD // 2
        return x * self.cos[p : p + n] + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin[p : p + n]

    def run(self, ids, p):
        b, n = ids.shape
        x = self.lm.embed_tokens(ids)
        for (ck, cv), layer in zip(self.cache, self.lm.layers):
            y, at = layer.input_layernorm(x), layer.self_attn
            q = self.rope(at.q_proj(y).view(b, n, self.h, HEAD).transpose(1, 2), p, n)
            ck[:, :, p : p + n] = self.rope(at.k_proj(y).view(b, n, self.kv, HEAD).transpose(1, 2), p, n)
            cv[:, :, p : p + n] = at.v_proj(y).view(b, n, self.kv, HEAD).transpose(1, 2)
            o = F.scaled_dot_product_attention(q, ck[:, :, : p + n], cv[:, :, : p + n], is_causal=n > 1, enable_gqa=True)
            x = x + at.o_proj(o.transpose(1, 2).reshape(b, n, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return F.log_softmax(self.head(self.lm.norm(x[:, -1])).float(), -1)


def decode(model, context, slots, steps):
    with torch.no_grad():
        loop = Loop(model, context, slots, steps)
        lp = loop.run(torch.randint(4, 49000, (slots, context)), 0)
        least = 1e9
        for i in range(steps):
            t = time.perf_counter()
            lp = loop.run(torch.multinomial(lp.exp(), 1), context + i)
            least = min(least, time.perf_counter() - t)
    return slots / least


def best(f, times):
    f()
    least = 1e9
    for _ in range(times):
        t = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - t)
    return least


def batch(model, n, text, answer):
    ids = torch.randint(4, 49000, (n, IMAGE_ROWS + text + answer))
    ids[:, :IMAGE_ROWS] = IMAGE_TOKEN
    return ids, torch.randn(n, 1, 3, 512, 512, dtype=model.lm_head.weight.dtype)


def rows(model, ids, pixels, answer):
    """Log-probabilities of the last `answer` ids."""
    core = model.model if hasattr(model, "lm_head") else model
    with torch.no_grad():
        f = core.connector(core.vision_model(pixel_values=pixels[:, 0]).last_hidden_state)
    x = core.text_model.embed_tokens(ids)
    x = x.masked_scatter((ids == IMAGE_TOKEN).unsqueeze(-1), f.reshape(-1, x.shape[-1]).to(x.dtype))
    h = core.text_model(inputs_embeds=x, use_cache=False).last_hidden_state[:, -answer - 1 : -1]
    lp = F.log_softmax(model.lm_head(h).float(), -1)
    return lp.gather(2, ids[:, -answer:].unsqueeze(-1)).squeeze(-1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("--dtype", default="fp32")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--what", default="decode,image,update")
    ap.add_argument("--slots", default="1,16")
    ap.add_argument("--context", type=int, default=256)
    ap.add_argument("--steps", type=int, default=24)
    ap.add_argument("--times", type=int, default=2)
    ap.add_argument("--batch", type=int, default=4)
    ap.add_argument("--text", type=int, default=48)
    ap.add_argument("--answer", type=int, default=64)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)

    def report(name, value, unit, peer):
        print(json.dumps({"name": name, "peer": peer, "value": value, "unit": unit, "dtype": a.dtype,
                          "threads": a.threads}), flush=True)

    kind = torch.bfloat16 if a.dtype == "bf16" else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(a.model, dtype=kind).requires_grad_(False)
    if "decode" in a.what:
        for slots in map(int, a.slots.split(",")):
            report(f"decode/{slots}", decode(model, a.context, slots, a.steps), "tokens/s", "PyTorch loop")
    if "image" in a.what:
        ids, pixels = batch(model, 1, a.text, 1)
        with torch.no_grad():
            report("image", best(lambda: rows(model, ids, pixels, 1), a.times), "s", "transformers")
    if "update" in a.what:
        from peft import LoraConfig, get_peft_model
        names = [n for n, _ in model.named_modules() if "text_model" in n and n.split(".")[-1] in LINEARS]
        peft = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=names))
        inner = peft.base_model.model
        trained = [p for p in peft.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
        ids, pixels = batch(model, a.batch, a.text, a.answer)
        advantage = torch.linspace(-1, 1, a.batch)

        def update():
            ratio = (rows(inner, ids, pixels, a.answer).sum(1) * 1e-3).exp()
            loss = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

        report("update", a.batch / best(update, a.times), "samples/s", "transformers + peft")


if __name__ == "__main__":
    main()
