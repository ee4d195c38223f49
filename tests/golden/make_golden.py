"""Makes tests/golden/{mistral,llama3}: two small random LLaVA checkpoints of odd sizes, and what
transformers (and peft) make of them.

  python tests/golden/make_golden.py          needs torch, transformers 5, peft, safetensors

mistral: Mistral decoder, grouped heads of an own width, tied head, sliding window, theta 1e6, every tower row
kept, names as transformers 5 writes them, fp16, one file. llama3: Llama decoder with biases and llama3 rope
scaling, last tower layer, names of the model in memory, bf16, two shards. Gradients are kept as norm and as
dot product with a fixed vector (vector()), parameters after one AdamW step in full.
"""
import json
import os
import shutil

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          MistralConfig)

HERE = os.path.dirname(os.path.abspath(__file__))
GREEDY = 24

CASES = {
    "mistral": dict(
        vision=CLIPVisionConfig(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=2,
                                image_size=21, patch_size=7, projection_dim=8),
        text=MistralConfig(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                           num_attention_heads=6, num_key_value_heads=2, head_dim=10, rope_theta=1e6,
                           rms_norm_eps=1e-5, sliding_window=16, max_position_embeddings=256),
        more=dict(image_token_index=90, vision_feature_select_strategy="full", vision_feature_layer=-2,
                  tie_word_embeddings=True),
        rows=10, dtype=torch.float16),
    "llama3": dict(
        vision=CLIPVisionConfig(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
                                image_size=24, patch_size=8, hidden_act="gelu", layer_norm_eps=1e-6, projection_dim=8),
        text=LlamaConfig(vocab_size=111, hidden_size=30, intermediate_size=36, num_hidden_layers=3,
                         num_attention_heads=3, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                         max_position_embeddings=256, rms_norm_eps=1e-6,
                         rope_parameters=dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0,
                                              high_freq_factor=4.0, original_max_position_embeddings=32)),
        more=dict(image_token_index=100, vision_feature_select_strategy="default", vision_feature_layer=-1,
                  projector_hidden_act="gelu_pytorch_tanh"),
        rows=9, dtype=torch.bfloat16),
}


def vector(n):
    """The fixed vector of the dot products: integers mod 2^32, scaled to -1..1."""
    i = np.arange(n, dtype=np.uint64)
    return ((i * 2654435761 + 12345) % 2**32).astype(np.float64) / 2**31 - 1


def figures(grads):
    out = {}
    for name, g in grads.items():
        x = g.detach().double().numpy().ravel()
        out[name] = [float(np.sqrt((x * x).sum())), float((x * vector(x.size)).sum())]
    return out


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "norm" in name and name.endswith("weight"):
            p.data = 1 + 0.1 * noise
        elif p.dim() >= 2 and "embed" not in name:
            p.data = 1.2 * noise / p[0].numel() ** 0.5
        else:
            p.data = 0.3 * noise


def file_names(case, model):
    """Parameter name in memory -> name in the files."""
    names = {}
    for name, _ in model.named_parameters():
        if case == "mistral":  # as save_pretrained writes them
            file = name.replace("model.language_model.", "language_model.model.", 1)
            file = file.replace("lm_head", "language_model.lm_head", 1) if file.startswith("lm_head") else file
            file = file[len("model."):] if file.startswith("model.") else file
        else:  # as the model is in memory, with the tower's older spelling
            file = name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)
        names[name] = file
    return names


def write_checkpoint(folder, case, model, names):
    state = {names[n]: p.detach().to(CASES[case]["dtype"]).contiguous() for n, p in model.named_parameters()}
    if case == "mistral":
        save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
        return
    keys, index = sorted(state), {}
    for k, part in enumerate([keys[::2], keys[1::2]]):
        file = f"model-{k + 1:05d}-of-00002.safetensors"
        save_file({n: state[n] for n in part}, f"{folder}/{file}", {"format": "pt"})
        index.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in state.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": index},
              open(f"{folder}/model.safetensors.index.json", "w"), indent=1)


def make_prompts(case, config, seed):
    g = torch.Generator().manual_seed(seed)
    spec, prompts = CASES[case], []
    size = config.vision_config.image_size
    for images, text in [(1, 9), (2, 30), (0, 41)]:
        word = lambda n: torch.randint(3, spec["more"]["image_token_index"], (n,), generator=g).tolist()
        ids = [1] + word(2)
        for _ in range(images):
            ids += [spec["more"]["image_token_index"]] * spec["rows"] + word(1)
        ids += word(text)
        answer = word(11) + [2]
        prompts.append(dict(ids=ids, answer=answer,
                            pixels=torch.randn((images, 3, size, size), generator=g) if images else None,
                            weights=torch.rand(len(answer), generator=g) * 2 - 0.7))
    return prompts


def run(model, p):
    ids = torch.tensor([p["ids"] + p["answer"]])
    logits = model(input_ids=ids, pixel_values=p["pixels"]).logits[0].float()
    n = len(p["ids"])
    logp = torch.log_softmax(logits[n - 1:-1], -1).gather(1, torch.tensor(p["answer"])[:, None])[:, 0]
    return logits, logp


def greedy(model, p, banned):
    ids = list(p["ids"])
    for _ in range(GREEDY):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=p["pixels"]).logits[0, -1]
        logits[banned] = -torch.inf
        best = logits.topk(2).values
        assert best[0] - best[1] > 1e-3, "a greedy step is too close: choose another seed"
        ids.append(int(logits.argmax()))
    return ids[len(p["ids"]):]


def gradients(model, prompts):
    model.zero_grad()
    losses = []
    for p in prompts:
        loss = -(run(model, p)[1] * p["weights"]).sum()
        loss.backward()
        losses.append(float(loss.detach()))
    return losses


def adapter(folder, model, prompts):
    """A LoRA with patterns and rank-stabilised scale: its log-probabilities and gradients."""
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj", "linear_1"],
                        rank_pattern={"layers.1.mlp.down_proj": 2}, alpha_pattern={r".*linear_1": 7},
                        exclude_modules=r".*vision_tower.*", task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    for name, p in peft.named_parameters():
        if "lora_B" in name:
            p.data = 0.2 * torch.randn(p.shape)
    losses = gradients(peft, prompts)
    grads = {n.replace(".default", ""): p.grad for n, p in peft.named_parameters() if p.grad is not None and "lora_" in n}
    peft.peft_config["default"].base_model_name_or_path = ".."
    peft.save_pretrained(f"{folder}/adapter")
    os.remove(f"{folder}/adapter/README.md")
    logps = {f"adapter.p{k}.logprobs": run(peft, p)[1].detach() for k, p in enumerate(prompts)}
    peft.unload()
    return losses, figures(grads), logps


def make(case, seed):
    folder, spec = f"{HERE}/{case}", CASES[case]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config = LlavaConfig(vision_config=spec["vision"], text_config=spec["text"], **spec["more"])
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.tie_weights()
    names = file_names(case, model)
    write_checkpoint(folder, case, model, names)
    for p in model.parameters():  # go on with the values as stored
        p.data = p.data.to(spec["dtype"]).float()
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = spec["dtype"]
    config.save_pretrained(folder)
    json.dump({"bos_token_id": 1, "eos_token_id": [2, 5]}, open(f"{folder}/generation_config.json", "w"))

    prompts, out = make_prompts(case, config, seed + 1), {}
    losses = gradients(model, prompts)
    for k, p in enumerate(prompts):
        logits, logp = run(model, p)
        out.update({f"p{k}.ids": torch.tensor(p["ids"]), f"p{k}.answer": torch.tensor(p["answer"]),
                    f"p{k}.weights": p["weights"], f"p{k}.logits": logits.detach(), f"p{k}.logprobs": logp.detach(),
                    f"p{k}.greedy": torch.tensor(greedy(model, p, spec["more"]["image_token_index"]))})
        if p["pixels"] is not None:
            out[f"p{k}.pixels"] = p["pixels"]
    grads = figures({names[n]: p.grad for n, p in model.named_parameters() if p.grad is not None})
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01).step()
    save_file({names[n]: p.detach().clone() for n, p in model.named_parameters() if p.grad is not None},
              f"{folder}/adamw.safetensors")
    after = [float(-(run(model, p)[1] * p["weights"]).sum().detach()) for p in prompts]
    for n, p in model.named_parameters():
        p.data = state[n]
    adapter_losses, adapter_grads, logps = adapter(folder, model, prompts)
    out.update(logps)
    save_file({n: t.contiguous() for n, t in out.items()}, f"{folder}/golden.safetensors")
    json.dump({"losses": losses, "losses_after": after, "gradients": grads, "adapter_losses": adapter_losses,
               "adapter_gradients": adapter_grads}, open(f"{folder}/golden.json", "w"), indent=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("mistral", 11)
    make("llama3", 21)
