#!/usr/bin/env python3
"""Writes spm.json: a small SentencePiece BPE model of our own, piece by piece, and what the sentencepiece library and
Hugging Face's tokenizers make of hard text with it. Usage: make_spm.py OUT.json (sentencepiece 0.2.3, tokenizers 0.23.3)"""
import io
import json
import random
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import generate_merges

CORPUS = """The dealer turns a card and the number on it decides. Hello world, hello cards! It's late; we'll play.
{"cards": [7, 10, 2, 3], "formula": "7+10", "thoughts": "7 and 10 are 17", "action": "hit"} {"action": "stand"}
Der Mann ärgert sich über die Straße, naïve façade, déjà vu, São Paulo, smörgåsbord, español mañana.
日本語のテキスト カード 数字 中文卡片 数字游戏 한국어 카드 게임 Привет мир карта число aaaa aaa aa a aaaaaaaa      ====== ---- ....
words word two words three words   many    spaces, tabs\tand newlines 1 22 333 4444 3.14 (5+7)*2=24 !!! ... ??? -- <> == != 😀 🎲
"""


def train():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.split("\n") * 4), model_writer=out, model_type="bpe", vocab_size=560, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.98,
        allow_whitespace_only_pieces=True, user_defined_symbols=["<image>"], hard_vocab_limit=False, minloglevel=2)
    return out.getvalue()


def texts():
    r = random.Random(5)
    words = CORPUS.split() + ["aaaaa", "aa aaaa", "日本", "字字字", "ﬁ", "e\u0301", "\u00a0", "\u3000", "ſ", "\x00", "👨‍👩‍👧", "▁", "▁▁", "\n\n", "\r\n", "\t"]
    yield from ["", " ", "  ", "a", " a", "  a", "a ", "\n", "<0x0A>", "<unk>", "aaaaaaaaaaaaaaaaa", "     x", "▁x", "<image>", "a<image>b", " <image> "]
    for _ in range(150):
        yield "".join(r.choice(words) + r.choice(["", " ", " ", "  ", "\n", "   "]) for _ in range(r.randrange(1, 30)))


def converted(m, legacy):
    vocab = {p.piece: i for i, p in enumerate(m.pieces)}
    skip = {p.piece for p in m.pieces if p.type not in (1, 4)}
    merges = generate_merges(vocab, {p.piece: p.score for p in m.pieces}, skip_tokens=skip)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    t.add_tokens([AddedToken(p.piece, normalized=False, special=p.type != 4) for p in m.pieces if p.type in (2, 3, 4)])
    t.add_tokens([AddedToken("<pad>", normalized=False, special=True), AddedToken("<x>", lstrip=True, rstrip=True, normalized=False)])
    return t


def main():
    data = train()
    m = proto.ModelProto.FromString(data)
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    old, new = converted(m, True), converted(m, False)
    plain = [t for t in texts() if not any(c in t for c in ("<unk>", "<s>", "</s>", "<image>", "\x00"))]
    marked = list(texts()) + ["<s>a", "a</s> b", "x <x>  y", "<pad><pad>", " <s> x"]
    ids = sp.encode("Hello 日本 ärgert 😀")
    out = {"pieces": [[p.piece, p.score, p.type] for p in m.pieces], "spm": [[t, sp.encode(t)] for t in plain],
           "legacy": [[t, old.encode(t).ids] for t in marked], "new": [[t, new.encode(t).ids] for t in marked],
           "decode": [[ids, sp.decode(ids)]]}
    lines = [json.dumps(k) + ": [\n" + ",\n".join(json.dumps(x, ensure_ascii=False) for x in v) + "]" for k, v in out.items()]
    with open(sys.argv[1], "w") as f:
        f.write("{" + ",\n".join(lines) + "}\n")
    print(len(m.pieces), "pieces,", sum(len(v) for v in out.values()) - len(m.pieces), "cases")


main()
