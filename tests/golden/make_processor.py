#!/usr/bin/env python3
"""Writes processor.json: what transformers' Pillow-based image processors make of made-up images.

Images come from a formula that tests/lua/processor_spec.lua knows too, so nothing but digests lies here.
Needs transformers 5, Pillow below 13 (which resizes some sizes in another order), numpy.
"""
import hashlib
import io
import json
import pathlib

import numpy as np
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.image_transforms import convert_to_rgb
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil, \
    get_resize_output_image_size
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

SIZES = [(1, 1), (2, 3), (3, 2), (5, 199), (199, 5), (1, 57), (57, 1), (13, 14), (14, 13), (28, 28), (27, 29),
         (42, 42), (70, 70), (71, 69), (97, 131), (131, 97), (100, 50), (50, 100), (120, 40), (33, 333),
         (224, 224), (150, 151), (309, 201)]

CLASSES = {c.__name__.removesuffix("Pil"): c for c in (
    CLIPImageProcessorPil, LlavaImageProcessorPil, SiglipImageProcessorPil, LlavaNextImageProcessorPil,
    Qwen2VLImageProcessorPil, Idefics3ImageProcessorPil, SmolVLMImageProcessorPil)}

PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
CONFIGS = {
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56},
             "crop_size": {"height": 56, "width": 56}},
    "clip, wide crop": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 42},
                        "crop_size": {"height": 70, "width": 84}, "resample": 1},
    "clip, box": {"image_processor_type": "CLIPImageProcessor", "size": {"height": 28, "width": 70},
                  "do_center_crop": False, "resample": 4},
    "clip, hamming, plain": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28},
                             "crop_size": {"height": 28, "width": 28}, "resample": 5, "do_normalize": False},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}, "resample": 2},
    "llava, padded": {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": {"shortest_edge": 56},
                      "crop_size": {"height": 56, "width": 56}},
    "llava-next": {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 56},
                   "crop_size": {"height": 56, "width": 56}, "image_grid_pinpoints": PINPOINTS},
    "qwen2-vl": {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 47040,
                 "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
    "qwen2-vl, sizes": {"image_processor_type": "Qwen2VLImageProcessor",
                        "size": {"shortest_edge": 1000, "longest_edge": 9000}, "patch_size": 7,
                        "temporal_patch_size": 1, "merge_size": 3},
    "idefics3": {"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 128},
                 "max_image_size": {"longest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "smolvlm, uneven": {"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 150},
                        "max_image_size": {"longest_edge": 56}, "do_image_splitting": True},
    "smolvlm, whole": {"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 128},
                       "max_image_size": {"longest_edge": 32}, "do_image_splitting": False},
}


def picture(w, h):
    """Slopes, stripes and noise, all integers."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    v = (x * (3 + c) + y * (5 - c)) // 2 + 90 * ((x // 7 + y // (4 + c)) % 2) + (x * x * 31 + y * y * 17 + x * y * c) % 23
    return Image.fromarray((v % 256).astype(np.uint8), "RGB")


def digest(values):
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()[:16]


def processor(config):
    return CLASSES[config["image_processor_type"]](**{k: v for k, v in config.items() if k != "image_processor_type"})


def run(config, w, h):
    try:
        out = processor(config)(images=[picture(w, h)], return_tensors="np")
    except ValueError as e:
        return {"error": str(e)}
    px = out["pixel_values"]
    return {"shape": list(px.shape), "sha256": digest(px)}


# ---- layouts of very many sizes, folded into one number ----

def fold(numbers):
    s = 0
    for v in numbers:
        s = (s * 1000003 + int(v) + 1) % 2147483647
    return s


def all_sizes():
    for w in range(1, 2400, 37):
        for h in range(1, 2400, 41):
            yield w, h


def blank(h, w):
    return np.broadcast_to(np.uint8(0), (3, h, w))


class Sizes(Idefics3ImageProcessorPil):
    """Idefics3's steps on shapes alone."""

    def resize(self, image, size, resample=None, **kwargs):
        return blank(*get_resize_output_image_size(image, size.longest_edge)) if size.longest_edge \
            else blank(size.height, size.width)


def qwen_layouts(config):
    factor = config["patch_size"] * config["merge_size"]
    for w, h in all_sizes():
        if max(w, h) / min(w, h) <= 200:
            yield from smart_resize(h, w, factor, config["min_pixels"], config["max_pixels"])


def anyres_layouts(config):
    for w, h in all_sizes():
        yield from select_best_resolution((h, w), config["image_grid_pinpoints"])


def idefics3_layouts(config):
    p = Sizes(**{k: v for k, v in config.items() if k != "image_processor_type"})
    for w, h in all_sizes():
        image = p.resize(blank(h, w), p.size)
        side = config["max_image_size"]["longest_edge"]
        yield from p.split_images(p.resize_for_vision_encoder(image, side), p.max_image_size)[1:]


LAYOUTS = {
    "qwen2-vl": (qwen_layouts, CONFIGS["qwen2-vl"] | {"max_pixels": 1003520}),
    "llava-next": (anyres_layouts, CONFIGS["llava-next"] | {
        "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336},
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}),
    "idefics3": (idefics3_layouts, CONFIGS["idefics3"] | {
        "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}),
    "idefics3, uneven": (idefics3_layouts, CONFIGS["idefics3"] | {
        "size": {"longest_edge": 5000}, "max_image_size": {"longest_edge": 364}}),
}


# ---- small files of every kind, and what Pillow reads ----

def files():
    rgb, alpha = picture(23, 17), picture(29, 23).crop((3, 2, 26, 19)).convert("L")
    grey, smooth = rgb.convert("L"), picture(11, 9).resize((37, 21), Image.BICUBIC)
    first = np.array(rgb)[0, 0]
    yield "grey.png", grey, {}
    yield "grey, one transparent.png", grey, {"transparency": int(np.array(grey)[2, 2])}
    yield "rgb, one transparent.png", rgb, {"transparency": tuple(int(v) for v in first)}
    yield "rgba.png", Image.merge("RGBA", (*rgb.split(), alpha)), {}
    yield "grey and alpha.png", Image.merge("LA", (grey, alpha)), {}
    yield "palette.png", rgb.quantize(64), {}
    yield "palette, transparent.png", rgb.quantize(12), {"transparency": bytes(range(0, 256, 20)), "bits": 4}
    yield "two levels.png", grey.convert("1"), {}
    yield "rgb.bmp", rgb, {}
    yield "palette.bmp", rgb.quantize(64), {}
    yield "alpha that does not count.bmp", Image.merge("RGBA", (*rgb.split(), alpha)), {}
    yield "444.jpeg", smooth, {"quality": 90, "subsampling": 0}
    yield "422.jpeg", smooth, {"quality": 75, "subsampling": 1}
    yield "420.jpeg", smooth, {"quality": 75, "subsampling": 2}
    yield "420, progressive.jpeg", smooth, {"quality": 60, "subsampling": 2, "progressive": True}
    yield "420, 2 wide.jpeg", smooth.crop((0, 0, 3, 9)), {"quality": 60, "subsampling": 2}
    yield "restarts.jpeg", smooth, {"quality": 30, "subsampling": 0, "restart_marker_blocks": 2}
    yield "rgb.jpeg", smooth, {"quality": 90, "subsampling": 0, "keep_rgb": True}
    yield "grey.jpeg", smooth.convert("L"), {"quality": 80}
    yield "cmyk.jpeg", smooth.convert("CMYK"), {"quality": 80}


def read_back(name, image, options):
    out = io.BytesIO()
    image.save(out, name.rpartition(".")[2], **options)
    pixels = np.array(convert_to_rgb(Image.open(out)))
    return {"name": name, "hex": out.getvalue().hex(), "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}


def main():
    runs = [{"name": name, "config": config,
             "images": [{"w": w, "h": h} | run(config, w, h) for w, h in SIZES]} for name, config in CONFIGS.items()]
    layouts = [{"name": name, "config": config, "fold": fold(f(config))} for name, (f, config) in LAYOUTS.items()]
    for item in runs:
        item["images"] = [[i["w"], i["h"], i.get("sha256", ""), *i.get("shape", [])] for i in item["images"]]
    out = pathlib.Path(__file__).with_name("processor.json")
    out.write_text(json.dumps({"runs": runs, "layouts": layouts, "files": [read_back(*f) for f in files()]}, separators=(",", ":")).replace('{"name"', '\n{"name"')
                   + "\n")


if __name__ == "__main__":
    main()
