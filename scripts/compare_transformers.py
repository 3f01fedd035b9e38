#!/usr/bin/env python3
"""Compares tessera with the transformers library: random models made there, imported here, and back.

usage: compare_transformers.py PROGRAM WORK_DIR [--device cuda:0] [--figures FILE]

For each model: logits of the imported run against transformers' in f32 (largest difference),
200 tokens continued greedily, and logits of transformers' after `tessera export`, which must be the
same to the bit. Prints a table; exit code 1 when a difference is above 1e-4 or a token differs.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (DeiTConfig, DeiTForImageClassificationWithTeacher, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, ViTConfig, ViTForImageClassification)

TOLERANCE = 1e-4
LLAMA = dict(vocab_size=256, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=8,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=None, pad_token_id=None)
VIT = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=32,
           patch_size=8, num_labels=7)


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **changes}))


def rope(kind, **more):
    return dict(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **more},
                rope_scaling={"rope_type": kind, **more})


MODELS = {
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=64, n_layer=3, n_head=4, n_positions=512,
                                                bos_token_id=0, eos_token_id=None)),
    "GPT-2, exact GELU, untied": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=256, n_embd=48, n_layer=2, n_head=3, n_inner=100, n_positions=512, activation_function="gelu",
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=None)),
    "Llama, 8 heads on 2": lambda: llama(),
    "Llama, tied, biases, head_dim 12": lambda: llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                                      head_dim=12, num_key_value_heads=4),
    "Llama, one key head, linear scaling": lambda: llama(num_key_value_heads=1, **rope("linear", factor=4.0)),
    "Llama, llama3 scaling": lambda: llama(**rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                  original_max_position_embeddings=64)),
    "Llama, yarn scaling": lambda: llama(**rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    "ViT": lambda: ViTForImageClassification(ViTConfig(**VIT)),
    "ViT, grey, tanh GELU": lambda: ViTForImageClassification(ViTConfig(
        **{**VIT, "num_channels": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-6})),
    "DeiT with teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT)),
}


def spread(model):
    """Weights large enough that logits differ and nothing hides in near-zero activations."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() < 2:
                p.add_(torch.randn_like(p) * 0.1)
            else:
                p.copy_(torch.randn_like(p) * (1.5 / p.shape[-1] ** 0.5))


def call(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def inputs_of(model, rows):
    torch.manual_seed(2)
    c = model.config
    if hasattr(c, "image_size"):
        return {"images": torch.randn(rows, c.num_channels, c.image_size, c.image_size)}
    return {"tokens": torch.randint(0, c.vocab_size, (rows, 40))}


@torch.no_grad()
def answer(model, inputs):
    model.eval()
    if "images" in inputs:
        return model(pixel_values=inputs["images"]).logits
    return model(input_ids=inputs["tokens"]).logits


@torch.no_grad()
def continued(model, tokens, count):
    """Greedy by hand, one row at a time: no settings of generate() in between."""
    rows = []
    for row in tokens:
        ids, past, new = row[None], None, []
        for _ in range(count):
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            new.append(ids.item())
        rows.append(new)
    return torch.tensor(rows)


def reload(folder, like):
    return type(like).from_pretrained(folder, dtype=torch.float32)


def store(model, folder, dtype, sharded):
    """The model of the stored weights, read again: `to(dtype)` rounds what no file holds as well, such
    as the frequencies of rotary positions, and `to(float32)` does not undo that."""
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB" if sharded else "5GB")
    return reload(folder, model)


def compare(name, make, o, variant):
    torch.manual_seed(1)
    model = make()
    spread(model)
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(variant, torch.float32)
    place = os.path.join(o.work, "".join(ch if ch.isalnum() else "_" for ch in f"{name} {variant}"))
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    at = lambda leaf: os.path.join(place, leaf)
    model = store(model, at("theirs"), dtype, variant == "sharded")
    files = len([f for f in os.listdir(at("theirs")) if f.endswith(".safetensors")])
    call(o.program, "import", at("theirs"), "--run", at("run"))
    inputs = inputs_of(model, o.rows)
    save_file(inputs, at("in.safetensors"))
    greedy = 200 if "tokens" in inputs else 0
    wanted = answer(model, inputs)
    row = {"model": name, "stored": variant, "files": files, "largest logit": wanted.abs().max().item()}
    ours = {}
    for device in ["cpu"] + ([o.device] if o.device else []):
        call(o.program, "logits", at("run"), at("in.safetensors"), at("out.safetensors"), "--greedy", greedy,
             "--device", device)
        ours = load_file(at("out.safetensors"))
        row[f"difference on {device}"] = (ours["logits"] - wanted).abs().max().item()
        if greedy:
            same = ours["greedy"] == continued(model, inputs["tokens"], greedy)
            row[f"greedy on {device}"] = f"{int(same.sum())} of {same.numel()}"
    call(o.program, "export", at("run"), at("back"))
    again = answer(reload(at("back"), model), inputs)
    row["after export"] = (again - wanted).abs().max().item()
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("work")
    parser.add_argument("--device", default="")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--figures", default="")
    o = parser.parse_args()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for name, make in MODELS.items():
        for variant in ["f32"] + (["sharded", "f16", "bf16"] if name in ("GPT-2", "Llama, 8 heads on 2", "ViT") else []):
            rows.append(compare(name, make, o, variant))
            print(rows[-1], file=sys.stderr)
    keys = list(dict.fromkeys(k for r in rows for k in r))
    show = lambda v: f"{v:.1e}" if isinstance(v, float) and v < 1e-2 else f"{v:.3g}" if isinstance(v, float) else str(v)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| " + " | ".join(keys) + " |")
    print("|" + " --- |" * len(keys))
    bad = []
    for r in rows:
        print("| " + " | ".join(show(r.get(k, "")) for k in keys) + " |")
        for k, v in r.items():
            if k.startswith("difference") and v > TOLERANCE or k == "after export" and v != 0:
                bad.append((r["model"], r["stored"], k, v))
            if k.startswith("greedy") and v.split(" of ")[0] != v.split(" of ")[1]:
                bad.append((r["model"], r["stored"], k, v))
    if o.figures:
        json.dump(rows, open(o.figures, "w"), indent=1)
    for b in bad:
        print("not equal:", *b)
    sys.exit(1 if bad else 0)


main()
