#!/usr/bin/env python3
"""Preprocessed images by torchvision on PIL images: the figures in tests/data/reference/images.json,
which tests/data/image_reference_test.cpp compares with.

usage: reference_images.py DATA_DIR tests/data/reference/images.json

Every picture is prepared as evaluation commonly does it, in bytes as torchvision works on files; of
the result a coarse grid of pixels is kept, as bytes.
"""
import json
import os
import sys

import PIL
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, functional as F

PICTURES = [
    "imagenet_samples/n01440764_tench.JPEG", "imagenet_samples/n01740131_night_snake.JPEG",
    "imagenet_samples/n02095889_Sealyham_terrier.JPEG", "kodak/kodim02.png", "pngsuite/basn2c08.png",
    "pngsuite/basn0g08.png",
]
FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC, "nearest": InterpolationMode.NEAREST}
# resize, crop, filter; "stretch" makes both sides equal.
RECIPES = [(256, 224, "bilinear", False), (248, 224, "bicubic", False), (224, 0, "bilinear", True),
           (96, 96, "bicubic", True), (33, 32, "bilinear", False), (600, 601, "bicubic", False)]
STEP = 37


def prepared(image, size, crop, name, stretch):
    image = F.resize(image, [size, size] if stretch else size, FILTERS[name], antialias=True)
    return F.center_crop(image, [crop, crop]) if crop else image


def main(data, out):
    rows = []
    for picture in PICTURES:
        path = os.path.join(data, picture)
        if not os.path.exists(path):
            sys.exit(f"{path} is missing")
        for size, crop, name, stretch in RECIPES:
            image = prepared(Image.open(path).convert("RGB"), size, crop, name, stretch)
            pixels = F.pil_to_tensor(image)
            rows.append({"file": picture, "size": size, "crop": crop, "filter": name, "stretch": stretch,
                         "shape": list(pixels.shape), "bytes": bytes(pixels.flatten()[::STEP * STEP].tolist()).hex()})
    with open(out, "w") as f:
        f.write(f'{{"torchvision": "{torchvision.__version__}", "pillow": "{PIL.__version__}", "step": {STEP * STEP},\n"rows": [\n')
        f.write(",\n".join(json.dumps(r) for r in rows) + "]}\n")


main(sys.argv[1], sys.argv[2])
