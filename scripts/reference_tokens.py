#!/usr/bin/env python3
"""Token ids by the libraries `tokenizers` and `sentencepiece`: the figures in tests/data/reference,
which tests/data/reference_test.cpp compares with.

usage: reference_tokens.py DATA_DIR tests/data/reference

Writes ids.json (ids of difficult strings, count and CRC-32 of the ids of whole texts), pieces.bin
(a vocabulary of sentencepiece in the form of llama2.c) and pieces.json (the same learned by
`tokenizers`, in the form of Llama 2). Special tokens are taken for plain text.
"""
import glob
import io
import json
import os
import struct
import sys
import zlib

import sentencepiece
import tokenizers
from tokenizers import BertWordPieceTokenizer, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

STRINGS = [
    "", " ", "\n", "\r\n", "  \r\n\r\n  ", "a", "Hello, World!", "It's  they'LL\tI\u2019m we'Ve 'S 's",
    "unaffable na\u00efve caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u0130stanbul stra\u00dfe \u1e9e \u01c5",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 \U00020000x",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f ok\U0001f44d\U0001f3fd",
    "e\u0301\u0301\u0323 \u0323a\u0308\u0327 Z\u0351\u036b\u0343\u036a\u0302 \u0915\u094d\u0937\u093f",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u03a3",
    "\x00\x01\x02\x07\x1b[0m\x7f\x80\x85\x9f a\x00b\ufffdc", "\u200b\u200c\u200d\u2060\ufeff\u00ad soft\u00adhyphen\u202e",
    "1234567890 3.14159 1,000,000 \u0661\u0662\u0663 \u00bd\u00b2\u2163 \u2460 12a34",
    "\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000x\u3000\u3000y \v\f z",
    "def f(x):\n    return x**2  # comment\n\n\n\tif (a!=b) {++i;}\r\n", "!!!???...\n\n\n--==>>  <|endoftext|> [CLS] <s> [UNK]",
    "http://example.com/a_b?c=d&e=%20f#g user@mail.org \\u0041 $5.00 \u20ac\u00a35 \u2260\u037e\u1fef`",
    "x" * 100, "x" * 101, " " * 17 + "y" + " " * 3, "ab" * 300, "\u0e01" * 101, "\uf900\ufa1f\u3007\u3105\uac00",
    "\ud7a3\u1112\u1161\u11ab \u01f0\u1f71\u0390 \ufb01 \u2126\u212b \U0001d400\U0001d7d8 \U0010fffd\ue000",
    "tab\tsep\t\tend\t", "trailing space ", "\n\n\nleading", "a\n\nb\n \nc \n d", "can't won\u2019t o'clock 'tis rock'n'roll",
]


def crc(ids):
    return zlib.crc32(" ".join(map(str, ids)).encode())


def gpt2(data):
    path = os.path.join(data, "safetensors_small/tiny_gpt2_vocab50257/tokenizer.json")
    return json.load(open(path, encoding="utf8"))


def llama3(data):
    """GPT-2's vocabulary, cut as Llama 3 does it."""
    j = gpt2(data)
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    j["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    j["model"]["ignore_merges"] = True
    return j


def llama2(text, out):
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False))
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    json.dump(j, open(os.path.join(out, "pieces.json"), "w", encoding="utf8"), ensure_ascii=False, separators=(",", ":"))
    return j


def sentences(text, out):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text[:300000].split("\n")), model_writer=model, vocab_size=512, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    p = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [p.id_to_piece(i).replace("\u2581", " ") for i in range(p.vocab_size())]
    pieces[1:3] = ["\n<s>\n", "\n</s>\n"]
    pieces = [piece.encode() for piece in pieces]
    with open(os.path.join(out, "pieces.bin"), "wb") as f:
        f.write(struct.pack("<i", max(map(len, pieces))))
        for i, piece in enumerate(pieces):
            f.write(struct.pack("<fi", p.get_score(i), len(piece)) + piece)
    return p


def main(data, out):
    os.makedirs(out, exist_ok=True)
    read = lambda path: open(path, encoding="utf8", newline="").read()
    texts = {name: read(os.path.join(data, name)) for name in ("tiny_shakespeare/input.txt",)}
    for pattern in ("wikitext2/wiki.*", "long_texts/*.txt"):
        for path in sorted(glob.glob(os.path.join(data, pattern))):
            texts[os.path.relpath(path, data)] = read(path)
    shakespeare = texts["tiny_shakespeare/input.txt"]
    encoders = {}
    for name, j in (("gpt2", gpt2(data)), ("llama3", llama3(data)), ("llama2", llama2(shakespeare, out))):
        t = Tokenizer.from_str(json.dumps(j))
        t.encode_special_tokens = True
        encoders[name] = lambda s, t=t: t.encode(s, add_special_tokens=False).ids
    bert = BertWordPieceTokenizer(os.path.join(data, "tokenizer_bert/vocab.txt"), lowercase=True)
    bert._tokenizer.encode_special_tokens = True
    encoders["wordpiece"] = lambda s: bert.encode(s, add_special_tokens=False).ids
    encoders["sentencepiece"] = sentences(shakespeare, out).encode
    report = {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__, "strings": [], "texts": []}
    for s in STRINGS:
        report["strings"].append({"hex": s.encode().hex(), **{n: e(s) for n, e in encoders.items()}})
    for name, text in texts.items():
        entry = {"file": name}
        for n, e in encoders.items():
            if n in ("llama2", "sentencepiece") and len(text) > 1500000:
                continue  # no pieces: slow there
            ids = e(text)
            entry[n] = [len(ids), crc(ids)]
        report["texts"].append(entry)
    rows = {k: v if isinstance(v, str) else [json.dumps(r, separators=(",", ":")) for r in v] for k, v in report.items()}
    with open(os.path.join(out, "ids.json"), "w", encoding="utf8") as f:
        f.write(f'{{"tokenizers": "{rows["tokenizers"]}", "sentencepiece": "{rows["sentencepiece"]}",\n')
        f.write('"strings": [\n' + ",\n".join(rows["strings"]) + '],\n"texts": [\n' + ",\n".join(rows["texts"]) + "]}\n")


main(sys.argv[1], sys.argv[2])
