#!/usr/bin/env python3
"""Writes tokenizers.json: small vocabularies of our own, variants of their parts, and what Hugging Face's
tokenizers (0.23.3 when the file was made) does with hard text. Usage: make_tokenizers.py OUT.json"""
import copy
import json
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

random.seed(20)

CORPUS = """
The dealer turns a card and the number on it decides. Hello world, hello cards! It's late; we'll play, I'm sure, they've won.
{"cards": [7, 10, 2, 3], "formula": "7+10", "thoughts": "7 and 10 are 17", "action": "hit"} {"action": "stand"} {"action": "+"}
Der Mann ärgert sich über die Straße, naïve façade, déjà vu, crème brûlée, São Paulo, Ångström, smörgåsbord, español mañana.
日本語のテキスト 日本語テキスト カード 数字 中文卡片 数字游戏 한국어 카드 게임 Привет мир карта число Γειά σου κόσμε
words word two words three words   many    spaces
\ttabs and
newlines 1 22 333 4444 3.14 1,000,000 (5+7)*2=24 !!! ... ??? -- <> == != +- */ 😀 👍 🎲🃏
""" * 4

ALPHABET = pre_tokenizers.ByteLevel.alphabet()
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def learn(size, alphabet, pre):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS.split("\n"), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(t.to_str())["model"]
    return model["vocab"], model["merges"]


def tokenizer(model, added, normalizer, pre, post, decoder):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **model}
    return {"version": "1.0", "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": None, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
            "decoder": decoder, "model": model}


def token(content, vocab, taken, **flags):
    t = {"id": vocab.get(content, len(vocab) + len(taken)), "content": content, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True, **flags}
    if content not in vocab:
        taken.append(content)
    return t


def qwen():
    vocab, merges = learn(420, ALPHABET, pre_tokenizers.ByteLevel(add_prefix_space=False))
    taken = []
    added = [token(c, vocab, taken) for c in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    return tokenizer({"vocab": vocab, "merges": [" ".join(m) for m in merges]}, added, {"type": "NFC"},
                     sequence("pretokenizers", split({"Regex": QWEN}), byte_level()), byte_level(), byte_level(True, True))


def llama():
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    learned, merges = learn(380, list("▁abcdefghijklmnopqrstuvwxyz0123456789é日本"), pre)
    order = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + sorted(learned, key=learned.get)
    vocab = {t: i for i, t in enumerate(order)}
    taken = []
    added = [token(c, vocab, taken) for c in ("<unk>", "<s>", "</s>", "<image>", "<pad>")]
    post = {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    decoder = sequence("decoders", {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                       {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    normalizer = sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    return tokenizer({"vocab": vocab, "merges": merges, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
                     added, normalizer, None, post, decoder)


def hard_tokens(base):
    vocab = base["model"]["vocab"]
    taken = [a["content"] for a in base["added_tokens"] if a["content"] not in vocab]
    word = {"special": False, "normalized": True}
    extra = [("<L>", {"lstrip": True}), ("<R>", {"rstrip": True}), ("<LR>", {"lstrip": True, "rstrip": True}),
             ("<L><", {"special": False}), ("word", {"single_word": True}), ("nrm", word), ("two words", {**word, "lstrip": True}),
             ("sw n", {**word, "single_word": True}), ("Ångx", {**word, "rstrip": True, "single_word": True})]
    return base["added_tokens"] + [token(c, vocab, taken, **f) for c, f in extra]


def variants(bases):
    yield "qwen", "qwen", {}
    yield "llama", "llama", {}
    yield "gpt2 with digits", "qwen", {"normalizer": None, "pre_tokenizer": sequence(
        "pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(False, True)), "post_processor": None}
    yield "digit runs, prefix space", "qwen", {"pre_tokenizer": sequence(
        "pretokenizers", {"type": "Digits", "individual_digits": False}, byte_level(True, True))}
    for name in bases:
        yield name + ", added tokens", name, {"added_tokens": hard_tokens(bases[name])}
        yield name + ", ignore_merges", name, {"model.ignore_merges": True}
    for form in ("NFD", "NFKC", "NFKD"):
        yield form, "qwen", {"normalizer": {"type": form}}
    for scheme in ("always", "first", "never"):
        part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": scheme != "first"}
        yield "metaspace " + scheme, "llama", {"normalizer": None, "pre_tokenizer": part, "decoder": part}
    for fuse, fallback in ((True, False), (False, False), (False, True)):
        yield f"fuse_unk {fuse}, byte_fallback {fallback}", "llama", {"model.fuse_unk": fuse, "model.byte_fallback": fallback}
    yield "no unk", "llama", {"model.unk_token": None, "model.byte_fallback": False}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            pattern = {"String": "a "} if invert else {"Regex": r"\s+|\d|^\w"}
            yield f"{behavior}{' inverted' if invert else ''}", "qwen", {"pre_tokenizer": sequence(
                "pretokenizers", split(pattern, behavior, invert), byte_level())}
    yield "strip", "llama", {"normalizer": sequence(
        "normalizers", {"type": "Strip", "strip_left": True, "strip_right": False},
        {"type": "Replace", "pattern": {"String": "ab"}, "content": ""},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})}
    yield "no decoder", "qwen", {"decoder": None}


PARTS = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u180e", "\u0085", "\u200b", "a", "ab", "word", "words", "the", " the",
         "Hello", "nrm", "nrmx", "two words", "é", "e\u0301", "Ångx", "A\u030angx", "日本語", "テキスト", "한국어",
         "\u1112\u1161\u11ab", "😀", "👨\u200d👩", "1", "23", "٣", "½", "Ⅷ", "①", "1a", "'s", "'ſ", "I'm", "'LL", "▁", "Ġ", "<L>",
         "<R>", "<LR>", "<L><", "<s>", "</s>", "<unk>", "<image>", "<|im_start|>", "<|im_end|>", "<0x41>", '{"action": "', '"}',
         "...", "+-*/()=", "\x00", "\x7f", "ﬁ", "İ", "\u0300", "\u0327\u0301", "\uffff", "\U0010ffff", "\u2028", "_", "sw n", "_word",
         "-word-", "ⓐ", "Привет", "ไทย", "x\n", "\n\n\n", "\u0f71\u0f72\u0f74"]


def apply(base, changes):
    d = copy.deepcopy(base)
    for key, value in changes.items():
        where = d["model"] if key.startswith("model.") else d
        where[key.removeprefix("model.")] = value
    return d


def cases(d, count):
    t = Tokenizer.from_str(json.dumps({**d, "truncation": None}))
    n = t.get_vocab_size()
    texts = ["", " ", "a", "Hello world"] + ["".join(random.choice(PARTS) for _ in range(random.choice((2, 5, 12)))) for _ in range(count)]
    encode = [[s, t.encode(s).ids, t.encode(s, add_special_tokens=False).ids] for s in texts]
    for e in encode:
        if e[1] == e[2]:
            e.pop()
    decode = []
    for _ in range(count // 2):
        ids = [random.choice((random.randrange(n), random.randrange(256), n - 1 - random.randrange(6), n + 7))
               for _ in range(random.randrange(1, 9))]
        decode.append([ids, t.decode(ids, skip_special_tokens=False), t.decode(ids, skip_special_tokens=True)])
    return encode, decode


def main():
    bases = {"qwen": qwen(), "llama": llama()}
    out = {"bases": bases, "variants": []}
    for name, base, changes in variants(bases):
        encode, decode = cases(apply(bases[base], changes), 40 if not changes else 24)
        out["variants"].append({"name": name, "base": base, "set": changes, "encode": encode, "decode": decode})
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
