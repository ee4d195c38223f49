"""Shows that what rl4vlm saves opens in transformers and peft with the same logits, images included.

  python tests/golden/check_export.py build/rl4vlm [CASE...]
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

import make_families as families

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 2e-5  # of the largest logit, + 1e-4
OURS = ("adamw.safetensors", "adapter")


def load(kind, folder, dtype=torch.float32):
    model, info = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], f"{folder}: {what}: {info[what]}"
    return model.eval()


def compare(what, got, wanted):
    worst, limit = float((got - wanted).abs().max()), LIMIT * float(wanted.abs().max()) + 1e-4
    print(f"{what}: logits differ by {worst:.2g} (limit {limit:.2g})")
    return worst <= limit


def text_prompt(base):
    """The model's class, and its logits of the golden text prompt."""
    ids = load_file(f"{base}/golden.safetensors")["p2.ids"].long()
    return LlavaForConditionalGeneration, lambda model: model(input_ids=ids[None]).logits[0]


def image_prompt(base, case):
    """The same for a family, of the golden prompt with several images."""
    with tempfile.TemporaryDirectory() as scratch:
        _, ids, fast = families.write_files(scratch, case)
        prompt = families.write_prompts(case, case["make"](case, fast, case["chat"]), fast, ids)[1]
    return case["model"], lambda model: families.run(model, case, prompt, prompt["ids"])


def check(program, base, kind, logits):
    name, ok = os.path.basename(base), True
    with tempfile.TemporaryDirectory() as out, torch.no_grad():
        subprocess.run([program, f"{HERE}/export.lua", base, out], check=True)
        ours = load_file(f"{out}/full.logits")["logits"]
        ok &= compare(f"{name}, saved in fp32", logits(load(kind, f"{out}/full")), ours)
        load(kind, f"{out}/half", None)
        same = sorted(os.listdir(f"{out}/half"))
        wanted = sorted({f for f in os.listdir(base) if "golden" not in f and f not in OURS} | {"value_head.safetensors"})
        assert same == wanted, (same, wanted)
        for file in ("config.json", "generation_config.json"):
            assert open(f"{out}/half/{file}", "rb").read() == open(f"{base}/{file}", "rb").read(), file
        assert json.load(open(f"{out}/adapter/adapter_config.json"))["peft_type"] == "LORA"
        plain = logits(load(kind, base))
        adapted = PeftModel.from_pretrained(load(kind, base), f"{out}/adapter")
        ours = load_file(f"{out}/adapter.logits")["logits"]
        ok &= compare(f"{name}, adapter in peft", logits(adapted), ours)
        rich = PeftModel.from_pretrained(load(kind, base), f"{out}/rich")
        ok &= compare(f"{name}, biases, patterns and whole modules", logits(rich),
                      load_file(f"{out}/rich.logits")["logits"])
        assert float((plain - ours).abs().max()) > 0.01, "the adapter does nothing"
        subprocess.run([program, "-m", "merge", base, "--adapter", f"{out}/adapter", "--out", f"{out}/merged",
                        "--dtype", "fp32"], check=True)
        ok &= compare(f"{name}, adapter merged", logits(load(kind, f"{out}/merged")), ours)
    return ok


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = [(f"{HERE}/{case}", *text_prompt(f"{HERE}/{case}")) for case in ("mistral", "llama3")]
    cases += [(f"{families.ROOT}/{name}", *image_prompt(f"{families.ROOT}/{name}", case))
              for name, case in families.CASES.items()]
    chosen = [c for c in cases if not sys.argv[2:] or os.path.basename(c[0]) in sys.argv[2:]]
    sys.exit(0 if all([check(sys.argv[1], *c) for c in chosen]) else 1)
