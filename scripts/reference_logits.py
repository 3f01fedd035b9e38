#!/usr/bin/env python3
"""Logits of two small checkpoints by the formulas alone, without any library: the figures that
tests/models/exchange_test.cpp compares with.

usage: reference_logits.py DATA_DIR      (a folder with llama2c_stories260k and safetensors_small)
"""
import array
import json
import math
import os
import struct
import sys


def product(matrix, x):  # (out, in) rows times a vector
    return [sum(w * v for w, v in zip(row, x)) for row in matrix]


def add(a, b):
    return [x + y for x, y in zip(a, b)]


def softmax(scores):
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    total = sum(powers)
    return [p / total for p in powers]


def attend(query, keys, values):
    """One head: softmax(q k / sqrt(D)) v."""
    weights = softmax([sum(a * b for a, b in zip(query, k)) / math.sqrt(len(query)) for k in keys])
    return [sum(w * v[i] for w, v in zip(weights, values)) for i in range(len(values[0]))]


def parts(x, size):
    return [x[i:i + size] for i in range(0, len(x), size)]


class Stories:
    """llama2.c, version 0."""

    def __init__(self, path):
        data = open(path, "rb").read()
        self.dim, hidden, self.depth, self.heads, self.kv, vocabulary, _ = struct.unpack("7i", data[:28])
        self.numbers = array.array("f", data[28:])
        self.at = 0
        size = self.dim // self.heads
        layers = lambda rows, columns: [self.matrix(rows, columns) for _ in range(self.depth)]
        self.embedding = self.matrix(vocabulary, self.dim)
        self.norm1 = self.matrix(self.depth, self.dim)
        self.wq, self.wk = layers(self.dim, self.dim), layers(self.kv * size, self.dim)
        self.wv, self.wo = layers(self.kv * size, self.dim), layers(self.dim, self.dim)
        self.norm2 = self.matrix(self.depth, self.dim)
        self.w1, self.w2 = layers(hidden, self.dim), layers(self.dim, hidden)
        self.w3 = layers(hidden, self.dim)
        self.norm = self.matrix(1, self.dim)[0]
        self.cache = [([], []) for _ in range(self.depth)]
        self.position = 0

    def matrix(self, rows, columns):
        begin, self.at = self.at, self.at + rows * columns
        return parts(list(self.numbers[begin:self.at]), columns)

    def rms(self, x, gain):
        scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-5)
        return [v * scale * g for v, g in zip(x, gain)]

    def turn(self, head):
        out = list(head)
        for i in range(0, len(head), 2):
            angle = self.position * 10000 ** (-i / len(head))
            c, s = math.cos(angle), math.sin(angle)
            out[i] = head[i] * c - head[i + 1] * s
            out[i + 1] = head[i] * s + head[i + 1] * c
        return out

    def logits(self, token):
        x, size = self.embedding[token], self.dim // self.heads
        for l in range(self.depth):
            u = self.rms(x, self.norm1[l])
            q = [self.turn(h) for h in parts(product(self.wq[l], u), size)]
            keys, values = self.cache[l]
            keys.append([self.turn(h) for h in parts(product(self.wk[l], u), size)])
            values.append(parts(product(self.wv[l], u), size))
            merged = []
            for h in range(self.heads):
                g = h // (self.heads // self.kv)
                merged += attend(q[h], [k[g] for k in keys], [v[g] for v in values])
            x = add(x, product(self.wo[l], merged))
            u = self.rms(x, self.norm2[l])
            gate, up = product(self.w1[l], u), product(self.w3[l], u)
            x = add(x, product(self.w2[l], [a / (1 + math.exp(-a)) * b for a, b in zip(gate, up)]))
        self.position += 1
        return product(self.embedding, self.rms(x, self.norm))


class Gpt2:
    """One block, one head: all that the small checkpoints have."""

    def __init__(self, path):
        data = open(path, "rb").read()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        self.tensors = {}
        for name, t in header.items():
            if name == "__metadata__":
                continue
            begin, end = t["data_offsets"]
            numbers = list(array.array("f", data[8 + length + begin:8 + length + end]))
            matrix = parts(numbers, t["shape"][1]) if len(t["shape"]) == 2 else numbers
            self.tensors[name.replace("transformer.", "").replace("h.0.", "")] = matrix
        self.cache = ([], [])

    def affine(self, x, name):  # stored (in, out)
        return add(product(zip(*self.tensors[name + ".weight"]), x), self.tensors[name + ".bias"])

    def norm(self, x, name):
        mean = sum(x) / len(x)
        scale = 1 / math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
        gain, bias = self.tensors[name + ".weight"], self.tensors[name + ".bias"]
        return [(v - mean) * scale * g + b for v, g, b in zip(x, gain, bias)]

    def logits(self, token):
        x = add(self.tensors["wte.weight"][token], self.tensors["wpe.weight"][len(self.cache[0])])
        q, k, v = parts(self.affine(self.norm(x, "ln_1"), "attn.c_attn"), len(x))
        self.cache[0].append(k)
        self.cache[1].append(v)
        x = add(x, self.affine(attend(q, *self.cache), "attn.c_proj"))
        h = self.affine(self.norm(x, "ln_2"), "mlp.c_fc")
        h = [0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a ** 3))) for a in h]
        x = add(x, self.affine(h, "mlp.c_proj"))
        return product(self.tensors["wte.weight"], self.norm(x, "ln_f"))


def show(name, numbers):
    print(name, ", ".join(f"{v:.6f}" for v in numbers))


def main(folder):
    stories = Stories(os.path.join(folder, "llama2c_stories260k/stories260K.bin"))
    token, ids, loss = 1, [], 0.0
    for step in range(60):
        logits = stories.logits(token)
        if step in (0, 40):
            show(f"stories, token {step}, first logits:", logits[259:267])
        token = max(range(len(logits)), key=lambda i: logits[i])
        loss -= math.log(softmax(logits)[token])
        ids.append(token)
    print("stories, greedy ids from 1:", ids)
    print(f"stories, mean loss of these: {loss / len(ids):.6f}")
    for name, tokens in (("micro", [47, 35, 32, 71, 30]), ("vocab50257", [1169, 3797, 3332])):
        model = Gpt2(os.path.join(folder, f"safetensors_small/tiny_gpt2_{name}/model.safetensors"))
        for token in tokens:
            logits = model.logits(token)
        show(f"{name}, after {tokens}, first logits:", logits[:8])


main(sys.argv[1])
