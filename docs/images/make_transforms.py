"""Draw docs/images/transforms.png: every transform applied to a photograph that scikit-learn bundles.

python docs/images/make_transforms.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from torch import Tensor

from reslab.data.rng import hash_key
from reslab.data.transforms.pipeline import TransformPipeline, parse_train_transform

OUTPUT = Path(__file__).with_name("transforms.png")
SIDE, LABEL_HEIGHT, COLUMNS, NUM_COLORS = 120, 16, 7, 96
# An expression for each transform, with a seed under which its effect is seen.
EXPRESSIONS = {
    "pad(16,reflect)": 0,
    "pad-to(160)": 0,
    "crop(80)": 0,
    "center-crop(80)": 0,
    "resize(60)": 0,
    "random-resized-crop(120)": 2,
    "random-scale-crop(120,150,240)": 1,
    "random-resize(0.5,0.8)": 1,
    "flip(1)": 0,
    "alternating-flip": 1,
    "vertical-flip(1)": 0,
    "rotate(45)": 0,
    "affine(20,0.1,0.7,1,20)": 3,
    "perspective(0.6,1)": 1,
    "elastic(120,6)": 0,
    "color-jitter(0.6,0.6,0.6,0.2)": 8,
    "lighting(1)": 1,
    "grayscale(1)": 0,
    "gaussian-blur(9,2,2)": 0,
    "sharpness(6,1)": 0,
    "solarize(128,1)": 0,
    "posterize(2,1)": 0,
    "autocontrast(1)": 0,
    "equalize(1)": 0,
    "invert(1)": 0,
    "erase(1)": 1,
    "cutout(48)": 0,
    "randaugment(9,0.5)": 6,
    "randaugment-torchvision(2,9)": 1,
    "trivial-augment": 7,
    "auto-augment(imagenet)": 3,
    "augmix(8,3)": 2,
    "torchvision(GaussianNoise,sigma=0.2)": 0,
    "mixup(1)": 3,
    "cutmix(1)": 1,
}


def load_photo(name: str) -> Tensor:
    """Return a photograph of scikit-learn as uint8 (3, SIDE, SIDE)."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)
    return TransformPipeline(f"resize({SIDE},bicubic) center-crop({SIDE})").apply_image(pixels, 0)


def apply(expression: str, seed: int) -> Tensor:
    """Return the photograph under a transform, uint8 (3, H, W)."""
    pipeline, mixer = parse_train_transform(expression)
    photo = load_photo("china.jpg")
    if mixer is None:
        return pipeline.apply_image(photo, hash_key(seed))
    batch = torch.stack((photo, load_photo("flower.jpg"))) / 255
    return (mixer(batch, torch.tensor([0, 1]), 2, 0, seed)[0][0] * 255).round().to(torch.uint8)


def draw() -> Image.Image:
    """Return the photograph and every transform of it, in a grid with their expressions."""
    tiles = {"the photograph": load_photo("china.jpg")}
    tiles |= {expression: apply(expression, seed) for expression, seed in EXPRESSIONS.items()}
    rows, width, height = -(-len(tiles) // COLUMNS), SIDE + 8, SIDE + LABEL_HEIGHT + 8
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (label, pixels) in enumerate(tiles.items()):
        left, top = index % COLUMNS * width + 4, index // COLUMNS * height + LABEL_HEIGHT + 4
        tile = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        tile.thumbnail((SIDE, SIDE))  # of the padded photograph
        sheet.paste(tile, (left + (SIDE - tile.width) // 2, top + (SIDE - tile.height) // 2))
        pen.text((left, top - 2), label, fill="black", font=_fitting_font(pen, label), anchor="ls")
    return sheet


def _fitting_font(pen: ImageDraw.ImageDraw, label: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest font, at most 11 points, in which the label is no wider than a tile."""
    fonts = [ImageFont.load_default(size) for size in (11, 10, 9, 8, 7)]
    return next((font for font in fonts if pen.textlength(label, font=font) <= SIDE), fonts[-1])


if __name__ == "__main__":
    draw().quantize(NUM_COLORS).save(OUTPUT, optimize=True)
