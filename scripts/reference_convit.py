#!/usr/bin/env python3
"""Logits of a small ConViT by timm: the figures of tests/models/exchange_test.cpp.

usage: reference_convit.py

Element i of the tensor at place t of the names in order is noise(i, t) below, that of the images
noise(i, 1000).
"""
import timm
import torch

ARGUMENTS = dict(img_size=16, patch_size=4, num_classes=5, embed_dim=6, num_heads=4, depth=4, local_up_to_layer=3,
                 mlp_ratio=2.0)


def noise(like, t):
    x = torch.sin(12.9898 * torch.arange(like.numel(), dtype=torch.float64) + 78.233 * t) * 43758.5453
    return (x - torch.floor(x) - 0.5).to(torch.float32).reshape(like.shape)


def main():
    model = timm.create_model("convit_tiny", pretrained=False, **ARGUMENTS).eval()
    state = model.state_dict()
    for t, name in enumerate(sorted(state)):
        state[name].copy_(noise(state[name], t))
    images = noise(torch.empty(2, 3, 16, 16), 1000)
    with torch.no_grad():
        logits = model(images)
    print("timm", timm.__version__, len(state), "tensors")
    print(", ".join(f"{v:.6f}" for v in logits.flatten().tolist()))


main()
