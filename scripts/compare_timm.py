#!/usr/bin/env python3
"""Compares tessera with timm: a small random ConViT made there, imported here, and back.

usage: compare_timm.py PROGRAM WORK_DIR

Prints the largest difference of logits in f32 and that of timm's own after `tessera export`, whose
tensors must be those of timm's model, name by name. Exit code 1 when the first is above 1e-4 or
the second is not 0.
"""
import json
import os
import shutil
import subprocess
import sys

import timm
import torch
from safetensors.torch import load_file, save_file

ARGUMENTS = dict(img_size=16, patch_size=4, num_classes=5, embed_dim=6, num_heads=4, depth=4, local_up_to_layer=3,
                 mlp_ratio=2.0)


def main(program, work):
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(os.path.join(work, "theirs"))
    at = lambda *leaf: os.path.join(work, *leaf)
    call = lambda *arguments: subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(1)
    model = timm.create_model("convit_tiny", pretrained=False, **ARGUMENTS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, at("theirs", "model.safetensors"))
    with open(at("theirs", "config.json"), "w") as file:
        json.dump(dict(architecture="convit_tiny", num_classes=5, model_args=ARGUMENTS,
                       pretrained_cfg=dict(input_size=[3, 16, 16])), file)
    images = torch.randn(2, 3, 16, 16)
    save_file({"images": images}, at("in.safetensors"))
    call("import", at("theirs"), "--run", at("run"))
    call("logits", at("run"), at("in.safetensors"), at("out.safetensors"))
    call("export", at("run"), at("back"))
    with open(at("back", "config.json")) as file:
        config = json.load(file)
    again = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"]).eval()
    again.load_state_dict(load_file(at("back", "model.safetensors")), strict=True)
    with torch.no_grad():
        wanted, exported = model(images), again(images)
    difference = (load_file(at("out.safetensors"))["logits"] - wanted).abs().max().item()
    after = (exported - wanted).abs().max().item()
    print(f"timm {timm.__version__}: difference {difference:.1e} of {wanted.abs().max().item():.2f}, "
          f"after export {after:.1e}")
    sys.exit(difference > 1e-4 or after != 0)


main(*sys.argv[1:])
