"""Shows that what rl4vlm saves opens in transformers and peft with the same logits.

  python tests/golden/check_export.py build/rl4vlm
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

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 2e-5  # of the largest logit, + 1e-4


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0]


def load(folder, dtype=torch.float32):
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager",
                                                                output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{folder}: {kind}: {info[kind]}"
    return model.eval()


def compare(what, got, wanted):
    worst, limit = float((got - wanted).abs().max()), LIMIT * float(wanted.abs().max()) + 1e-4
    print(f"{what}: logits differ by {worst:.2g} (limit {limit:.2g})")
    return worst <= limit


def check(program, case):
    base, ok = f"{HERE}/{case}", True
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([program, f"{HERE}/export.lua", base, out], check=True)
        ids = load_file(f"{base}/golden.safetensors")["p2.ids"].long()
        ours = load_file(f"{out}/full.logits")["logits"]
        ok &= compare(f"{case}, saved in fp32", logits(load(f"{out}/full"), ids), ours)
        load(f"{out}/half", None)
        same = sorted(os.listdir(f"{out}/half"))
        wanted = sorted({f for f in os.listdir(base) if "golden" not in f and f not in ("adamw.safetensors", "adapter")}
                        | {"value_head.safetensors"})
        assert same == wanted, (same, wanted)
        for file in ("config.json", "generation_config.json"):
            assert open(f"{out}/half/{file}", "rb").read() == open(f"{base}/{file}", "rb").read(), file
        assert json.load(open(f"{out}/adapter/adapter_config.json"))["peft_type"] == "LORA"
        adapted = PeftModel.from_pretrained(load(base), f"{out}/adapter")
        ours = load_file(f"{out}/adapter.logits")["logits"]
        ok &= compare(f"{case}, adapter in peft", logits(adapted, ids), ours)
        assert float((logits(load(base), ids) - ours).abs().max()) > 0.01, "the adapter does nothing"
    return ok


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(0 if all([check(sys.argv[1], case) for case in ("mistral", "llama3")]) else 1)
