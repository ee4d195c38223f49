"""Makes tests/golden/quant.safetensors: small matrices and what bitsandbytes makes of them.

  python tests/golden/make_quant.py      needs torch, bitsandbytes (its CPU build does), safetensors

w0 (40, 192) bf16 with outliers and a row of zeros in fp32; w1 (33, 100) fp32, whose rows are no multiple of
64, quantised row by row. *.int8: numbers (as F32) and *.absmax one a row; *.nf4: dequantised values. Torch takes
127 / absmax as 127 * (1 / absmax), bitsandbytes on a GPU divides: w0 is drawn until no number lies between the two.
"""
import os

import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors.torch import save_file


def nf4(x):
    q, state = F.quantize_4bit(x, blocksize=64, compress_statistics=False, quant_type="nf4")
    return F.dequantize_4bit(q, state).float()


def int8(x):
    codes, absmax, _ = F.int8_vectorwise_quant(x.clone())
    codes[absmax == 0] = 0
    return codes.float(), absmax


def draw():
    while True:
        a = torch.randn(40, 192) * 0.05
        a[3, 7], a[17, 100] = 1.5, -2.25
        a[20] = 0
        x = a.to(torch.bfloat16)
        codes, absmax = int8(x.float())
        by = np.float32(127) / np.maximum(absmax.numpy(), np.float32(1e-30))
        if (np.rint(x.float().numpy() * by[:, None]) == codes.numpy()).all():
            return x


def main():
    torch.manual_seed(5)
    b = torch.randn(33, 100) * torch.rand(33, 1)
    out = {}
    for name, x in (("w0", draw()), ("w1", b)):
        out[name] = x
        full = x.float()
        out[name + ".int8"], out[name + ".absmax"] = int8(full)
        rows = [nf4(row.contiguous()) for row in full] if full.shape[1] % 64 else [nf4(full)]
        out[name + ".nf4"] = torch.cat([r.reshape(-1, full.shape[1]) for r in rows])
    here = os.path.dirname(os.path.abspath(__file__))
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(here, "quant.safetensors"))


main()
