"""Small runs on images with boxes, which one rank and two are compared on."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reslab.training.run import Run
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from box_files import CLASSES, voc_xml, write_coco, write_image, write_voc, write_yolo  # noqa: F401

TINY = {
    "model.depths": "1,1,1",
    "model.widths": "4,8,8",
    "model.stem": "conv3/2(4) norm act",
    "model.min_size": 48,
    "model.max_size": 64,
    "model.pyramid_channels": 8,
    "model.head_norm": "none",
    "model.roi_batch_size": 16,
    "precision": "float32",
}


def boxes_run(data: Path, output: Path, **options: Any) -> Run:
    """Train a tiny detector; `detector` chooses its method."""
    overrides = {**TINY, "model.detector": options.pop("detector", "retinanet"), **options.pop("overrides", {})}
    options = {"model": "resnet20_cifar", "epochs": 2, "batch_size": 2, "overrides": overrides, **options}
    return train(data=data, output=output, seed=3, on_log=lambda line: None, device="cpu", workers=0, **options)


def write_squares(root: Path) -> Path:
    """Images of one size with one to four objects each, in VOC's layout."""
    generator = np.random.default_rng(0)
    for i in range(8):
        pixels = generator.integers(0, 255, (36, 36, 3)).astype(np.uint8)
        boxes = [(CLASSES[k % 3], (2 + 5 * k, 3 + i, 14 + 5 * k, 20 + i)) for k in range(1 + i % 4)]
        for kind, name in (("JPEGImages", f"{i}.png"), ("Annotations", f"{i}.xml")):
            (root / kind).mkdir(parents=True, exist_ok=True)
            path = root / kind / name
            if kind == "Annotations":
                path.write_text(voc_xml((36, 36), boxes))
            else:
                Image.fromarray(pixels).save(path)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i}\n" for i in range(6)))
    (lists / "val.txt").write_text("6\n7\n")
    return root


def squares_run(data: Path, output: Path) -> Run:
    """Three steps of RetinaNet without batch statistics, an epoch each."""
    overrides = {"model.norm": "frozen", "model.min_size": 32, "model.max_size": 32}
    return boxes_run(data, output, batch_size=6, epochs=3, overrides=overrides)
