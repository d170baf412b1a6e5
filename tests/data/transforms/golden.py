"""Pixels of every transform as they were when a transform was first defined: run this file to add new ones.

    python tests/data/transforms/golden.py

An entry that exists is never written again: a transform's random draws and pixels are a promise, because a resumed run
and a repeated study rely on them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reslab.data.rng import hash_keys
from reslab.data.transforms.pipeline import TransformPipeline

GOLDEN = Path(__file__).with_name("golden.npz")
EXPRESSIONS = (
    "pad(2)",
    "pad(3,reflect)",
    "pad-to(14,fill=90)",
    "crop(9)",
    "flip",
    "resize(8)",
    "resize(9,bicubic)",
    "resize(9,15)",
    "center-crop(9)",
    "random-resized-crop(10)",
    "random-resized-crop(10,0.3,bicubic)",
    "random-scale-crop(8,10,16)",
    "random-resize(1.5,1.5,9)",
    "lighting(0.5)",
    "color-jitter(0.4,0.4,0.4,0.1)",
    "randaugment(9,0.5,3)",
    "randaugment-torchvision(2,9)",
    "trivial-augment",
    "erase(0.8)",
    "pad(2) crop(12) flip(0.3) color-jitter(0.4) erase(0.5)",
    "vertical-flip",
    "rotate(30,fill=90)",
    "affine(20,0.2,0.8,1.2,10)",
    "perspective(0.6,0.9)",
    "elastic(20,2)",
    "grayscale(0.5)",
    "gaussian-blur(5)",
    "sharpness(2)",
    "solarize(100)",
    "posterize(2)",
    "autocontrast",
    "equalize",
    "invert",
    "auto-augment(cifar10)",
    "augmix",
    "torchvision(GaussianNoise,sigma=0.2)",
    "alternating-flip",
    "cutout(5,fill=90)",
)


def smooth_images() -> Tensor:
    """Return four smooth color images, (4, 3, 12, 14) uint8, computed in integers."""
    y, x = torch.arange(12)[:, None], torch.arange(14)[None]
    images = [
        (y * (3 + i) + x * (5 + 2 * c) + x * y * (1 + c) // (2 + i) + 40 * i) % 511 for i in range(4) for c in range(3)
    ]
    pixels = torch.stack(images).view(4, 3, 12, 14)
    return torch.minimum(pixels, 510 - pixels).to(torch.uint8)


def golden_keys() -> Tensor:
    """Return the keys of the four images."""
    return hash_keys(5, 2, torch.arange(4))


def render(expression: str) -> dict[str, np.ndarray]:
    """Return what a transform makes of the batch, of single images where that differs, and of one image of floats."""
    pipeline, images, keys = TransformPipeline(expression), smooth_images(), golden_keys()
    batch = pipeline.apply_batch(images, keys)
    single = torch.stack([pipeline.apply_image(image, int(key)) for image, key in zip(images, keys, strict=True)])
    rendered = {"batch": batch, "float": pipeline.apply_batch(images[:1] / 255, keys[:1])}
    rendered |= {} if torch.equal(batch, single) else {"single": single}
    return {f"{expression}|{name}": pixels.numpy() for name, pixels in rendered.items()}


if __name__ == "__main__":
    known = dict(np.load(GOLDEN)) if GOLDEN.exists() else {}
    rendered = {name: value for expression in EXPRESSIONS for name, value in render(expression).items()}
    np.savez_compressed(GOLDEN, **{**rendered, **known})
