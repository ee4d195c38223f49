"""Makes tests/golden/families/*: small random checkpoints of odd sizes, two of each family, in its own layout with
tokenizer, chat template and processor files, and what transformers (and peft) make of them.

  python tests/golden/make_families.py [NAME...]      needs torch, transformers 5, peft, safetensors, Pillow < 13

The first of a family is laid out as published, the second as transformers 5 writes or holds it. Each has three
prompts: one image, images of different shapes in one turn, no image in three turns. Pixels and gradients are kept as
norm and as dot product with a fixed vector (make_golden.vector), logits at some positions.
"""
import json
import os
import shutil
import sys

import numpy as np
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

import make_tokenizers as tok
from make_golden import figures

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = f"{HERE}/families"
GREEDY, EVERY = 16, 7
ANSWER = '{"thoughts": "7 and 2", "action": "+"}'

# ---- tokenizers ----


def byte_level(specials_first, specials_last, normalizer, pre):
    learned, merges = tok.learn(256 + 40, tok.ALPHABET, pre_tokenizers.ByteLevel(add_prefix_space=False))
    order = specials_first + sorted(learned, key=learned.get)
    vocab = {t: i for i, t in enumerate(order)}
    taken = []
    added = [tok.token(c, vocab, taken) for c in specials_first + specials_last]
    t = tok.tokenizer({"vocab": vocab, "merges": merges}, added, normalizer, pre, None, tok.byte_level(True, True))
    return {**t, "truncation": None}


def qwen_tokenizer():
    names = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    return byte_level([], [f"<|{n}|>" for n in names], {"type": "NFC"}, tok.sequence(
        "pretokenizers", tok.split({"Regex": tok.QWEN}), tok.byte_level()))


def smolvlm_tokenizer():
    places = [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                      ["<global-img>", *places, "<fake_token_around_image>", "<image>", "<end_of_utterance>"], None,
                      tok.sequence("pretokenizers", {"type": "Digits", "individual_digits": True},
                                   tok.byte_level(False, True)))


def llama_tokenizer():
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    learned, merges = tok.learn(270, list("▁abcdefghijklmnopqrstuvwxyz0123456789"), pre)
    order = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + sorted(learned, key=learned.get)
    vocab = {t: i for i, t in enumerate(order)}
    base, taken = tok.llama(), []
    added = [tok.token(c, vocab, taken) for c in ("<unk>", "<s>", "</s>", "<image>", "<pad>")]
    model = {**base["model"], "vocab": vocab, "merges": merges}
    return {**base, "added_tokens": added, "model": model, "truncation": None}


# ---- chat templates ----

LLAVA = ("{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
         "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
         "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
MISTRAL = ("{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
           "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
           "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}{{ ' [/INST]' }}"
           "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}")
QWEN = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif c['type'] == 'text' %}"
        "{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SMOLVLM = ("<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}"
           "{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}{% if c['type'] == 'text' %}"
           "{{ c['text'] }}{% elif c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
           "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")

# ---- processors ----

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def clip_file(side, **more):
    return {"do_resize": True, "size": {"shortest_edge": side}, "resample": 3, "do_center_crop": True,
            "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "do_convert_rgb": True, **more}


def pinpoints(side, *grids):
    return [[side * r, side * c] for r, c in grids]


def qwen_file(patch, merge, most):
    unit = (patch * merge) ** 2
    return {"min_pixels": 2 * unit, "max_pixels": most * unit, "patch_size": patch, "temporal_patch_size": 2,
            "merge_size": merge, "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
            "image_processor_type": "Qwen2VLImageProcessor"}


def smolvlm_file(edge, side, kind, splitting):
    return {"do_convert_rgb": True, "do_image_splitting": splitting, "do_normalize": True, "do_pad": True,
            "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1,
            "rescale_factor": 1 / 255, "size": {"longest_edge": edge}, "max_image_size": {"longest_edge": side},
            "image_processor_type": kind}


def llava_processor(kind, images):
    return lambda c, t, chat: kind(image_processor=images(**c["processor"]), tokenizer=t,
                                   patch_size=c["config"]["vision_config"]["patch_size"],
                                   vision_feature_select_strategy="default", num_additional_image_tokens=1,
                                   chat_template=chat)


class QwenProcessor:
    """Qwen's processor without its video half, which needs torchvision."""

    def __init__(self, images, tokenizer):
        self.images, self.tokenizer = images, tokenizer

    def __call__(self, images, text, return_tensors):
        data = self.images(images=images, return_tensors=return_tensors)
        for t, h, w in data["image_grid_thw"].tolist():
            text = text.replace("<|image_pad|>", "<|here|>" * (t * h * w // self.images.merge_size**2), 1)
        text = text.replace("<|here|>", "<|image_pad|>")
        return {**self.tokenizer(text, return_tensors=return_tensors, return_token_type_ids=False), **data}


def qwen_processor(c, t, chat):
    return QwenProcessor(hf.Qwen2VLImageProcessorPil(**c["processor"]), t)


def smolvlm_processor(images):
    return lambda c, t, chat: hf.Idefics3Processor(images(**c["processor"]), t, chat_template=chat,
                                                   image_seq_len=c["rows"])


# ---- names in memory -> names in the files ----


def old_llava(name):
    for new, old in (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
                     ("model.vision_tower.", "vision_tower.vision_model."), ("model.", "")):
        if name.startswith(new):
            return old + name[len(new):]
    return name


def new_llava(name):
    return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)


def old_qwen(name):
    return name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)


def same(name):
    return name


# ---- the checkpoints ----

CLIP = {"model_type": "clip_vision_model", "hidden_size": 20, "intermediate_size": 28, "num_attention_heads": 2,
        "projection_dim": 8}
MROPE = {"type": "mrope", "mrope_section": [1, 2, 3]}

CASES = {
    "llava": dict(
        model=hf.LlavaForConditionalGeneration, tokenizer=llama_tokenizer, chat=LLAVA, names=old_llava, dtype=torch.float16,
        shards=3, eos="</s>", image="<image>", make=llava_processor(hf.LlavaProcessor, hf.CLIPImageProcessorPil),
        processor=clip_file(21, image_processor_type="CLIPImageProcessor"),
        config={"model_type": "llava", "image_token_index": "<image>", "pad_token_id": "<pad>", "vocab_size": "V",
                "projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
                "text_config": {"model_type": "llama", "hidden_size": 30, "intermediate_size": 36, "num_attention_heads": 5,
                                "num_hidden_layers": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
                                "vocab_size": "V"},
                "vision_config": {**CLIP, "num_hidden_layers": 3, "image_size": 21, "patch_size": 7}}),
    "next": dict(
        model=hf.LlavaNextForConditionalGeneration, tokenizer=llama_tokenizer, chat=MISTRAL, names=old_llava,
        dtype=torch.float16, eos="</s>", image="<image>",
        make=llava_processor(hf.LlavaNextProcessor, hf.LlavaNextImageProcessorPil),
        processor=clip_file(20, image_processor_type="LlavaNextImageProcessor", do_pad=True,
                            image_grid_pinpoints=pinpoints(20, (1, 2), (2, 1), (2, 2), (3, 1), (1, 3))),
        config={"model_type": "llava_next", "image_token_index": "<image>", "projector_hidden_act": "gelu",
                "image_grid_pinpoints": pinpoints(20, (1, 2), (2, 1), (2, 2), (3, 1), (1, 3)), "vocab_size": "V",
                "use_image_newline_parameter": True, "vision_feature_layer": -2, "tie_word_embeddings": False,
                "vision_feature_select_strategy": "default",
                "text_config": {"model_type": "mistral", "hidden_size": 36, "intermediate_size": 40,
                                "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2,
                                "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None,
                                "max_position_embeddings": 512, "vocab_size": "V"},
                "vision_config": {**CLIP, "num_hidden_layers": 3, "image_size": 20, "patch_size": 5}}),
    "next-llama": dict(
        model=hf.LlavaNextForConditionalGeneration, tokenizer=llama_tokenizer, chat=MISTRAL, names=new_llava,
        dtype=torch.bfloat16, eos="</s>", image="<image>", jinja=True,
        make=llava_processor(hf.LlavaNextProcessor, hf.LlavaNextImageProcessorPil),
        processor=clip_file(18, image_processor_type="LlavaNextImageProcessor", do_pad=True,
                            image_grid_pinpoints=pinpoints(18, (1, 1), (2, 3), (4, 1), (1, 3))),
        config={"model_type": "llava_next", "image_token_index": "<image>", "projector_hidden_act": "gelu_pytorch_tanh",
                "image_grid_pinpoints": pinpoints(18, (1, 1), (2, 3), (4, 1), (1, 3)), "vision_feature_layer": 1,
                "multimodal_projector_bias": False, "tie_word_embeddings": True,
                "vision_feature_select_strategy": "default",
                "text_config": {"model_type": "llama", "hidden_size": 28, "intermediate_size": 44, "head_dim": 10,
                                "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 2,
                                "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "vocab_size": "V",
                                "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}},
                "vision_config": {**CLIP, "num_hidden_layers": 2, "image_size": 18, "patch_size": 6,
                                  "hidden_act": "gelu", "layer_norm_eps": 1e-6}}),
    "qwen2": dict(
        model=hf.Qwen2VLForConditionalGeneration, tokenizer=qwen_tokenizer, chat=QWEN, names=old_qwen,
        dtype=torch.bfloat16, eos="<|im_end|>", image="<|image_pad|>", make=qwen_processor,
        processor=qwen_file(5, 2, 19),
        config={"model_type": "qwen2_vl", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "hidden_act": "silu", "hidden_size": 36, "intermediate_size": 44, "num_attention_heads": 3,
                "num_key_value_heads": 1, "num_hidden_layers": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
                "rope_theta": 1e6, "sliding_window": 64, "use_sliding_window": False, "max_window_layers": 2,
                "tie_word_embeddings": True, "rope_scaling": MROPE, "vocab_size": "V",
                "vision_config": {"depth": 2, "embed_dim": 24, "mlp_ratio": 2, "num_heads": 3, "in_chans": 3,
                                  "hidden_size": 36, "patch_size": 5, "spatial_merge_size": 2, "spatial_patch_size": 5,
                                  "temporal_patch_size": 2}}),
    "qwen2-nested": dict(
        model=hf.Qwen2VLForConditionalGeneration, tokenizer=qwen_tokenizer, chat=QWEN, names=same, dtype=torch.float32,
        eos="<|im_end|>", image="<|image_pad|>", jinja=True, make=qwen_processor,
        processor=qwen_file(4, 3, 23),
        config={"model_type": "qwen2_vl", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "tie_word_embeddings": False,
                "text_config": {"model_type": "qwen2_vl_text", "hidden_size": 24, "intermediate_size": 36,
                                "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2,
                                "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "vocab_size": "V",
                                "layer_types": ["full_attention"] * 2,
                                "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [3, 1, 2]}},
                "vision_config": {"model_type": "qwen2_vl_vision", "depth": 2, "embed_dim": 16, "mlp_ratio": 3,
                                  "num_heads": 2, "in_channels": 3, "hidden_size": 24, "hidden_act": "gelu",
                                  "patch_size": 4, "spatial_merge_size": 3, "temporal_patch_size": 2}}),
    "qwen2.5": dict(
        model=hf.Qwen2_5_VLForConditionalGeneration, tokenizer=qwen_tokenizer, chat=QWEN, names=old_qwen, shards=2,
        dtype=torch.bfloat16, eos="<|im_end|>", image="<|image_pad|>", make=qwen_processor,
        processor=qwen_file(4, 2, 40),
        config={"model_type": "qwen2_5_vl", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "hidden_act": "silu", "hidden_size": 36, "intermediate_size": 44, "num_attention_heads": 3,
                "num_key_value_heads": 1, "num_hidden_layers": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
                "rope_theta": 1e6, "sliding_window": 64, "use_sliding_window": False, "max_window_layers": 2,
                "tie_word_embeddings": False, "rope_scaling": MROPE, "vocab_size": "V",
                "vision_config": {"depth": 3, "hidden_size": 24, "intermediate_size": 20, "num_heads": 3, "in_chans": 3,
                                  "out_hidden_size": 36, "hidden_act": "silu", "patch_size": 4, "spatial_merge_size": 2,
                                  "temporal_patch_size": 2, "window_size": 24, "fullatt_block_indexes": [1],
                                  "tokens_per_second": 2}}),
    "qwen2.5-nested": dict(
        model=hf.Qwen2_5_VLForConditionalGeneration, tokenizer=qwen_tokenizer, chat=QWEN, names=same,
        dtype=torch.bfloat16, eos="<|im_end|>", image="<|image_pad|>", jinja=True,
        make=qwen_processor, processor=qwen_file(5, 2, 30),
        config={"model_type": "qwen2_5_vl", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "tie_word_embeddings": True,
                "text_config": {"model_type": "qwen2_5_vl_text", "hidden_size": 40, "intermediate_size": 28,
                                "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
                                "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "vocab_size": "V",
                                "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                                                    "original_max_position_embeddings": 24, "mrope_section": [1, 2, 2]}},
                "vision_config": {"model_type": "qwen2_5_vl_vision", "depth": 2, "hidden_size": 16,
                                  "intermediate_size": 22, "num_heads": 2, "in_channels": 3, "out_hidden_size": 40,
                                  "patch_size": 5, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 29,
                                  "fullatt_block_indexes": [0]}}),
    "smolvlm": dict(
        model=hf.Idefics3ForConditionalGeneration, tokenizer=smolvlm_tokenizer, chat=SMOLVLM, names=same,
        dtype=torch.bfloat16, eos="<end_of_utterance>", image="<image>", rows=4,
        make=smolvlm_processor(hf.Idefics3ImageProcessorPil),
        processor=smolvlm_file(72, 24, "Idefics3ImageProcessor", True),
        config={"model_type": "idefics3", "image_token_id": "<image>", "scale_factor": 3, "tie_word_embeddings": False,
                "pad_token_id": 128002, "vocab_size": "V",
                "text_config": {"model_type": "llama", "hidden_size": 36, "intermediate_size": 44,
                                "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 4, "num_hidden_layers": 2,
                                "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 100000,
                                "vocab_size": "V", "pixel_shuffle_factor": 3, "tie_word_embeddings": False},
                "vision_config": {"model_type": "idefics3", "hidden_size": 20, "image_size": 24, "intermediate_size": 28,
                                  "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 4,
                                  "max_image_size": {"longest_edge": 24}, "size": {"longest_edge": 72}}}),
    "smolvlm2": dict(
        model=hf.SmolVLMForConditionalGeneration, tokenizer=smolvlm_tokenizer, chat=SMOLVLM, names=same,
        dtype=torch.float16, eos="<end_of_utterance>", image="<image>", rows=16, jinja=True,
        make=smolvlm_processor(hf.SmolVLMImageProcessorPil),
        processor=smolvlm_file(64, 32, "SmolVLMImageProcessor", False),
        config={"model_type": "smolvlm", "image_token_id": "<image>", "scale_factor": 2, "tie_word_embeddings": True,
                "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 40,
                                "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
                                "max_position_embeddings": 512, "vocab_size": "V",
                                "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
                "vision_config": {"model_type": "smolvlm_vision", "hidden_size": 12, "image_size": 32,
                                  "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 2,
                                  "patch_size": 4}}),
}

IMAGES = {"square": (40, 40), "wide": (61, 34), "tall": (19, 83), "small": (9, 7)}


def make_images():
    os.makedirs(f"{ROOT}/images", exist_ok=True)
    for k, (name, (w, h)) in enumerate(IMAGES.items()):
        y, x = np.mgrid[0:h, 0:w]
        wave = [127 + 120 * np.sin(x / (2 + c + k) + y * (1 + c) / 9) for c in range(3)]
        Image.fromarray(np.stack(wave, -1).astype(np.uint8)).save(f"{ROOT}/images/{name}.png", optimize=True)


def text(words):
    return {"type": "text", "text": words}


PICTURE = {"type": "image"}
PROMPTS = [
    (["wide"], [("user", [PICTURE, text("What is it?")])]),
    (["tall", "square", "small"], [("user", [PICTURE, text("a card, "), PICTURE, PICTURE, text("9 cards: which?")])]),
    ([], [("user", [text("Hello  world 12")]), ("assistant", [text("It's 3")]), ("user", [text("é?\nok")])]),
]

# ---- making one ----


def filled(value, ids):
    """The configuration with ids and sizes of the vocabulary in place."""
    if isinstance(value, dict):
        return {k: filled(v, ids) for k, v in value.items()}
    return ids.get(value, value) if isinstance(value, str) else value


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if ("norm" in name or "ln_q" in name) and name.endswith("weight"):
            p.data = 1 + 0.1 * noise
        elif p.dim() >= 2 and "embed_tokens" not in name and "position" not in name:
            p.data = 1.2 * noise / p[0].numel() ** 0.5
        else:
            p.data = 0.3 * noise


def write_weights(folder, case, model):
    state = {case["names"](n): p.detach().to(case["dtype"]).contiguous() for n, p in model.named_parameters()}
    shards, keys = case.get("shards", 1), sorted(state)
    if shards == 1:
        return save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
    index = {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: state[n] for n in keys[k::shards]}, f"{folder}/{file}", {"format": "pt"})
        index.update({n: file for n in keys[k::shards]})
    total = sum(t.numel() * t.element_size() for t in state.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": index},
              open(f"{folder}/model.safetensors.index.json", "w"), indent=1)


def write_files(folder, case):
    t = case["tokenizer"]()
    json.dump(t, open(f"{folder}/tokenizer.json", "w"), ensure_ascii=False, separators=(",", ":"))
    ids = {a["content"]: a["id"] for a in t["added_tokens"]}
    ids["V"] = (max(max(ids.values()), max(t["model"]["vocab"].values())) + 8) // 8 * 8
    config = filled(case["config"], ids)
    json.dump(config, open(f"{folder}/config.json", "w"), indent=1)
    json.dump({"eos_token_id": ids[case["eos"]]}, open(f"{folder}/generation_config.json", "w"))
    json.dump(case["processor"], open(f"{folder}/preprocessor_config.json", "w"), indent=1)
    if case.get("jinja"):
        open(f"{folder}/chat_template.jinja", "w").write(case["chat"])
    else:
        json.dump({"chat_template": case["chat"]}, open(f"{folder}/chat_template.json", "w"))
    fast = hf.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", eos_token=case["eos"],
                                      pad_token=case["eos"])
    fast.image_token, fast.image_token_id = case["image"], ids[case["image"]]
    return config, ids, fast


def write_prompts(case, processor, fast, ids):
    g = torch.Generator().manual_seed(5)
    prompts = []
    for names, turns in PROMPTS:
        messages = [{"role": role, "content": content} for role, content in turns]
        words = fast.apply_chat_template(messages, chat_template=case["chat"], add_generation_prompt=True, tokenize=False)
        images = [Image.open(f"{ROOT}/images/{n}.png") for n in names]
        data = processor(images=images, text=words, return_tensors="pt") if images else \
            fast(words, return_tensors="pt", return_token_type_ids=False)
        data = {k: v for k, v in data.items() if k not in ("attention_mask", "token_type_ids")}
        answer = fast(ANSWER, add_special_tokens=False)["input_ids"] + [ids[case["eos"]]]
        prompts.append(dict(messages=messages, text=words, images=names, data=data, ids=data.pop("input_ids")[0].tolist(),
                            answer=answer, weights=torch.rand(len(answer), generator=g) * 2 - 0.7))
    return prompts


def run(model, case, p, ids):
    more = {k: v for k, v in p["data"].items() if k != "mm_token_type_ids"}
    if "image_grid_thw" in more:
        more["mm_token_type_ids"] = (torch.tensor([ids]) == model.config.image_token_id).int()
    return model(input_ids=torch.tensor([ids]), **more).logits[0].float()


def logprobs(model, case, p):
    logits, n = run(model, case, p, p["ids"] + p["answer"]), len(p["ids"])
    return logits, torch.log_softmax(logits[n - 1:-1], -1).gather(1, torch.tensor(p["answer"])[:, None])[:, 0]


def greedy(model, case, p, banned):
    ids = list(p["ids"])
    with torch.no_grad():
        for _ in range(GREEDY):
            logits = run(model, case, p, ids)[-1]
            logits[banned] = -torch.inf
            best = logits.topk(2).values
            if best[0] - best[1] < 2e-3:
                return None
            ids.append(int(logits.argmax()))
    return ids[len(p["ids"]):]


def gradients(model, case, prompts):
    model.zero_grad()
    losses = []
    for p in prompts:
        loss = -(logprobs(model, case, p)[1] * p["weights"]).sum()
        loss.backward()
        losses.append(float(loss.detach()))
    return losses


def adapter(folder, model, case, prompts):
    torch.manual_seed(3)
    targets = r".*\.(q_proj|v_proj|down_proj|linear_1|qkv|proj|fc1|up_proj)"
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, exclude_modules=r".*(patch_embed|patch_embedding).*",
                        rank_pattern={"layers.1.mlp.down_proj": 2}, task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    for name, p in peft.named_parameters():
        if "lora_B" in name:
            p.data = 0.2 * torch.randn(p.shape)
    losses = gradients(peft, case, prompts)
    grads = {n.replace(".default", ""): p.grad for n, p in peft.named_parameters() if p.grad is not None and "lora_" in n}
    peft.peft_config["default"].base_model_name_or_path = ".."
    peft.save_pretrained(f"{folder}/adapter")
    os.remove(f"{folder}/adapter/README.md")
    logps = {f"adapter.p{k}.logprobs": logprobs(peft, case, p)[1].detach() for k, p in enumerate(prompts)}
    peft.unload()
    return losses, figures(grads), logps


def load(folder, case):
    model, info = case["model"].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{folder}: {kind}: {info[kind]}"
    return model.eval()


def attempt(folder, case, seed):
    """One seed; None where a greedy step is too close to be compared."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config, ids, fast = write_files(folder, case)
    fresh = case["model"](case["model"].config_class(**config))
    randomise(fresh, seed)
    fresh.tie_weights()
    write_weights(folder, case, fresh)
    model = load(folder, case)
    prompts = write_prompts(case, case["make"](case, fast, case["chat"]), fast, ids)
    out = {}
    for k, p in enumerate(prompts):
        drawn = greedy(model, case, p, ids[case["image"]])
        if drawn is None:
            return None
        logits, logp = logprobs(model, case, p)
        out.update({f"p{k}.ids": torch.tensor(p["ids"]), f"p{k}.answer": torch.tensor(p["answer"]),
                    f"p{k}.weights": p["weights"], f"p{k}.logprobs": logp.detach(), f"p{k}.greedy": torch.tensor(drawn),
                    f"p{k}.logits": logits.detach().flip(0)[::EVERY].contiguous()})
    losses = gradients(model, case, prompts)
    grads = figures({case["names"](n): p.grad for n, p in model.named_parameters() if p.grad is not None})
    adapter_losses, adapter_grads, logps = adapter(folder, model, case, prompts)
    save_file({**out, **logps}, f"{folder}/golden.safetensors")
    facts = [{"messages": p["messages"], "text": p["text"], "images": p["images"],
              **({"pixels": [*figures({"x": p["data"]["pixel_values"]})["x"], p["data"]["pixel_values"].numel()]}
                 if p["images"] else {})} for p in prompts]
    json.dump({"prompts": facts, "answer": ANSWER, "every": EVERY, "losses": losses, "gradients": grads,
               "adapter_losses": adapter_losses, "adapter_gradients": adapter_grads},
              open(f"{folder}/golden.json", "w"), indent=1, ensure_ascii=False)
    return [len(p["ids"]) for p in prompts]


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_images()
    for name in sys.argv[1:] or CASES:
        for seed in range(1, 40):
            lengths = attempt(f"{ROOT}/{name}", CASES[name], seed)
            if lengths:
                print(f"{name}: seed {seed}, prompts of {lengths} tokens")
                break
